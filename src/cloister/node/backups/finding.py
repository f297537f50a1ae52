"""What the store has of a timeline, as far as it can be believed: names of ours, and content that was sealed for them."""

from collections import defaultdict
from collections.abc import Sequence
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

CANDIDATES_MAX: Final = 8
# Objects that are tried for one segment. Honest are two.

WAL_MAX: Final = 2_000_000
# Names held in memory; what is listed after them is not looked at. A base needs a day of WAL, which is some ten thousand; who stole the
# writer's credentials can put any number behind the last of ours.

NAMES_MAX: Final = 256
PASSED_MAX: Final = 8
# Beginnings of one segment that are held, those that were put last; and of one that there is in whole, for which nobody asks unless that
# does not open. Honest is one for each half a minute in which it was written; put for it can be a million.

_SEGMENT_CHARS: Final = 24


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
    line: Sequence[str] | None = None
    """Labels of the senders that are believed, the last one's last: what others sent is another platform's history (`senders.py`). None:
    all, by their numbers."""

    async def bases(self) -> Bases:
        """All of them are opened: a timeline that was restored under its own name has two lines of WAL, and places in the one say nothing
        of those in the other. What the last sender sent is newer than anything of those before it: what these sent after that is no
        history of ours."""
        put_first: dict[str, float] = {}
        async for it in self.store.versions(names.bases(self.project_id, self.timeline_id)):
            name = names.base_name(it.key, self.project_id, self.timeline_id)
            if name is not None and not it.is_marker and self._is_ours(names.label_of(name)):
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
        bases.opened.sort(key=lambda base: (self._rank(base.label), base.moment, base.stop_lsn), reverse=True)
        return bases

    def _is_ours(self, label: str) -> bool:
        return self.line is None or label in self.line

    def _rank(self, label: str) -> tuple[int, str]:
        """A label begins with its sender's number."""
        return (0, label) if self.line is None else (self.line.index(label), "")

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

    async def wal_names(
        self, wal_timeline: int, first: int, label: str, *, until: int | None = None, known_lsn: int = 0
    ) -> WalNames:
        """Of what one sender put that may hold segment `first` or a later one, before `until` and up to the first that is missing: what lies
        behind that is of no use, and may be all junk. `known_lsn`: what ends there is held, whatever was put after it."""
        prefix = names.wal(self.project_id, self.timeline_id)
        found, end, count = WalNames(), first, 0
        after = prefix + wal.segment_name(wal_timeline, max(first - SEGMENTS_MAX, 0))
        put_at: dict[WalName, float] = {}
        seen = ""

        def known(number: int) -> int:
            return known_lsn - number * wal.SEGMENT_BYTES

        async for it in self.store.versions(prefix, after):
            if it.is_marker or it.key == seen:
                continue
            seen = it.key
            reached = found.unbroken(end, until)
            for number in range(end, reached):
                count += _keep_newest(found.beginnings.get(number, []), put_at, PASSED_MAX, known(number))
            end = reached
            last = end if until is None else min(end, until - 1)
            # They are listed in the order of where they begin.
            if count >= WAL_MAX or it.key[len(prefix) :][:_SEGMENT_CHARS] > wal.segment_name(wal_timeline, last):
                break
            name = names.wal_name(it.key, self.project_id, self.timeline_id)
            if name is None or name.label != label or not (numbers := _numbers(name, wal_timeline)):
                continue
            put_at[name] = it.put_at
            if name.length is None:
                count += len(numbers)
                for number in numbers:
                    found.whole[number].append(name)
                continue
            held = found.beginnings[numbers.start]
            held.append(name)
            most = NAMES_MAX if numbers.start >= end else PASSED_MAX
            if len(held) >= 2 * most:
                _keep_newest(held, put_at, most, known(numbers.start))
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


def _keep_newest(held: list[WalName], put_at: dict[WalName, float], count: int, known: int) -> int:
    """So many beginnings of one segment at most, with the one of a length that is known. How many these are."""
    held.sort(key=lambda it: (it.length == known, put_at[it]), reverse=True)
    for name in held[count:]:
        del put_at[name]
    del held[count:]
    return len(held)


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


def _unprocessable(what: str, error: BackupError) -> UnprocessableError:
    return UnprocessableError(f"{what}: {error}", public=f"in the store of backups, {what} {error}")
