"""Finished WAL on its way into the outbox, by the archive module of a real compute."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fix_computes import PATIENCE_S, EnginesOnHost, connect, running_node

pytestmark = pytest.mark.root


@dataclass
class Scene:
    session: Any
    """Of the superuser."""
    timeline_dir: Path

    @property
    def outbox(self) -> Path:
        return self.timeline_dir / "outbox"

    @property
    def wal(self) -> Path:
        return self.timeline_dir / "data" / "pg_wal"

    async def current_segment(self) -> str:
        name: str = await self.session.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())")
        return name

    async def finish_segment(self) -> str:
        """Its name; archiving it is under way."""
        await self.session.execute("SELECT pg_logical_emit_message(false, 'test', 'something to finish')")
        name = await self.current_segment()
        await self.session.execute("SELECT pg_switch_wal()")
        return name

    async def archived(self, name: str) -> Path:
        return await appears(self.outbox / name)

    async def failures(self) -> int:
        count: int = await self.session.fetchval("SELECT failed_count FROM pg_stat_archiver")
        return count


async def appears(path: Path) -> Path:
    async with asyncio.timeout(PATIENCE_S):
        while not os.path.lexists(path):  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.01)
    return path


@pytest.fixture
async def scene(engines: EnginesOnHost) -> AsyncIterator[Scene]:
    async with running_node(engines) as node:
        spec = node.new_compute()
        session = await connect(await node.start(spec))
        yield Scene(session, node.timeline_dir(spec))
        await session.close()


async def test_a_finished_segment_is_in_the_outbox_whole_and_of_the_project(scene: Scene) -> None:
    path = await scene.archived(await scene.finish_segment())
    assert path.read_bytes() == (scene.wal / path.name).read_bytes()
    found = path.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (scene.outbox.stat().st_uid, 0o600)
    assert scene.outbox.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in scene.outbox.iterdir() if entry.name.startswith(".")] == []


async def test_what_a_crash_left_half_written_is_written_over(scene: Scene) -> None:
    unfinished = scene.outbox / ".unfinished"
    unfinished.write_bytes(b"x" * 3_000_000)
    os.chown(unfinished, scene.outbox.stat().st_uid, -1)
    path = await scene.archived(await scene.finish_segment())
    assert path.read_bytes() == (scene.wal / path.name).read_bytes()


async def test_the_same_segment_twice_is_a_success(scene: Scene) -> None:
    """As after a crash between the file and the server's note of it."""
    name = await scene.finish_segment()
    path = await scene.archived(name)
    before = path.stat()
    status = scene.wal / "archive_status"
    (await appears(status / f"{name}.done")).rename(status / f"{name}.ready")
    await scene.archived(await scene.finish_segment())
    await appears(status / f"{name}.done")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert await scene.failures() == 0


async def test_another_content_under_its_name_is_an_error_and_is_not_touched(scene: Scene) -> None:
    name = await scene.current_segment()
    planted = scene.outbox / name
    planted.write_bytes(b"something else")
    os.chown(planted, scene.outbox.stat().st_uid, -1)
    assert await scene.finish_segment() == name
    async with asyncio.timeout(PATIENCE_S):
        while await scene.failures() == 0:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.02)
    assert planted.read_bytes() == b"something else"
    assert not (scene.wal / "archive_status" / f"{name}.done").exists()


async def test_in_a_full_volume_history_gives_way_and_says_so(scene: Scene) -> None:
    reserve = await scene.session.fetchval("SELECT pg_size_bytes(current_setting('guard.space_reserve'))")
    space = os.statvfs(scene.timeline_dir)
    ballast = scene.timeline_dir / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - reserve // 2)
    name = await scene.finish_segment()
    assert (await appears(scene.outbox / f"{name}.missing")).stat().st_size == 0
    assert not (scene.outbox / name).exists()
    ballast.unlink()
    name = await scene.finish_segment()
    assert (await scene.archived(name)).stat().st_size == 1024**2
