"""Requests side by side."""

import asyncio

import pytest

from cloister.base.errors import UnavailableError
from cloister.node.backups.objects import AT_ONCE, side_by_side


async def test_so_many_at_a_time_and_each_once() -> None:
    now, most = 0, 0
    done: list[int] = []

    async def work(item: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        done.append(item)

    await side_by_side(range(20), work)
    assert sorted(done) == list(range(20))
    assert most == AT_ONCE


async def test_the_first_failure_is_told_when_all_have_ended() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        try:
            if item == 2:
                raise UnavailableError("no answer")
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    with pytest.raises(UnavailableError):
        await side_by_side(range(20), work)
    assert sorted(ended) == [0, 1, 2, 3]


async def test_what_is_ended_is_given_the_time_to_end() -> None:
    """It waits for a thread, which has files open."""
    threads: list[str] = []
    began, over = asyncio.Event(), asyncio.Event()

    async def work(item: int) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if item > 0:
                await over.wait()
            threads.append("ended")
            raise

    task = asyncio.create_task(side_by_side(range(AT_ONCE), work))
    await began.wait()
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(threads) == AT_ONCE
