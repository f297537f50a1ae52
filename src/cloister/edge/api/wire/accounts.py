"""Users and API keys: who uses the API."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.base.ids import OrgId
from cloister.base.limits import CU_MAX
from cloister.edge.api import paths
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment
from cloister.trust.access.keys import ApiKey, NewKey
from cloister.trust.access.principals import Principal

PLAN = "self-hosted"
NO_LIMIT = 1_000_000
"""Neon's tools read a number and compare with it; Cloister counts neither projects nor branches."""


class PaymentSource(Wire, frozen=True, kw_only=True):
    type: str


class BillingAccount(Wire, frozen=True, kw_only=True):
    """Nobody bills. Neon's clients insist on the fields."""

    state: str
    payment_source: PaymentSource
    subscription_type: str
    payment_method: str
    quota_reset_at_last: Moment
    name: str
    email: str
    address_city: str
    address_country: str
    address_line1: str
    address_line2: str
    address_postal_code: str
    address_state: str


class AuthAccount(Wire, frozen=True, kw_only=True):
    email: str
    image: str
    login: str
    name: str
    provider: str


class UserAnswer(Wire, frozen=True, kw_only=True):
    active_seconds_limit: int
    billing_account: BillingAccount
    auth_accounts: list[AuthAccount]
    email: str
    id: str
    image: str
    login: str
    name: str
    last_name: str
    projects_limit: int
    branches_limit: int
    max_autoscaling_limit: float
    plan: str


class AuthAnswer(Wire, frozen=True, kw_only=True):
    account_id: str
    auth_method: str
    auth_data: str


class KeyCreator(Wire, frozen=True, kw_only=True):
    id: str
    name: str
    image: str


class ApiKeyView(Wire, frozen=True, kw_only=True):
    id: int
    name: str
    created_at: Moment
    created_by: KeyCreator
    last_used_at: Moment | None
    last_used_from_addr: str
    project_id: str | None = None
    prefix: str = ""
    """Ours, like the next two: how the key begins, to tell keys apart."""
    expires_at: Moment | None = None
    allowed_ips: list[str] = msgspec.field(default_factory=list)


class ApiKeyCreated(Wire, frozen=True, kw_only=True):
    id: int
    key: str
    """Shown once."""
    name: str
    created_at: Moment
    created_by: str
    project_id: str | None = None
    expires_at: Moment | None = None
    allowed_ips: list[str] = msgspec.field(default_factory=list)


class ApiKeyRevoked(Wire, frozen=True, kw_only=True):
    id: int
    name: str
    created_at: Moment
    created_by: str
    last_used_at: Moment | None
    last_used_from_addr: str
    revoked: bool
    project_id: str | None = None


class CreateApiKey(Request, frozen=True, kw_only=True):
    key_name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Ours, like the next."""
    allowed_ips: Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=64)] = (
        msgspec.field(default_factory=list)
    )


class CreateOrgApiKey(CreateApiKey, frozen=True, kw_only=True):
    project_id: str | None = None


class RegionView(Wire, frozen=True, kw_only=True):
    region_id: str
    name: str
    default: bool
    geo_lat: str
    geo_long: str


class RegionList(Wire, frozen=True, kw_only=True):
    regions: list[RegionView]


def user(it: Principal, since: str) -> UserAnswer:
    return UserAnswer(
        active_seconds_limit=0,
        billing_account=BillingAccount(
            state="active",
            payment_source=PaymentSource(type="none"),
            subscription_type="UNKNOWN",
            payment_method="none",
            quota_reset_at_last=since,
            name=it.name,
            email=it.email,
            address_city="",
            address_country="",
            address_line1="",
            address_line2="",
            address_postal_code="",
            address_state="",
        ),
        auth_accounts=[],
        email=it.email,
        id=str(it.account_id),
        image="",
        login=it.email,
        name=it.name,
        last_name="",
        projects_limit=NO_LIMIT,
        branches_limit=NO_LIMIT,
        max_autoscaling_limit=CU_MAX,
        plan=PLAN,
    )


def api_key(it: ApiKey) -> ApiKeyView:
    return ApiKeyView(
        id=it.id,
        name=it.name,
        created_at=moment(it.created_at),
        created_by=KeyCreator(id=str(it.account_id), name=it.account_name, image=""),
        last_used_at=optional_moment(it.last_used_at),
        last_used_from_addr=it.last_used_from or "",
        project_id=it.project_id,
        prefix=it.prefix,
        expires_at=optional_moment(it.expires_at),
        allowed_ips=list(it.allowed_ips),
    )


def api_key_created(it: ApiKey, key: str) -> ApiKeyCreated:
    return ApiKeyCreated(
        id=it.id,
        key=key,
        name=it.name,
        created_at=moment(it.created_at),
        created_by=str(it.account_id),
        project_id=it.project_id,
        expires_at=optional_moment(it.expires_at),
        allowed_ips=list(it.allowed_ips),
    )


def api_key_revoked(it: ApiKey) -> ApiKeyRevoked:
    return ApiKeyRevoked(
        id=it.id,
        name=it.name,
        created_at=moment(it.created_at),
        created_by=str(it.account_id),
        last_used_at=optional_moment(it.last_used_at),
        last_used_from_addr=it.last_used_from or "",
        revoked=True,
        project_id=it.project_id,
    )


def new_key(body: CreateApiKey) -> NewKey:
    return NewKey(name=body.key_name, expires_at=body.expires_at, allowed_ips=tuple(body.allowed_ips))


def new_org_key(body: CreateOrgApiKey, org_id: OrgId) -> NewKey:
    project_id = None if body.project_id is None else paths.project_id(body.project_id)
    return NewKey(
        name=body.key_name,
        org_id=org_id,
        project_id=project_id,
        expires_at=body.expires_at,
        allowed_ips=tuple(body.allowed_ips),
    )
