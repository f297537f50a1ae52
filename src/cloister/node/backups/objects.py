"""The store as the agent sees it, through the courier: objects go in sealed, and nothing that comes out is believed.

`opened` is how every object is read: what was put over it, marked as deleted or damaged does not hide it while a version of it is there
that opens, for nobody can seal another one for its place.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

from cloister.base.errors import NotFoundError, UnavailableError, UnprocessableError
from cloister.base.rpc.wire import Command
from cloister.node.backups.commands import (
    CALL_TIMEOUT_S,
    GetObject,
    GetVersion,
    ListObjects,
    LookAtStore,
    NameStore,
    ObjectInfo,
    Place,
    PutObject,
    StoreFacts,
)
from cloister.node.backups.keys import Opening
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import PLAIN_BYTES_MAX, BackupKey, material_of

R = TypeVar("R")
T = TypeVar("T")

PAUSES_S: Final = (2.0,)
# Before a question is asked again. The courier asks a store more than once by itself; this is for a courier that was started anew, so
# that a restoration of hours goes on.

AT_ONCE: Final = 4
# Requests of one piece of work: a store answers each in some 50 ms, and each holds an object in memory, here and in the courier.

VERSIONS_TRIED_MAX: Final = 16
# Of one object, from either end. Whoever stole the writer's credentials can put as many as they like, but none before the first.

PAGES_MAX: Final = 10_000
# Of one listing: ten million versions. A timeline that writes all the time has 100 000 in a month.


class Courier(Protocol):
    async def call(self, command: Command[R], *, timeout_s: float = ...) -> R: ...


class Store:
    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    async def name(self) -> str:
        return await self._ask(NameStore())

    async def look(self) -> StoreFacts:
        return await self._ask(LookAtStore())

    async def put(self, key: str, content: bytes, days: int) -> None:
        await self._ask(PutObject(key=key, content=content, retain_days=days))

    async def version(self, key: str, version: str) -> bytes:
        """What the store gives. Raises as `read`."""
        return (await self._ask(GetVersion(key=key, version=version))).content

    async def opened(self, keys: Opening, key: str, limit: int = PLAIN_BYTES_MAX) -> bytes:
        """The plaintext of an object. Raises as `read`."""
        return await self.read(key, lambda sealed: self._opened(keys, key, sealed, limit))

    async def read(self, key: str, opened: Callable[[bytes], Awaitable[T]]) -> T:
        """What is made of an object by who raises BackupError for a version that is not ours. Raises UnprocessableError, or NotFoundError
        where there is no version of it.

        1. What the store gives under this name.
        2. If that is gone or does not open: the other versions, the newest and the oldest first.
        """
        # 1.
        wrong = "is not there"
        try:
            given = await self._ask(GetObject(key=key))
            return await opened(given.content)
        except (NotFoundError, UnprocessableError, BackupError) as error:
            if isinstance(error, BackupError):
                wrong = str(error)
        # 2.
        newest, oldest = await self._versions_of(key)
        for version in (*newest, *oldest):
            try:
                given = await self._ask(GetVersion(key=key, version=version.version))
                return await opened(given.content)
            except (NotFoundError, UnprocessableError):
                continue
            except BackupError as error:
                wrong = str(error)
        kind = UnprocessableError if newest else NotFoundError
        raise kind(f"{key}: {wrong}", public=f"in the store of backups, {key} {wrong}")

    async def _versions_of(self, key: str) -> tuple[list[ObjectInfo], deque[ObjectInfo]]:
        """VERSIONS_TRIED_MAX from either end."""
        newest: list[ObjectInfo] = []
        oldest: deque[ObjectInfo] = deque(maxlen=VERSIONS_TRIED_MAX)
        async for it in self.versions(key):
            if it.key != key or it.is_marker:
                continue
            if len(newest) < VERSIONS_TRIED_MAX:
                newest.append(it)
            else:
                oldest.appendleft(it)
        return newest, oldest

    async def _opened(self, keys: Opening, key: str, sealed: bytes, limit: int) -> bytes:
        """Raises BackupError."""
        using: BackupKey = await keys.of(material_of(sealed))
        # In a thread: other projects wait for nothing of it.
        return await asyncio.to_thread(using.open, key, sealed, limit)

    async def versions(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """All of them, in the order of keys; only those behind the key `after`. Keys that do not begin with the prefix, and are out of
        order, are not what was asked for: UnprocessableError."""
        place, last = None if after is None else Place(after), after or ""
        for _ in range(PAGES_MAX):
            page = await self._ask(ListObjects(prefix=prefix, after=place))
            for it in page.objects:
                if not it.key.startswith(prefix) or it.key < last:
                    raise UnprocessableError(public="the store of backups lists what was not asked for")
                last = it.key
                yield it
            if page.after is None:
                return
            place = page.after
        raise UnprocessableError(public=f"the store of backups lists more than {PAGES_MAX} pages")

    async def _ask(self, command: Command[R]) -> R:
        for pause_s in PAUSES_S:
            try:
                return await self._courier.call(command, timeout_s=CALL_TIMEOUT_S)
            except UnavailableError:
                await asyncio.sleep(pause_s)
        return await self._courier.call(command, timeout_s=CALL_TIMEOUT_S)


async def side_by_side(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """AT_ONCE of them at a time. Raises the first failure, when everything that was begun has ended."""
    waiting = iter(items)

    async def some() -> None:
        for item in waiting:
            await work(item)

    tasks = [asyncio.create_task(some()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            if not task.cancelling():  # What was cancelled waits for its thread, and must not be kept from it.
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
