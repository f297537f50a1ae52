"""The control plane as one running thing, asked over its real socket."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cloister.base.directory import AnyEvent, Freeze, Frozen, LookUp, Record, Wake
from cloister.base.errors import NotFoundError
from cloister.base.identities import Service
from cloister.base.rpc import Client
from cloister.base.secret import Secret
from cloister.base.settings import Settings
from cloister.control.backups.owed import Owed
from cloister.control.platform import ControlPlane
from cloister.control.projects.model import NewProject
from tests.control.fake_store import FakeStore
from tests.control.land import CALLER, Land, a_land
from tests.fix_database import DatabaseAs

pytestmark = pytest.mark.root  # the socket lies below /run


@dataclass
class Ends:
    """How the control plane is told to end, and what it tells of that."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    last_sending: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[Owed] = field(default_factory=list)


@pytest.fixture
async def land(database_as: DatabaseAs) -> AsyncIterator[Land]:
    async with a_land(await database_as("cloister_api"), runs_operations=False, idle_check_interval_s=0.05) as ready:
        yield ready


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
async def plane(land: Land, ends: Ends, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    settings = Settings(state_dir=str(tmp_path), idle_check_interval_s=0.05, pool_volumes=1)
    settings.paths.directory_socket.parent.mkdir(parents=True)
    plane = ControlPlane(
        settings,
        land.database,
        keys=land.keys,
        mock_key=Secret(b"m" * 32),
        control_key=Secret(b"c" * 32),
        clock=land.clock,
        agent=land.node,
        opener=land.node.open,
        directory_for=frozenset({Service.AGENT}),  # this test is root
    )
    land.node.on_event = plane.heard
    running = asyncio.create_task(plane.run(ends.stop, ends.last_sending, ends.told.append))
    try:
        yield plane
    finally:
        ends.stop.set()
        await running
        shutil.rmtree(settings.paths.run)


async def test_a_gateway_looks_up_wakes_freezes_and_is_told(land: Land, plane: ControlPlane, tmp_path: Path) -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()
    client = Client(
        Settings(state_dir=str(tmp_path)).paths.directory_socket, events=AnyEvent, on_event=events.put_nowait
    )
    created = await plane.control.projects.create(CALLER, NewProject())
    route = await client.call(LookUp(endpoint=created.endpoint.id, role="neondb_owner"))
    assert (route.is_doomed, route.verifier) == (False, created.role.verifier)
    compute = await client.call(Wake(endpoint_id=created.endpoint.id))
    assert land.node.computes[created.endpoint.id].socket_dir == compute.socket_dir
    with pytest.raises(NotFoundError):
        await client.call(Wake(endpoint_id="ep-no-such-00000000"))
    assert await client.call(Record([])) == 0

    for operation in created.operations:  # lest the time that passes now passes for them
        await plane.engine.wait(operation.id, timeout_s=10)
    land.clock.advance(timedelta(minutes=6))
    seen = []
    async with asyncio.timeout(10):
        while "Close" not in seen:
            event = await events.get()
            seen.append(type(event).__name__)
            if isinstance(event, Freeze):
                await client.call(Frozen(endpoint_id=event.endpoint_id, token=event.token, has_unanswered=False))
    assert seen[0] == "Invalidate", "what it kept from before is not to be trusted"
    assert seen[-2:] == ["Freeze", "Close"]
    assert land.node.computes == {}

    again = await client.call(Wake(endpoint_id=created.endpoint.id))
    land.node.crash(created.endpoint.id)
    async with asyncio.timeout(10):
        await events.get()  # of the death; the start may be told of before it is there, and not again
        while land.node.computes.get(created.endpoint.id) is None:  # noqa: ASYNC110 - this node tells nobody of a start
            await asyncio.sleep(0.02)
    assert land.node.computes[created.endpoint.id].generation > again.generation
    await client.close()


@pytest.mark.parametrize("platform_ends", [False, True])
async def test_computes_run_on_unless_the_platform_ends_and_owes_a_store_something(
    land: Land, plane: ControlPlane, ends: Ends, platform_ends: bool
) -> None:
    land.node.store = FakeStore()
    created = await plane.control.projects.create(CALLER, NewProject())
    for operation in created.operations:
        await plane.engine.wait(operation.id, timeout_s=10)
    plane.backup_keeper.poke()
    async with asyncio.timeout(10):
        while not land.node.store.wal:  # noqa: ASYNC110 - this node tells nobody of a base
            await asyncio.sleep(0.02)
    land.node.write(created.endpoint.id, "last words")
    if platform_ends:
        ends.last_sending.set()
    ends.stop.set()
    async with asyncio.timeout(10):
        while platform_ends != any(it.is_over for it in ends.told):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (created.endpoint.id in land.node.computes) is not platform_ends
    words = [write.word for write in land.node.store.wal[created.branch.timeline_id]]
    assert (words[-1:] == ["last words"]) is platform_ends


async def test_a_first_comparison_that_fails_keeps_nobody_from_being_served(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    stop = asyncio.Event()

    async def serve() -> None:
        stop.set()

    monkeypatch.setattr(land.plane.reconciler, "compare", fail)
    monkeypatch.setattr(land.plane.directory, "start", serve)
    async with asyncio.timeout(10):
        await land.plane.run(stop)
