"""How a timeline comes to be, step by step: from the template, from another one at rest, from a copy of a running one, from
history. Blocking; the caller holds the locks of all timelines that are named.

Whatever is made is made aside and appears in `finish` (see `layout.py`); nothing here needs to be undone.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory, sync_filesystem
from cloister.base.errors import InternalError, NotFoundError, PreconditionError, UnavailableError
from cloister.base.ids import TimelineId
from cloister.node.commands import Recovered, TimelineInfo
from cloister.node.timelines import clone, control, label, recovery, tree, usage, wal
from cloister.node.timelines.history import History, Owed, Reach, at_rest
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.snapshots import AT_REST, COPY, Snapshot
from cloister.node.timelines.tree import Abort
from cloister.node.volumes.headroom import gate_bytes

log = logging.getLogger(__name__)

COLLECT_PASSES_MAX: Final = 64
# Over an outbox, 256 segments each: half a minute. The tenant can fill it faster than it is emptied, and the threads are everybody's.

LOOKS_FURTHER_MAX: Final = 8
# After what a server wrote while it was looked at: it would have to write a segment in less time than it takes to copy one.

_VERSION_BYTES_MAX: Final = 8
_COUNTERS: Final = "pg_stat"
_HISTORY_BYTES_MAX: Final = 256 * 1024
# A line of some 60 bytes for each recovery that a branch descends from.


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a recovery starts from."""

    reach: Reach
    outside: PreconditionError
    """To be raised if the point turns out to lie beyond the end."""

    def require_whole(self) -> None:
        """Raises PreconditionError if there is a gap behind where the WAL ended."""
        if self.reach.is_broken:
            lsn = wal.format_lsn(self.reach.end * wal.SEGMENT_BYTES)
            raise PreconditionError(
                public=f"the history of the branch has a gap after LSN {lsn}: the volume was full, or what was kept is damaged"
            )


class Making:
    def __init__(self, layout: Layout, uid: int, now: float, abort: Abort) -> None:
        self._layout = layout
        self._uid = uid
        self._now = now
        self._abort = abort

    def fresh(self, timeline_id: TimelineId, populate: Callable[[Path], None]) -> None:
        timeline = self._layout.begin(timeline_id, self._uid)
        populate(timeline.data)
        self.finish(timeline_id, is_frozen=False)

    def clone(self, source_id: TimelineId, target_id: TimelineId) -> int | None:
        """The head of a timeline at rest. Gives the major version of one that must be run before it is at rest."""
        source = self._layout.existing(source_id)
        target = self._layout.begin(target_id, self._uid)
        clone.clone_at_rest(source.data, target.data, self._uid, self._abort)
        return None if clone.is_settled(source.data) else _major(target.data)

    def clone_without_counters(self, source_id: TimelineId, target_id: TimelineId) -> int | None:
        """As `clone`, but for what was counted and kept of statements, which may be their words."""
        major = self.clone(source_id, target_id)
        with tree.opened(self._layout.unfinished(target_id).data) as directory:
            tree.empty_below(_COUNTERS, directory, self._abort)
        return major

    def take_first_of(self, source_id: TimelineId, target_id: TimelineId) -> None:
        """The first snapshot of a clone that was finished without one. Its source is still at rest; the clone need not be."""
        source, history = self._layout.existing(source_id), self._history(self._layout.existing(target_id))
        # What it holds is as old as what was owed, however late it is taken: with a later moment, what the clone did since could
        # not be gone back to.
        owed = history.owed()
        history.take_first_of(source.data, self._uid, self._now if owed is None else owed.first.moment, self._abort)
        history.settle()

    def finish_clone(self, source_id: TimelineId, target_id: TimelineId) -> Recovered:
        """As `finish`, of a clone whose source stays as it is until `take_first_of`."""
        first = at_rest(self._layout.existing(source_id).data, self._now)
        return self.finish(target_id, is_frozen=False, owes=Owed(source_id=source_id, uid=self._uid, first=first))

    def copy(self, source_id: TimelineId, target_id: TimelineId | None) -> None:
        """The files of a running one, which is held in backup mode: once, for all that is written meanwhile has to be replayed
        by whoever starts the copy."""
        source = self._layout.existing(source_id)
        if target_id is None:
            data = self._history(source).snapshots.begin(COPY, self._abort)
        else:
            data = self._layout.begin(target_id, self._uid).data
        clone.clone_cluster(source.data, data, self._uid, self._abort, is_running=True)

    def finish_copy(
        self, source_id: TimelineId, target_id: TimelineId, text: str, stop_lsn: int, *, is_frozen: bool
    ) -> tuple[Recovered, Snapshot | None]:
        """What is told of it, and what its first snapshot will say if that is to be taken from the source."""
        history = self._history(self._layout.existing(source_id))
        copied = self._complete_copy(history, self._layout.unfinished(target_id).data, text, stop_lsn)
        is_later = not is_frozen and history.first_for(copied) is not None
        owes = Owed(source_id=source_id, uid=self._uid, first=copied) if is_later else None
        recovered = self.finish(target_id, is_frozen=is_frozen, copied=copied, owes=owes)
        return recovered, copied if is_later else None

    def take_first_from(self, source_id: TimelineId, target_id: TimelineId, copied: Snapshot) -> None:
        """The first snapshot of a copy that was finished without one. Raises UnavailableError if nothing leads there any more."""
        history = self._history(self._layout.existing(source_id))
        self._collect_all(history)
        if (start := history.first_for(copied)) is None:
            raise UnavailableError(f"the history of {source_id} does not lead to its copy {target_id} any more")
        target = self._history(self._layout.existing(target_id))
        target.take_first_from(history, start, copied, self._uid, self._abort)
        target.settle()

    def take_owed(self, target_id: TimelineId, *, source_runs: bool) -> bool:
        """The first snapshot that a crash kept from being taken. False: what it would be made of is not there any more.

        1. One that was taken, and not noted yet, is enough.
        2. Of a clone: of its source, if that is still where it was. Once it went on, its WAL is another's from there. Nothing may
           run on it (`source_runs`): a server that has just been started writes before its control file says that it does.
        3. Of a copy: of its source's history.
        """
        target = self._history(self._layout.timeline(target_id))
        if (owed := target.owed()) is None:
            return True
        try:
            self._make_good(target_id, owed, source_runs=source_runs)
        except (NotFoundError, UnavailableError) as error:
            log.info("the first snapshot of %s cannot be of what it was made of: %s", target_id, error)
            return False
        target.settle()
        return True

    def take_owed_of_itself(self, target_id: TimelineId, *, runs: bool) -> None:
        """The same, of a clone that nobody has started yet: it is what its source was. Of any other the history begins later."""
        target = self._history(self._layout.timeline(target_id))
        if (owed := target.owed()) is None:
            return
        data = self._layout.timeline(target_id).data
        if not runs and owed.first.is_clean and data.is_dir() and _is_where_it_was(data, owed.first):
            target.take_first_of(data, self._uid, owed.first.moment, self._abort)
        else:
            log.warning("the history of %s begins later than it", target_id)
        target.settle()

    def _make_good(self, target_id: TimelineId, owed: Owed, *, source_runs: bool) -> None:
        """Raises NotFoundError, UnavailableError."""
        taken = self._history(self._layout.existing(target_id)).snapshots.all()
        if any(snapshot.stop_lsn == owed.first.stop_lsn for snapshot in taken):  # 1.
            return
        if not owed.first.is_clean:  # 3.
            self.take_first_from(owed.source_id, target_id, owed.first)
        elif not source_runs and _is_where_it_was(self._layout.existing(owed.source_id).data, owed.first):  # 2.
            self.take_first_of(owed.source_id, target_id)
        else:
            raise UnavailableError(f"{owed.source_id} went on after {target_id} was cloned from it")

    def finish_copy_for_history(self, source_id: TimelineId, text: str, stop_lsn: int) -> Recovered:
        source = self._layout.existing(source_id)
        history = self._history(source)
        snapshots = history.snapshots
        if any(taken.stop_lsn == stop_lsn for taken in snapshots.all()):
            snapshots.abandon(COPY, self._abort)
        else:
            snapshot = self._complete_copy(history, snapshots.unfinished(COPY), text, stop_lsn)
            snapshots.finish(COPY, snapshot, self._abort)
            sync_directory(source.snapshots)
        return Recovered(lsn=wal.format_lsn(stop_lsn))

    def assemble(
        self, source_id: TimelineId, target_id: TimelineId, target: Target, *, is_running: bool
    ) -> Assembled | None:
        """What a recovery needs, ready to run. None where the point is the head of one at rest: then that was cloned.
        Raises PreconditionError for a point outside the history."""
        source = self._layout.existing(source_id)
        history = self._history(source)
        self._collect_all(history)
        start = history.start_for(target, self._now, is_running=is_running)
        if not is_running and clone.is_settled(source.data) and _is_head(control.of(source.data), target):
            self.clone(source_id, target_id)
            return None
        timeline = self._layout.begin(target_id, self._uid)
        reach = self._reach(history, start, timeline, is_running=is_running)
        clone.write_file(timeline.data, "recovery.signal", b"", self._uid)
        assembled = Assembled(reach, history.outside(self._now, is_running=is_running))
        if target.lsn is not None and target.lsn > reach.end * wal.SEGMENT_BYTES:
            assembled.require_whole()
            raise assembled.outside
        return assembled

    def _reach(self, history: History, start: Snapshot, timeline: Timeline, *, is_running: bool) -> Reach:
        """Put together `timeline`'s data. A server that goes on meanwhile is soon two segments further, and may have given up those
        before: what is missing then is no gap while more can be had."""
        reach = history.assemble(start, timeline, self._uid, self._abort)
        for _ in range(LOOKS_FURTHER_MAX):
            if not (is_running and reach.is_broken):
                break
            self._collect_all(history)
            further = history.go_on(start, reach, timeline, self._uid, self._abort)
            if further.end == reach.end:
                break
            reach = further
        return reach

    def finish_recovery(
        self,
        target_id: TimelineId,
        target: Target,
        assembled: Assembled,
        output: str,
        *,
        has_missed: bool,
        is_frozen: bool,
    ) -> Recovered:
        """After the replay. Raises PreconditionError if the WAL ended before the LSN that was asked for."""
        lsn = self.reached(target_id, target, assembled, has_missed=has_missed)
        return self.finish(target_id, is_frozen=is_frozen, lsn=lsn, at=recovery.last_commit(output), is_on_disk=False)

    def reached(self, target_id: TimelineId, target: Target, assembled: Assembled, *, has_missed: bool) -> int:
        """Where a replay ended. Raises PreconditionError if that is before the LSN that was asked for."""
        lsn = _left_at(self._layout.unfinished(target_id).data)
        if has_missed and target.lsn is not None and target.lsn > lsn + wal.PAGE_HEADER_BYTES_MAX:
            raise assembled.outside
        return lsn

    def finish(
        self,
        target_id: TimelineId,
        *,
        is_frozen: bool,
        is_on_disk: bool = True,
        lsn: int | None = None,
        at: float | None = None,
        copied: Snapshot | None = None,
        owes: Owed | None = None,
    ) -> Recovered:
        """What was begun is whole: give it its first snapshot, unless it has one or is owed it (`owes`), and its place. `copied`
        describes one that has not been started yet; any other is at rest. Room for its WAL is made at each start, so one that is
        never started takes none."""
        target = self._layout.unfinished(target_id)
        history = self._history(target)
        if copied is None:
            clone.tidy_wal(target.data, self._abort)
        if is_frozen:
            history.snapshots.abandon(AT_REST, self._abort)
            target.frozen.touch(mode=0o600)
        elif owes is not None:
            history.owe(owes)
        else:
            history.take_first(self._uid, self._now, self._abort, copied=copied)
        if lsn is None:
            lsn = control.of(target.data).checkpoint if copied is None else copied.stop_lsn
        recovered = Recovered(lsn=wal.format_lsn(lsn), at=at)
        tree.write_new(target.origin, msgspec.json.encode(recovered))
        self._layout.finish(target_id, is_on_disk=is_on_disk)
        return recovered

    def begin_anew(self, timeline_id: TimelineId) -> None:
        """Forget what it was."""
        timeline = self._layout.existing(timeline_id)
        history = self._history(timeline)
        clone.tidy_wal(timeline.data, self._abort)
        self._collect_all(history)
        history.give_up()
        if not timeline.frozen.exists():
            history.take_first(self._uid, self._now, self._abort)
        sync_filesystem(timeline.directory)

    def collect(self, timeline_id: TimelineId, retention_s: int | None) -> None:
        history = self._history(self._layout.existing(timeline_id))
        if history.collect(self._now, self._abort) and retention_s is not None:
            history.prune_to(self._now, retention_s)

    def after_stop(self, timeline_id: TimelineId, retention_s: int | None) -> None:
        history = self._history(self._layout.existing(timeline_id))
        # The server that held it in backup mode is gone, so nobody can finish it; until the next one it would hold its blocks.
        history.snapshots.abandon(COPY, self._abort)
        history.collect(self._now, self._abort)
        if retention_s != 0:
            history.take_if_due(self._uid, self._now, self._abort)
        if retention_s is not None:
            history.prune_to(self._now, retention_s)

    def prune(self, timeline_id: TimelineId, keep_since: float) -> None:
        self._history(self._layout.existing(timeline_id)).prune(keep_since)

    def look(self, timeline_id: TimelineId, *, is_running: bool) -> TimelineInfo:
        timeline = self._layout.existing(timeline_id)
        history = self._history(timeline)
        end = history.end_lsn(is_running=is_running)
        taken = history.snapshots.all()
        used = usage.measure(timeline, self._abort, time.monotonic)
        return TimelineInfo(
            timeline_id=timeline_id,
            is_running=is_running,
            end_lsn=wal.format_lsn(end),
            since_lsn=wal.format_lsn(taken[0].stop_lsn) if taken else None,
            since=taken[0].moment if taken else None,
            wal_since_snapshot_bytes=max(0, end - taken[-1].start_lsn) if taken else 0,
            has_gap=is_running and history.has_gap and _has_room(timeline),
            logical_bytes=used.logical_bytes,
            unique_bytes=used.unique_bytes,
            history_bytes=used.history_bytes,
        )

    def _complete_copy(self, history: History, data: Path, text: str, stop_lsn: int) -> Snapshot:
        """WAL of the source's and the label to the files that were copied before."""
        if not data.is_dir():
            raise NotFoundError(f"no copy in {data}", public="the copy is gone; begin again")
        start = label.parse(text)
        self._add_wal(history, data, start.wal_timeline, (start.lsn, stop_lsn))
        clone.write_file(data, clone.BACKUP_LABEL, text.encode(), self._uid)
        return Snapshot(
            start_lsn=start.lsn,
            stop_lsn=stop_lsn,
            wal_timeline=start.wal_timeline,
            moment=self._now,
            is_clean=False,
        )

    def _add_wal(self, history: History, data: Path, wal_timeline: int, between: tuple[int, int]) -> None:
        """Most often the server still has all of it. To archive what it has finished takes a sync of all that it wrote."""
        try:
            history.add_wal_between(data, wal_timeline, between, self._uid)
        except UnavailableError:
            self._collect_all(history)
            history.add_wal_between(data, wal_timeline, between, self._uid)

    def _collect_all(self, history: History) -> None:
        """Raises UnavailableError where there is no end of it."""
        for _ in range(COLLECT_PASSES_MAX):
            if not history.collect(self._now, self._abort):
                return
        raise UnavailableError(
            "an outbox does not become empty", public="the branch has much WAL to take in; try again"
        )

    def _history(self, timeline: Timeline) -> History:
        return History(self._layout, timeline)


def _is_head(found: control.Control, target: Target) -> bool:
    """Nothing was written after the point. The moment of the shutdown is known to the second."""
    if target.lsn is not None:
        return target.lsn == found.checkpoint
    return target.at is not None and target.at >= found.written_at + 1


def _has_room(timeline: Timeline) -> bool:
    """More than the servers of the volume keep history with."""
    space = os.statvfs(timeline.directory)
    return space.f_bavail * space.f_frsize >= gate_bytes(space.f_blocks * space.f_frsize)


def _is_where_it_was(data: Path, first: Snapshot) -> bool:
    return clone.is_settled(data) and control.of(data).checkpoint == first.stop_lsn


def _major(data: Path) -> int:
    """Raises PreconditionError."""
    with tree.opened(data) as directory:
        content = tree.read_small("PG_VERSION", directory, _VERSION_BYTES_MAX)
    text = (content or b"").decode(errors="replace").strip()
    if not text.isdecimal():
        raise PreconditionError("PG_VERSION cannot be read", public="the branch's data is damaged")
    return int(text)


def _left_at(data: Path) -> int:
    """Where a recovery ended, by the file that PostgreSQL wrote about it."""
    with tree.opened(data) as directory, tree.opened(clone.WAL, below=directory) as segments:
        name = f"{control.read(directory).wal_timeline:08X}.history"
        content = tree.read_small(name, segments, _HISTORY_BYTES_MAX)
    lsn = recovery.left_at((content or b"").decode(errors="replace"))
    if lsn is None:
        raise InternalError(f"{name} does not say where the recovery ended")
    return lsn
