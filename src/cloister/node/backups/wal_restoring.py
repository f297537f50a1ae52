"""WAL of a timeline comes back from the store, into a data directory that its base was laid into."""

import contextlib
from collections.abc import Collection, Iterator
from functools import partial
from typing import Final, NamedTuple

from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.node.backups.finding import CANDIDATES_MAX, Finding, WalNames
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import side_by_side
from cloister.node.backups.sending import InThread
from cloister.node.timelines import wal
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups.keys import WalName

BEGINNINGS_MAX: Final = 64
# Of one segment that are tried. Who stole the writer's credentials can put more in front, which do not open.


class _Job(NamedTuple):
    """Segments that one object should hold."""

    numbers: range
    name: WalName


class WalRestoring:
    def __init__(
        self, finding: Finding, found: WalNames, wal_timeline: int, laying: Laying, in_thread: InThread
    ) -> None:
        self._finding = finding
        self._found = found
        self._wal_timeline = wal_timeline
        self._laying = laying
        self._in_thread = in_thread

    async def whole(self, first: int, end: int) -> tuple[int, UnprocessableError | None]:
        """Segments from one to before another, or before the first of which no object opens: which that is, and why."""
        failed: dict[int, UnprocessableError] = {}
        await side_by_side(self._jobs(first, end, failed), partial(self._lay, failed))
        reached = min(failed, default=end)
        return reached, failed.get(reached)

    async def beginning(self, number: int, known: int) -> int:
        """Of this segment, what was sent last and opens, if the base has not as much of it. How much there is then; 0 for nothing.
        `known`: so much is known to have been sent last, so of an object that has exactly that nobody can put an older one in front.
        Raises UnprocessableError where something is longer than what the base has, and nothing of it opens."""
        has = await self._in_thread(partial(self._written, number))
        longer = [name for name in self._found.beginnings.get(number, ()) if (name.length or 0) > has]
        longer.sort(key=lambda name: name.length != known)
        damage: NotFoundError | UnprocessableError | None = None
        for name in longer[:BEGINNINGS_MAX]:
            try:
                contents = await self._finding.segments(name, self._wal_timeline)
            except (NotFoundError, UnprocessableError) as error:
                damage = damage or error
                continue
            await self._in_thread(partial(self._write, contents))
            return len(contents[number])
        if damage is not None:
            raise UnprocessableError(str(damage), public=damage.public)
        return has

    def _jobs(self, first: int, end: int, failed: Collection[int]) -> Iterator[_Job]:
        """In order. Behind the first that failed nothing counts: whoever puts what does not open behind the last of ours must not have all
        of it asked for."""
        while first < min(failed, default=end):
            name = self._found.whole[first][0]
            last = wal.parse_segment_name(name.last)
            assert last is not None
            numbers = range(first, min(last[1] + 1, end))
            yield _Job(numbers, name)
            first = numbers.stop

    async def _lay(self, failed: dict[int, UnprocessableError], job: _Job) -> None:
        """What the one object holds; if that does not open, of each whatever else does."""
        try:
            contents = await self._finding.segments(job.name, self._wal_timeline)
        except (NotFoundError, UnprocessableError) as error:
            contents = {}
            for number in job.numbers:
                if number not in contents:
                    contents |= await self._any_with(number)
                if number not in contents:
                    failed[number] = UnprocessableError(str(error), public=error.public)
        await self._in_thread(partial(self._write, {it: contents[it] for it in job.numbers if it in contents}))

    async def _any_with(self, number: int) -> dict[int, bytes]:
        for name in self._found.whole[number][:CANDIDATES_MAX]:
            with contextlib.suppress(NotFoundError, UnprocessableError):
                return await self._finding.segments(name, self._wal_timeline)
        return {}

    def _write(self, contents: dict[int, bytes], abort: Abort) -> None:
        for number, content in contents.items():
            abort.check()
            self._laying.segment(wal.segment_name(self._wal_timeline, number), content)

    def _written(self, number: int, _abort: Abort) -> int:
        return self._laying.written(self._wal_timeline, number)
