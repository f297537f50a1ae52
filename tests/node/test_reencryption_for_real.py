"""The agent encrypts a volume anew under a server that works: real volumes, sandboxes, PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from cloister.base.errors import BadRequestError, ConflictError, ExhaustedError
from cloister.base.ids import parse_project_id
from cloister.node import space
from cloister.node.commands import ComputeSpec, CopyInfo, CopyState, CopyVolume, GetVolume, StopCopy, SwitchVolume
from cloister.node.space import HostSpace
from tests.fix_computes import EnginesOnHost, connect
from tests.node.real_node import Node, running_node
from tests.node.volumes.host import MIB

pytestmark = pytest.mark.root

PATIENCE_S = 60


@pytest.fixture
async def node(engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch) as node:
        yield node


async def copied(node: Node, spec: ComputeSpec, *states: CopyState) -> CopyInfo:
    command = CopyVolume(project_id=spec.project_id, material=2)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info: CopyInfo = await node.ask(command)
            if info.state in states or (info.material, info.state) == (2, CopyState.NONE):
                return info
            assert info.state is not CopyState.FAILED, info.problem
            await asyncio.sleep(0.05)


async def test_every_acknowledged_commit_is_there_under_the_new_key(node: Node) -> None:
    """A client writes all the time, until the switch disconnects it; a wake that comes during the switch waits for it."""
    spec = await node.create()
    session = await connect(await node.start(spec))
    await session.execute("CREATE TABLE public.t (n integer, padding text)")
    acknowledged = 0

    async def write() -> None:
        nonlocal acknowledged
        for number in range(1, 1_000_000):
            await session.execute("INSERT INTO public.t VALUES ($1, repeat('x', 500))", number)
            acknowledged = number

    writer = asyncio.create_task(write())
    info = await copied(node, spec, CopyState.READY)
    assert info.is_in_use
    assert acknowledged > 0
    with pytest.raises(ConflictError):
        await node.ask(SwitchVolume(project_id=spec.project_id, stops_computes=False))
    at_ready = acknowledged
    while acknowledged < at_ready + 50:
        assert not writer.done()
        await asyncio.sleep(0.01)
    await node.ask(SwitchVolume(project_id=spec.project_id, stops_computes=True))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await asyncio.wait_for(writer, PATIENCE_S)
    with contextlib.suppress(OSError, asyncpg.InterfaceError):
        session.terminate()

    session = await connect(await node.start(spec))
    assert (await node.ask(GetVolume(spec.project_id))).material == 2, "the wake waited for the switch"
    found = await session.fetchval("SELECT array_agg(n ORDER BY n) FROM public.t")
    await session.close()
    assert found in (list(range(1, acknowledged + 1)), list(range(1, acknowledged + 2)))
    assert (await copied(node, spec, CopyState.DONE)).paused_s is not None
    assert node.keys.reasons == ["format", "open", "reencrypt", "reencrypt", "open"]


async def test_a_sleeping_project_is_encrypted_anew_and_a_wake_does_not_wait_for_the_copy(node: Node) -> None:
    spec = await node.create()
    await node.ask(CopyVolume(project_id=spec.project_id, material=2, bytes_per_s=1 * MIB))
    session = await connect(await node.start(spec))
    info = await node.ask(CopyVolume(project_id=spec.project_id, material=2, bytes_per_s=1 * MIB))
    assert info.state is CopyState.COPYING, "and the server answers already"
    await session.close()
    await node.ask(StopCopy(project_id=spec.project_id, is_dropped=True))
    await node.agent.stop_everything()
    assert node.host.traces() == []


async def test_without_room_for_a_second_image_nothing_is_begun(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = await node.create()
    free = HostSpace(node.host.paths.volumes).free_bytes()
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", free + 10 * MIB)
    with pytest.raises(ExhaustedError) as refused:
        await node.ask(CopyVolume(project_id=spec.project_id, material=2))
    assert "no room for a second image" in str(refused.value.public)
    assert [path.name for path in node.host.paths.volumes.iterdir()] == [f"{spec.project_id}.img"]


@pytest.mark.parametrize("command", [{"material": 0}, {"material": 2**48}, {"material": 2, "bytes_per_s": 1}])
async def test_what_cannot_be_meant_is_refused(node: Node, command: dict[str, int]) -> None:
    spec = await node.create()
    with pytest.raises(BadRequestError):
        await node.ask(CopyVolume(project_id=spec.project_id, **command))  # type: ignore[arg-type]


async def test_a_switch_without_a_copy_is_refused(node: Node) -> None:
    spec = await node.create()
    with pytest.raises(ConflictError):
        await node.ask(SwitchVolume(project_id=spec.project_id, stops_computes=True))
    assert node.agent._volumes.driver.material(parse_project_id(spec.project_id)) == 1
