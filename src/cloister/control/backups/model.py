"""What is known of the backups of a project: places it can be brought back from, and how much of the newest is missing there."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.control.branches.model import Point
from cloister.control.computes.sessions import Running
from cloister.node.commands import LOCK_SPARE_DAYS

RETAIN_DAYS: Final = 30
# What a base needs is locked for so long at least when the base is sent. What has to be put is locked for a week more, and is put
# again when that is over.
LOCKED_DAYS: Final = RETAIN_DAYS + LOCK_SPARE_DAYS

RENEW_AFTER: Final = timedelta(days=7)
# What does not change is sent again by then, which takes what is locked for too short a time anew. It opens the volume of a project that
# sleeps once a week, for some seconds; until then what is locked is locked for 23 days at least.

BASE_EVERY: Final = timedelta(days=1)
# Of what is written to: a recovery replays a day of WAL at most.

SAMPLE_CHUNKS: Final = 16
# Of a base that is read back: a damaged hundredth of it is found within a week with six chances of seven.

DRILL_EVERY: Final = timedelta(days=7)
# A restore that is tried takes what a restore takes: all of it over the line, a core, and as much room as the branch. One at a time, so a
# thousand branches of some hundred megabytes take some hours of a week.

LATE_AFTER: Final = timedelta(minutes=15)
# A compute writes, and for so long nothing of it was sent. A minute is promised; a store may be restarted.
NO_BASE_AFTER: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """All that is needed to bring a timeline back as of `stop_lsn`."""

    timeline_id: TimelineId
    name: str
    is_protected: bool
    """The branch was, at one of the times when it was sent."""
    start_lsn: str
    stop_lsn: str
    moment: datetime
    bytes: int
    new_bytes: int
    chunks: int
    sent_at: datetime
    locked_until: datetime
    seen_at: datetime | None = None
    """Read back, as a sample."""
    seen_chunks: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Of one timeline."""

    timeline_id: TimelineId
    since: datetime
    end_lsn: str | None = None
    moment: datetime | None = None
    """What was committed until then is in the store."""
    looked_at: datetime | None = None
    locked_until: datetime | None = None
    is_broken: bool = False
    wanted_at: datetime | None = None
    check_wanted_at: datetime | None = None
    try_wanted_at: datetime | None = None
    tried_at: datetime | None = None
    tried: str = ""
    """What came of the last restore that was tried: `whole`, `damaged`, `no room`."""
    failing: str = ""
    """What fails: `WAL`, `base`, `check`, `restore`."""
    failures: int = 0
    failing_since: datetime | None = None
    problem: str = ""
    late_told_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A timeline that is to be in the store, and what of it is there."""

    project_id: ProjectId
    branch_id: BranchId
    branch_name: str
    timeline_id: TimelineId
    pg_version: int
    uid: int
    server: Running | None
    """None: it sleeps, or is not to be asked for a snapshot yet."""
    endpoint_id: EndpointId | None
    is_running: bool
    ended_at: datetime | None
    """When a compute of it stopped last."""
    progress: Progress | None
    base: Base | None
    """The newest."""

    def owes_wal(self, now: datetime, every: timedelta) -> bool:
        """There may be something that was not sent: it runs, and some time has passed; or it has stopped since."""
        looked_at = self.progress.looked_at if self.progress else None
        if self.base is None:
            return False
        if looked_at is None:
            return True
        if self.is_running:
            return now - looked_at >= every
        return self.ended_at is not None and self.ended_at >= looked_at

    def owes_base(self, now: datetime) -> bool:
        """There is none; somebody wants one; some of it was found damaged; WAL is missing after it; it is a day old and there was work
        since; or what is locked is not locked for long enough any more."""
        base, progress = self.base, self.progress
        if base is None:
            return True
        if base.damaged and base.seen_at is not None and base.seen_at >= base.sent_at:
            return True
        if progress is not None:
            if progress.wanted_at is not None and progress.wanted_at > base.sent_at:
                return True
            # At rest there is a newer snapshot to begin with only if there was work since.
            if progress.is_broken and (self.is_running or (self.ended_at is not None and self.ended_at > base.sent_at)):
                return True
        if now - base.sent_at >= RENEW_AFTER:
            return True
        was_written = self.is_running or (self.ended_at is not None and self.ended_at > base.moment)
        return was_written and now - base.moment >= BASE_EVERY and now - base.sent_at >= BASE_EVERY

    def owes_drill(self, now: datetime) -> bool:
        """Somebody wants a restore to be tried, or none was for a week; of a store that is set today, not of all its branches at once."""
        if self.base is None or (progress := self.progress) is None:
            return False
        if progress.try_wanted_at is not None and (
            progress.tried_at is None or progress.tried_at < progress.try_wanted_at
        ):
            return True
        return now - (progress.tried_at or progress.since) >= DRILL_EVERY

    @property
    def stored_bytes(self) -> int:
        """About as much comes out of the store: the newest base, and WAL."""
        if self.base is None:
            return 0
        end = self.progress.end_lsn if self.progress and self.progress.end_lsn else self.base.stop_lsn
        return self.base.bytes + max(0, _number(end) - _number(self.base.start_lsn))

    @property
    def known_lsn(self) -> str | None:
        """As far as was sent; None where some of it is missing."""
        if self.progress is None or self.progress.is_broken or self.progress.end_lsn is None:
            return None
        return self.progress.end_lsn

    def is_late(self, now: datetime) -> bool:
        """Somebody has to be told."""
        since = self.progress.since if self.progress else None
        if since is None:
            return False
        if self.base is None:
            return now - since >= NO_BASE_AFTER
        newest = max(self.base.moment, self.progress.moment or since) if self.progress else self.base.moment
        return self.owes_wal(now, timedelta(0)) and now - newest >= LATE_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchBackups:
    """What a person sees of a branch."""

    branch_id: BranchId
    name: str
    timeline_id: TimelineId
    """That it lives on, or lived; the next is of this one."""
    deleted_at: datetime | None
    is_protected: bool
    progress: Progress | None
    bases: list[Base]
    """Of this and of those that it lived on before: the last one's first, and of each the newest."""

    @property
    def sent_until(self) -> datetime | None:
        """What was committed until then is in the store. None: the timeline that it lives on has nothing there."""
        own = [base.moment for base in self.bases if base.timeline_id == self.timeline_id]
        if own and self.progress is not None and self.progress.moment is not None and not self.progress.is_broken:
            own.append(self.progress.moment)
        return max(own, default=None)

    @property
    def known_lsn(self) -> str | None:
        """As far as WAL was sent, of what it lives on."""
        own = [base.stop_lsn for base in self.bases if base.timeline_id == self.timeline_id]
        if own and self.progress is not None and self.progress.end_lsn is not None and not self.progress.is_broken:
            own.append(self.progress.end_lsn)
        return max(own, key=_number, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Of backups, by somebody's word."""

    reason: str
    asked_by: str
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """Of a project."""

    has_store: bool | None
    """None: nobody could be asked yet."""
    left_out: LeftOut | None
    branches: list[BranchBackups]
    store_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be brought back, into a branch of its own."""

    branch_id: BranchId | None
    """None: the default branch."""
    point: Point
    name: str | None


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)
