"""Endpoints."""

from typing import Annotated, Literal, TypeAlias

import msgspec

from cloister.base.limits import (
    CU_MAX,
    CU_MIN,
    SUSPEND_TIMEOUT_MAX_S,
    SUSPEND_TIMEOUT_MIN_S,
)
from cloister.base.settings import Settings
from cloister.control.computes.model import Endpoint
from cloister.edge.api.wire.common import (
    CREATION_SOURCE,
    PROVISIONER,
    Moment,
    Request,
    Wire,
    moment,
    optional_moment,
)
from cloister.edge.api.wire.operations import OperationView

ComputeUnits: TypeAlias = Annotated[float, msgspec.Meta(ge=CU_MIN, le=CU_MAX)]

SuspendTimeout: TypeAlias = Annotated[
    int,
    msgspec.Meta(
        ge=-1,
        le=SUSPEND_TIMEOUT_MAX_S,
        description=f"-1 never, 0 the default, else {SUSPEND_TIMEOUT_MIN_S} to {SUSPEND_TIMEOUT_MAX_S} seconds",
    ),
]

PgSettings: TypeAlias = Annotated[
    dict[
        Annotated[str, msgspec.Meta(min_length=1, max_length=63)],
        Annotated[str, msgspec.Meta(max_length=4096)],
    ],
    msgspec.Meta(max_length=200),
]
"""PostgreSQL settings by name. Which ones a tenant may set is decided below the API."""


class EndpointSettings(Wire, frozen=True, kw_only=True):
    pg_settings: dict[str, str]


class EndpointView(Wire, frozen=True, kw_only=True):
    host: str
    id: str
    project_id: str
    branch_id: str
    autoscaling_limit_min_cu: float
    autoscaling_limit_max_cu: float
    region_id: str
    type: str
    current_state: str
    pending_state: str | None = None
    settings: EndpointSettings
    pooler_enabled: bool
    pooler_mode: str
    disabled: bool
    passwordless_access: bool
    last_active: Moment | None = None
    creation_source: str
    created_at: Moment
    updated_at: Moment
    started_at: Moment | None = None
    suspended_at: Moment | None = None
    proxy_host: str
    suspend_timeout_seconds: int
    provisioner: str


class EndpointAnswer(Wire, frozen=True, kw_only=True):
    endpoint: EndpointView


class EndpointList(Wire, frozen=True, kw_only=True):
    endpoints: list[EndpointView]


class EndpointOperations(Wire, frozen=True, kw_only=True):
    endpoint: EndpointView
    operations: list[OperationView]


class EndpointSettingsChange(Request, frozen=True, kw_only=True):
    pg_settings: PgSettings | None = None


class NewEndpointBody(Request, frozen=True, kw_only=True):
    branch_id: str
    type: Literal["read_write", "read_only"] = "read_write"
    autoscaling_limit_min_cu: ComputeUnits | None = None
    autoscaling_limit_max_cu: ComputeUnits | None = None
    suspend_timeout_seconds: SuspendTimeout | None = None
    settings: EndpointSettingsChange | None = None
    disabled: bool | None = None


class CreateEndpoint(Request, frozen=True, kw_only=True):
    endpoint: NewEndpointBody


class EndpointChangeBody(Request, frozen=True, kw_only=True):
    autoscaling_limit_min_cu: ComputeUnits | None = None
    autoscaling_limit_max_cu: ComputeUnits | None = None
    suspend_timeout_seconds: SuspendTimeout | None = None
    settings: EndpointSettingsChange | None = None
    disabled: bool | None = None


class UpdateEndpoint(Request, frozen=True, kw_only=True):
    endpoint: EndpointChangeBody


def endpoint(it: Endpoint, settings: Settings) -> EndpointView:
    return EndpointView(
        host=host(it.id, settings),
        id=it.id,
        project_id=it.project_id,
        branch_id=it.branch_id,
        autoscaling_limit_min_cu=it.min_cu,
        autoscaling_limit_max_cu=it.max_cu,
        region_id=settings.region_id,
        type=it.type,
        current_state=it.state.value,
        pending_state=it.desired.value if it.desired is not it.state else None,
        settings=EndpointSettings(pg_settings=it.pg_settings),
        pooler_enabled=False,
        pooler_mode="transaction",
        disabled=it.is_disabled,
        passwordless_access=False,
        last_active=optional_moment(it.last_active_at),
        creation_source=CREATION_SOURCE,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
        started_at=optional_moment(it.started_at),
        suspended_at=optional_moment(it.suspended_at),
        proxy_host=settings.domain,
        suspend_timeout_seconds=it.suspend_timeout_seconds,
        provisioner=PROVISIONER,
    )


def host(endpoint_id: str, settings: Settings, *, is_pooled: bool = False) -> str:
    """Begins with the endpoint's id: clients and the gateway find one from the other."""
    return f"{endpoint_id}{'-pooler' if is_pooled else ''}.{settings.domain}"
