"""Who asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID


class Holder(StrEnum):
    """Whose an API key is."""

    PERSON = "person"
    ORGANIZATION = "organization"
    PROJECT = "project"
    """An organization's, for one of its projects."""
    SERVICE = "service"
    """An organization's, for one of its service accounts."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in one project."""

    org_id: str
    """The project's organization when the grant was read. Of a project that moved, an old grant is worth nothing."""
    role: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who an authenticated API key speaks for."""

    account_id: UUID
    """Whose the key is; of an organization's key, who made it."""
    key_id: int
    email: str
    name: str
    memberships: Mapping[str, str]
    """Organization id → `admin`, `editor`, `viewer` or `collaborator`."""
    grants: Mapping[str, Grant] = field(default_factory=dict)
    """Project id → what was granted for it alone."""
    holder: Holder = Holder.PERSON
    is_operator: bool = False
    is_limited: bool = False
    """The key expires, or is bound to addresses."""

    has_passkey: bool = False
    """The person has one."""
    with_passkey: bool = False
    """This call is not answered before they have shown one: the front door (edge/api/boundary.py) promises it."""

    on_call: frozenset[str] = frozenset()
    """Organizations for which they are on call now."""

    @property
    def actor(self) -> str:
        """As the audit log names it."""
        return f"user:{self.account_id}" if self.holder is Holder.PERSON else f"key:{self.key_id}"

    @property
    def owner(self) -> str:
        """Who has more such keys, if there are more: the person, or the organization."""
        if self.holder is Holder.PERSON:
            return str(self.account_id)
        return next(iter((*self.memberships, *(it.org_id for it in self.grants.values()))), "")


class Calling(Protocol):
    """Who asks, by which request, from where: what an audit event needs. `control.calling.Caller` is one."""

    @property
    def principal(self) -> Principal: ...

    @property
    def request_id(self) -> str: ...

    @property
    def address(self) -> str: ...
