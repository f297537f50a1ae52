"""A timeline comes back from the store: which base, which WAL, and both as files that a recovery reads.

What the store keeps back is missed: the work ends with what is missing, and not with less than was asked for.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cloister.base.errors import NotFoundError, PreconditionError, UnprocessableError
from cloister.base.identities import checked_compute_uid
from cloister.base.ids import ProjectId, TimelineId, parse_project_id, parse_timeline_id
from cloister.node.backups.finding import Finding
from cloister.node.backups.keys import Keys
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import Store, side_by_side
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
from cloister.protocol.backups.bases import Base, Contents, Entry, Piece
from cloister.protocol.backups.errors import BackupError

BEHIND_LSN: Final = 2
# Segments: the one that the record before an LSN ends in, and the one after it, where the next record begins. A recovery stops there.


@dataclass(frozen=True, slots=True)
class Chosen:
    base: Base
    until: int | None
    """The first segment that is not needed; None: all there is."""

    @property
    def first(self) -> int:
        return first_after(snapshot_of(self.base))


class Restoring:
    """One timeline's. Parses all that is in the command."""

    def __init__(self, command: RestoreTimeline) -> None:
        self.project_id: ProjectId = parse_project_id(command.project_id)
        self.source_id: TimelineId = parse_timeline_id(command.source_id)
        self.timeline_id: TimelineId = parse_timeline_id(command.timeline_id)
        self.uid = checked_compute_uid(command.uid)
        self.target = END if command.lsn is None and command.at is None else target_of(command.lsn, command.at)
        self._known_lsn = None if command.known_lsn is None else wal.parse_lsn(command.known_lsn)
        self._pg_version = command.pg_version

    async def fetch(self, store: Store, keys: Keys, layout: Layout, in_thread: InThread) -> Assembled:
        """The data directory of an unfinished timeline, ready for its recovery.

        1. The newest base before the point.
        2. Its files, as its lists say.
        3. The WAL from there to the point, in place of what the base has of it.
        4. It is not less than was asked for, or is known to have been sent.
        """
        finding = Finding(store, keys, self.project_id, self.source_id)
        # 1.
        chosen = await self._choose(finding)
        # 2.
        timeline = layout.unfinished(self.timeline_id)
        laying = Laying(timeline.data, self.uid)

        def begin(_abort: Abort) -> None:
            layout.begin(self.timeline_id, self.uid)
            laying.begin()

        await in_thread(begin)
        await self._lay_files(finding, chosen.base, laying, in_thread)
        # 3. and 4.
        end = await self._lay_wal(finding, chosen, laying, in_thread)
        await in_thread(lambda _abort: clone.write_file(timeline.data, "recovery.signal", b"", self.uid))
        reach = Reach(chosen.first, -(-end // wal.SEGMENT_BYTES), is_broken=False)
        return Assembled(reach, _outside(chosen.base, end))

    def finish(
        self, layout: Layout, fetched: Assembled, output: str, now: float, abort: Abort, *, has_missed: bool
    ) -> Recovered:
        """After the replay."""
        return Making(layout, self.uid, now, abort).finish_recovery(
            self.timeline_id, self.target, fetched, output, has_missed=has_missed, is_frozen=False
        )

    async def _choose(self, finding: Finding) -> Chosen:
        """One that does not open is passed over: an older one, with more WAL, leads to the same place. Raises PreconditionError where there
        is none, UnprocessableError where none opens."""
        after: list[Base] = []
        damage: UnprocessableError | None = None
        for name in await finding.bases():
            try:
                base = await finding.base(name)
            except NotFoundError:
                continue
            except UnprocessableError as error:
                damage = damage or error
                continue
            if self._is_before(base):
                if base.pg_version != self._pg_version:
                    raise PreconditionError(public=f"the backup is of PostgreSQL {base.pg_version}")
                return Chosen(base, self._until(after))
            after.append(base)
        if damage is not None:
            raise damage
        if not after:
            raise PreconditionError(public="the store has no backup of the branch")
        raise PreconditionError(
            public="the point is before what the store has of the branch, which begins at "
            f"{rfc3339(after[-1].moment)} (LSN {wal.format_lsn(after[-1].stop_lsn)})"
        )

    def _is_before(self, base: Base) -> bool:
        if self.target.lsn is not None:
            return base.stop_lsn <= self.target.lsn
        return self.target.at is None or base.moment <= self.target.at

    def _until(self, after: Sequence[Base]) -> int | None:
        """`after`: the bases behind the point, the newest first. The first of them may have been begun before a moment that it was finished
        after; what the second one begins with was written later."""
        if self.target.lsn is not None:
            return wal.segment_number(self.target.lsn) + BEHIND_LSN
        return wal.segment_number(after[-2].stop_lsn) + 1 if len(after) > 1 else None

    async def _lay_files(self, finding: Finding, base: Base, laying: Laying, in_thread: InThread) -> None:
        contents = Contents()
        for list_id in base.lists:
            entries = await finding.entries(base, contents, list_id)
            await in_thread(partial(laying.make, entries))
            places = _places(entries)

            async def lay(chunk_id: str, places: dict[str, list[tuple[str, Piece]]] = places) -> None:
                plain = await finding.chunk(chunk_id)
                if any(piece.at + piece.length > len(plain) for _, piece in places[chunk_id]):
                    raise UnprocessableError(
                        public=f"the backup's base {base.name} lists more of a chunk than there is"
                    )
                await in_thread(partial(laying.write, plain, places[chunk_id]))

            await side_by_side(places, lay)
        try:
            contents.end(base)
        except BackupError as error:
            raise UnprocessableError(public=f"the backup's base {base.name} {error}") from error

    async def _lay_wal(self, finding: Finding, chosen: Chosen, laying: Laying, in_thread: InThread) -> int:
        """1. The whole segments that follow each other from the base on.
        2. The longest beginning of the next one that opens, if the base has not more of it.
        3. Where it ends must not be before the point, or before what is known to have been sent.
        """
        base = chosen.base
        found = await finding.wal_names(base.wal_timeline, chosen.first)
        restoring = WalRestoring(finding, found, base.wal_timeline, laying, in_thread)
        # 1.
        number = found.unbroken(chosen.first, chosen.until)
        await restoring.whole(chosen.first, number)
        end = max(base.stop_lsn, number * wal.SEGMENT_BYTES if number > chosen.first else 0)
        # 2.
        damage = None
        if chosen.until is None or number < chosen.until:
            try:
                length = await restoring.beginning(number)
                end = max(end, number * wal.SEGMENT_BYTES + length if length else 0)
            except UnprocessableError as error:
                damage = error
        # 3.
        if self.target.lsn is not None and self.target.lsn > end:
            raise damage or _outside(base, end)
        if self.target.lsn is None and chosen.until is None:
            if self._known_lsn is None and damage is not None:
                raise damage
            if self._known_lsn is not None and end < self._known_lsn:
                raise damage or UnprocessableError(
                    public=f"the store of backups has WAL up to {wal.format_lsn(end)}, and it was sent up to "
                    f"{wal.format_lsn(self._known_lsn)}: something is kept back, or was lost"
                )
        return end


def snapshot_of(base: Base) -> Snapshot:
    return Snapshot(
        start_lsn=base.start_lsn,
        stop_lsn=base.stop_lsn,
        wal_timeline=base.wal_timeline,
        moment=base.moment,
        is_clean=base.is_clean,
    )


def _places(entries: Sequence[Entry]) -> dict[str, list[tuple[str, Piece]]]:
    """By chunk, where parts of it go."""
    places = defaultdict(list)
    for entry in entries:
        for piece in entry.pieces:
            places[piece.chunk].append((entry.path, piece))
    return dict(places)


def _outside(base: Base, end: int) -> PreconditionError:
    return PreconditionError(
        public="the point is outside of what the store has of the branch: from its base of "
        f"{rfc3339(base.moment)} (LSN {wal.format_lsn(base.stop_lsn)}) to LSN {wal.format_lsn(end)}"
    )
