"""An organization's directory, and who is in it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cloister.base.errors import UnprocessableError
from cloister.base.ids import OrgId
from cloister.protocol.scim import GroupAttributes, UserAttributes

PAGE_MAX: Final = 100
# Users or groups in one answer; a client that wants more asks again.

USERS_MAX: Final = 10_000
GROUPS_MAX: Final = 1_000
# Of one organization: each is a row, and a login looks at those that are about it.


@dataclass(frozen=True, slots=True)
class Directory:
    """Who speaks, after its token was recognised. It is no principal: nothing but this package takes it."""

    org_id: OrgId

    @property
    def actor(self) -> str:
        return f"scim:{self.org_id}"


@dataclass(frozen=True, slots=True)
class Speaking:
    """A request of a directory's, for the audit log."""

    directory: Directory
    request_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: UUID
    attributes: UserAttributes
    account_id: UUID | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    id: UUID
    attributes: GroupAttributes
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of a list: attribute → value, all of them; and which page."""

    where: dict[str, str]
    start: int
    """From 1."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What people are shown of it."""

    org_id: OrgId
    is_enabled: bool
    enabled_at: datetime | None
    last_used_at: datetime | None
    last_used_from: str | None
    users: int
    active: int
    linked: int
    """Users of whom it is known whose account is theirs."""
    groups: int


class LastAdminError(UnprocessableError):
    """Deactivating them would leave nobody to govern the organization."""

    code = "LAST_ADMIN"
    public = "they are the only admin of the organization: make somebody else one before, or what happens to it is nobody's to say"


class TakenError(UnprocessableError):
    """There is one of this name already."""
