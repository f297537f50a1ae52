"""An agent with everything it owns for real, on a state directory of its own, and the API that asks it.

async with running_node(engines, tmp_path, monkeypatch) as node:
    spec = await node.create()
    session = await connect(await node.start(spec))
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.base.identities import COMPUTE_UID_FIRST, Service
from cloister.base.ids import new_branch_id, new_endpoint_id, new_project_id, new_timeline_id
from cloister.base.rpc import Command, Connection, Peer
from cloister.base.settings import Settings
from cloister.node import space
from cloister.node.agent import NodeAgent
from cloister.node.backups.keeper import Outside
from cloister.node.commands import AnyEvent, ComputeExited, ComputeInfo, ComputeSpec, CreateVolume, StartCompute
from cloister.node.computes import Computes
from cloister.node.postgres.engines import Engines
from tests.fix_computes import EnginesOnHost
from tests.node.volumes.host import MIB, FakeKeys, Host, sweep

UID = COMPUTE_UID_FIRST + 78_000
PATIENCE_S = 20


class Node:
    def __init__(self, settings: Settings, engines: Engines, backups: Outside | None = None) -> None:
        self._backups = backups
        self.host = Host(settings)
        self.keys = FakeKeys()
        self.events: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self._engines = engines
        self.agent = self.new_agent()

    def new_agent(self) -> NodeAgent:
        def make(on_exit: Callable[[ComputeExited], None]) -> Computes:
            return Computes(self.host.paths, self._engines, on_exit)

        agent = NodeAgent(
            self.host.settings, broker=self.keys, engines=self._engines, make_computes=make, backups=self._backups
        )
        agent._send = self.events.put_nowait  # type: ignore[method-assign, assignment]
        return agent

    async def ask(self, command: Command[Any]) -> Any:
        connection = cast("Connection", type("Caller", (), {"peer": Peer(1, 1, Service.API)})())
        return await self.agent._answer(connection, cast("Any", command))

    async def create(self, size_bytes: int = 1024 * MIB) -> ComputeSpec:
        spec = ComputeSpec(
            endpoint_id=new_endpoint_id(),
            project_id=new_project_id(),
            branch_id=new_branch_id(),
            timeline_id=new_timeline_id(),
            pg_version=18,
            uid=UID,
            cpu_cores=1,
            memory_bytes=256 * MIB,
        )
        await self.ask(
            CreateVolume(
                project_id=spec.project_id,
                timeline_id=spec.timeline_id,
                pg_version=18,
                uid=UID,
                size_bytes=size_bytes,
            )
        )
        return spec

    async def start(self, spec: ComputeSpec) -> ComputeInfo:
        return cast("ComputeInfo", await self.ask(StartCompute(spec=spec)))

    async def next_event(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(event := await self.events.get(), kind):
                pass
        return event


@contextlib.asynccontextmanager
async def running_node(
    engines: EnginesOnHost, state_dir: Path, monkeypatch: pytest.MonkeyPatch, *, backups: Outside | None = None
) -> AsyncIterator[Node]:
    for limit in ("FREE_TO_CREATE_BYTES", "FREE_TO_START_BYTES", "FREE_TO_WRITE_BYTES"):
        monkeypatch.setattr(space, limit, 0)
    node = Node(Settings(state_dir=str(state_dir)), engines.engines, backups)
    node.host.paths.run.mkdir(mode=0o755, parents=True)
    await node.agent.start()
    try:
        yield node
    finally:
        await node.agent.stop_everything()
        await node.agent.stop()
        sweep(node.host)
        clear(node.host)


def clear(host: Host) -> None:
    shutil.rmtree(host.paths.run, ignore_errors=True)
    for tree in Path("/sys/fs/cgroup").glob(f"*/cloister-{host.paths.instance}"):
        tree.rmdir()
