"""Who asks."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated holder of an API key."""

    account_id: UUID
    key_id: int
    email: str
    name: str
    memberships: dict[str, str]
    """Organization id → `admin` or `member`."""

    @property
    def actor(self) -> str:
        """As the audit log names it."""
        return f"user:{self.account_id}"
