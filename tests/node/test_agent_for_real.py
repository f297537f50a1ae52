"""The agent with everything it owns for real: encrypted volumes, sandboxes, PostgreSQL."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.ids import parse_project_id
from cloister.node.commands import (
    CloseVolume,
    ComputeExited,
    ComputeSpec,
    DeleteVolume,
    GetVolume,
    StopCompute,
    VolumeFailed,
)
from tests.fix_computes import EnginesOnHost, connect
from tests.node.real_node import PATIENCE_S, Node, running_node
from tests.node.volumes.host import MIB, daemon_of

pytestmark = pytest.mark.root


@pytest.fixture
async def node(engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch) as node:
        yield node


async def test_a_row_sleeps_encrypted_and_wakes(node: Node) -> None:
    spec = await node.create()
    created = await node.ask(GetVolume(spec.project_id))
    assert not created.is_open
    assert created.image_bytes <= 40 * MIB

    session = await connect(await node.start(spec))
    await session.execute("CREATE TABLE public.t AS SELECT 'a canary in a coal mine' AS x")
    await session.close()
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    assert node.host.traces() == []
    assert (await node.next_event(ComputeExited)).was_asked

    session = await connect(await node.start(spec))
    assert await session.fetchval("SELECT x FROM public.t") == "a canary in a coal mine"
    await session.close()
    assert node.keys.reasons == ["format", "open", "open"]
    await node.ask(DeleteVolume(spec.project_id))
    assert node.host.traces() == []


async def test_no_acknowledged_commit_is_lost_with_the_volume_daemon(node: Node) -> None:
    spec = await node.create()
    session = await connect(await node.start(spec))
    await session.execute("CREATE TABLE public.t (n integer)")
    acknowledged = 0
    writing = asyncio.Event()

    async def write() -> None:
        nonlocal acknowledged
        for number in range(1, 100_000):
            await session.execute("INSERT INTO public.t VALUES ($1)", number)
            acknowledged = number
            if number == 50:
                writing.set()

    writer = asyncio.create_task(write())
    await asyncio.wait_for(writing.wait(), PATIENCE_S)
    daemon_of(node.host, parse_project_id(spec.project_id)).signal(signal.SIGKILL)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await asyncio.wait_for(writer, PATIENCE_S)
    with contextlib.suppress(OSError, asyncpg.InterfaceError):
        session.terminate()

    assert not (await node.next_event(ComputeExited)).was_asked
    # The file system goes down with its daemon, and either may be noticed first.
    failed = await node.next_event(VolumeFailed)
    assert failed.project_id == spec.project_id
    assert failed.reason in {"the volume daemon ended", "the file system shut down"}
    assert node.host.traces() == []

    session = await connect(await node.start(spec))
    found = await session.fetchval("SELECT max(n) FROM public.t")
    assert found >= acknowledged >= 50
    assert await session.fetchval("SELECT count(*) FROM public.t") == found
    await session.close()


async def test_sessions_do_not_notice_that_the_agent_was_killed(node: Node) -> None:
    spec = await node.create()
    info = await node.start(spec)
    session = await connect(info)
    await session.execute("CREATE TEMPORARY TABLE mine AS SELECT 1 AS n")

    await node.agent.stop()
    assert await session.fetchval("SELECT n FROM mine") == 1
    node.agent = node.new_agent()
    await node.agent.start()
    assert await session.fetchval("SELECT n FROM mine") == 1
    assert await node.start(spec) == info
    await session.close()
    assert node.keys.reasons == ["format", "open"]

    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    assert node.host.traces() == []


async def test_a_compute_that_crashes_leaves_its_volume_closed(node: Node) -> None:
    spec = await node.create()
    info = await node.start(spec)
    session = await connect(info)
    await session.close()
    node.agent._computes._computes[spec.endpoint_id].launched.program.signal(signal.SIGKILL)  # type: ignore[attr-defined]
    assert not (await node.next_event(ComputeExited)).was_asked
    await node.ask(CloseVolume(spec.project_id))  # waits for what the crash caused; closed already is success
    assert node.host.traces() == []
    session = await connect(await node.start(spec))
    await session.close()


async def test_a_full_volume_is_53100_and_nothing_is_lost(node: Node) -> None:
    spec = await node.create(384 * MIB)
    tenant = Tenant(node, spec)
    await tenant.run("CREATE TABLE public.kept (n integer PRIMARY KEY)")
    await tenant.run("CREATE TABLE public.filler (x text)")
    kept = 0
    while tenant.refusals < 3:
        await tenant.run(
            "INSERT INTO public.filler SELECT repeat(md5(g::text), 30) FROM generate_series(1, 10000) AS g"
        )
        # What is small still fits into the pages there are; what is acknowledged must stay.
        if await tenant.run(f"INSERT INTO public.kept VALUES ({kept + 1})"):
            kept += 1
    assert kept > 0

    # It sleeps and wakes full, and lets its owner in.
    await tenant.leave()
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    await tenant.persist("TRUNCATE public.filler")
    await tenant.persist("CHECKPOINT")
    await tenant.persist("INSERT INTO public.filler SELECT 'room again' FROM generate_series(1, 10000)")
    assert tenant.session is not None
    assert await tenant.session.fetchval("SELECT count(*) FROM public.kept") >= kept
    assert await tenant.session.fetchval("SELECT max(n) FROM public.kept") >= kept
    assert await tenant.session.fetchval("SELECT count(*) FROM public.filler") == 10000
    await tenant.leave()


class Tenant:
    """Sends statements as an application does: connects again when it lost its session, wakes what sleeps."""

    def __init__(self, node: Node, spec: ComputeSpec) -> None:
        self.node = node
        self.spec = spec
        self.session: Any = None
        self.refusals = 0
        """How often it was told 53100."""

    async def run(self, statement: str) -> bool:
        """True if it was done. Full is counted, and anything but full or a lost session raised."""
        try:
            if self.session is None or self.session.is_closed():
                self.session = await connect(await self.node.start(self.spec))
            await self.session.execute(statement, timeout=PATIENCE_S)
        except asyncpg.DiskFullError:
            self.refusals += 1
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
            await self.leave()
        else:
            return True
        return False

    async def persist(self, statement: str) -> None:
        """Until it is done. Each attempt connects anew if it must, which waits for the server."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.run(statement):
                pass

    async def leave(self) -> None:
        if self.session is not None:
            self.session.terminate()
            self.session = None
