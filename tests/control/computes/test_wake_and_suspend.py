"""Waking, suspending, and both at once."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.errors import BusyError, NotFoundError, PreconditionError, UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.computes import holds, store
from cloister.control.computes.model import EndpointChange
from cloister.control.computes.runner import Cause
from cloister.control.roles import store as roles
from cloister.control.roles.server import RoleState
from cloister.node.commands import StopCompute
from tests.control.fake_node import QUIET
from tests.control.land import CALLER, Land

IDLE_TIME = timedelta(minutes=6)


async def look(land: Land) -> None:
    await land.plane.reconciler.look_at_all()


def is_held(land: Land, endpoint_id: str) -> bool:
    return land.node.catalog_of(endpoint_id).held_by is not None


async def test_a_sleeping_endpoint_is_woken_once_and_then_known(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.calls.clear()
    cold = await land.plane.waker.wake(created.endpoint.id)
    warm = await land.plane.waker.wake(created.endpoint.id)
    assert (cold.was_cold, warm.was_cold) == (True, False)
    assert cold.generation == warm.generation
    assert land.node.calls == ["StartCompute"]
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["is_clean"], row["socket_dir"]) == ("active", False, cold.socket_dir)


async def test_an_endpoint_that_does_not_exist_or_is_disabled_is_not_woken(land: Land) -> None:
    with pytest.raises(NotFoundError):
        await land.plane.waker.wake(EndpointId("ep-no-such-00000000"))
    created = await land.sleeping_project()
    await land.control.endpoints.update(
        CALLER, created.project.id, created.endpoint.id, EndpointChange(is_disabled=True)
    )
    with pytest.raises(PreconditionError):
        await land.plane.waker.wake(created.endpoint.id)
    assert land.node.computes == {}


@pytest.mark.parametrize("how", ["held", "disabled"])
async def test_a_start_under_way_does_not_outlive_what_forbids_it(land: Land, how: str) -> None:
    created = await land.sleeping_project()
    project_id, endpoint_id = created.project.id, created.endpoint.id

    async def forbid(command: Any) -> None:
        if type(command).__name__ != "StartCompute":
            return
        land.node.before = None
        if how == "disabled":
            await land.control.endpoints.update(CALLER, project_id, endpoint_id, EndpointChange(is_disabled=True))
            return
        async with land.database.transaction() as tx:
            await holds.put(tx, project_id, endpoint_id=endpoint_id, finding_id="fd-one", held_by="operator")
        await land.control.endpoints.suspend(CALLER, project_id, endpoint_id)

    land.node.before = forbid
    with pytest.raises(PreconditionError):
        await land.plane.waker.wake(endpoint_id)
    assert land.node.computes == {}
    assert (await land.row(endpoint_id))["socket_dir"] is None


async def test_what_puts_an_endpoint_down_waits_for_a_start_that_is_just_written_down(land: Land) -> None:
    created = await land.sleeping_project()
    project_id, endpoint_id = created.project.id, created.endpoint.id

    async with asyncio.TaskGroup() as tasks, land.database.transaction() as tx:
        await store.started(
            tx,
            endpoint_id,
            timeline_id=created.branch.timeline_id,
            generation=9,
            socket_dir="/run/computes/9",
            now=land.clock.now(),
        )
        suspending = tasks.create_task(land.control.endpoints.suspend(CALLER, project_id, endpoint_id))
        async with asyncio.timeout(10):
            while not await tx.fetch_value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not suspending.done(), "it must wait"
                await asyncio.sleep(0.01)
    _, operations = suspending.result()
    assert [operation.action for operation in operations] == ["suspend_compute"]


async def test_what_a_suspend_read_stands_though_an_older_copy_is_just_written(land: Land) -> None:
    created = await land.project()
    branch_id, catalog = created.branch.id, land.node.catalog_of(created.endpoint.id)
    older = list(catalog.roles.values())
    catalog.roles["by_sql"] = replace(older[0], name="by_sql")
    async with asyncio.TaskGroup() as tasks, land.database.transaction() as tx:
        await roles.as_it_stands(tx, branch_id, holds=True)
        suspending = tasks.create_task(land.plane.suspender.at_once(created.endpoint.id, Cause("test", "test")))
        async with asyncio.timeout(10):
            while not await tx.fetch_value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not suspending.done(), "it must wait"
                await asyncio.sleep(0.01)
        await roles.keep_catalog(tx, branch_id, older, [])
    assert not (await land.look_up(created.endpoint.id, "by_sql")).is_doomed


async def test_the_configuration_by_a_compute_that_is_gone_does_not_count(land: Land) -> None:
    """What the endpoint serves since may be other data, which nobody has configured."""
    created = await land.sleeping_project()
    endpoint_id = created.endpoint.id
    generation = (await land.row(endpoint_id))["generation"]
    async with land.database.transaction() as tx:
        await store.begin_anew(tx, created.branch.id)
    with pytest.raises(BusyError):
        async with land.database.transaction() as tx:
            await store.configured(tx, endpoint_id, generation)
    assert (await land.row(endpoint_id))["state"] == "init"


async def test_a_caller_that_gives_up_does_not_end_the_start_for_others(land: Land) -> None:
    created = await land.sleeping_project()
    go_on = asyncio.Event()

    async def hold(command: Any) -> None:
        await go_on.wait()

    land.node.before = hold
    first = asyncio.create_task(land.plane.waker.wake(created.endpoint.id))
    second = asyncio.create_task(land.plane.waker.wake(created.endpoint.id))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    go_on.set()
    assert (await second).was_cold


async def test_a_stale_socket_is_not_given_again(land: Land) -> None:
    created = await land.sleeping_project()
    first = await land.plane.waker.wake(created.endpoint.id)
    with pytest.raises(UnavailableError):  # its process lives: it may be replaying WAL
        await land.plane.waker.wake(created.endpoint.id, stale_generation=first.generation)
    land.node.on_event = lambda _event: None  # the agent's word is late
    land.node.crash(created.endpoint.id)
    again = await land.plane.waker.wake(created.endpoint.id, stale_generation=first.generation)
    assert again.generation != first.generation


async def test_an_idle_compute_is_suspended_with_an_exact_copy_of_its_roles(land: Land) -> None:
    gateway = land.connect_gateway()
    created = await land.project()
    catalog = land.node.catalog_of(created.endpoint.id)
    catalog.roles["by_sql"] = RoleState("by_sql", created.role.verifier, can_login=True, valid_until=None)
    catalog.databases["by_sql"] = "by_sql"
    await look(land)
    assert created.endpoint.id in land.node.computes, "just started: not idle long enough"
    land.clock.advance(IDLE_TIME)
    await look(land)

    assert land.node.computes == {}
    assert not land.node.images[created.project.id].is_open, "asleep, its volume is locked"
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["desired"], row["is_clean"], row["socket_dir"]) == ("idle", "idle", True, None)
    assert [name for name in gateway.names() if name != "Invalidate"] == ["Freeze", "Close"]
    route = await land.look_up(created.endpoint.id, "by_sql")
    assert (route.is_doomed, route.verifier, route.socket_dir) == (False, created.role.verifier, None)
    names = [database.name for database in await land.control.databases.find(created.project.id, created.branch.id)]
    assert names == ["neondb", "by_sql"]


async def test_work_keeps_a_compute_awake_and_its_end_lets_it_sleep(land: Land) -> None:
    created = await land.project()
    endpoint_id = created.endpoint.id
    land.node.activity[endpoint_id] = replace(QUIET, busy_backends=1)
    for _ in range(3):
        land.clock.advance(IDLE_TIME)
        await look(land)
        assert endpoint_id in land.node.computes
    land.node.activity[endpoint_id] = QUIET
    await look(land)
    assert endpoint_id in land.node.computes
    land.clock.advance(IDLE_TIME)
    await look(land)
    assert land.node.computes == {}


@pytest.mark.parametrize("why", ["unanswered", "silent", "busy again", "role change"])
async def test_what_begins_between_the_look_and_the_freeze_is_not_cut(
    land: Land, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.control.computes.gateways.FREEZE_TIMEOUT_S", 0.01)
    gateway = land.connect_gateway()
    created = await land.project()
    land.clock.advance(IDLE_TIME)
    catalog = land.node.catalog_of(created.endpoint.id)
    match why:
        case "unanswered":
            gateway.has_unanswered = True
        case "silent":
            gateway.answers = False
        case "busy again":
            # The second look, behind the freeze, sees what the first did not.
            looks = iter([QUIET, replace(QUIET, active_ms=5)])
            monkeypatch.setattr(
                "tests.control.fake_node.FakeServer.activity", lambda _self: asyncio.sleep(0, next(looks))
            )
        case "role change":
            server = await land.node.open(await running(land, created.endpoint.id))
            await server.hold_catalog()
    await look(land)
    assert created.endpoint.id in land.node.computes
    assert gateway.names()[-2:] == ["Freeze", "Thaw"]
    if why != "role change":
        assert catalog.held_by is None, "a suspend that is given up lets go of the catalog"
    assert (await land.row(created.endpoint.id))["state"] == "active"


async def test_a_gateway_that_dies_does_not_keep_a_compute_awake(land: Land) -> None:
    gateway = land.connect_gateway()
    gateway.answers = False
    created = await land.project()
    gateway.closed.set()
    land.clock.advance(IDLE_TIME)
    await look(land)
    assert created.endpoint.id not in land.node.computes


async def test_a_wake_during_a_suspend_succeeds_after_it(land: Land) -> None:
    created = await land.project()
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def hold(command: Any) -> None:
        if isinstance(command, StopCompute):
            stopping.set()
            await go_on.wait()

    land.node.before = hold
    land.clock.advance(IDLE_TIME)
    suspending = asyncio.create_task(look(land))
    await stopping.wait()
    waking = asyncio.create_task(land.plane.waker.wake(created.endpoint.id, stale_generation=1))
    looking_up = asyncio.create_task(land.look_up(created.endpoint.id, "neondb_owner"))
    await asyncio.sleep(0.01)
    assert not waking.done()
    assert not looking_up.done(), "a running server that is being stopped is not asked"
    go_on.set()
    await suspending
    assert (await waking).was_cold
    assert not (await looking_up).is_doomed
    assert created.endpoint.id in land.node.computes


async def test_a_wake_that_comes_before_the_stop_calls_it_off(land: Land) -> None:
    created = await land.project()
    runner = land.plane.runner
    with runner.wanting(created.endpoint.id):
        land.clock.advance(IDLE_TIME)
        await look(land)
    assert created.endpoint.id in land.node.computes


async def test_a_suspend_that_was_asked_for_ends_what_runs(land: Land) -> None:
    gateway = land.connect_gateway()
    gateway.has_unanswered = True
    created = await land.project()
    land.node.activity[created.endpoint.id] = replace(QUIET, busy_backends=3)
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert land.node.computes == {}
    assert (await land.row(created.endpoint.id))["is_clean"]
    assert gateway.names()[-1] == "Close"


async def test_a_server_that_does_not_talk_is_stopped_when_asked_and_stays_unclean(land: Land) -> None:
    created = await land.project()
    land.node.deaf.add(created.endpoint.id)
    land.clock.advance(IDLE_TIME)
    await look(land)
    assert created.endpoint.id in land.node.computes, "nobody stops by itself what does not answer us"
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert land.node.computes == {}
    assert not (await land.row(created.endpoint.id))["is_clean"]
    with pytest.raises(UnavailableError):
        await land.look_up(created.endpoint.id, "neondb_owner")


async def test_an_agent_that_does_not_answer_leaves_everything_as_it_was(land: Land) -> None:
    gateway = land.connect_gateway()
    created = await land.project()
    land.node.failing["StopCompute"] = UnavailableError("no agent")
    land.clock.advance(IDLE_TIME)
    await look(land)
    assert (await land.row(created.endpoint.id))["state"] == "active"
    assert gateway.names()[-1] == "Thaw"
    assert not is_held(land, created.endpoint.id)
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_doomed


async def running(land: Land, endpoint_id: EndpointId) -> Any:
    started = await land.plane.runner.start(endpoint_id, cause=None)  # type: ignore[arg-type]
    return started.running
