"""A platform's directories, taken apart whatever the test did."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.base.ids import ProjectId, new_project_id
from cloister.base.settings import Settings
from tests.node.volumes.host import Fill, Host, sweep


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with _platform(tmp_path / "one") as host:
        yield host


@pytest.fixture
async def other_host(tmp_path: Path) -> AsyncIterator[Host]:
    async with _platform(tmp_path / "other") as host:
        yield host


@contextlib.asynccontextmanager
async def _platform(state_dir: Path) -> AsyncIterator[Host]:
    host = Host(Settings(state_dir=str(state_dir), storage="luks", opener="qemu-storage-daemon"))
    try:
        yield host
    finally:
        for volumes in host.running:
            await volumes.stop()
        sweep(host)
        shutil.rmtree(host.paths.run, ignore_errors=True)


@pytest.fixture
def project_id() -> ProjectId:
    return new_project_id()


@pytest.fixture
def fill() -> Fill:
    def write(mountpoint: Path) -> None:
        (mountpoint / "hello").write_text("written at creation")

    return write
