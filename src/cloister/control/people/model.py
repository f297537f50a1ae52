"""Issuers, the groups that mean something here, and logins."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cloister.base.ids import OrgId
from cloister.base.secret import Secret
from cloister.control.organizations.model import OrganizationRole

SESSION_DEFAULT: Final = timedelta(hours=8)
SESSION_MIN: Final = timedelta(minutes=5)
SESSION_MAX: Final = timedelta(hours=12)
# Whoever is taken out of a group keeps what it gave until the session ends, and no longer.


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIssuer:
    name: str
    url: str
    client_id: str
    client_secret: Secret[str] | None
    domains: tuple[str, ...]
    groups_claim: str
    operators: str | None
    session: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    id: UUID
    name: str
    url: str
    """As its tokens say it, to the letter."""
    client_id: str
    client_secret: bytes | None
    """Sealed."""
    domains: tuple[str, ...]
    groups_claim: str
    operators: str | None
    session: timedelta
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Whoever is in it at the issuer has the role in the organization."""

    id: UUID
    issuer: str
    name: str
    org_id: OrgId
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    issuer: str | None
    """By name or URL; None: the only one there is."""
    name: str
    role: OrganizationRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What a client says to begin a login."""

    issuer: str | None
    port: int
    """Of the loopback interface, where it waits for the browser."""
    challenge: str
    """SHA-256 of a secret that it keeps until it finishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    issuer: str
    url: str = field(repr=False)
    """Where to send the browser. The state is in it."""
    redirect_uri: str
    state: Secret[str]
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What came back to the client, and the secret that it kept."""

    state: str
    secret: str
    code: str
    issuer: str | None
    """RFC 9207's `iss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    account_id: UUID
    email: str
    name: str
    issuer: str
    roles: dict[OrgId, str]
    is_operator: bool
    key_id: int
    key: Secret[str]
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A login that was begun, as its row has it."""

    issuer: Issuer
    redirect_uri: str
    account_id: UUID | None
    key_id: int | None = None
    """With which it is linked to that account."""
