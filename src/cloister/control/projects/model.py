"""What a project is: one tenant, one volume, one key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from cloister.base import versions
from cloister.base.ids import OrgId, ProjectId
from cloister.base.secret import Secret
from cloister.control.branches.model import Branch
from cloister.control.computes.model import Endpoint
from cloister.control.operations.model import Operation
from cloister.control.roles.model import DatabaseInfo, Role


class AllowedIps(msgspec.Struct, frozen=True):
    """`settings.allowed_ips`. An empty list allows everybody, as at Neon."""

    ips: list[str] = []
    protected_branches_only: bool = False


class Quota(msgspec.Struct, frozen=True):
    """0 is unlimited."""

    active_time_seconds: int = 0
    compute_time_seconds: int = 0
    written_data_bytes: int = 0
    data_transfer_bytes: int = 0
    logical_size_bytes: int = 0


class ProjectSettings(msgspec.Struct, frozen=True):
    """Neon's `project.settings`, as stored."""

    allowed_ips: AllowedIps = AllowedIps()
    quota: Quota = Quota()
    enable_logical_replication: bool = False
    block_public_connections: bool = False
    block_vpc_connections: bool = False
    require_channel_binding: bool = False
    """Ours: who does not tie the password's proof to the TLS session is refused."""


class EndpointDefaults(msgspec.Struct, frozen=True):
    """Neon's `default_endpoint_settings`."""

    autoscaling_limit_min_cu: float = 0.25
    autoscaling_limit_max_cu: float = 2.0
    suspend_timeout_seconds: int = 0
    pg_settings: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Project:
    id: ProjectId
    org_id: OrgId
    owner_id: UUID
    name: str
    region_id: str
    pg_version: int
    store_passwords: bool
    history_retention_seconds: int
    settings: ProjectSettings
    default_endpoint_settings: EndpointDefaults
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    """From here on it can be recovered, as long as a branch can (branches/rules.py)."""
    tags: frozenset[str] = frozenset()
    """Its own, which are its branches' besides theirs."""

    @property
    def version(self) -> str:
        """Without the audit level, which has a route and a version of its own."""
        return versions.version(
            "project",
            self.id,
            self.org_id,
            self.name,
            self.history_retention_seconds,
            self.settings,
            self.default_endpoint_settings,
            sorted(self.tags),
            self.deleted_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What in a project is asked about: a branch, directly or by what belongs to it. Nothing of them: all there is."""

    branch_id: str | None = None
    endpoint_id: str | None = None
    snapshot_id: str | None = None
    access_id: UUID | None = None
    """A request for access to a branch's data."""


@dataclass(frozen=True, slots=True)
class Tagged:
    project: Project
    tags: frozenset[str]
    """Its own and those of what is asked about, `protected` included. Of an id that leads nowhere: as if it were not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """A request to create a project; None takes the default. Names are as the tenant gave them, already parsed."""

    name: str | None = None
    org_id: OrgId | None = None
    pg_version: int | None = None
    region_id: str | None = None
    branch_name: str = "main"
    role_name: str = "neondb_owner"
    database_name: str = "neondb"
    store_passwords: bool | None = None
    history_retention_seconds: int | None = None
    settings: ProjectSettings | None = None
    default_endpoint_settings: EndpointDefaults | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectChange:
    """A PATCH: None leaves a field as it is. `settings` and `default_endpoint_settings` are merged key by key."""

    name: str | None = None
    history_retention_seconds: int | None = None
    settings: dict[str, Any] | None = None
    default_endpoint_settings: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ProjectCreated:
    project: Project
    branch: Branch
    endpoint: Endpoint
    role: Role
    password: Secret[str]
    database: DatabaseInfo
    operations: list[Operation]
