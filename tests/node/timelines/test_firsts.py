"""Who waits for a first snapshot that is still to be taken, and who need not."""

import asyncio

import pytest

from cloister.base.ids import TimelineId
from cloister.node.timelines import firsts
from cloister.node.timelines.firsts import Firsts

ONE, OTHER = TimelineId("1" * 32), TimelineId("2" * 32)
PATIENCE_S = 30


async def test_nobody_waits_for_what_is_there() -> None:
    missing = Firsts()
    with missing.taking(ONE):
        async with asyncio.timeout(PATIENCE_S):
            await missing.want(OTHER)
        assert missing.are_missing(OTHER, ONE)
        assert not missing.are_missing(OTHER)
    async with asyncio.timeout(PATIENCE_S):
        await missing.want(ONE, OTHER)


async def test_who_wants_one_has_it_taken_at_once_and_waits_until_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "FIRST_AFTER_S", 3600.0)
    missing = Firsts()
    with missing.taking(ONE) as first:
        wanting = asyncio.create_task(missing.want(OTHER, ONE))
        async with asyncio.timeout(PATIENCE_S):
            await first.is_due()
        assert not wanting.done()
    await wanting
    assert not missing.are_missing(ONE)


async def test_one_that_failed_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "FIRST_AFTER_S", 3600.0)
    missing = Firsts()

    async def fail() -> None:
        with missing.taking(ONE) as first:
            await first.is_due()
            raise OSError("no room")

    failing = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await missing.want(ONE)
    with pytest.raises(OSError, match="no room"):
        await failing
    assert len(missing) == 0


async def test_one_that_nobody_wants_is_due_when_a_start_has_had_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "FIRST_AFTER_S", 0.0)
    with Firsts().taking(ONE) as first:
        await first.is_due()
        assert not first.wanted.is_set()
