"""Who asks."""

from dataclasses import dataclass
from typing import Protocol
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


class Calling(Protocol):
    """Who asks, by which request, from where: what an audit event needs. `control.calling.Caller` is one."""

    @property
    def principal(self) -> Principal: ...

    @property
    def request_id(self) -> str: ...

    @property
    def address(self) -> str: ...
