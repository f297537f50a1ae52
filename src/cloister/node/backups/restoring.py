"""A timeline comes back from the store: which base, which WAL, and both as files that a recovery reads.

What the store keeps back is missed: the work ends with what is missing, and not with less than was asked for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import CloisterError, NotFoundError, PreconditionError, UnprocessableError
from cloister.base.identities import checked_compute_uid
from cloister.base.ids import ProjectId, TimelineId, parse_project_id, parse_timeline_id
from cloister.node.backups.fetching import lay_files
from cloister.node.backups.finding import Finding
from cloister.node.backups.keys import Keys
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import Store
from cloister.node.backups.sending import InThread
from cloister.node.backups.wal_restoring import WalRestoring
from cloister.node.commands import Recovered, RestoreTimeline
from cloister.node.timelines import clone, wal
from cloister.node.timelines.history import Reach, first_after, rfc3339
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Assembled, Making
from cloister.node.timelines.recovery import END, target_of
from cloister.node.timelines.snapshots import Snapshot
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups.bases import Base

log = logging.getLogger(__name__)

BASES_TRIED_MAX: Final = 4
# Whoever damaged so many in a row damaged the others as well; and each is fetched for hours, if it is large.

BEHIND_LSN: Final = 2
# Segments: the one that the record before an LSN ends in, and the one after it, where the next record begins. A recovery stops there.


@dataclass(frozen=True, slots=True)
class Chosen:
    base: Base
    until: int | None
    """The first segment that is not needed; None: all there is."""
    reaches: int
    """Up to here there must be WAL; 0: nobody knows."""

    @property
    def first(self) -> int:
        return first_after(snapshot_of(self.base))


@dataclass(frozen=True, slots=True)
class Fetched(Assembled):
    """What the recovery starts from."""

    missing: CloisterError | None
    """Why WAL ends before it should: to be raised if the point lies behind."""

    def require_whole(self) -> None:
        if self.missing is not None:
            raise self.missing


class Restoring:
    """One timeline's. Parses all that is in the command."""

    def __init__(self, command: RestoreTimeline, line: Sequence[str] | None = None) -> None:
        """`line`: as a `Finding` has it."""
        self._line = line
        self.project_id: ProjectId = parse_project_id(command.project_id)
        self.source_id: TimelineId = parse_timeline_id(command.source_id)
        self.timeline_id: TimelineId = parse_timeline_id(command.timeline_id)
        self.uid = checked_compute_uid(command.uid)
        self.target = END if command.lsn is None and command.at is None else target_of(command.lsn, command.at)
        self._known_lsn = None if command.known_lsn is None else wal.parse_lsn(command.known_lsn)
        self._pg_version = command.pg_version

    async def fetch(self, store: Store, keys: Keys, layout: Layout, in_thread: InThread) -> Assembled:
        """The data directory of an unfinished timeline, ready for its recovery.

        1. The newest base before the point that comes back in whole: its files, as its lists say. Of one that does not, an older one
           with more WAL leads to the same place.
        2. The WAL from there to the point, in place of what the base has of it.
        3. It is not less than was asked for, or is known to have been sent. Of a moment it shows in the replay whether it is.
        """
        finding = Finding(store, keys, self.project_id, self.source_id, self._line)
        timeline = layout.unfinished(self.timeline_id)
        laying = Laying(timeline.data, self.uid)

        def begin(_abort: Abort) -> None:
            layout.begin(self.timeline_id, self.uid)
            laying.begin()

        # 1.
        damage: UnprocessableError | None = None
        for chosen in (await self._choose(finding))[:BASES_TRIED_MAX]:
            await in_thread(begin)
            try:
                await lay_files(f"base {chosen.base.name}", chosen.base, finding, laying, in_thread)
                break
            except (NotFoundError, UnprocessableError) as error:
                log.warning("the base %s of %s does not come back: %s", chosen.base.name, self.source_id, error)
                damage = damage or UnprocessableError(str(error), public=error.public)
        else:
            assert damage is not None
            raise damage
        # 2.
        end, missing = await self._lay_wal(finding, chosen, laying, in_thread)
        # 3.
        if missing is not None and self.target.at is None:
            raise missing
        await in_thread(lambda _abort: clone.write_file(timeline.data, "recovery.signal", b"", self.uid))
        reach = Reach(chosen.first, -(-end // wal.SEGMENT_BYTES), is_broken=False)
        return Fetched(reach, _outside(chosen.base, end), missing)

    def finish(
        self, layout: Layout, fetched: Assembled, output: str, now: float, abort: Abort, *, has_missed: bool
    ) -> Recovered:
        """After the replay."""
        return Making(layout, self.uid, now, abort).finish_recovery(
            self.timeline_id, self.target, fetched, output, has_missed=has_missed, is_frozen=False
        )

    def reached(self, layout: Layout, fetched: Assembled, *, has_missed: bool) -> str:
        """Where the replay ended."""
        making = Making(layout, self.uid, 0, Abort())
        lsn = making.reached(self.timeline_id, self.target, fetched, has_missed=has_missed)
        return wal.format_lsn(lsn)

    async def _choose(self, finding: Finding) -> list[Chosen]:
        """The bases before the point, the newest first. Raises PreconditionError where there is none, UnprocessableError where none
        opens."""
        bases = await finding.bases()
        if before := list(filter(self._is_before, bases.opened)):
            if before[0].pg_version != self._pg_version:
                raise PreconditionError(public=f"the backup is of PostgreSQL {before[0].pg_version}")
            return [self._chosen(base, bases.opened) for base in before if base.pg_version == self._pg_version]
        for damage in bases.damaged.values():
            raise damage
        if not bases.opened:
            raise PreconditionError(public="the store has no backup of the branch")
        first = bases.opened[-1]
        raise PreconditionError(
            public="the point is before what the store has of the branch, which begins at "
            f"{rfc3339(first.moment)} (LSN {wal.format_lsn(first.stop_lsn)})"
        )

    def _is_before(self, base: Base) -> bool:
        if self.target.lsn is not None:
            return base.stop_lsn <= self.target.lsn
        return self.target.at is None or base.moment <= self.target.at

    def _chosen(self, base: Base, opened: Sequence[Base]) -> Chosen:
        """WAL must reach from it to every later base before the point, and to the first behind it. Of those behind, the newest first, the
        last may have been begun before a moment that it was finished after; what the one after that begins with was written later."""
        if self.target.lsn is not None:
            return Chosen(base, wal.segment_number(self.target.lsn) + BEHIND_LSN, self.target.lsn)
        ahead = opened[: opened.index(base)]
        later = [it for it in ahead if (it.label, it.wal_timeline) == (base.label, base.wal_timeline)]
        behind = [it for it in later if not self._is_before(it)]
        reaches = max((it.stop_lsn for it in [*behind[-1:], *filter(self._is_before, later)]), default=0)
        if len(behind) > 1:
            return Chosen(base, wal.segment_number(behind[-2].stop_lsn) + 1, reaches)
        return Chosen(base, None, max(self._known_lsn or 0, reaches))

    async def _lay_wal(
        self, finding: Finding, chosen: Chosen, laying: Laying, in_thread: InThread
    ) -> tuple[int, CloisterError | None]:
        """1. The whole segments that follow each other from the base on.
        2. The beginning of the next one, if the base has not more of it.
        3. Gives where it ends, and what is wrong if that is not as far as it should be.
        """
        base = chosen.base
        found = await finding.wal_names(
            base.wal_timeline, chosen.first, base.label, until=chosen.until, known_lsn=self._known_lsn or 0
        )
        restoring = WalRestoring(finding, found, base.wal_timeline, laying, in_thread)
        # 1.
        number, damage = await restoring.whole(chosen.first, found.unbroken(chosen.first, chosen.until))
        # A copy of a running server was ended by a switch of the segment: it has all of the one that it ends in.
        has_all_before = number > chosen.first or not base.is_clean
        end = max(base.stop_lsn, number * wal.SEGMENT_BYTES if has_all_before else 0)
        # 2.
        if chosen.until is None or number < chosen.until:
            try:
                known = max((self._known_lsn or 0) - number * wal.SEGMENT_BYTES, 0)
                length = await restoring.beginning(number, known)
                end = max(end, number * wal.SEGMENT_BYTES + length if length else 0)
            except UnprocessableError as error:
                damage = damage or error
        # 3.
        if end >= chosen.reaches and (damage is None or chosen.reaches):
            return end, None
        if self.target.lsn is not None:
            return end, damage or _outside(base, end)
        return end, damage or UnprocessableError(
            public=f"the store of backups has WAL up to {wal.format_lsn(end)}, and it was sent up to "
            f"{wal.format_lsn(chosen.reaches)}: something is kept back, or was lost"
        )


def snapshot_of(base: Base) -> Snapshot:
    return Snapshot(
        start_lsn=base.start_lsn,
        stop_lsn=base.stop_lsn,
        wal_timeline=base.wal_timeline,
        moment=base.moment,
        is_clean=base.is_clean,
    )


def _outside(base: Base, end: int) -> PreconditionError:
    return PreconditionError(
        public="the point is outside of what the store has of the branch: from its base of "
        f"{rfc3339(base.moment)} (LSN {wal.format_lsn(base.stop_lsn)}) to LSN {wal.format_lsn(end)}"
    )
