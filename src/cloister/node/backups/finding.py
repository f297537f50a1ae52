"""What the store has of a timeline, as far as it can be believed: names of ours, and content that was sealed for them."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.base.ids import ProjectId, TimelineId
from cloister.node.backups.keys import Keys
from cloister.node.backups.objects import Store, side_by_side
from cloister.node.timelines import wal
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import CHUNK_BYTES, Base, parse_base
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.keys import SEGMENTS_MAX, WalName

BASES_MAX: Final = 10_000
# That are opened: half of them those that were put first, half those that were put last. A timeline that writes all the time has 30 in a
# month. Who stole the writer's credentials can put as many as they like, locked for as long as they like, but none before the first.

WAL_MAX: Final = 2_000_000
# Names held in memory. A timeline that writes all the time has 100 000 objects of WAL in a month.

CANDIDATES_MAX: Final = 8
# Objects that are tried for one segment. Honest are two.


@dataclass(frozen=True, slots=True)
class WalNames:
    """By the number of a segment, what the store has of it."""

    whole: defaultdict[int, list[WalName]] = field(default_factory=lambda: defaultdict(list))
    beginnings: defaultdict[int, list[WalName]] = field(default_factory=lambda: defaultdict(list))
    """Of both those that were put last come first: after a crash a server writes over the record that it was cut off in, and what was sent of
    that may be longer than what counts; and what was restored twice has two lines of WAL under one number."""

    def unbroken(self, first: int, until: int | None) -> int:
        """The number after the last of those that follow each other from `first` on."""
        number = first
        while number in self.whole and (until is None or number < until):
            number += 1
        return number


@dataclass(frozen=True, slots=True)
class Bases:
    """Of one timeline, the newest first; and of those that do not open, by their keys, why."""

    opened: list[Base]
    damaged: dict[str, UnprocessableError]


@dataclass(frozen=True, slots=True)
class Finding:
    """In the backups of one timeline. Raises UnprocessableError for what does not open, NotFoundError for what is not there."""

    store: Store
    keys: Keys
    project_id: ProjectId
    timeline_id: TimelineId

    async def bases(self) -> Bases:
        """All of them are opened: a timeline that was restored under its own name has two lines of WAL, and places in the one say nothing
        of those in the other."""
        put_first: dict[str, float] = {}
        async for it in self.store.versions(names.bases(self.project_id, self.timeline_id)):
            name = names.base_name(it.key, self.project_id, self.timeline_id)
            if name is not None and not it.is_marker:
                put_first[name] = it.put_at  # of one key the last that is listed was put first
                if len(put_first) >= 2 * BASES_MAX + 1:
                    put_first = _from_either_end(put_first)
        bases = Bases([], {})

        async def look(name: str) -> None:
            key = names.base(self.project_id, self.timeline_id, name)
            try:
                bases.opened.append(await self._base(key, name))
            except NotFoundError:
                return
            except UnprocessableError as error:
                bases.damaged[key] = error

        await side_by_side(_from_either_end(put_first), look)
        bases.opened.sort(key=lambda base: (base.moment, base.stop_lsn), reverse=True)
        return bases

    async def _base(self, key: str, name: str) -> Base:
        plain = await self.store.opened(self.keys, key)
        try:
            return parse_base(plain, self.timeline_id, name)
        except BackupError as error:
            raise _unprocessable(key, error) from error

    async def list_of(self, chunk_id: str) -> bytes:
        return await self.store.opened(self.keys, names.chunk(self.project_id, chunk_id))

    async def chunk(self, chunk_id: str) -> bytes:
        return await self.store.opened(self.keys, names.chunk(self.project_id, chunk_id), CHUNK_BYTES)

    async def wal_names(self, wal_timeline: int, first: int) -> WalNames:
        """Of what may hold segment `first` or a later one."""
        prefix = names.wal(self.project_id, self.timeline_id)
        found, count = WalNames(), 0
        after = prefix + wal.segment_name(wal_timeline, max(first - SEGMENTS_MAX, 0))
        put_at: dict[WalName, float] = {}
        seen = ""
        async for it in self.store.versions(prefix, after):
            if it.is_marker or it.key == seen:
                continue
            seen = it.key
            name = names.wal_name(it.key, self.project_id, self.timeline_id)
            numbers = _numbers(name, wal_timeline) if name is not None else range(0)
            for number in numbers:
                assert name is not None
                put_at[name] = it.put_at
                (found.whole if name.length is None else found.beginnings)[number].append(name)
            count += len(numbers)
            _require(count <= WAL_MAX)
        for candidates in (*found.whole.values(), *found.beginnings.values()):
            candidates.sort(key=lambda it: (put_at[it], it.length or 0), reverse=True)
        return found

    async def segments(self, name: WalName, wal_timeline: int) -> dict[int, bytes]:
        """By their numbers, what an object holds."""
        key = names.wal_object(self.project_id, self.timeline_id, name)
        plain = await self.store.opened(self.keys, key)
        numbers = _numbers(name, wal_timeline)
        size = len(numbers) * wal.SEGMENT_BYTES if name.length is None else name.length
        contents = {number: plain[at * wal.SEGMENT_BYTES :][: wal.SEGMENT_BYTES] for at, number in enumerate(numbers)}
        if len(plain) != size or not all(wal.begins_at(content, number) for number, content in contents.items()):
            raise UnprocessableError(
                f"{key} is other WAL", public=f"in the store of backups, {key} is not what it is called"
            )
        return contents


def _from_either_end(put_first: dict[str, float]) -> dict[str, float]:
    """BASES_MAX of them."""
    if len(put_first) <= BASES_MAX:
        return put_first
    in_order, half = sorted(put_first, key=lambda name: put_first[name]), BASES_MAX // 2
    return {name: put_first[name] for name in (*in_order[:half], *in_order[len(in_order) - half :])}


def _numbers(name: WalName, wal_timeline: int) -> range:
    """Of the segments that an object of this name has; none for a name that no agent gives."""
    first, last = wal.parse_segment_name(name.first), wal.parse_segment_name(name.last)
    if first is None or last is None or first[0] != wal_timeline or last[0] != wal_timeline:
        return range(0)
    numbers = range(first[1], last[1] + 1)
    if len(numbers) > SEGMENTS_MAX or (name.length is not None and not 0 < name.length <= wal.SEGMENT_BYTES):
        return range(0)
    return numbers


def _require(is_few: bool) -> None:
    if not is_few:
        raise UnprocessableError(public="the store of backups lists more objects of the branch than there can be")


def _unprocessable(what: str, error: BackupError) -> UnprocessableError:
    return UnprocessableError(f"{what}: {error}", public=f"in the store of backups, {what} {error}")
