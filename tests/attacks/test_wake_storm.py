"""Threat T11: somebody makes the platform start computes, by knocking often, from many sides, or on what keeps dying.

This is the control plane's side: at most one start, however many gateways ask at once. That only authenticated clients
get as far as asking is the gateway's side.
"""

import asyncio
from typing import Any

import pytest

from cloister.base.errors import CloisterError, ExhaustedError, UnavailableError
from cloister.control.computes.runner import Cause
from cloister.node.commands import StartCompute
from tests.control.land import Land, a_land
from tests.fix_database import DatabaseAs

KNOCKS = 200


@pytest.fixture
async def land(database_as: DatabaseAs) -> Any:
    async with a_land(await database_as("cloister_api")) as ready:
        yield ready


async def test_two_hundred_who_knock_at_once_cause_one_start(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await land.sleeping_project()
    asked: list[str] = []
    is_asked = asyncio.Event()
    starts: list[str] = []
    go_on = asyncio.Event()
    start = land.plane.runner.start

    async def counted(endpoint_id: Any, *arguments: Any, **more: Any) -> Any:
        starts.append(endpoint_id)
        return await start(endpoint_id, *arguments, **more)

    monkeypatch.setattr(land.plane.runner, "start", counted)

    async def hold(command: Any) -> None:
        asked.append(type(command).__name__)
        is_asked.set()
        await go_on.wait()

    land.node.before = hold
    # Some come with a socket that they knew before, some with none: they do not share a flight, but a start.
    knocks = [
        asyncio.create_task(land.plane.waker.wake(created.endpoint.id, stale_generation=number % 2))
        for number in range(KNOCKS)
    ]
    await is_asked.wait()
    go_on.set()
    computes = await asyncio.gather(*knocks)
    assert len(starts) == 2, "who waits for the same thing waits together"
    assert asked == ["StartCompute"]
    assert len({compute.generation for compute in computes}) == 1
    assert (await land.actions()).count("compute.start") == 2, "the first start of the project, and this one"


async def test_those_who_knock_with_an_old_socket_cause_one_start_too(land: Land) -> None:
    created = await land.project()
    old = land.node.computes[created.endpoint.id].generation
    land.node.on_event = lambda _event: None
    land.node.crash(created.endpoint.id)
    land.node.calls.clear()
    computes = await asyncio.gather(
        *(land.plane.waker.wake(created.endpoint.id, stale_generation=old) for _ in range(KNOCKS))
    )
    assert land.node.calls == ["StartCompute"]
    assert {compute.generation for compute in computes} == {old + 1}


async def test_look_ups_of_a_sleeping_endpoint_start_nothing(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.calls.clear()
    for role in ("neondb_owner", "nobody"):
        for _ in range(KNOCKS):
            await land.look_up(created.endpoint.id, role)
    assert land.node.calls == []


async def test_knocking_on_what_keeps_dying_costs_the_node_nothing(land: Land) -> None:
    created = await land.sleeping_project()
    tries: list[int] = []

    async def refuse(command: Any) -> None:
        tries.append(1)
        raise ExhaustedError("disk full")

    land.node.before = refuse
    for _ in range(KNOCKS):
        with pytest.raises((ExhaustedError, UnavailableError)):
            await land.plane.waker.wake(created.endpoint.id)
    assert len(tries) == 2


async def test_many_endpoints_at_once_are_started_a_few_at_a_time(land: Land) -> None:
    endpoints = [(await land.sleeping_project()).endpoint.id for _ in range(20)]
    at_once, most = 0, 0

    async def count(command: Any) -> None:
        nonlocal at_once, most
        if isinstance(command, StartCompute):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.005)
            at_once -= 1

    land.node.before = count
    await asyncio.gather(*(land.plane.waker.wake(endpoint_id) for endpoint_id in endpoints))
    assert 1 < most <= 16


async def test_a_wake_and_a_suspend_at_the_same_time_never_leave_two_servers_or_a_broken_row(land: Land) -> None:
    """The fake node asserts that no branch is served twice; here the rows must agree with it at the end."""
    created = await land.project()

    async def knock() -> None:
        try:
            await land.plane.waker.wake(created.endpoint.id)
        except CloisterError as error:
            assert error.may_retry  # noqa: PT017 - either it works or it is worth another try

    async def suspend() -> None:
        await land.plane.suspender.at_once(created.endpoint.id, Cause("test", "test"))

    for _ in range(20):
        await asyncio.gather(knock(), suspend(), knock(), suspend(), knock())
        row = await land.row(created.endpoint.id)
        compute = land.node.computes.get(created.endpoint.id)
        assert (row["socket_dir"] is not None) == (compute is not None)
        if compute is not None:
            assert row["generation"] == compute.generation
