"""Backups as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.backups.model import Backups, Base, BranchBackups
from cloister.edge.api.points import Lsn, Timestamp
from cloister.edge.api.wire.common import Moment, Name256, Request, Wire, moment, optional_moment


class OfBranch(Request, frozen=True, kw_only=True):
    branch_id: str | None = None
    """Without it: all of the project's."""


class CheckBackups(OfBranch, frozen=True, kw_only=True):
    restore: bool = False
    """All of it, in a place that is thrown away."""


class RestoreBackup(Request, frozen=True, kw_only=True):
    branch_id: str | None = None
    """Also one that was deleted, for good or not. Without it: the default branch."""
    lsn: Lsn | None = None
    timestamp: Timestamp | None = None
    name: Name256 | None = None
    """Of the new branch."""


class Exclude(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is in the audit log for good."""


class BaseView(Wire, frozen=True, kw_only=True):
    name: str
    timeline_id: str
    moment: Moment
    """As of then, at least."""
    start_lsn: str
    stop_lsn: str
    bytes: int
    sent_bytes: int
    """That were not in the store already."""
    chunks: int
    sent_at: datetime
    locked_until: Moment
    """Until then nobody removes it from the store."""
    checked_at: datetime | None = None
    """A sample of it was read back, and opened."""
    damaged: int = 0
    """Objects of that sample that were not there, or did not open."""


class BranchBackupsView(Wire, frozen=True, kw_only=True):
    branch_id: str
    name: str
    deleted_at: Moment | None = None
    protected: bool = False
    sent_until: datetime | None = None
    """What was committed until then is in the store."""
    behind_s: int | None = None
    """How many seconds ago that was: what a loss of this host would cost, of a branch that is written to."""
    looked_at: datetime | None = None
    """Everything there was then was sent."""
    sent_lsn: str | None = None
    wanted_at: datetime | None = None
    check_wanted_at: datetime | None = None
    restore_wanted_at: datetime | None = None
    restore_tried_at: datetime | None = None
    restore_tried: str = ""
    """What came of it: `whole`, `damaged`, `no room`."""
    problem: str = ""
    """Why something is not in the store. It is tried again."""
    failing_since: Moment | None = None
    bases: list[BaseView] = msgspec.field(default_factory=list)
    """Newest first."""


class BackupsView(Wire, frozen=True, kw_only=True):
    has_store: bool | None = None
    """null: nobody could be asked yet."""
    store_problem: str = ""
    excluded_because: str = ""
    excluded_by: str = ""
    excluded_at: Moment | None = None
    branches: list[BranchBackupsView]


def backups(it: Backups, now: datetime) -> BackupsView:
    left_out = it.left_out
    return BackupsView(
        has_store=it.has_store,
        store_problem=it.store_problem,
        excluded_because=left_out.reason if left_out else "",
        excluded_by=left_out.asked_by if left_out else "",
        excluded_at=moment(left_out.asked_at) if left_out else None,
        branches=[_branch(branch, now) for branch in it.branches],
    )


def _branch(it: BranchBackups, now: datetime) -> BranchBackupsView:
    progress = it.progress
    return BranchBackupsView(
        branch_id=it.branch_id,
        name=it.name,
        deleted_at=optional_moment(it.deleted_at),
        protected=it.is_protected,
        sent_until=it.sent_until,
        behind_s=None if it.sent_until is None else max(0, round((now - it.sent_until).total_seconds())),
        looked_at=progress.looked_at if progress else None,
        sent_lsn=it.known_lsn,
        wanted_at=progress.wanted_at if progress else None,
        check_wanted_at=progress.check_wanted_at if progress else None,
        restore_wanted_at=progress.try_wanted_at if progress else None,
        restore_tried_at=progress.tried_at if progress else None,
        restore_tried=progress.tried if progress else "",
        problem=progress.problem if progress else "",
        failing_since=optional_moment(progress.failing_since) if progress else None,
        bases=[_base(base) for base in it.bases],
    )


def _base(it: Base) -> BaseView:
    return BaseView(
        name=it.name,
        timeline_id=it.timeline_id,
        moment=moment(it.moment),
        start_lsn=it.start_lsn,
        stop_lsn=it.stop_lsn,
        bytes=it.bytes,
        sent_bytes=it.new_bytes,
        chunks=it.chunks,
        sent_at=it.sent_at,
        locked_until=moment(it.locked_until),
        checked_at=it.seen_at,
        damaged=it.damaged,
    )
