"""Service accounts and their keys."""

from typing import Annotated

import msgspec

from cloister.base.secret import Secret
from cloister.control.organizations.model import ProjectRole
from cloister.control.service_accounts.model import (
    ACCOUNTS_MAX,
    GRANTS_MAX,
    KEY_DAYS_DEFAULT,
    KEY_DAYS_MAX,
    OVERLAP_DEFAULT,
    OVERLAP_MAX,
    Change,
    KeyWish,
    NewServiceAccount,
    ServiceAccount,
    ServiceRole,
)
from cloister.edge.api import paths
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment
from cloister.edge.api.wire.organizations import Email

KeyDays = Annotated[int, msgspec.Meta(ge=1, le=KEY_DAYS_MAX)]
Addresses = Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=64)]


class GrantBody(Request, frozen=True, kw_only=True):
    project_id: str
    role: ProjectRole


Grants = Annotated[list[GrantBody], msgspec.Meta(max_length=GRANTS_MAX)]


class CreateServiceAccount(Request, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(max_length=64)]
    role: ServiceRole = "collaborator"
    grants: Grants = msgspec.field(default_factory=list)
    owner: Email | None = None
    """Whoever asks, if it is not said."""
    key_days: KeyDays = KEY_DAYS_DEFAULT
    allowed_ips: Addresses = msgspec.field(default_factory=list)


class UpdateServiceAccount(Request, frozen=True, kw_only=True):
    """What is not said stays as it is; `grants` are all of them from then on."""

    role: ServiceRole | None = None
    grants: Grants | None = None
    owner: Email | None = None
    disabled: bool | None = None


class RotateServiceAccount(Request, frozen=True, kw_only=True):
    overlap_seconds: Annotated[int, msgspec.Meta(ge=0, le=int(OVERLAP_MAX.total_seconds()))] = int(
        OVERLAP_DEFAULT.total_seconds()
    )
    key_days: KeyDays = KEY_DAYS_DEFAULT
    allowed_ips: Addresses | None = None
    """As those of the key before, if it is not said."""


class GrantView(Wire, frozen=True, kw_only=True):
    project_id: str
    role: str


class ServiceKeyView(Wire, frozen=True, kw_only=True):
    id: int
    prefix: str
    expires_at: Moment
    last_used_at: Moment | None
    last_used_from_addr: str


class ServiceAccountView(Wire, frozen=True, kw_only=True):
    id: str
    org_id: str
    name: str
    role: str
    grants: list[GrantView]
    owner: str
    created_at: Moment
    orphaned_at: Moment | None
    disabled_at: Moment | None
    keys: list[ServiceKeyView]
    """Those that are good now, the newest first."""


class ServiceAccountList(Wire, frozen=True, kw_only=True):
    service_accounts: Annotated[list[ServiceAccountView], msgspec.Meta(max_length=ACCOUNTS_MAX)]


class ServiceAccountKey(Wire, frozen=True, kw_only=True):
    service_account: ServiceAccountView
    key: str
    """Shown once."""


def new_service_account(body: CreateServiceAccount) -> NewServiceAccount:
    return NewServiceAccount(
        name=body.name,
        role=body.role,
        grants={paths.project_id(it.project_id): it.role for it in body.grants},
        owner=body.owner,
        key=KeyWish(days=body.key_days, allowed_ips=tuple(body.allowed_ips)),
    )


def change(body: UpdateServiceAccount) -> Change:
    return Change(
        role=body.role,
        grants=None if body.grants is None else {paths.project_id(it.project_id): it.role for it in body.grants},
        owner=body.owner,
        is_disabled=body.disabled,
    )


def key_wish(body: RotateServiceAccount) -> KeyWish:
    return KeyWish(days=body.key_days, allowed_ips=None if body.allowed_ips is None else tuple(body.allowed_ips))


def view(it: ServiceAccount) -> ServiceAccountView:
    return ServiceAccountView(
        id=str(it.id),
        org_id=it.org_id,
        name=it.name,
        role=it.role,
        grants=[GrantView(project_id=project_id, role=role) for project_id, role in sorted(it.grants.items())],
        owner=it.owner,
        created_at=moment(it.created_at),
        orphaned_at=optional_moment(it.orphaned_at),
        disabled_at=optional_moment(it.disabled_at),
        keys=[
            ServiceKeyView(
                id=key.id,
                prefix=key.prefix,
                expires_at=moment(key.expires_at),
                last_used_at=optional_moment(key.last_used_at),
                last_used_from_addr=key.last_used_from or "",
            )
            for key in it.keys
        ],
    )


def with_key(it: ServiceAccount, key: Secret[str]) -> ServiceAccountKey:
    return ServiceAccountKey(service_account=view(it), key=key.reveal())
