"""What open sessions have received so far, told while they go on: who carries data away is found before they are through with it.

The bytes' own way knows nothing of it. Every METER_LOOK_S a round looks at the counters of all sessions, and tells of one that has
received METER_BYTES_MIN or METER_ROWS_MIN, and again each time one of the two has doubled: some thirty events in the life of a
session that receives a terabyte. Each says all that was received since the session was opened, as the event of its end does, so
none is to be added to another.

What the trail has no room for is told in a later round. At the latest, the end tells all.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from cloister.edge.gateway import limits

READING: Final = "connection.reading"
CLOSED: Final = "connection.closed"


class Moved(Protocol):
    """What counts: a relay, or who asks over HTTPS."""

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int:
        """To the client, as `rows_out`."""

    @property
    def rows_out(self) -> int:
        """0 where nobody reads the messages."""


class Tells(Protocol):
    def __call__(
        self, action: str, *, reason: str, duration_ms: int, bytes_in: int, bytes_out: int, rows_out: int
    ) -> None: ...


class Meter:
    """Of one session."""

    def __init__(self, tell: Tells, moved: Moved, meters: "Meters") -> None:
        self._tell = tell
        self._moved = moved
        self._meters = meters
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._bytes_due = limits.METER_BYTES_MIN
        self._rows_due = limits.METER_ROWS_MIN

    @property
    def is_due(self) -> bool:
        return self._moved.bytes_out >= self._bytes_due or self._moved.rows_out >= self._rows_due

    def tell(self, action: str = READING, reason: str = "") -> None:
        bytes_out, rows_out = self._moved.bytes_out, self._moved.rows_out
        self._bytes_due = max(2 * bytes_out, limits.METER_BYTES_MIN)
        self._rows_due = max(2 * rows_out, limits.METER_ROWS_MIN)
        self._tell(
            action,
            reason=reason,
            duration_ms=round((self._loop.time() - self._began_at) * 1000),
            bytes_in=self._moved.bytes_in,
            bytes_out=bytes_out,
            rows_out=rows_out,
        )

    def stop(self) -> None:
        """Twice is once."""
        self._meters.running.discard(self)


class Meters:
    """Of one worker's sessions."""

    def __init__(self) -> None:
        self.running: set[Meter] = set()

    def start(self, tell: Tells, moved: Moved) -> Meter:
        meter = Meter(tell, moved, self)
        self.running.add(meter)
        return meter

    async def run(self, has_room: Callable[[], bool]) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(limits.METER_LOOK_S)
            self.look(has_room)

    def look(self, has_room: Callable[[], bool]) -> None:
        for meter in self.running:
            if meter.is_due and has_room():
                meter.tell()
