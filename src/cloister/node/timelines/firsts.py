"""First snapshots that are still to be taken of timelines which others have heard of.

A history begins with a snapshot, which costs as much as the timeline itself, and most of the time nobody has to wait for it:
it is taken while the new timeline is started, and not of that. For a clone it is taken of the source, which has to stay as it is.
For a copy it is made of the source's last snapshot with all WAL since, a moment later, so that the start has the machine to itself;
whoever wants more of the timeline than to start it wants it now. What it is to be made of is written down before anybody hears of the
timeline (`History.owe`), so what a crash kept from being taken is taken when the volume is found open or opened next; of the clone
itself, where its source went on and it did not. Where neither is possible, one is taken when the timeline stops, or by the API while it
runs: there its history begins.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cloister.base.ids import TimelineId

FIRST_AFTER_S: Final = 1.0
# A branch has started by then; side by side the one takes from the other what it saves.


@dataclass(frozen=True, slots=True)
class First:
    """One that is not there yet."""

    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody waits for it."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It was taken, or it was not."""

    async def is_due(self) -> None:
        """It was wanted, or the start that it shall not disturb has had its time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_AFTER_S):
                await self.wanted.wait()


class Firsts:
    """Those of all timelines, one each."""

    def __init__(self) -> None:
        self._missing: dict[TimelineId, First] = {}

    def __len__(self) -> int:
        return len(self._missing)

    @contextlib.contextmanager
    def taking(self, timeline_id: TimelineId) -> Iterator[First]:
        """Entered under its lock, which may be let go inside: it may be started meanwhile, and nothing else."""
        first = self._missing[timeline_id] = First()
        try:
            yield first
        finally:
            del self._missing[timeline_id]
            first.over.set()

    def are_missing(self, *timeline_ids: TimelineId) -> bool:
        """Any of them."""
        return any(timeline_id in self._missing for timeline_id in timeline_ids)

    async def want(self, *timeline_ids: TimelineId) -> None:
        """Now, and wait until they are there or will not be."""
        for first in [self._missing[timeline_id] for timeline_id in timeline_ids if timeline_id in self._missing]:
            first.wanted.set()
            await first.over.wait()
