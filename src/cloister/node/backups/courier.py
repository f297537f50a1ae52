"""The courier: puts sealed objects into the operator's bucket, and gets them from there. A process of its own, which holds no key of
ours and no connection to the control database; its one socket answers root alone.

Whoever takes it over has two credentials of the bucket. With the writer's they can put objects beside ours and over them; with the
reader's they can get ciphertext. What was put before stays: no credential lifts its lock, and older versions can be asked for.

What must stay true: nothing is put into a bucket that does not keep it, and neither credential is used in the other's place.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cloister.base.errors import (
    BadRequestError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.identities import Service
from cloister.base.rpc import Connection, Server
from cloister.base.settings import Settings
from cloister.node.backups import looking, store
from cloister.node.backups.commands import (
    AnyCourierCommand,
    Content,
    GetObject,
    GetVersion,
    ListObjects,
    LookAtStore,
    NameStore,
    ObjectInfo,
    Page,
    Place,
    ProbeStore,
    PutObject,
)
from cloister.node.backups.store import Opened
from cloister.node.commands import Done
from cloister.protocol.backups.keys import KEY, PREFIX
from cloister.protocol.backups.sealing import OBJECT_BYTES_MAX
from cloister.trust.sending.https import Answer, TooLongError
from cloister.trust.sending.s3 import RefusedError

log = logging.getLogger(__name__)

R = TypeVar("R")

RETAIN_DAYS_MIN: Final = 30
# What is promised of every object (BK3). One that is put for less is a mistake of whoever puts it.

RETAIN_DAYS_MAX: Final = 400
# Nobody can take back what was put for too long, and somebody pays for it until then.

REQUESTS_MAX: Final = 4
# At a time, and each begins when its caller has read what it was told: four answers of three megabytes are less than what a connection may
# leave unread (base/rpc/server.py).

ATTEMPT_TIMEOUT_S: Final = 60.0
# Four objects of three megabytes at once, at two megabits a second.

PAUSES_S: Final = (0.5, 2.0, 8.0)
# Before each further attempt, where one may help. What lasts longer is told to whoever asked, who comes again (CALL_TIMEOUT_S).

LOCK_LOOK_S: Final = 600.0
# For so long a bucket that keeps versions and locks is taken for one. Once on, a bucket's lock cannot be turned off.


class _Mark(NamedTuple):
    """Which file it is, and which content of it."""

    inode: int
    changed_ns: int
    size: int


class Courier:
    def __init__(self, settings: Settings) -> None:
        self._file = settings.paths.store_file
        self._server = Server(
            settings.paths.courier_socket,
            AnyCourierCommand,
            self._answer,
            allowed=frozenset({Service.AGENT}),
            mode=0o600,  # its directory is this process's: nobody but root gets as far as being refused
        )
        self._requests = asyncio.Semaphore(REQUESTS_MAX)
        self._opened: tuple[_Mark, Opened] | None = None
        self._locks: tuple[Opened, float] | None = None
        """Of which store it was seen that it keeps versions and locks, and until when that holds."""

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()
        self._forget()

    async def _answer(self, connection: Connection, command: AnyCourierCommand) -> object:
        opened = self._now()
        match command:
            case NameStore():
                return opened.store.digest
            case PutObject():
                return await self._put(opened, command)
            case GetObject(key=key):
                return await self._get(connection, opened, key, "")
            case GetVersion(key=key, version=version):
                return await self._get(connection, opened, key, version)
            case ListObjects():
                return await self._list(opened, command)
            case LookAtStore():
                return await looking.look(opened)
            case ProbeStore():
                return await looking.probe(opened)

    async def _put(self, opened: Opened, command: PutObject) -> Done:
        """Put it where nobody takes it away.

        1. The key is one of ours, below the operator's prefix; the size is one that is given back.
        2. It is locked for no less than what is promised.
        3. The bucket says that it keeps every version and locks. One that does not, or does not say, gets nothing.
        4. The writer's credentials put it, locked, with a checksum that the store compares.
        """
        # 1.
        key = opened.store.prefix + checked_key(command.key)
        if not 0 < len(command.content) <= OBJECT_BYTES_MAX:
            raise BadRequestError(f"{command.key} has {len(command.content)} bytes")
        # 2.
        if not RETAIN_DAYS_MIN <= command.retain_days <= RETAIN_DAYS_MAX:
            raise BadRequestError(f"{command.key} for {command.retain_days} days")
        # 3.
        await self._must_lock(opened)
        # 4.
        await self._patiently(
            opened,
            lambda: opened.writer.put(
                key, command.content, kind=looking.KIND, retain_days=command.retain_days, sse=opened.store.sse
            ),
        )
        return Done()

    async def _must_lock(self, opened: Opened) -> None:
        if self._locks is not None and self._locks[0] is opened and time.monotonic() < self._locks[1]:
            return
        reader = opened.reader
        if not (await self._patiently(opened, reader.versioning) and await self._patiently(opened, reader.object_lock)):
            raise PreconditionError(
                public=f"{opened.store.place} gets nothing: its bucket does not keep every version and lock it, "
                "which `cloister backups store test` shows"
            )
        self._locks = (opened, time.monotonic() + LOCK_LOOK_S)

    async def _get(self, connection: Connection, opened: Opened, key: str, version: str) -> Content:
        """What is wrong with this version alone is told as that: another may be asked for. Whoever stole the writer's credentials may have
        put one over ours that is too long, or that only they can have decrypted or fetched from an archive, which a store says with 400
        or 403, as it says that the reader may get nothing at all: then listing is refused, too."""
        place = opened.store.prefix + checked_key(key)
        named = f"{opened.store.place}{key}"

        async def get() -> Answer:
            await connection.drain()
            return await opened.reader.get(place, version, wanted=OBJECT_BYTES_MAX)

        try:
            answer = await self._patiently(opened, get)
        except TooLongError as error:
            raise UnprocessableError(f"{place} {version}", public=f"{named} is larger than any of ours") from error
        except RefusedError as error:
            if error.status in (404, 405):  # 405: the version is a marker
                raise NotFoundError(f"{place} {version}", public=f"{named} is not there") from error
            raise UnprocessableError(f"{place} {version}", public=f"{named} is not given: {error.public}") from error
        return Content(
            content=answer.body,
            version=answer.headers.get("x-amz-version-id", version),
            locked_until=looking.locked_until(answer),
        )

    async def _list(self, opened: Opened, command: ListObjects) -> Page:
        ours = opened.store.prefix
        if PREFIX.fullmatch(command.prefix) is None:
            raise BadRequestError(f"{command.prefix[:200]!r} is no prefix of keys of ours")
        after = ("", "")
        if command.after is not None:
            # A mark, and nothing that is asked for: it may be of a key that somebody else put between ours.
            if not command.after.key.startswith(command.prefix):
                raise BadRequestError(f"{command.after.key[:200]!r} does not come up in a list of {command.prefix}")
            after = (ours + command.after.key, command.after.version or "")
        page = await self._patiently(opened, lambda: opened.reader.page(ours + command.prefix, after=after))
        return Page(
            objects=[
                ObjectInfo(
                    key=each.key.removeprefix(ours),
                    version=each.version,
                    size=each.size,
                    put_at=each.at.timestamp(),
                    is_latest=each.is_latest,
                    is_marker=each.is_marker,
                )
                for each in page.versions
                if each.key.startswith(ours + command.prefix)
            ],
            after=None if page.next is None else Place(page.next[0].removeprefix(ours), page.next[1] or None),
        )

    async def _patiently(self, opened: Opened, ask: Callable[[], Awaitable[R]]) -> R:
        """Again after a pause, where that may help. Raises UnavailableError with what was wrong last."""
        pauses = iter(PAUSES_S)
        while True:
            try:
                async with self._requests, asyncio.timeout(ATTEMPT_TIMEOUT_S):
                    return await ask()
            except (UnavailableError, OSError, TimeoutError) as error:
                told = f"{opened.store.place} {looking.said(error)}"
                pause = next(pauses, None)
                if isinstance(error, TooLongError) or (isinstance(error, RefusedError) and not error.may_pass):
                    error.public = told
                    raise
                if pause is None:
                    raise UnavailableError(public=told) from error
                log.info("%s; again in %.1f s", told, pause)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once

    def _now(self) -> Opened:
        """The store as its file says it now. Raises PreconditionError where there is none."""
        mark = _mark(self._file)
        if self._opened is None or self._opened[0] != mark:
            self._forget()
            self._opened = (mark, Opened(store.read(self._file)))
        return self._opened[1]

    def _forget(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None


def checked_key(key: str) -> str:
    """Raises BadRequestError for one that none of ours can have: nothing outside of the operator's prefix is ever asked for."""
    if KEY.fullmatch(key) is None:
        raise BadRequestError(f"{key[:200]!r} is no key of ours")
    return key


def _mark(file: Path) -> _Mark:
    try:
        found = file.stat()
    except FileNotFoundError:
        return _Mark(0, 0, 0)
    return _Mark(found.st_ino, found.st_mtime_ns, found.st_size)
