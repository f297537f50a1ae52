"""A project's backup keys, in the agent's memory for the time of one piece of work.

A volume's key goes from the broker to the kernel; this one is used here. It is in a page of its own until what is derived from it is,
and both are overwritten when the work ends.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from cloister.base.errors import NotFoundError
from cloister.base.ids import ProjectId
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import BackupKey
from cloister.trust.keys.commands import DumpKeyInfo
from cloister.trust.keys.memory import SecretPage

OTHERS_MAX: Final = 3
# Beside the newest, of those that objects name. A project has one key; each that is asked for is an event in the audit log, and what a
# store names must not write there as it likes.


class KeySource(Protocol):
    """The key broker's client."""

    async def backup_key(
        self, project_id: str, reason: str, *, material: int | None = None
    ) -> tuple[int, SecretPage]: ...
    async def dump_key(self, reason: str) -> tuple[DumpKeyInfo, SecretPage]: ...


class Opening(Protocol):
    """Keys that objects are opened with."""

    async def of(self, material: int) -> BackupKey:
        """The one that an object names. Raises BackupError where there is none."""
        ...


class Keys:
    def __init__(self, source: KeySource, project_id: ProjectId, reason: str) -> None:
        self._source = source
        self._project_id = project_id
        self._reason = reason
        self._held: dict[int, BackupKey] = {}
        self._none: set[int] = set()
        self._newest: BackupKey | None = None

    async def newest(self) -> BackupKey:
        """The one to seal with."""
        if self._newest is None:
            self._newest = await self._take(None)
        return self._newest

    async def of(self, material: int) -> BackupKey:
        """The one that an object names. Raises BackupError where the project has none of that name, or too many were named
        already; the newest is there in any case."""
        await self.newest()
        if material in self._held:
            return self._held[material]
        if material not in self._none and len(self._none) < OTHERS_MAX:
            self._none.add(material)  # until it is there
            with contextlib.suppress(NotFoundError):
                return await self._take(material)
        raise BackupError("is sealed with a key that the project does not have")

    async def _take(self, material: int | None) -> BackupKey:
        found, page = await self._source.backup_key(self._project_id, self._reason, material=material)
        with page:
            key = self._held[found] = BackupKey(page.buffer, self._project_id, found)
        return key

    def close(self) -> None:
        for key in self._held.values():
            key.close()
        self._held.clear()
        self._newest = None


@contextlib.asynccontextmanager
async def held(source: KeySource, project_id: ProjectId, reason: str) -> AsyncIterator[Keys]:
    """`reason` goes into the audit event of each."""
    keys = Keys(source, project_id, reason)
    try:
        yield keys
    finally:
        keys.close()


KEPT_S: Final = 3600
# A key that is used every half minute is not asked for each time: that would be most of the audit log. An hour later it is, so that one
# that was disabled meanwhile is not used for longer.


class KeptKeys:
    """The keys of projects whose WAL is sent while their computes run. With the last compute they go (`let_go`)."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._kept: dict[ProjectId, tuple[Keys, float]] = {}

    @contextlib.asynccontextmanager
    async def taken(
        self, project_id: ProjectId, reason: str, now: float, *, is_kept: Callable[[], bool]
    ) -> AsyncIterator[Keys]:
        """`is_kept` is asked at the end, and says whether they may stay."""
        keys, until = self._kept.pop(project_id, (None, 0.0))
        if keys is not None and now >= until:
            keys.close()
            keys = None
        if keys is None:
            keys, until = Keys(self._source, project_id, reason), now + KEPT_S
        is_whole = False
        try:
            yield keys
            is_whole = True
        finally:
            # Two of one project at a time have one each; one of these is enough.
            if is_whole and is_kept() and project_id not in self._kept:
                self._kept[project_id] = keys, until
            else:
                keys.close()

    def let_go(self, project_id: ProjectId) -> None:
        kept = self._kept.pop(project_id, None)
        if kept is not None:
            kept[0].close()

    def let_all_go(self) -> None:
        for project_id in list(self._kept):
            self.let_go(project_id)
