"""The supervisor's decisions, without a platform."""

import asyncio
from pathlib import Path

import pytest

from cloister.app import supervisor
from cloister.app.children import Child, children
from cloister.app.supervisor import Supervisor
from cloister.base.identities import Service
from cloister.base.settings import Settings


async def test_a_process_that_has_nothing_to_do_waits_for_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends waiting when the platform stops."""
    monkeypatch.setattr(supervisor, "WANTED_INTERVAL_S", 0.01)
    platform = Supervisor(Settings(state_dir=str(tmp_path)), {})
    child = Child("courier", Service.COURIER, needs=tmp_path / "store.json")
    waiting = asyncio.create_task(platform._is_wanted(child))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    (tmp_path / "store.json").touch()
    assert await waiting
    (tmp_path / "store.json").unlink()
    waiting = asyncio.create_task(platform._is_wanted(child))
    await asyncio.sleep(0)
    platform._stopping.set()
    assert not await waiting


def test_without_a_store_a_platform_is_ready_without_a_courier(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    assert "courier" not in [child.name for child in children(settings) if child.is_wanted]
    settings.paths.courier.mkdir()
    settings.paths.store_file.touch()
    assert "courier" in [child.name for child in children(settings) if child.is_wanted]
