"""Which volumes are open, and until when.

A volume is open while a compute runs on it, or work on its timelines is under way, and is closed after the last of both,
by whichever way that ended. One lock per project orders opening, closing and starting; a wake that meets a closing waits for
it, some milliseconds. Work, which takes longer, holds the volume open without holding that lock.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from cloister.base.errors import ConflictError
from cloister.base.ids import ProjectId

LINGER_S: Final = 1.0
# How long a volume stays open after a timeline was made in it, for that is most often started next: closing and opening it
# takes longer than making the timeline did. The request for the start comes some milliseconds later.

EXPECTED_S: Final = 0.1
# How long a start is prepared for after that. The host's first start in a while waits for the kernel, 10 ms.


class VolumesPort(Protocol):
    """What is needed of `node/volumes`."""

    def is_open(self, project_id: ProjectId) -> bool: ...
    async def open(self, project_id: ProjectId) -> Path: ...
    async def close(self, project_id: ProjectId) -> None: ...


class Openings:
    """`has_compute` says whether one runs on a project's volume; `opened` is told of a volume that was closed before;
    `expecting` prepares the host for the start of a compute; `begin` runs what nobody waits for."""

    def __init__(
        self,
        volumes: VolumesPort,
        *,
        has_compute: Callable[[ProjectId], bool],
        opened: Callable[[ProjectId, Path], None],
        expecting: Callable[[], AbstractAsyncContextManager[None]],
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._volumes = volumes
        self._has_compute = has_compute
        self._opened = opened
        self._expecting = expecting
        self._begin = begin
        self._locks: defaultdict[ProjectId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._holds: Counter[ProjectId] = Counter()
        self._lingering: Counter[ProjectId] = Counter()

    def lock(self, project_id: ProjectId) -> asyncio.Lock:
        """What opens, closes, or starts on the project's volume takes it."""
        return self._locks[project_id]

    def is_held(self, project_id: ProjectId) -> bool:
        """Whether work on its volume is under way."""
        return self._holds[project_id] > 0

    def require_no_work(self, project_id: ProjectId) -> None:
        if self.is_held(project_id):
            raise ConflictError(f"work on the volume of {project_id} is under way", public="the project is busy")

    async def open(self, project_id: ProjectId) -> Path:
        """Where the volume is mounted. Under the project's lock."""
        was_open = self._volumes.is_open(project_id)
        mountpoint = await self._volumes.open(project_id)
        if not was_open:
            self._opened(project_id, mountpoint)
        return mountpoint

    async def close_unused(self, project_id: ProjectId) -> None:
        """Under the project's lock."""
        if not self._has_compute(project_id) and not self._holds[project_id]:
            await self._volumes.close(project_id)

    async def close_if_unused(self, project_id: ProjectId) -> None:
        async with self._locks[project_id]:
            await self.close_unused(project_id)

    @contextlib.asynccontextmanager
    async def hold(self, project_id: ProjectId, *, lingers: bool = False) -> AsyncIterator[Path]:
        """The volume is open for the time of the context, and afterwards if a compute or somebody else needs it; for
        LINGER_S in any case if it `lingers` and nothing went wrong. The project's lock is held at both ends only."""
        async with self._locks[project_id]:
            mountpoint = await self.open(project_id)
            self._holds[project_id] += 1
        try:
            async with self._expecting() if lingers else contextlib.nullcontext():
                yield mountpoint
            if lingers:
                self._lingering[project_id] += 1
                self._begin(self._close_later(project_id))
        finally:
            self._holds[project_id] -= 1
            if not self._lingering[project_id]:
                await self.close_if_unused(project_id)

    async def _close_later(self, project_id: ProjectId) -> None:
        """Whoever stops a compute or closes the volume meanwhile does not wait for this."""
        async with self._expecting():
            await asyncio.sleep(EXPECTED_S)
        await asyncio.sleep(LINGER_S - EXPECTED_S)
        self._lingering[project_id] -= 1
        if not self._lingering[project_id]:
            await self.close_if_unused(project_id)
