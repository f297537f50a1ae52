"""Whoever is told that a volume failed is told once for each time that it was opened, whatever noticed it."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.base.ids import ProjectId
from cloister.node import children
from cloister.node.volumes import headroom, volumes
from cloister.node.volumes.model import Driver, OpenVolume
from cloister.node.volumes.volumes import Volumes

PROJECT = ProjectId("calm-forest-12345678")


class Daemon:
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def wait(self) -> None:
        await self.ended.wait()


class Attached:
    def __init__(self) -> None:
        self.daemon = Daemon()


class Opened:
    """Stands in for an `OpenVolume`, with a daemon that ends when it is told to."""

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = str(mountpoint)
        self.attached = Attached()


class FakeDriver:
    needs_key = False
    has_own_space = True

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self.is_well = True
        self.looked = 0

    def prepare(self) -> None: ...

    def leftovers(self) -> set[ProjectId]:
        return set()

    def exists(self, _project_id: ProjectId) -> bool:
        return True

    def open(self, _project_id: ProjectId, _key: int) -> OpenVolume:
        return cast(OpenVolume, Opened(self._mountpoint))

    def material(self, _project_id: ProjectId) -> int:
        return 1

    def discard(self, _project_id: ProjectId) -> None: ...

    def is_healthy(self, _volume: OpenVolume) -> bool:
        self.looked += 1
        return self.is_well


class World:
    def __init__(self, mountpoint: Path) -> None:
        self.driver = FakeDriver(mountpoint)
        self.told: list[str] = []
        self.volumes = Volumes(
            cast(Driver, self.driver), cast(Any, None), lambda _project_id, reason: self.told.append(reason)
        )

    @property
    def daemon(self) -> Daemon:
        return cast(Daemon, self.volumes._opened[PROJECT].attached.daemon)

    async def look(self) -> None:
        """Until what is open was looked at from now on, or something was told."""
        looked = self.driver.looked
        for _ in range(5000):
            if self.driver.looked > looked + 1 or self.told:
                break
            await asyncio.sleep(0.001)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def nobody(_project_id: ProjectId) -> None: ...

    monkeypatch.setattr(volumes, "_HEALTH_INTERVAL_S", 0.001)
    monkeypatch.setattr(volumes, "_become_io_flusher", lambda: None)
    monkeypatch.setattr(children, "forbid_core_dumps", lambda: None)
    monkeypatch.setattr(headroom, "mind", lambda _mountpoint: None)
    world = World(tmp_path)
    await world.volumes.start(nobody)
    await world.volumes.open(PROJECT)
    yield world
    await world.volumes.stop()


async def test_a_file_system_that_goes_down_and_then_its_daemon_are_one_failure(world: World) -> None:
    world.driver.is_well = False
    await world.look()
    world.daemon.ended.set()
    await world.settle()
    assert world.told == ["the file system shut down"]


async def test_a_daemon_that_ends_and_then_its_file_system_are_one_failure(world: World) -> None:
    world.daemon.ended.set()
    await world.settle()
    world.driver.is_well = False
    for volume in list(world.volumes._opened.values()):
        world.volumes._tell(PROJECT, volume, "the file system shut down")
    assert world.told == ["the volume daemon ended"]


async def test_what_was_opened_anew_may_fail_anew(world: World) -> None:
    world.daemon.ended.set()
    await world.settle()
    await world.volumes.discard(PROJECT)
    await world.volumes.open(PROJECT)
    assert world.told == ["the volume daemon ended"]
    world.driver.is_well = False
    world.told.clear()
    await world.look()
    assert world.told == ["the file system shut down"]


async def test_a_reserve_in_a_file_system_that_went_down_is_nobodys_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for when a compute died, which may be why."""

    def gone(_mountpoint: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(headroom, "release_if_needed", gone)
    await world.volumes.release_reserve(PROJECT)
