"""A snapshot's chunks and a timeline's segments on their way into the store: what is sealed, what is skipped, and how much that was."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from cloister.node.backups.memory import Chunks, Sent
from cloister.node.backups.objects import AT_ONCE, Store, side_by_side
from cloister.node.backups.reading import Chunk, Reading
from cloister.node.backups.segments import Ahead, read
from cloister.node.commands import LOCK_SPARE_DAYS
from cloister.node.timelines import clone, wal
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.keys import SEGMENTS_MAX, WalName
from cloister.protocol.backups.sealing import NONCE_BYTES, BackupKey

T = TypeVar("T")

SAVED_EVERY: Final = 256
# Chunks, at most, that are sent again if the agent dies.

SEGMENTS_AT_ONCE_MAX: Final = 256
# In one call: whoever asked has other timelines to look after. What is left is told.

DAY_S: Final = 24 * 3600


class InThread(Protocol):
    """As `timelines/work.py` has it."""

    def __call__(self, function: Callable[[Abort], T]) -> Awaitable[T]: ...


class Sealing:
    """Puts what it is given into the store, sealed."""

    def __init__(
        self, store: Store, key: BackupKey, project_id: str, now: float, retain_days: int, *, label: str = ""
    ) -> None:
        self.project_id = project_id
        self.key = key
        self.bytes = 0
        """Sent, as they lie in the store."""
        self.label = label
        self.needed_until = now + retain_days * DAY_S
        self.locked_until = now + (retain_days + LOCK_SPARE_DAYS) * DAY_S
        self._store = store
        self._days = retain_days + LOCK_SPARE_DAYS

    async def put(self, name: str, plain: bytes) -> None:
        await self.put_as_it_is(name, await asyncio.to_thread(self.key.seal, name, plain, os.urandom(NONCE_BYTES)))

    async def put_as_it_is(self, name: str, content: bytes) -> None:
        """What nobody can open without another key."""
        await self._store.put(name, content, self._days)
        self.bytes += len(content)


class BaseRun:
    """The chunks of one base."""

    def __init__(self, sealing: Sealing, reading: Reading, chunks: Chunks) -> None:
        self.count = 0
        self.new = 0
        self.locked_until = sealing.locked_until
        """The first of them."""
        self._sealing = sealing
        self._reading = reading
        self._chunks = chunks
        self._turn = asyncio.Lock()

    async def go(self, in_thread: InThread) -> None:
        """AT_ONCE are on their way, and one is read."""
        try:
            await side_by_side(range(AT_ONCE), lambda _: self._send(in_thread))
        finally:
            self._reading.close()

    async def _send(self, in_thread: InThread) -> None:
        while True:
            async with self._turn:
                chunk = await in_thread(self._next_unknown)
            if chunk is None:
                return
            until = self._sealing.locked_until
            await self._sealing.put(names.chunk(self._sealing.project_id, chunk.id), chunk.plain)
            self._chunks.add(chunk.id, until)
            self.new += 1
            if self.new % SAVED_EVERY == 0:
                await asyncio.to_thread(self._chunks.save, self._sealing.needed_until)

    def _next_unknown(self, abort: Abort) -> Chunk | None:
        """The next chunk that is to be sent. One that is twice in a base may be sent twice, if both are under way."""
        while (chunk := self._reading.next(abort)) is not None:
            self.count += 1
            until = self._chunks.until(chunk.id)
            if until < self._sealing.needed_until:
                return chunk
            self.locked_until = min(self.locked_until, until)
        return None


class WalRun:
    """Segments of one timeline, from `sent.next` on, which is kept up to date."""

    def __init__(self, sealing: Sealing, timeline: Timeline, timeline_id: str, sent: Sent) -> None:
        self.segments = 0
        self.is_missing = False
        """The segment `sent.next` is nowhere, and there are later ones."""
        self.is_behind = False
        self._sealing = sealing
        self._timeline = timeline
        self._prefix = names.wal(sealing.project_id, timeline_id)
        self._sent = sent

    async def go(self, ahead: Ahead, in_thread: InThread) -> None:
        """As far as there are segments, or SEGMENTS_AT_ONCE_MAX."""
        sent, self.is_missing = self._sent, False
        while True:
            if self.segments >= SEGMENTS_AT_ONCE_MAX:
                self.is_behind = True
                return
            whole, beginning = await in_thread(lambda abort: self._read(ahead, sent.next, abort))
            if whole:
                name = WalName(self._name(sent.next), self._name(sent.next + len(whole) - 1), None, self._sealing.label)
                await self._sealing.put(self._prefix + name.text, b"".join(whole))
                self.segments += len(whole)
                sent.next += len(whole)
                sent.length, sent.digest = 0, ""
            if beginning is not None:
                await self._begin(beginning)
                return
            if len(whole) < SEGMENTS_MAX:
                is_missing = await in_thread(lambda abort: self._is_missing(ahead, abort))
                self.is_missing, self.is_behind = is_missing and ahead.is_all, is_missing and not ahead.is_all
                return

    async def _begin(self, beginning: bytes) -> None:
        sent, digest = self._sent, hashlib.sha256(beginning).hexdigest()
        if sent.digest != digest:
            name = WalName(self._name(sent.next), self._name(sent.next), len(beginning), self._sealing.label)
            await self._sealing.put(self._prefix + name.text, beginning)
            self.segments += 1
            sent.length, sent.digest = len(beginning), digest

    def _read(self, ahead: Ahead, number: int, abort: Abort) -> tuple[list[bytes], bytes | None]:
        """What goes into the next object, whole segments; and the beginning of the one after them, if that is not whole."""
        whole: list[bytes] = []
        while len(whole) < SEGMENTS_MAX:
            abort.check()
            found = read(self._timeline, ahead, number + len(whole))
            if found is None or not found.is_whole:
                return whole, found.content if found is not None else None
            whole.append(found.content)
        return whole, None

    def _is_missing(self, ahead: Ahead, abort: Abort) -> bool:
        number = self._sent.next
        return any(it > number for it in ahead.archived) or clone.has_segment_after(self._timeline.data, number, abort)

    def _name(self, number: int) -> str:
        return wal.segment_name(self._sent.wal_timeline, number)
