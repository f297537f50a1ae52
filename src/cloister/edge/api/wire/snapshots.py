"""Snapshots, and the schedule that takes them."""

from typing import Annotated, Literal, TypeAlias, cast

import msgspec

from cloister.control.branches.model import ScheduleItem, Snapshot
from cloister.edge.api.points import Timestamp
from cloister.edge.api.wire.branches import BranchView
from cloister.edge.api.wire.common import Moment, Name256, Request, Wire, moment, optional_moment
from cloister.edge.api.wire.endpoints import EndpointView
from cloister.edge.api.wire.operations import OperationView
from cloister.edge.api.wire.roles import RoleView

SCHEDULE_ITEMS_MAX = 20
# One of each frequency is plenty.
RETENTION_MIN_S = 3600
RETENTION_MAX_S = 100 * 366 * 24 * 3600
# A century: a moment that far away can still be calculated with.


Frequency: TypeAlias = Literal["hourly", "daily", "weekly", "monthly", "yearly"]


class SnapshotView(Wire, frozen=True, kw_only=True):
    id: str
    name: str
    lsn: str | None = None
    timestamp: Moment
    source_branch_id: str
    created_at: Moment
    expires_at: Moment | None = None
    manual: bool


class SnapshotList(Wire, frozen=True, kw_only=True):
    snapshots: list[SnapshotView]


class SnapshotAnswer(Wire, frozen=True, kw_only=True):
    snapshot: SnapshotView


class SnapshotOperations(Wire, frozen=True, kw_only=True):
    snapshot: SnapshotView
    operations: list[OperationView]


class SnapshotRestoredAnswer(Wire, frozen=True, kw_only=True):
    """`roles` are those with a password that is shown this once."""

    branch: BranchView
    endpoints: list[EndpointView]
    operations: list[OperationView]
    roles: list[RoleView] | None = None


class SnapshotChangeBody(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    expires_at: Timestamp | msgspec.UnsetType | None = msgspec.UNSET
    """`null` takes the expiry away."""


class UpdateSnapshot(Request, frozen=True, kw_only=True):
    snapshot: SnapshotChangeBody


class RestoreSnapshot(Request, frozen=True, kw_only=True):
    name: Name256 | None = None
    target_branch_id: str | None = None
    finalize_restore: bool = False


class FinalizeRestore(Request, frozen=True, kw_only=True):
    name: Name256 | None = None


class ScheduleItemBody(Wire, frozen=True, kw_only=True):
    """Both ways: it is shown as it was set."""

    frequency: Frequency
    hour: Annotated[int, msgspec.Meta(ge=0, le=23)] | None = None
    day: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None
    month: Annotated[int, msgspec.Meta(ge=1, le=12)] | None = None
    retention_seconds: Annotated[int, msgspec.Meta(ge=RETENTION_MIN_S, le=RETENTION_MAX_S)] | None = None


class Schedule(Wire, frozen=True, kw_only=True):
    schedule: Annotated[list[ScheduleItemBody], msgspec.Meta(max_length=SCHEDULE_ITEMS_MAX)]


class Empty(Wire, frozen=True, kw_only=True):
    """Done, and nothing to say."""


def snapshot(it: Snapshot) -> SnapshotView:
    return SnapshotView(
        id=it.id,
        name=it.name,
        lsn=it.lsn,
        timestamp=moment(it.taken_at),
        source_branch_id=it.branch_id,
        created_at=moment(it.created_at),
        expires_at=optional_moment(it.expires_at),
        manual=it.is_manual,
    )


def schedule_item(it: ScheduleItem) -> ScheduleItemBody:
    return ScheduleItemBody(
        frequency=cast("Frequency", it.frequency),  # nothing else is ever stored
        hour=it.hour,
        day=it.day,
        month=it.month,
        retention_seconds=it.retention_seconds,
    )


def asked_item(it: ScheduleItemBody) -> ScheduleItem:
    return ScheduleItem(
        frequency=it.frequency, hour=it.hour, day=it.day, month=it.month, retention_seconds=it.retention_seconds
    )
