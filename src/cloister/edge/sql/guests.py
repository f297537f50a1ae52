"""Who has proved to be at the other end of a connection: one at a time over HTTP/1.1, a few over HTTP/2.

Requests of one client on one connection are to it what queries are to a session on port 5432: one visit in the audit, one
attempt.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from cloister.edge.gateway.meters import CLOSED, Meter
from cloister.edge.gateway.visit import Visit
from cloister.edge.sql.request import Head


class Guest:
    def __init__(self, visit: Visit, head: Head) -> None:
        self.visit = visit
        self.head = head
        """What they said of themselves when they proved it."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.rows_out = 0
        self._meter: Meter | None = None
        self._requests = 0

    def is_who(self, head: Head) -> bool:
        """Another token is another visit, be it of the same role: it may speak of somebody else."""
        before = self.head
        if (before.startup, before.target) != (head.startup, head.target):
            return False
        old, new = (None if each.token is None else each.token.reveal() for each in (before, head))
        return old == new

    @property
    def is_idle(self) -> bool:
        return self._requests == 0

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def opened(self, *, was_cold: bool) -> None:
        """With the connection's first query. Twice is once."""
        if self._meter is None:
            self._meter = self.visit.metered(self)
            self.visit.record("connection.opened", was_cold=was_cold)

    def left(self, reason: str) -> None:
        if self._meter is not None:
            self._meter.stop()
            self._meter.tell(CLOSED, reason)
            self._meter = None


class Guests:
    def __init__(self, most: int) -> None:
        self._most = most
        self._all: list[Guest] = []
        """The one that came last is the last."""
        self._door = asyncio.Lock()

    def __bool__(self) -> bool:
        return bool(self._all)

    @contextlib.asynccontextmanager
    async def entering(self, head: Head) -> AsyncIterator[Guest | None]:
        """Who it is, if they have proved it here before. Strangers come one at a time: those behind may be the same one, and
        whoever guesses passwords guesses them one after the other."""
        if (guest := self._find(head)) is None:
            async with self._door:
                if (guest := self._find(head)) is None:
                    yield None
                    return
        yield guest

    def add(self, visit: Visit, head: Head) -> Guest:
        """It has proved it. Who has not been heard of for longest goes, where there are too many."""
        self._all.append(guest := Guest(visit, head))
        for other in self._all[:-1]:
            if len(self._all) > self._most and other.is_idle:
                self._all.remove(other)
                other.left("client_left")
        return guest

    def all_left(self, reason: str) -> None:
        for guest in self._all:
            guest.left(reason)
        self._all.clear()

    def _find(self, head: Head) -> Guest | None:
        return next((guest for guest in self._all if guest.is_who(head)), None)
