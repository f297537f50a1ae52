"""The connection audit: every opened, denied, closed and cancelled connection, in batches, kept until it is committed.

An event is in the queue before its client is let in. If the control plane is away the queue waits for it; when the
queue is full nobody new is let in, rather than somebody unrecorded. A batch whose answer was lost is sent again, so an
event may be recorded twice, never not at all, while this process lives.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from cloister.base.directory import ConnectionEvent
from cloister.base.errors import CloisterError
from cloister.edge.gateway.errors import audit_unavailable
from cloister.edge.gateway.limits import (
    AUDIT_BATCH_MAX,
    AUDIT_FLUSH_AT_END_S,
    AUDIT_FLUSH_S,
    AUDIT_QUEUE_MAX,
    AUDIT_RETRY_S,
)

log = logging.getLogger(__name__)


def timestamp() -> str:
    """RFC 3339 UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Batches(ABC):
    """What is sent in batches: one is due when it is full, or `flush_s` after the first of it came. `run` sends, until after
    `finish` nothing is left. Whoever adds sets `_has_any`, and `_has_batch` when one is full; `_send` clears them."""

    def __init__(self, flush_s: float) -> None:
        self._flush_s = flush_s
        self._has_any = asyncio.Event()
        self._has_batch = asyncio.Event()
        self._is_ending = False

    @property
    @abstractmethod
    def _is_empty(self) -> bool: ...

    @abstractmethod
    async def _send(self) -> bool:
        """One batch; False if it has to be tried again."""

    async def run(self) -> None:
        while not self._is_ending or not self._is_empty:
            await self._has_any.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flush_s):  # not `wait_for`, which can lose a cancellation before 3.12
                    await self._has_batch.wait()
            if not await self._send():
                await asyncio.sleep(AUDIT_RETRY_S)

    async def finish(self, running: "asyncio.Task[None]") -> None:
        """Let `run` send what is left, with a limit."""
        self._is_ending = True
        self._has_any.set()
        self._has_batch.set()
        await asyncio.wait([running], timeout=AUDIT_FLUSH_AT_END_S)


class Trail(Batches):
    """`add` at any time."""

    def __init__(
        self, record: Callable[[list[ConnectionEvent]], Awaitable[None]], *, queue_max: int = AUDIT_QUEUE_MAX
    ) -> None:
        super().__init__(AUDIT_FLUSH_S)
        self._record = record
        self._queue_max = queue_max
        self._queue: list[ConnectionEvent] = []
        self.lost_count = 0

    def check_room(self) -> None:
        """Raises RefusedError where a new connection could not be recorded. Half the queue is kept for the ends of
        connections that were let in, which cannot be refused any more."""
        if not self.has_room():
            raise audit_unavailable()

    def has_room(self) -> bool:
        """For more than the ends of connections."""
        return len(self._queue) < self._queue_max // 2

    def add(self, event: ConnectionEvent) -> None:
        if len(self._queue) >= self._queue_max:
            self.lost_count += 1
            log.error("audit queue full: lost %s of %s", event.action, event.session_id)
            return
        self._queue.append(event)
        self._has_any.set()
        if len(self._queue) >= AUDIT_BATCH_MAX:
            self._has_batch.set()

    @property
    def _is_empty(self) -> bool:
        return not self._queue

    async def finish(self, running: "asyncio.Task[None]") -> None:
        await super().finish(running)
        if self._queue:
            log.error("%d audit events were not written before the end", len(self._queue))

    async def _send(self) -> bool:
        if not (batch := self._queue[:AUDIT_BATCH_MAX]):
            return True
        try:
            await self._record(batch)
        except CloisterError as error:
            log.warning("the audit cannot be written, %d events wait: %s", len(self._queue), error)
            return False
        del self._queue[: len(batch)]
        if not self._is_ending:
            if len(self._queue) < AUDIT_BATCH_MAX:
                self._has_batch.clear()
            if not self._queue:
                self._has_any.clear()
        return True
