"""Branches: what is shown of them, and what is asked of them."""

from datetime import datetime
from typing import Final, Literal

import msgspec

from cloister.control.branches.model import Branch, Usage
from cloister.control.branches.rules import RECOVERABLE_FOR
from cloister.edge.api.points import Lsn, Timestamp
from cloister.edge.api.wire.common import (
    CREATION_SOURCE,
    Moment,
    Name256,
    NextPage,
    Request,
    Wire,
    moment,
    optional_moment,
)
from cloister.edge.api.wire.connections import ConnectionDetails
from cloister.edge.api.wire.databases import DatabaseView
from cloister.edge.api.wire.endpoints import ComputeUnits, EndpointSettingsChange, EndpointView, SuspendTimeout
from cloister.edge.api.wire.operations import OperationView
from cloister.edge.api.wire.roles import RoleView

ENDPOINTS_MAX: Final = 16
# One that writes, and some that read: more at once is a mistake.


# -- what is shown --


class Recovery(Wire, frozen=True, kw_only=True):
    """Of a deleted branch: until when it can come back."""

    deleted_at: Moment
    recoverable_until: Moment
    deletion_method: str
    """`user`, or `ttl` where it expired."""


class BranchView(Wire, frozen=True, kw_only=True):
    """Neon's branch, and beside its `logical_size` the bytes that Cloister can tell: what deleting it would give back, and
    what its history takes. `tags` are not Neon's either: its own, without its project's."""

    id: str
    project_id: str
    parent_id: str | None = None
    parent_lsn: str | None = None
    parent_timestamp: Moment | None = None
    name: str
    current_state: str
    pending_state: str | None = None
    state_changed_at: Moment
    logical_size: int | None = None
    unique_size: int | None = None
    history_size: int | None = None
    creation_source: str
    primary: bool
    default: bool
    protected: bool
    tags: list[str]
    cpu_used_sec: int
    compute_time_seconds: int
    active_time_seconds: int
    written_data_bytes: int
    data_transfer_bytes: int
    created_at: Moment
    updated_at: Moment
    ttl_interval_seconds: int | None = None
    expires_at: Moment | None = None
    init_source: str
    recovery: Recovery | None = None


class AnnotationObject(Wire, frozen=True, kw_only=True):
    type: str
    id: str


class Annotation(Wire, frozen=True, kw_only=True):
    """Notes that Neon keeps beside a branch. Cloister keeps none."""

    object: AnnotationObject
    value: dict[str, str]


class BranchAnswer(Wire, frozen=True, kw_only=True):
    branch: BranchView
    annotation: Annotation


class BranchList(Wire, frozen=True, kw_only=True):
    branches: list[BranchView]
    annotations: dict[str, Annotation]
    pagination: NextPage


class BranchCount(Wire, frozen=True, kw_only=True):
    count: int


class BranchCreatedAnswer(Wire, frozen=True, kw_only=True):
    """`connection_uris` is there if there is an endpoint, one role and one database, so that there is no choice."""

    branch: BranchView
    endpoints: list[EndpointView]
    operations: list[OperationView]
    roles: list[RoleView]
    databases: list[DatabaseView]
    connection_uris: list[ConnectionDetails] | None = None


class BranchOperations(Wire, frozen=True, kw_only=True):
    """`roles` are those with a password that is shown this once."""

    branch: BranchView
    operations: list[OperationView]
    roles: list[RoleView] | None = None


class BranchRecovered(Wire, frozen=True, kw_only=True):
    branch: BranchView
    endpoints: list[EndpointView]
    operations: list[OperationView]


class OperationsAnswer(Wire, frozen=True, kw_only=True):
    operations: list[OperationView]


# -- what is asked --


class NewBranchEndpointBody(Request, frozen=True, kw_only=True):
    type: Literal["read_write", "read_only"]
    autoscaling_limit_min_cu: ComputeUnits | None = None
    autoscaling_limit_max_cu: ComputeUnits | None = None
    suspend_timeout_seconds: SuspendTimeout | None = None
    settings: EndpointSettingsChange | None = None


class NewChildBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    parent_id: str | None = None
    """Absent or empty: the default branch."""
    parent_lsn: Lsn | None = None
    parent_timestamp: Timestamp | None = None
    protected: bool | None = None
    archived: bool | None = None
    init_source: Literal["parent-data", "schema-only"] | None = None
    expires_at: Timestamp | None = None


class CreateBranch(Request, frozen=True, kw_only=True):
    """Everything may be left out: then it is a child of the default branch, without an endpoint."""

    branch: NewChildBody | None = None
    endpoints: list[NewBranchEndpointBody] | None = None
    annotation_value: dict[str, str] | None = None


class BranchChangeBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    protected: bool | None = None
    expires_at: Timestamp | msgspec.UnsetType | None = msgspec.UNSET
    """`null` takes the expiry away."""


class UpdateBranch(Request, frozen=True, kw_only=True):
    branch: BranchChangeBody


class RestoreBranch(Request, frozen=True, kw_only=True):
    source_branch_id: str
    source_lsn: Lsn | None = None
    source_timestamp: Timestamp | None = None
    preserve_under_name: str | None = None
    """Empty is as good as absent."""


class ResetBranch(Request, frozen=True, kw_only=True):
    preserve_under_name: str | None = None


def branch(it: Branch, usage: Usage | None = None) -> BranchView:
    return BranchView(
        id=it.id,
        project_id=it.project_id,
        parent_id=it.parent_id,
        parent_lsn=it.parent_lsn,
        parent_timestamp=optional_moment(it.parent_timestamp),
        name=it.name,
        current_state=it.state,
        pending_state="ready" if it.state == "init" else None,
        state_changed_at=moment(it.updated_at),
        logical_size=None if usage is None else usage.logical_bytes,
        unique_size=None if usage is None else usage.unique_bytes,
        history_size=None if usage is None else usage.history_bytes,
        creation_source=CREATION_SOURCE,
        primary=it.is_default,
        default=it.is_default,
        protected=it.is_protected,
        tags=sorted(it.tags),
        cpu_used_sec=0,
        compute_time_seconds=0,
        active_time_seconds=0,
        written_data_bytes=0,
        data_transfer_bytes=0,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
        ttl_interval_seconds=it.ttl_interval_seconds,
        expires_at=optional_moment(it.expires_at),
        init_source=it.init_source,
        recovery=None if it.deleted_at is None else _recovery(it.deleted_at, it.expires_at),
    )


def _recovery(deleted_at: datetime, expires_at: datetime | None) -> Recovery:
    has_expired = expires_at is not None and expires_at <= deleted_at
    return Recovery(
        deleted_at=moment(deleted_at),
        recoverable_until=moment(deleted_at + RECOVERABLE_FOR),
        deletion_method="ttl" if has_expired else "user",
    )


def annotation(it: Branch) -> Annotation:
    return Annotation(object=AnnotationObject(type="console/branch", id=it.id), value={})
