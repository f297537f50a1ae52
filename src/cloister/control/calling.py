"""Who calls a service, and which page of a list they want."""

from dataclasses import dataclass

from cloister.trust.access.principals import Principal


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf, for the audit log."""

    principal: Principal
    request_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Page:
    """Neon's cursor pagination: `limit` rows after `cursor` (the last id of the page before)."""

    limit: int = 10
    cursor: str | None = None
