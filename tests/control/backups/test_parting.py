"""What a planned stop of the platform still sends, over a real control database and a fake node."""

import asyncio
from datetime import timedelta

import pytest

from cloister.base.errors import UnavailableError
from cloister.control.backups import parting
from cloister.control.backups.owed import LEFT_MAX, Left, Owed
from cloister.node.commands import SendWal
from tests.control.backups.office import A_MOMENT, Office, a_project
from tests.control.branches.scenes import branched
from tests.control.land import CALLER, Land


@pytest.fixture
async def office(land: Land) -> Office:
    return Office(land)


async def stopped(office: Office) -> list[Owed]:
    """What was told, in order."""
    told: list[Owed] = []
    office.land.clock.advance(A_MOMENT)
    office.land.node.calls.clear()
    await office.land.plane.parting.send(told.append)
    return told


async def test_what_was_written_last_is_in_the_store_when_it_ends(office: Office) -> None:
    """A compute is stopped before, so that nothing follows, and runs again after the next start: its row stays."""
    created = await a_project(office)
    child = await branched(office.land, created, name="dev")
    await office.look()
    office.land.node.write(created.endpoint.id, "last words")
    told = await stopped(office)
    assert [word.word for word in office.store.wal[created.branch.timeline_id]] == ["one", "last words"]
    assert [(it.sent, it.total, it.is_over) for it in told] == [
        (0, 2, False),
        (1, 2, False),
        (2, 2, False),
        (2, 2, True),
    ]
    calls = office.land.node.calls
    assert calls[calls.index("StopCompute") :] == ["StopCompute", "StopCompute", "SendWal", "SendWal"]
    assert office.land.node.computes == {}
    for endpoint_id in (created.endpoint.id, child.endpoints[0].id):
        row = await office.land.row(endpoint_id)
        assert (row["desired"], row["socket_dir"] is None) == ("active", False)


async def test_what_had_stopped_and_was_not_sent_goes_too_and_what_owes_nothing_is_left_alone(office: Office) -> None:
    asleep, quiet = await a_project(office), await office.land.sleeping_project()
    await office.look()
    office.land.node.write(asleep.endpoint.id, "last words")
    office.land.clock.advance(A_MOMENT)
    _, operations = await office.land.control.endpoints.suspend(CALLER, asleep.project.id, asleep.endpoint.id)
    await office.land.finish(operations)
    told = await stopped(office)
    assert told[-1] == Owed(total=1, sent=1, left=[], is_over=True)
    assert office.land.node.calls == ["SendWal"]
    assert office.store.wal[asleep.branch.timeline_id][-1].word == "last words"
    assert quiet.branch.timeline_id in office.store.wal


async def test_what_the_store_refuses_is_named_and_the_others_go(office: Office) -> None:
    ill, well = await a_project(office), await a_project(office)
    await office.look()
    office.store.failing[ill.branch.timeline_id] = UnavailableError("no", public="the store answers 503")
    office.land.node.write(well.endpoint.id, "last words")
    told = await stopped(office)
    left = [Left(project_id=ill.project.id, problem="the store answers 503")]
    assert told[-1] == Owed(total=2, sent=1, left=left, is_over=True)
    assert office.store.wal[well.branch.timeline_id][-1].word == "last words"


async def test_a_store_that_does_not_answer_holds_the_stop_up_for_so_long_and_no_longer(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await a_project(office)
    await office.look()
    monkeypatch.setattr(parting, "LAST_SENDING_TIMEOUT_S", 0.05)

    async def before(command: object) -> None:
        if isinstance(command, SendWal):
            await asyncio.Event().wait()

    office.land.node.before = before
    async with asyncio.timeout(10):
        told = await stopped(office)
    left = [Left(project_id=created.project.id, problem=parting.TOO_LATE)]
    assert told[-1] == Owed(total=1, sent=0, left=left, is_over=True)


async def test_what_could_not_be_brought_back_from_there_is_named(office: Office) -> None:
    """Without a base; with WAL missing; more than one go; a compute that does not stop, for something may follow."""
    broken, behind, stuck = [await a_project(office) for _ in range(3)]
    await office.look()
    office.store.broken.add(broken.branch.timeline_id)
    office.store.behind[behind.branch.timeline_id] = 1_000
    new = await a_project(office)

    async def before(command: object) -> None:
        if getattr(command, "endpoint_id", None) == stuck.endpoint.id:
            raise UnavailableError("no", public="the agent does not answer")

    office.land.node.before = before
    told = await stopped(office)
    assert {it.project_id: it.problem for it in told[-1].left} == {
        new.project.id: parting.NO_BASE,
        broken.project.id: parting.GAP,
        behind.project.id: parting.TOO_MUCH,
        stuck.project.id: "its compute does not stop: the agent does not answer",
    }
    assert (told[-1].sent, told[-1].total) == (0, 4)


async def test_a_sending_that_began_before_the_stop_is_not_the_last(office: Office) -> None:
    """The agent answers whoever asks meanwhile with what comes of that."""
    created = await a_project(office)
    await office.look()
    asked = 0

    async def before(command: object) -> None:
        nonlocal asked
        if isinstance(command, SendWal):
            asked += 1
            ago = A_MOMENT if asked == 1 else timedelta(0)
            office.land.node.now = lambda: office.land.clock.now() - ago

    office.land.node.before = before
    told = await stopped(office)
    assert asked == 2
    assert told[-1] == Owed(total=1, sent=1, left=[], is_over=True)
    assert created.endpoint.id not in office.land.node.computes


def test_no_more_are_named_than_somebody_reads(land: Land) -> None:
    it = land.plane.parting
    it._total = LEFT_MAX + 10
    it._left = {f"tl-{number}": Left(project_id="x") for number in range(LEFT_MAX + 10)}
    owed = it._owed()
    assert (len(owed.left), owed.sent, owed.total) == (LEFT_MAX, 0, LEFT_MAX + 10)
