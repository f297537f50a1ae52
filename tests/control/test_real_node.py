"""The control plane on real parts: encrypted volumes, sandboxes, PostgreSQL. This process plays the API and root."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg
import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.directory import LookUp
from cloister.base.errors import UnavailableError
from cloister.base.identities import Service
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc import Command, Connection, Peer
from cloister.base.secret import Secret
from cloister.base.settings import Settings
from cloister.control.computes.sessions import open_server
from cloister.control.operations.model import Operation, Status
from cloister.control.platform import ControlPlane
from cloister.control.projects.model import NewProject
from cloister.control.services import ProjectCreated
from cloister.node import space
from cloister.node.agent import NodeAgent
from cloister.node.commands import ComputeExited
from cloister.node.computes import Computes
from cloister.protocol.scram import Verifier
from tests.control.fake_node import FakeKeys
from tests.control.land import ACCOUNT, CALLER, ORG
from tests.fix_computes import EnginesOnHost
from tests.fix_database import DatabaseAs
from tests.node.real_node import clear
from tests.node.volumes.host import MIB, Host, sweep
from tests.node.volumes.host import FakeKeys as VolumeKeys

pytestmark = pytest.mark.root

R = TypeVar("R")

PATIENCE_S = 30.0
STRANGE_ROLE, STRANGE_DATABASE = 'o"brien; drop role x 🐘', "it's; $(reboot) `x` – db"


class RealNode:
    """A node agent in this process, asked as the API would."""

    def __init__(self, settings: Settings, engines: EnginesOnHost) -> None:
        self.host = Host(settings)

        def make(on_exit: Any) -> Computes:
            return Computes(self.host.paths, engines.engines, on_exit)

        self.agent = NodeAgent(settings, broker=VolumeKeys(), engines=engines.engines, make_computes=make)

    def tell(self, plane: ControlPlane) -> None:
        self.agent._send = plane.heard  # type: ignore[method-assign]

    async def call(self, command: Command[R], *, timeout_s: float = RPC_CALL_TIMEOUT_S) -> R:
        caller = cast("Connection", type("Caller", (), {"peer": Peer(1, 1, Service.API)})())
        async with asyncio.timeout(timeout_s):
            return cast("R", await self.agent._answer(caller, cast("Any", command)))


class Real:
    def __init__(self, plane: ControlPlane, node: RealNode, clock: FakeClock) -> None:
        self.plane = plane
        self.node = node
        self.clock = clock

    async def finish(self, operations: list[Operation]) -> None:
        for operation in operations:
            ended = await self.plane.engine.wait(operation.id, timeout_s=PATIENCE_S)
            assert ended.status is Status.FINISHED, (ended.action, ended.status, ended.error)

    async def enter(self, created: ProjectCreated, role: str, password: str) -> Any:
        """As a client comes in: look up, prove, wake, connect."""
        route = await self.plane.directory.look_up(LookUp(endpoint=created.endpoint.id, role=role))
        assert Verifier.parse(route.verifier).matches_password(password)
        assert not route.is_doomed
        compute = await self.plane.waker.wake(created.endpoint.id)
        # Only cloister_admin may come in with this process's uid; what it may become is what the role may do.
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    session = await asyncpg.connect(
                        host=compute.socket_dir, port=5432, user="cloister_admin", database=created.database.name
                    )
                    break
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.005)
        await session.fetchval("SELECT pg_catalog.set_config('role', $1, false)", role)
        return session


@pytest.fixture
async def real(
    engines: EnginesOnHost, database_as: DatabaseAs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Real]:
    for limit in ("FREE_TO_CREATE_BYTES", "FREE_TO_START_BYTES", "FREE_TO_WRITE_BYTES"):
        monkeypatch.setattr(space, limit, 0)
    settings = Settings(state_dir=str(tmp_path), volume_bytes=1024 * MIB, pool_volumes=1)
    database = await database_as("cloister_api")
    await _people(database)
    settings.paths.run.mkdir(mode=0o755, parents=True)
    node = RealNode(settings, engines)
    clock = FakeClock(datetime.now(UTC))
    plane = ControlPlane(
        settings,
        database,
        keys=FakeKeys(),
        mock_key=Secret(b"m" * 32),
        control_key=Secret(b"c" * 32),
        clock=clock,
        agent=node,
        opener=open_server,
    )
    node.tell(plane)
    await node.agent.start()
    engine = asyncio.create_task(plane.engine.run())
    try:
        yield Real(plane, node, clock)
    finally:
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)
        await plane.waker.close()
        await plane.sessions.close_all()
        await node.agent.stop_everything()
        await node.agent.stop()
        sweep(node.host)
        clear(node.host)


async def _people(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Calm')", ORG)
        await tx.execute("INSERT INTO account (id, email, name) VALUES ($1, 'ada@example.org', 'Ada')", ACCOUNT)


async def test_a_tenants_life(real: Real) -> None:
    plane = real.plane
    await plane.pool.fill_one()
    created = await plane.control.projects.create(
        CALLER, NewProject(role_name=STRANGE_ROLE, database_name=STRANGE_DATABASE)
    )
    password = created.password.reveal()
    session = await real.enter(created, STRANGE_ROLE, password)
    await session.execute("CREATE TABLE public.t AS SELECT 'kept' AS x")
    await real.finish(created.operations)

    # A password changed by SQL, as the guard or a superuser would have it stored, and a role of the tenant's own.
    other = str(Verifier.of_password("another-password-entirely", salt=b"0123456789abcdef"))
    await session.execute("RESET ROLE")
    await session.execute(f"CREATE ROLE by_sql LOGIN PASSWORD '{other}'")
    await session.close()

    # An idle connection does not keep it awake.
    real.clock.advance(timedelta(minutes=6))
    await plane.reconciler.look_at_all()
    assert real.node.host.traces() == [], "asleep: no process, no mount, no device"
    # The copy knows what was made by SQL.
    session = await real.enter(created, "by_sql", "another-password-entirely")
    await session.execute("RESET ROLE")
    assert await session.fetchval("SELECT x FROM public.t") == "kept"
    await session.close()

    # Roles and databases through the API, on the running compute.
    where = created.project.id, created.branch.id
    changed = await plane.control.roles.create(CALLER, *where, "grace", can_login=True)
    await real.finish(changed.operations)
    _, operations = await plane.control.databases.create(CALLER, *where, "shop", "grace")
    await real.finish(operations)
    _, operations = await plane.control.databases.update(CALLER, *where, "shop", new_name="store", owner_name=None)
    await real.finish(operations)
    assert changed.password is not None
    await (await real.enter(created, "grace", changed.password.reveal())).close()
    _, operations = await plane.control.databases.delete(CALLER, *where, "store")
    await real.finish(operations)
    _, operations = await plane.control.roles.delete(CALLER, *where, "grace")
    await real.finish(operations)

    # A crash, and what follows it.
    compute = next(iter(real.node.agent._computes.running()))
    died: asyncio.Queue[Any] = asyncio.Queue()
    real.node.agent._send = died.put_nowait  # type: ignore[method-assign, assignment]
    os.kill(compute.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        event = await died.get()
    assert isinstance(event, ComputeExited)
    real.node.tell(plane)
    await plane.reconciler.follow(event)
    with pytest.raises(UnavailableError):
        await plane.directory.look_up(LookUp(endpoint=created.endpoint.id, role="by_sql"))
    await plane.reconciler.start_owed()
    await (await real.enter(created, STRANGE_ROLE, password)).close()

    # Nothing is left of a project that was deleted.
    _, operations = await plane.control.projects.delete(CALLER, created.project.id, hard=True)
    await real.finish(operations)
    assert real.node.host.traces() == []
    assert not real.node.host.image(created.project.id).exists()
