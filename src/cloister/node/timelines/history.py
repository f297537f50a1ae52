"""What one timeline was: its snapshots, its archive, and the newest WAL, which is still its server's.

Says which points can be recovered to, and puts together what a recovery to one of them needs. Blocking; the caller holds the
timeline's lock.
"""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory
from cloister.base.errors import PreconditionError, UnavailableError
from cloister.base.ids import TimelineId
from cloister.node.timelines import clone, control, snapshots, tree, wal
from cloister.node.timelines.archive import Archive
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.snapshots import AT_REST, Snapshot, Snapshots
from cloister.node.timelines.tree import Abort

log = logging.getLogger(__name__)

SNAPSHOT_WAL_BYTES: Final = 64 * 1024**2
# Between two snapshots at rest. Replay does some 50 MB a second, and a snapshot costs 30 ms of a suspend and as many inodes
# as there are tables.

FIRST_WAL_BYTES_MAX: Final = 512 * 1024**2
# Between a snapshot and a branch that begins with it: a file for each megabyte, and some seconds of replay. More than a running
# timeline writes between two snapshots unless it is loaded.


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """`MOUNT/owed/ID`: what a timeline's first snapshot will be. Written before anybody hears of the timeline, and taken away when the snapshot
    is there: whoever opens the volume after a crash in between makes good what is owed."""

    source_id: TimelineId
    uid: int
    first: Snapshot
    """As it will be described. Of a clone, whose source was at rest, it is clean."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the WAL goes that follows a snapshot."""

    first: int
    end: int
    """The number after the last segment."""
    is_broken: bool
    """There is more WAL, but some is missing in between."""


class History:
    def __init__(self, layout: Layout, timeline: Timeline) -> None:
        self._layout = layout
        self._timeline = timeline
        self.archive = Archive(timeline.archive)
        self.snapshots = Snapshots(timeline.snapshots)

    def collect(self, now: float, abort: Abort) -> int:
        return self.archive.collect(self._timeline.outbox, now, abort)

    def take_first(self, uid: int, now: float, abort: Abort, *, copied: Snapshot | None = None) -> None:
        """The snapshot that every history begins with. `copied` describes a copy that has not been started yet."""
        self._take(self._timeline.data, copied or at_rest(self._timeline.data, now), uid, abort)

    def take_first_of(self, source: Path, uid: int, now: float, abort: Abort) -> None:
        """As `take_first`, but of the data that this timeline was cloned from, which is still at rest: somebody may be at work
        on the clone. It is on disk when the file system's log is, which nobody waits for: their own commits are flushed
        meanwhile."""
        self._take(source, at_rest(source, now), uid, abort)

    def first_for(self, copied: Snapshot) -> Snapshot | None:
        """The snapshot here that is, with the WAL since, what was copied of this timeline. None if nothing leads there, or the
        way is too far."""
        start = snapshots.nearest(self.snapshots.all(), lsn=copied.start_lsn, at=None)
        if start is None or start.wal_timeline != copied.wal_timeline:
            return None
        if copied.stop_lsn - start.start_lsn > FIRST_WAL_BYTES_MAX:
            return None
        return start if self._has_wal(start.wal_timeline, first_after(start), first_after(copied)) else None

    def take_first_from(self, source: "History", start: Snapshot, copied: Snapshot, uid: int, abort: Abort) -> None:
        """As `take_first`, of a copy that somebody may be at work on: what its source was before, and the WAL from there."""
        data = self.snapshots.begin(AT_REST, abort)
        source.clone_snapshot(start, data, uid, abort)
        between = (first_after(start) * wal.SEGMENT_BYTES, copied.stop_lsn)
        source.add_wal_between(data, start.wal_timeline, between, uid)
        self.snapshots.finish(AT_REST, msgspec.structs.replace(copied, start_lsn=start.start_lsn), abort)

    def owe(self, owed: Owed) -> None:
        """Its first snapshot is taken later."""
        path = self._layout.owed(self._timeline)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        tree.write_new(path, msgspec.json.encode(owed))

    def owed(self) -> Owed | None:
        try:
            return msgspec.json.decode(self._layout.owed(self._timeline).read_bytes(), type=Owed)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            # Cut off while it was written, which is before its timeline was there.
            self.settle()
            return None

    def settle(self) -> None:
        """Nothing is owed any more."""
        self._layout.owed(self._timeline).unlink(missing_ok=True)

    def take_if_due(self, uid: int, now: float, abort: Abort) -> bool:
        """At rest, and when enough has happened since the last one, or history has a gap after it."""
        if not clone.is_settled(self._timeline.data):
            return False
        snapshot = at_rest(self._timeline.data, now)
        taken = self.snapshots.all()
        if taken:
            last = taken[-1]
            if snapshot.stop_lsn - last.start_lsn < SNAPSHOT_WAL_BYTES and not self._reach(last).is_broken:
                return False
        self._take(self._timeline.data, snapshot, uid, abort)
        sync_directory(self._timeline.snapshots)
        return True

    def take_head(self, uid: int, now: float, abort: Abort) -> None:
        """At rest, however little has happened since the last one: for what reads a snapshot, and no WAL after it."""
        if not clone.is_settled(self._timeline.data):
            return
        snapshot = at_rest(self._timeline.data, now)
        if all(taken.stop_lsn < snapshot.stop_lsn for taken in self.snapshots.all()):
            self._take(self._timeline.data, snapshot, uid, abort)
            sync_directory(self._timeline.snapshots)

    def prune(self, keep_since: float) -> None:
        """What no recovery to `keep_since` or later needs."""
        taken = self.snapshots.all()
        given_up = snapshots.superfluous(taken, keep_since)
        self.snapshots.give_up(given_up, self._layout.trash)
        kept = [snapshot for snapshot in taken if snapshot not in given_up]
        if kept:
            self.archive.give_up_before(wal.segment_number(kept[0].start_lsn))
        elif not self.snapshots.has_copy:
            # The copy that is being made will be the first, and needs what comes after it.
            self.archive.give_up()

    def prune_to(self, now: float, retention_s: int) -> None:
        """What no recovery within the retention needs; without one, everything."""
        if retention_s == 0:
            self.give_up()
        else:
            self.prune(now - retention_s)

    def give_up(self) -> None:
        """All of it, and what it is still owed."""
        self.settle()
        self.snapshots.give_up(self.snapshots.all(), self._layout.trash)
        self.archive.give_up()

    def end_lsn(self, *, is_running: bool) -> int:
        found = control.of(self._timeline.data)
        if not is_running:
            return found.checkpoint
        archived = self.archive.segments()
        return max(found.checkpoint, (archived[-1].number + 1) * wal.SEGMENT_BYTES if archived else 0)

    @property
    def has_gap(self) -> bool:
        """In what is archived behind the last snapshot."""
        taken = self.snapshots.all()
        return bool(taken) and self._reach(taken[-1]).is_broken

    def start_for(self, target: Target, now: float, *, is_running: bool) -> Snapshot:
        """The snapshot to recover from. Raises PreconditionError, with the window, for a point outside."""
        taken = self.snapshots.all()
        start = snapshots.nearest(taken, lsn=target.lsn, at=target.at)
        is_ahead = target.at is not None and target.at > now
        # Where one ends that was not shut down in order, nobody has written down: a replay finds out.
        if target.lsn is not None and not is_running and clone.is_settled(self._timeline.data):
            is_ahead = target.lsn > self.end_lsn(is_running=False)
        if start is None or is_ahead:
            raise self.outside(now, is_running=is_running)
        return start

    def outside(self, now: float, *, is_running: bool) -> PreconditionError:
        """What to say of a point that cannot be recovered to."""
        taken = self.snapshots.all()
        if not taken:
            return PreconditionError(public="the branch has no history to go back in")
        first, end = taken[0], self.end_lsn(is_running=is_running)
        return PreconditionError(
            public=f"the point is outside the history of the branch, which reaches from {rfc3339(first.moment)} "
            f"(LSN {wal.format_lsn(first.stop_lsn)}) to {rfc3339(now)} (LSN {wal.format_lsn(end)} at least)"
        )

    def assemble(self, start: Snapshot, target: Timeline, uid: int, abort: Abort) -> Reach:
        """`target`'s data: the snapshot, and all WAL after it."""
        self.clone_snapshot(start, target.data, uid, abort)
        first = first_after(start)
        return self.go_on(start, Reach(first, first, is_broken=False), target, uid, abort)

    def go_on(self, start: Snapshot, reach: Reach, target: Timeline, uid: int, abort: Abort) -> Reach:
        """Add to it what there is after that."""
        further = self._add_wal(target.data, start.wal_timeline, reach.end, None, uid)
        reach = replace(further, first=reach.first)
        if clone.has_segment_after(self._timeline.data, reach.end, abort):
            reach = replace(reach, is_broken=True)
        return reach

    def add_wal_between(self, target: Path, wal_timeline: int, between: tuple[int, int], uid: int) -> None:
        """All segments from one LSN up to another. Raises UnavailableError when one is missing: what is copied anew begins later."""
        first, end = wal.segment_number(between[0]), wal.segment_number(max(between[1] - 1, between[0])) + 1
        if self._add_wal(target, wal_timeline, first, end, uid).end < end:
            raise UnavailableError("WAL of the copy is missing", public="the branch's WAL is incomplete; try again")

    def _add_wal(self, target: Path, wal_timeline: int, first: int, end: int | None, uid: int) -> Reach:
        with tree.opened(target) as data, tree.opened(clone.WAL, below=data) as segments:
            archived = self.archived(wal_timeline, first)
            names = [wal.segment_name(wal_timeline, number) for number in range(first, wal.unbroken(archived, first))]
            if end is None:  # It is replayed now, which takes twenty times as long as to look at it.
                names = self.archive.unharmed(names)
            self.archive.clone_into(names, segments, uid)
            reached = first + len(names)
            with tree.opened(self._timeline.data) as source_data, tree.opened(clone.WAL, below=source_data) as source:
                while end is None or reached < end:
                    if not clone.clone_segment(wal.segment_name(wal_timeline, reached), source, segments, uid):
                        break
                    reached += 1
        return Reach(first, reached, is_broken=any(number > reached for number in archived))

    def clone_snapshot(self, start: Snapshot, target: Path, uid: int, abort: Abort) -> None:
        """With its own WAL: of one that is where it is by a replay, all of it."""
        clone.clone_at_rest(self.snapshots.data(start), target, uid, abort, is_replayed=not start.is_clean)

    def _has_wal(self, wal_timeline: int, first: int, end: int) -> bool:
        """Every segment from one up to another: here, finished and not yet taken in, or with the server. What is not yet taken in
        is only believed to be there."""
        present = self.archived(wal_timeline, first) | self.archive.waiting(self._timeline.outbox, wal_timeline)
        reached = wal.unbroken(present, first)
        with tree.opened(self._timeline.data) as data, tree.opened(clone.WAL, below=data) as segments:
            while reached < end and clone.begins_as_named(wal.segment_name(wal_timeline, reached), reached, segments):
                reached += 1
        return reached >= end

    def archived(self, wal_timeline: int, first: int = 0) -> set[int]:
        """Numbers of what the archive has, from `first` on."""
        return {
            segment.number
            for segment in self.archive.segments()
            if segment.name == wal.segment_name(wal_timeline, segment.number) and segment.number >= first
        }

    def _reach(self, start: Snapshot) -> Reach:
        first = first_after(start)
        numbers = {segment.number for segment in self.archive.segments() if segment.number >= first}
        reached = wal.unbroken(numbers, first)
        return Reach(first, reached, is_broken=any(number > reached for number in numbers))

    def _take(self, source: Path, snapshot: Snapshot, uid: int, abort: Abort) -> None:
        clone.clone_at_rest(source, self.snapshots.begin(AT_REST, abort), uid, abort)
        self.snapshots.finish(AT_REST, snapshot, abort)


def at_rest(data: Path, now: float) -> Snapshot:
    """What is to be said of a snapshot of this data, which was shut down in order."""
    found = control.of(data)
    return Snapshot(
        start_lsn=found.redo,
        stop_lsn=found.checkpoint,
        wal_timeline=found.wal_timeline,
        moment=now,
        is_clean=True,
    )


def first_after(start: Snapshot) -> int:
    """The first segment that the timeline writes from a snapshot on. Those before it the snapshot holds itself; it has to,
    for a copy's were written by the server that was copied, and are in no archive of this timeline. The end of a backup is
    the end of its segment, so a copy goes on in the next one; what was at rest goes on where it stopped."""
    if start.is_clean:
        return wal.segment_number(start.stop_lsn)
    return wal.segment_number(max(start.stop_lsn - 1, start.start_lsn)) + 1


def rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
