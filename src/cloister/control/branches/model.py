"""What a branch is: a name in a project's history, and the timeline in the project's volume that holds its data now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from cloister.base import versions
from cloister.base.ids import BranchId, ProjectId, SnapshotId, TimelineId
from cloister.base.secret import Secret
from cloister.control.computes.model import Endpoint, NewEndpoint
from cloister.control.operations.model import Operation
from cloister.control.roles.model import DatabaseInfo, Role

PARENT_DATA: Final = "parent-data"
SCHEMA_ONLY: Final = "schema-only"


@dataclass(frozen=True, slots=True)
class Branch:
    id: BranchId
    project_id: ProjectId
    parent_id: BranchId | None
    parent_lsn: str | None
    """Where it left its parent; None until the operation that made it has found out."""
    parent_timestamp: datetime | None
    init_source: str
    """PARENT_DATA or SCHEMA_ONLY"""
    timeline_id: TimelineId
    name: str
    is_default: bool
    is_protected: bool
    state: str
    """`init`, `ready`, `archived`"""
    expires_at: datetime | None
    ttl_interval_seconds: int | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    """Set: it can be recovered for a while, and is not there for anything else."""
    tags: frozenset[str] = frozenset()
    """Its own. The database adds what follows the data (migration 0028)."""

    @property
    def version(self) -> str:
        """Restored, it has other data, and is another version. Without its schedule, which has a route and a version of its own."""
        return versions.version(
            "branch",
            self.id,
            self.parent_id,
            self.timeline_id,
            self.name,
            self.is_default,
            self.is_protected,
            self.expires_at,
            sorted(self.tags),
            self.deleted_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place in a branch's history: at most one of the two; neither is its head."""

    lsn: str | None = None
    """PostgreSQL's notation, `0/15E9A30`."""
    at: datetime | None = None

    @property
    def is_head(self) -> bool:
        return self.lsn is None and self.at is None


HEAD = Point()


class MaskingRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a column is to hold instead: a function's words or a value, one of the two (docs/masking.md)."""

    database: str
    schema: str
    table: str
    column: str
    function: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMasking:
    """What makes a new branch a masked one."""

    rules: list[MaskingRule]
    starts: bool
    """At once. Otherwise it has no data until somebody has it masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBranch:
    name: str | None = None
    """None: one is made up."""
    parent_id: BranchId | None = None
    """None: the default branch."""
    point: Point = HEAD
    init_source: str = PARENT_DATA
    """SCHEMA_ONLY: `parent_id` and `point` say whose schema; the branch is a root."""
    is_protected: bool = False
    expires_at: datetime | None = None
    endpoints: list[NewEndpoint] = field(default_factory=list)
    """Their `branch_id` is not looked at."""
    masking: NewMasking | None = None

    @property
    def takes_data(self) -> bool:
        """When it is made: a masked one does when it is masked."""
        return self.masking is None or self.masking.starts


@dataclass(frozen=True, slots=True)
class NewPassword:
    """Of a role on the child of a protected branch: shown once."""

    role: Role
    password: Secret[str]


@dataclass(frozen=True, slots=True)
class BranchCreated:
    branch: Branch
    endpoints: list[Endpoint]
    roles: list[Role]
    databases: list[DatabaseInfo]
    passwords: list[NewPassword]
    operations: list[Operation]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchChange:
    """A PATCH: None leaves a field as it is."""

    name: str | None = None
    is_protected: bool | None = None
    expires_at: datetime | None = None
    never_expires: bool = False
    """`expires_at: null` was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Make a branch what another one (or itself) is or was at `point`. Its id and its endpoints' stay."""

    source_id: BranchId
    point: Point = HEAD
    preserve_under_name: str | None = None
    """Keep what it was as a branch of this name. Needed where the source is the branch itself, and where it has
    children, which move there."""


@dataclass(frozen=True, slots=True)
class BranchRestored:
    branch: Branch
    """With the parent that it is to have."""
    preserved: Branch | None
    passwords: list[NewPassword]
    operations: list[Operation]
    consent: Mapping[str, object] = field(default_factory=dict)
    """What its event says of the one that was used (`consents.py`)."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a branch can be taken back to."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes; None where nobody has measured yet."""

    logical_bytes: int | None
    """What its tables and indexes would take alone."""
    unique_bytes: int | None
    """What deleting it would give back."""
    history_bytes: int | None
    """Of snapshots and archived WAL that nothing else shares."""
    measured_at: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: SnapshotId
    project_id: ProjectId
    branch_id: BranchId
    timeline_id: TimelineId
    name: str
    is_manual: bool
    lsn: str | None
    taken_at: datetime
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    tags: frozenset[str] = frozenset()
    """Its branch's, when it was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChange:
    name: str | None = None
    expires_at: datetime | None = None
    never_expires: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotRestored:
    branch: Branch
    endpoints: list[Endpoint]
    passwords: list[NewPassword]
    operations: list[Operation]
    consent: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleItem:
    """Neon's backup schedule: when to take a snapshot, and for how long to keep it."""

    frequency: str
    """`hourly`, `daily`, `weekly`, `monthly`, `yearly`"""
    hour: int | None = None
    day: int | None = None
    """Of the week (1 Monday to 7) where weekly, of the month where monthly or yearly."""
    month: int | None = None
    retention_seconds: int | None = None
