"""When a volume is open: by hand, over volumes that only remember."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import ConflictError, UnavailableError
from cloister.base.ids import ProjectId
from cloister.node import opening
from cloister.node.opening import Openings

PROJECT = ProjectId("quiet-river-12345678")
PLACE = Path("/mnt/quiet-river")


class Rememberers:
    """Volumes, and those around them."""

    def __init__(self) -> None:
        self.is_up = False
        self.has_compute = False
        self.fails = False
        self.told: list[str] = []
        self.begun: list[Coroutine[Any, Any, None]] = []
        self.openings = Openings(
            self,
            has_compute=lambda _: self.has_compute,
            opened=lambda _, place: self.told.append(f"opened {place.name}"),
            expecting=self.expecting,
            begin=self.begun.append,
        )

    def is_open(self, _project_id: ProjectId) -> bool:
        return self.is_up

    async def open(self, _project_id: ProjectId) -> Path:
        if self.fails:
            raise UnavailableError("no key")
        self.is_up = True
        return PLACE

    async def close(self, _project_id: ProjectId) -> None:
        self.is_up = False
        self.told.append("closed")

    @contextlib.asynccontextmanager
    async def expecting(self) -> AsyncIterator[None]:
        self.told.append("expecting")
        yield


@pytest.fixture
def volumes(monkeypatch: pytest.MonkeyPatch) -> Rememberers:
    monkeypatch.setattr(opening, "LINGER_S", 0.0)
    monkeypatch.setattr(opening, "EXPECTED_S", 0.0)
    return Rememberers()


async def test_work_opens_it_and_its_end_closes_it(volumes: Rememberers) -> None:
    async with volumes.openings.hold(PROJECT) as place:
        assert place == PLACE
        assert volumes.is_up
        assert volumes.openings.is_held(PROJECT)
        with pytest.raises(ConflictError) as refused:
            volumes.openings.require_no_work(PROJECT)
        assert refused.value.public == "the project is busy"
    assert volumes.told == ["opened quiet-river", "closed"]
    volumes.openings.require_no_work(PROJECT)


async def test_it_is_open_until_the_last_of_several(volumes: Rememberers) -> None:
    async with volumes.openings.hold(PROJECT):
        async with volumes.openings.hold(PROJECT):
            pass
        assert volumes.is_up
    assert volumes.told == ["opened quiet-river", "closed"]


async def test_a_compute_keeps_it_open(volumes: Rememberers) -> None:
    volumes.has_compute = True
    async with volumes.openings.hold(PROJECT):
        pass
    assert volumes.is_up
    volumes.has_compute = False
    await volumes.openings.close_if_unused(PROJECT)
    assert not volumes.is_up


async def test_work_that_fails_closes_it_as_well(volumes: Rememberers) -> None:
    with pytest.raises(ZeroDivisionError):
        async with volumes.openings.hold(PROJECT, lingers=True):
            raise ZeroDivisionError
    assert not volumes.is_up
    assert volumes.begun == []


async def test_one_that_cannot_be_opened_is_not_held(volumes: Rememberers) -> None:
    volumes.fails = True
    with pytest.raises(UnavailableError):
        async with volumes.openings.hold(PROJECT):
            pass
    assert not volumes.openings.is_held(PROJECT)
    assert volumes.told == []


async def test_what_lingers_is_closed_later_and_by_the_last_that_does(volumes: Rememberers) -> None:
    for _ in range(2):
        async with volumes.openings.hold(PROJECT, lingers=True):
            pass
    assert volumes.is_up
    first, last = volumes.begun
    await first
    assert volumes.is_up
    await last
    assert not volumes.is_up
    assert volumes.told == ["opened quiet-river", *["expecting"] * 4, "closed"]


async def test_whoever_closes_it_does_not_wait_for_what_lingers(volumes: Rememberers) -> None:
    async with volumes.openings.hold(PROJECT, lingers=True):
        pass
    await volumes.openings.close_if_unused(PROJECT)
    assert not volumes.is_up
    volumes.begun.pop().close()


async def test_an_opening_waits_for_a_closing_and_work_keeps_no_lock(volumes: Rememberers) -> None:
    async with volumes.openings.lock(PROJECT):
        held = asyncio.ensure_future(volumes.openings.hold(PROJECT).__aenter__())
        await asyncio.sleep(0)
        assert not volumes.is_up
    await held
    assert not volumes.openings.lock(PROJECT).locked()
