"""The pool of volumes, left to itself."""

import asyncio
import contextlib

import pytest

from cloister.base.errors import ExhaustedError
from cloister.control.projects import pool, store
from tests.control.land import Land


async def test_it_fills_itself_and_tries_again_what_failed(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PAUSE_FIRST_S", 0.0)
    land.node.failing["CreateVolume"] = ExhaustedError("disk full")
    results: asyncio.Queue[bool | Exception] = asyncio.Queue()
    fill_one = land.plane.pool.fill_one

    async def watched() -> bool:
        try:
            result = await fill_one()
        except ExhaustedError as error:
            results.put_nowait(error)
            land.node.failing.clear()
            raise
        results.put_nowait(result)
        return result

    monkeypatch.setattr(land.plane.pool, "fill_one", watched)
    running = asyncio.create_task(land.plane.pool.run())
    seen: list[bool | Exception] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1] is not False:
            seen.append(await results.get())
    assert isinstance(seen[0], ExhaustedError)
    assert seen[1:] == [True, True, True, False]
    assert len(land.node.images) == land.settings.pool_volumes == 3, "what failed was taken up, not left behind"

    await land.project()
    async with asyncio.timeout(10):
        assert await results.get() is True, "what is taken is made anew at once"
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_two_who_come_at_once_take_two(land: Land) -> None:
    while await land.plane.pool.fill_one():
        pass
    async with land.database.transaction() as one, land.database.transaction() as other:
        first, second = await store.take_volume(one, 18), await store.take_volume(other, 18)
        assert first is not None
        assert second is not None
        assert first.project_id != second.project_id
