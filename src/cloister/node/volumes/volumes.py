"""Every volume of this host: which are open, and that they stay well.

The driver's calls block, so they run in threads here, one at a time per project; a call that takes too long is
interrupted. An open volume is watched: when its daemon ends or its file system shuts down, `on_failed` is told, once, and
whoever owns the computes stops them and calls `discard`. What must stay true: a project that is not in `opened()` has no
device, no mount and no process.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from cloister.base.errors import CloisterError, NotFoundError, PreconditionError
from cloister.base.ids import ProjectId
from cloister.base.settings import Settings
from cloister.node import children
from cloister.node.commands import VolumeInfo
from cloister.node.volumes import dmcrypt, headroom, qemu
from cloister.node.volumes.encrypted import LuksDriver
from cloister.node.volumes.model import Driver, KeySource, Opener, OpenVolume
from cloister.node.volumes.plain import PlainDriver

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS_MAX: Final = 32
# Opening waits for the kernel and a daemon, not for this process: many may wait at once.

_OPEN_TIMEOUT_S: Final = 20.0
# Takes 0.02 s; the log recovery of a volume that was cut off under load takes up to some seconds.

_CREATE_TIMEOUT_S: Final = 60.0
# Takes 0.3 s.

_HEALTH_INTERVAL_S: Final = 1.0
# Some system calls on what is in memory per open volume. A dead daemon is noticed at once, by its pidfd; this is for
# the rest.

_PR_SET_IO_FLUSHER: Final = 57

NO_KEY: Final = -1


def choose_driver(settings: Settings) -> Driver:
    """The driver and the opener of these settings. Raises PreconditionError with what is missing on this host."""
    paths = settings.paths
    if settings.storage == "plain":
        return PlainDriver(paths)
    lacking = {"dm-crypt": dmcrypt.missing(), "qemu-storage-daemon": qemu.missing()}
    candidates = list(lacking) if settings.opener == "auto" else [settings.opener]
    for name in candidates:
        if not lacking[name]:
            opener: Opener = dmcrypt.DmCryptOpener(paths) if name == "dm-crypt" else qemu.QemuOpener(paths)
            return LuksDriver(paths, opener)
    reasons = "; ".join(f"{name} needs {', '.join(lacking[name])}" for name in candidates)
    raise PreconditionError(public=f"no way to open an encrypted volume on this host: {reasons}")


class Volumes:
    def __init__(self, driver: Driver, keys: KeySource, on_failed: Callable[[ProjectId, str], None]) -> None:
        self.driver = driver
        self._keys = keys
        self._on_failed = on_failed
        self._opened: dict[ProjectId, OpenVolume] = {}
        self._failed: set[ProjectId] = set()
        """Of those that are open: told of already."""
        self._watches: dict[ProjectId, asyncio.Task[None]] = {}
        self._locks: defaultdict[ProjectId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "volumes", initializer=_become_io_flusher)
        self._health: asyncio.Task[None] | None = None

    async def start(self, stop_users: Callable[[ProjectId], Awaitable[None]]) -> None:
        """Adopt what an earlier agent left open in working order; take the rest apart, after `stop_users`."""
        children.forbid_core_dumps()
        await self._in_thread(self.driver.prepare)
        # Side by side: one that a dead platform's mount namespace still holds takes seconds, and there may be a hundred.
        leftovers = sorted(await self._in_thread(self.driver.leftovers))
        await asyncio.gather(*(self._take_over(project_id, stop_users) for project_id in leftovers))
        self._health = asyncio.create_task(self._check_health())

    async def _take_over(self, project_id: ProjectId, stop_users: Callable[[ProjectId], Awaitable[None]]) -> None:
        volume = await self._in_thread(self.driver.adopt, project_id)
        if volume is not None:
            log.info("the volume of %s is still open: adopted", project_id)
            self._enter(project_id, volume)
        else:
            log.info("removing what is left of the open volume of %s", project_id)
            await stop_users(project_id)
            await self._in_thread(self.driver.discard, project_id)

    async def stop(self) -> None:
        """Stop watching. Open volumes stay open: the next agent adopts them."""
        tasks = [*self._watches.values(), *([self._health] if self._health else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watches.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def create(
        self, project_id: ProjectId, size_bytes: int, fill: Callable[[Path], None], *, material: int = 1
    ) -> VolumeInfo:
        """Make a volume that holds what `fill` (in a thread) puts into it, under this key. Ends closed. Twice is once."""
        async with self._locks[project_id]:
            if not self.driver.exists(project_id):
                key = await self._unwrap(project_id, "format", material=material)

                def create() -> None:
                    self.driver.create(project_id, size_bytes, key, fill, material=material)

                try:
                    await self._patiently(_CREATE_TIMEOUT_S, project_id, create)
                finally:
                    _close(key)
            return self.info(project_id)

    async def open(self, project_id: ProjectId) -> Path:
        """The mount point of the open volume. Open already is success. Raises NotFoundError, or what the broker says."""
        async with self._locks[project_id]:
            if (volume := self._opened.get(project_id)) is None:
                if not self.driver.exists(project_id):
                    raise NotFoundError(f"no volume of {project_id}", public="the project's volume is not there")
                key = await self._unwrap(project_id, "open", material=self.driver.material(project_id))
                try:
                    volume = await self._patiently(_OPEN_TIMEOUT_S, project_id, self.driver.open, project_id, key)
                finally:
                    _close(key)
                self._enter(project_id, volume)
            return Path(volume.mountpoint)

    async def close(self, project_id: ProjectId) -> None:
        """Close it, verified. Closed already is success. Raises ConflictError while a process uses it."""
        async with self._locks[project_id]:
            if (volume := self._opened.get(project_id)) is not None:
                await self._unwatch(project_id)
                try:
                    await self._in_thread(self.driver.close, volume)
                except BaseException:
                    self._watch(project_id, volume)
                    raise
                del self._opened[project_id]

    async def discard(self, project_id: ProjectId) -> None:
        """Close it whatever its state. Its users must have been stopped, or they lose it."""
        async with self._locks[project_id]:
            await self._unwatch(project_id)
            await self._in_thread(self.driver.discard, project_id)
            self._opened.pop(project_id, None)

    async def destroy(self, project_id: ProjectId) -> None:
        """Close and remove it. Gone already is success."""
        await self.close(project_id)
        async with self._locks[project_id]:
            await self._in_thread(self.driver.discard, project_id)
            await self._in_thread(self.driver.destroy, project_id)

    async def release_reserve(self, project_id: ProjectId) -> None:
        """After a compute died: if the volume is full, give its next start the room that recovery needs."""
        async with self._locks[project_id]:
            volume = self._opened.get(project_id)
            if volume is None or not self.driver.has_own_space:
                return
            try:
                was_full = await self._in_thread(headroom.release_if_needed, Path(volume.mountpoint))
            except OSError as error:
                # It is what the compute died of, and is taken apart by whoever is told of that.
                log.info("the reserve of %s cannot be given up: %s", project_id, error)
                return
            if was_full:
                log.warning("the volume of %s is full: its reserve was given up for recovery", project_id)

    async def prepare_cluster(self, data: Path, uid: int) -> None:
        """Before a start of the cluster in `data`. Best effort: a full or damaged one is PostgreSQL's to judge."""
        if self.driver.has_own_space:
            try:
                await self._in_thread(headroom.prepare_cluster, data, uid)
            except (OSError, CloisterError) as error:
                log.info("no room kept back in %s: %s", data, error)

    async def ciphers(self) -> str:
        """What the headers of all volumes say; more than one, separated by commas, if they differ."""
        return await self._in_thread(self.driver.ciphers)

    def exists(self, project_id: ProjectId) -> bool:
        return self.driver.exists(project_id)

    def is_open(self, project_id: ProjectId) -> bool:
        return project_id in self._opened

    def mountpoint(self, project_id: ProjectId) -> Path | None:
        volume = self._opened.get(project_id)
        return Path(volume.mountpoint) if volume else None

    def opened(self) -> list[VolumeInfo]:
        return [self.info(project_id) for project_id in sorted(self._opened)]

    def info(self, project_id: ProjectId) -> VolumeInfo:
        """Raises NotFoundError."""
        if not self.driver.exists(project_id):
            raise NotFoundError(f"no volume of {project_id}", public="the project's volume is not there")
        volume = self._opened.get(project_id)
        free = None
        if volume is not None:
            # A file system that has just shut down answers with an error: then nothing is known to be free.
            with contextlib.suppress(OSError):
                space = os.statvfs(volume.mountpoint)
                free = space.f_bavail * space.f_frsize
        return VolumeInfo(
            project_id=project_id,
            is_open=volume is not None,
            driver=self.driver.name,
            opener=self.driver.opener_name,
            cipher=self.driver.cipher(project_id),
            material=self.driver.material(project_id),
            image_bytes=self.driver.image_bytes(project_id),
            free_bytes=free,
        )

    def _enter(self, project_id: ProjectId, volume: OpenVolume) -> None:
        self._opened[project_id] = volume
        self._failed.discard(project_id)
        self._watch(project_id, volume)

    def _watch(self, project_id: ProjectId, volume: OpenVolume) -> None:
        if volume.attached.daemon is not None:
            self._watches[project_id] = asyncio.create_task(self._until_ended(project_id, volume))

    async def _unwatch(self, project_id: ProjectId) -> None:
        if (watch := self._watches.pop(project_id, None)) is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _until_ended(self, project_id: ProjectId, volume: OpenVolume) -> None:
        assert volume.attached.daemon is not None
        await volume.attached.daemon.wait()
        self._tell(project_id, volume, "the volume daemon ended")

    def _tell(self, project_id: ProjectId, volume: OpenVolume, reason: str) -> None:
        """A dead daemon takes its file system along, and both are watched. Told twice, the second time would end computes that
        were started on the volume since it was opened anew."""
        if self._opened.get(project_id) is volume and project_id not in self._failed:
            self._failed.add(project_id)
            log.error("the volume of %s failed: %s", project_id, reason)
            self._on_failed(project_id, reason)

    async def _check_health(self) -> None:
        """Find file systems that shut down though their daemon lives, and mind the reserves."""
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            at_rest = {
                project_id: volume
                for project_id, volume in self._opened.items()
                if project_id not in self._failed and not self._locks[project_id].locked()
            }
            for project_id in await self._in_thread(self._unhealthy, at_rest):
                self._tell(project_id, at_rest[project_id], "the file system shut down")

    def _unhealthy(self, volumes: dict[ProjectId, OpenVolume]) -> list[ProjectId]:
        """In a thread, all at once: some microseconds each."""
        found = []
        for project_id, volume in volumes.items():
            if not self.driver.is_healthy(volume):
                found.append(project_id)
            elif self.driver.has_own_space:
                # It may be closing meanwhile: then there is nothing to mind.
                with contextlib.suppress(OSError):
                    headroom.mind(Path(volume.mountpoint))
        return found

    async def _unwrap(self, project_id: ProjectId, reason: str, *, material: int) -> int:
        return await self._keys.unwrap(project_id, reason, material=material) if self.driver.needs_key else NO_KEY

    async def _patiently(
        self, timeout_s: float, project_id: ProjectId, function: Callable[..., T], *arguments: object
    ) -> T:
        """A driver's call; when it takes too long, or its caller gives up, it is interrupted and its end awaited."""
        call = asyncio.ensure_future(self._in_thread(function, *arguments))
        try:
            await asyncio.wait({call}, timeout=timeout_s)
        finally:
            if not call.done():
                log.error("%s of %s takes too long: interrupted", function.__name__, project_id)
                self.driver.interrupt(project_id)
                await asyncio.wait({call})
        return await call

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _become_io_flusher() -> None:
    """Threads of ours, and the daemons they start, stand below file systems. Memory they allocate must not wait for
    those to be written out, or both would wait for ever; the kernel is told so, per thread and inherited."""
    ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def _close(key: int) -> None:
    if key != NO_KEY:
        os.close(key)
