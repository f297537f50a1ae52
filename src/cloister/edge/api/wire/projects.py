"""Projects."""

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec

from cloister.base.ipallow import ENTRIES_MAX
from cloister.base.settings import Settings
from cloister.control.branches.rules import RECOVERABLE_FOR
from cloister.control.projects.model import AllowedIps, EndpointDefaults, Project, ProjectSettings, Quota
from cloister.edge.api.wire.branches import BranchView
from cloister.edge.api.wire.common import (
    CREATION_SOURCE,
    PLATFORM_ID,
    PROVISIONER,
    CursorPage,
    Moment,
    Name256,
    Request,
    Wire,
    moment,
    optional_moment,
)
from cloister.edge.api.wire.connections import ConnectionDetails
from cloister.edge.api.wire.databases import DatabaseView
from cloister.edge.api.wire.endpoints import ComputeUnits, EndpointView, PgSettings, SuspendTimeout
from cloister.edge.api.wire.operations import OperationView
from cloister.edge.api.wire.roles import RoleView

RETENTION_MAX_S = 30 * 24 * 3600
Retention: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=RETENTION_MAX_S)]

Amount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

IpEntries: TypeAlias = Annotated[
    list[Annotated[str, msgspec.Meta(min_length=1, max_length=100)]], msgspec.Meta(max_length=ENTRIES_MAX)
]
# Two IPv6 addresses with a hyphen have 79 characters.


# -- what is shown --


class QuotaView(Wire, frozen=True, kw_only=True):
    active_time_seconds: int
    compute_time_seconds: int
    written_data_bytes: int
    data_transfer_bytes: int
    logical_size_bytes: int


class AllowedIpsView(Wire, frozen=True, kw_only=True):
    ips: list[str]
    protected_branches_only: bool


class ProjectSettingsView(Wire, frozen=True, kw_only=True):
    """`allowed_ips` is always there: Terraform's provider crashes without. The last is not Neon's."""

    quota: QuotaView
    allowed_ips: AllowedIpsView
    enable_logical_replication: bool
    block_public_connections: bool
    block_vpc_connections: bool
    require_channel_binding: bool


class EndpointDefaultsView(Wire, frozen=True, kw_only=True):
    pg_settings: dict[str, str]
    autoscaling_limit_min_cu: float
    autoscaling_limit_max_cu: float
    suspend_timeout_seconds: int


class ProjectListItem(Wire, frozen=True, kw_only=True):
    id: str
    platform_id: str
    region_id: str
    name: str
    provisioner: str
    default_endpoint_settings: EndpointDefaultsView
    settings: ProjectSettingsView
    pg_version: int
    proxy_host: str
    branch_logical_size_limit: int
    branch_logical_size_limit_bytes: int
    store_passwords: bool
    tags: list[str]
    active_time: int
    cpu_used_sec: int
    creation_source: str
    history_retention_seconds: int
    created_at: Moment
    updated_at: Moment
    owner_id: str
    org_id: str
    deleted_at: Moment | None = None
    recoverable_until: Moment | None = None


class ProjectView(Wire, frozen=True, kw_only=True):
    id: str
    platform_id: str
    region_id: str
    name: str
    provisioner: str
    default_endpoint_settings: EndpointDefaultsView
    settings: ProjectSettingsView
    pg_version: int
    proxy_host: str
    branch_logical_size_limit: int
    branch_logical_size_limit_bytes: int
    store_passwords: bool
    tags: list[str]
    cpu_used_sec: int
    data_storage_bytes_hour: int
    data_transfer_bytes: int
    written_data_bytes: int
    compute_time_seconds: int
    active_time_seconds: int
    creation_source: str
    history_retention_seconds: int
    created_at: Moment
    updated_at: Moment
    consumption_period_start: Moment
    consumption_period_end: Moment
    owner_id: str
    org_id: str


class ProjectAnswer(Wire, frozen=True, kw_only=True):
    project: ProjectView


class ProjectOperations(Wire, frozen=True, kw_only=True):
    project: ProjectView
    operations: list[OperationView]


class ProjectRecovered(Wire, frozen=True, kw_only=True):
    project: ProjectView
    branches: list[BranchView]


class ProjectCreatedAnswer(Wire, frozen=True, kw_only=True):
    project: ProjectView
    connection_uris: list[ConnectionDetails]
    roles: list[RoleView]
    databases: list[DatabaseView]
    operations: list[OperationView]
    branch: BranchView
    endpoints: list[EndpointView]


class ProjectList(Wire, frozen=True, kw_only=True):
    projects: list[ProjectListItem]
    applications: dict[str, list[str]]
    integrations: dict[str, list[str]]
    pagination: CursorPage | None = None


class SharedProjectList(Wire, frozen=True, kw_only=True):
    projects: list[ProjectListItem]
    pagination: CursorPage | None = None


# -- what is asked --


class QuotaBody(Request, frozen=True, kw_only=True):
    active_time_seconds: Amount | None = None
    compute_time_seconds: Amount | None = None
    written_data_bytes: Amount | None = None
    data_transfer_bytes: Amount | None = None
    logical_size_bytes: Amount | None = None


class AllowedIpsBody(Request, frozen=True, kw_only=True):
    ips: IpEntries | None = None
    protected_branches_only: bool | None = None


class ProjectSettingsBody(Request, frozen=True, kw_only=True):
    quota: QuotaBody | None = None
    allowed_ips: AllowedIpsBody | None = None
    enable_logical_replication: bool | None = None
    block_public_connections: bool | None = None
    block_vpc_connections: bool | None = None
    require_channel_binding: bool | None = None


class EndpointDefaultsBody(Request, frozen=True, kw_only=True):
    pg_settings: PgSettings | None = None
    autoscaling_limit_min_cu: ComputeUnits | None = None
    autoscaling_limit_max_cu: ComputeUnits | None = None
    suspend_timeout_seconds: SuspendTimeout | None = None


class NewBranchBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    role_name: str | None = None
    database_name: str | None = None


class NewProjectBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    org_id: str | None = None
    region_id: str | None = None
    pg_version: int | None = None
    store_passwords: bool | None = None
    history_retention_seconds: Retention | None = None
    branch: NewBranchBody | None = None
    settings: ProjectSettingsBody | None = None
    default_endpoint_settings: EndpointDefaultsBody | None = None
    autoscaling_limit_min_cu: ComputeUnits | None = None
    """Neon's old place for what `default_endpoint_settings` says."""
    autoscaling_limit_max_cu: ComputeUnits | None = None


class CreateProject(Request, frozen=True, kw_only=True):
    project: NewProjectBody


class ProjectChangeBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    history_retention_seconds: Retention | None = None
    settings: ProjectSettingsBody | None = None
    default_endpoint_settings: EndpointDefaultsBody | None = None


class UpdateProject(Request, frozen=True, kw_only=True):
    project: ProjectChangeBody


def given(body: Request | None) -> dict[str, Any] | None:
    """The fields of a PATCH that were given, nested ones too. `null` is as good as absent: Terraform sends it."""
    return None if body is None else _without_none(msgspec.to_builtins(body))


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def project_settings(body: ProjectSettingsBody | None) -> ProjectSettings | None:
    return None if body is None else msgspec.convert(given(body), ProjectSettings)


def endpoint_defaults(body: NewProjectBody) -> EndpointDefaults | None:
    limits = {
        "autoscaling_limit_min_cu": body.autoscaling_limit_min_cu,
        "autoscaling_limit_max_cu": body.autoscaling_limit_max_cu,
    }
    fields = _without_none(limits) | (given(body.default_endpoint_settings) or {})
    return msgspec.convert(fields, EndpointDefaults) if fields else None


def list_item(it: Project, settings: Settings) -> ProjectListItem:
    return ProjectListItem(
        id=it.id,
        platform_id=PLATFORM_ID,
        region_id=it.region_id,
        name=it.name,
        provisioner=PROVISIONER,
        default_endpoint_settings=_endpoint_defaults(it.default_endpoint_settings),
        settings=_settings(it.settings),
        pg_version=it.pg_version,
        proxy_host=settings.domain,
        branch_logical_size_limit=0,
        branch_logical_size_limit_bytes=0,
        store_passwords=it.store_passwords,
        tags=sorted(it.tags),
        active_time=0,
        cpu_used_sec=0,
        creation_source=CREATION_SOURCE,
        history_retention_seconds=it.history_retention_seconds,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
        owner_id=str(it.owner_id),
        org_id=it.org_id,
        deleted_at=optional_moment(it.deleted_at),
        recoverable_until=None if it.deleted_at is None else moment(it.deleted_at + RECOVERABLE_FOR),
    )


def project(it: Project, settings: Settings, now: datetime) -> ProjectView:
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    next_month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    return ProjectView(
        id=it.id,
        platform_id=PLATFORM_ID,
        region_id=it.region_id,
        name=it.name,
        provisioner=PROVISIONER,
        default_endpoint_settings=_endpoint_defaults(it.default_endpoint_settings),
        settings=_settings(it.settings),
        pg_version=it.pg_version,
        proxy_host=settings.domain,
        branch_logical_size_limit=0,
        branch_logical_size_limit_bytes=0,
        store_passwords=it.store_passwords,
        tags=sorted(it.tags),
        cpu_used_sec=0,
        data_storage_bytes_hour=0,
        data_transfer_bytes=0,
        written_data_bytes=0,
        compute_time_seconds=0,
        active_time_seconds=0,
        creation_source=CREATION_SOURCE,
        history_retention_seconds=it.history_retention_seconds,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
        consumption_period_start=moment(month),
        consumption_period_end=moment(next_month),
        owner_id=str(it.owner_id),
        org_id=it.org_id,
    )


def _settings(it: ProjectSettings) -> ProjectSettingsView:
    return ProjectSettingsView(
        quota=_quota(it.quota),
        allowed_ips=_allowed_ips(it.allowed_ips),
        enable_logical_replication=it.enable_logical_replication,
        block_public_connections=it.block_public_connections,
        block_vpc_connections=it.block_vpc_connections,
        require_channel_binding=it.require_channel_binding,
    )


def _quota(it: Quota) -> QuotaView:
    return QuotaView(**{name: getattr(it, name) for name in QuotaView.__struct_fields__})


def _allowed_ips(it: AllowedIps) -> AllowedIpsView:
    return AllowedIpsView(ips=it.ips, protected_branches_only=it.protected_branches_only)


def _endpoint_defaults(it: EndpointDefaults) -> EndpointDefaultsView:
    return EndpointDefaultsView(
        pg_settings=it.pg_settings,
        autoscaling_limit_min_cu=it.autoscaling_limit_min_cu,
        autoscaling_limit_max_cu=it.autoscaling_limit_max_cu,
        suspend_timeout_seconds=it.suspend_timeout_seconds,
    )
