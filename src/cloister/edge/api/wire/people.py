"""Issuers at which people log in, what their groups give, and logins."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from cloister.base.secret import Secret
from cloister.control.people.issuers import GROUPS_MAX
from cloister.control.people.logins import TEXT_MAX
from cloister.control.people.model import (
    SESSION_DEFAULT,
    SESSION_MAX,
    SESSION_MIN,
    Begin,
    Begun,
    Finish,
    Group,
    Issuer,
    LoggedIn,
    NewGroup,
    NewIssuer,
)
from cloister.edge.api.wire.common import Moment, Request, Wire, moment
from cloister.edge.api.wire.organizations import RoleBody, role_of

DOMAINS_MAX = 32

Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,31}$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Url = Annotated[str, msgspec.Meta(min_length=9, max_length=2048)]
Domain = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$", max_length=253)]
Opaque = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]


class AddIssuer(Request, frozen=True, kw_only=True):
    name: Name
    issuer: Url
    """As its tokens say it, to the letter."""
    client_id: Text
    client_secret: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    domains: Annotated[list[Domain], msgspec.Meta(max_length=DOMAINS_MAX)] = msgspec.field(default_factory=list)
    """For whose addresses it may speak; without any, for those that it says it has verified."""
    groups_claim: Text = "groups"
    operators: Text | None = None
    """The group whose people run the platform."""
    session_seconds: Annotated[
        int, msgspec.Meta(ge=int(SESSION_MIN.total_seconds()), le=int(SESSION_MAX.total_seconds()))
    ] = int(SESSION_DEFAULT.total_seconds())


class IssuerView(Wire, frozen=True, kw_only=True):
    id: UUID
    name: str
    issuer: str
    client_id: str
    has_client_secret: bool
    domains: list[str]
    groups_claim: str
    operators: str | None = None
    session_seconds: int
    created_at: Moment


class IssuerList(Wire, frozen=True, kw_only=True):
    issuers: list[IssuerView]


class MapGroup(Request, frozen=True, kw_only=True):
    group: Text
    role: RoleBody
    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None
    """By name or URL; may be left out where there is one."""


class GroupView(Wire, frozen=True, kw_only=True):
    id: UUID
    issuer: str
    group: str
    role: str
    org_id: str
    created_at: Moment


class GroupList(Wire, frozen=True, kw_only=True):
    groups: Annotated[list[GroupView], msgspec.Meta(max_length=GROUPS_MAX)]


class DisableAccount(Request, frozen=True, kw_only=True):
    email: Text
    disabled: bool


class AccountStanding(Wire, frozen=True, kw_only=True):
    id: UUID
    email: str
    name: str
    disabled: bool


class BeginLogin(Request, frozen=True, kw_only=True):
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    """Of 127.0.0.1, where the client waits for the browser."""
    challenge: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]
    """SHA-256, in base64url, of a secret that the client keeps until it finishes."""
    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None


class LoginBegun(Wire, frozen=True, kw_only=True):
    issuer: str
    authorization_url: str
    redirect_uri: str
    state: str
    expires_at: Moment


class FinishLogin(Request, frozen=True, kw_only=True):
    state: Opaque
    secret: Opaque
    code: Opaque
    iss: Annotated[str, msgspec.Meta(max_length=2048)] | None = None


class RoleInOrganization(Wire, frozen=True, kw_only=True):
    org_id: str
    role: str


class LoginFinished(Wire, frozen=True, kw_only=True):
    id: int
    key: str
    """Shown once."""
    expires_at: Moment
    account_id: UUID
    email: str
    name: str
    issuer: str
    operator: bool
    roles: list[RoleInOrganization]


def new_issuer(body: AddIssuer) -> NewIssuer:
    return NewIssuer(
        name=body.name,
        url=body.issuer,
        client_id=body.client_id,
        client_secret=None if body.client_secret is None else Secret(body.client_secret),
        domains=tuple(body.domains),
        groups_claim=body.groups_claim,
        operators=body.operators,
        session=timedelta(seconds=body.session_seconds),
    )


def issuer(it: Issuer) -> IssuerView:
    return IssuerView(
        id=it.id,
        name=it.name,
        issuer=it.url,
        client_id=it.client_id,
        has_client_secret=it.client_secret is not None,
        domains=list(it.domains),
        groups_claim=it.groups_claim,
        operators=it.operators,
        session_seconds=int(it.session.total_seconds()),
        created_at=moment(it.created_at),
    )


def new_group(body: MapGroup) -> NewGroup:
    return NewGroup(issuer=body.issuer, name=body.group, role=role_of(body.role))


def group(it: Group) -> GroupView:
    return GroupView(
        id=it.id, issuer=it.issuer, group=it.name, role=it.role, org_id=it.org_id, created_at=moment(it.created_at)
    )


def begin(body: BeginLogin) -> Begin:
    return Begin(issuer=body.issuer, port=body.port, challenge=body.challenge)


def begun(it: Begun) -> LoginBegun:
    return LoginBegun(
        issuer=it.issuer,
        authorization_url=it.url,
        redirect_uri=it.redirect_uri,
        state=it.state.reveal(),
        expires_at=moment(it.expires_at),
    )


def finish(body: FinishLogin) -> Finish:
    return Finish(state=body.state, secret=body.secret, code=body.code, issuer=body.iss)


def finished(it: LoggedIn) -> LoginFinished:
    return LoginFinished(
        id=it.key_id,
        key=it.key.reveal(),
        expires_at=moment(it.expires_at),
        account_id=it.account_id,
        email=it.email,
        name=it.name,
        issuer=it.issuer,
        operator=it.is_operator,
        roles=[RoleInOrganization(org_id=org_id, role=role) for org_id, role in sorted(it.roles.items())],
    )
