"""What nothing may end: whatever a round throws, the next one comes."""

import asyncio
import logging

import pytest

from cloister.base.errors import UnavailableError
from cloister.control.repeating import repeat

log = logging.getLogger("cloister.test")


@pytest.mark.parametrize("error", [UnavailableError("away"), RuntimeError("a mistake of ours")])
async def test_a_round_that_fails_is_not_the_last(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    came = asyncio.Semaphore(0)

    async def work() -> None:
        came.release()
        raise error

    task = asyncio.create_task(repeat(work, 0, log, "counting"))
    async with asyncio.timeout(10):
        for _ in range(3):
            await came.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "counting" in caplog.text


async def test_what_can_wait_waits_first() -> None:
    began: list[int] = []

    async def work() -> None:
        began.append(1)

    task = asyncio.create_task(repeat(work, 3600, log, "counting", at_once=False))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not began


async def test_who_pokes_ends_the_pause_also_during_a_round() -> None:
    poked, came = asyncio.Event(), asyncio.Semaphore(0)
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            poked.set()  # it must not be lost
        came.release()

    task = asyncio.create_task(repeat(work, 3600, log, "counting", poked=poked))
    async with asyncio.timeout(10):
        await came.acquire()
        await came.acquire()
        await asyncio.sleep(0)
        assert rounds == 2, "and then it waits"
        poked.set()
        await came.acquire()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
