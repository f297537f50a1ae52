"""PgBouncer beside a real compute, as the agent runs it: who reaches it, whom it lets in, what ends it, who finds it again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.errors import ForbiddenError, NotFoundError
from cloister.base.identities import POOLER_UID
from cloister.node.commands import ComputeInfo
from tests.fix_computes import (
    GATEWAY_UID,
    OWNER,
    PATIENCE_S,
    SHARED_GID,
    STRANGER_UID,
    EnginesOnHost,
    Node,
    connect,
    knock,
    pooled,
    running_node,
    started,
)

pytestmark = pytest.mark.root


@pytest.fixture
async def node(engines: EnginesOnHost) -> AsyncIterator[Node]:
    async with running_node(engines) as node:
        yield node


async def until_lost(client: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await client.fetchval("SELECT 1")


def groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def processes(info: ComputeInfo) -> list[int]:
    """Of the pooler beside this compute, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, group = (entry / "status").read_text(), groups(int(entry.name))
            except OSError:
                continue
            if f"\nUid:\t{POOLER_UID}\t" in status and "\nState:\tZ" not in status and info.endpoint_id in group:
                found.append(int(entry.name))
    return found


async def test_it_speaks_for_a_role_and_ends_with_its_compute(node: Node, engines: EnginesOnHost) -> None:
    info = await started(node)
    assert processes(info) == []
    client = await pooled(node, info)
    assert await client.fetchval("SELECT session_user") == OWNER
    (pid,) = processes(info)
    assert groups(pid) == groups(info.pid)
    await node.computes.stop(info.endpoint_id)
    assert processes(info) == []
    assert list((engines.paths.run / "pooler-records").iterdir()) == []
    with pytest.raises(NotFoundError):
        await node.computes.pool(info.endpoint_id, info.generation, OWNER)
    client.terminate()


async def test_a_role_that_comes_later_is_added_and_the_others_stay(node: Node) -> None:
    info = await started(node)
    odd = 'o"d"d\n""'
    admin = await connect(info)
    await admin.execute('CREATE ROLE "o""d""d\n""""" LOGIN')
    first = await pooled(node, info)
    before = processes(info)
    second = await pooled(node, info, odd)
    assert await second.fetchval("SELECT session_user") == odd
    assert await first.fetchval("SELECT session_user") == OWNER
    assert processes(info) == before
    for client in (first, second, admin):
        await client.close()


async def test_killed_it_is_started_again_with_the_roles_it_had(node: Node) -> None:
    info = await started(node)
    client = await pooled(node, info)
    (pid,) = processes(info)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await until_lost(client)
    again = await pooled(node, info)
    assert await again.fetchval("SELECT 1") == 1
    assert len(processes(info)) == 1
    await again.close()


async def test_a_new_agent_finds_it(node: Node) -> None:
    info = await started(node)
    client = await pooled(node, info)
    before = processes(info)
    await node.lose_agent()
    await node.new_agent()
    assert await client.fetchval("SELECT 1") == 1
    again = await pooled(node, info)
    assert processes(info) == before
    await node.computes.stop(info.endpoint_id)
    assert processes(info) == []
    again.terminate()
    client.terminate()


async def test_a_new_agent_ends_one_whose_compute_is_gone(node: Node) -> None:
    info = await started(node)
    client = await pooled(node, info)
    await node.lose_agent()
    os.kill(info.pid, signal.SIGKILL)
    await node.new_agent()
    assert not (await node.next_exit()).was_asked
    assert processes(info) == []
    client.terminate()


async def test_the_platforms_roles_are_nobodys(node: Node) -> None:
    info = await started(node)
    for role in ("cloister_admin", "cloister_reader"):
        with pytest.raises(ForbiddenError):
            await node.computes.pool(info.endpoint_id, info.generation, role)
    assert processes(info) == []


async def test_the_pooler_may_become_whom_the_gateway_may_become(node: Node) -> None:
    info = await started(node)
    for user in ("cloister_admin", "cloister_reader"):
        assert "Peer authentication failed" in _knock(info, POOLER_UID, user)
    assert _knock(info, POOLER_UID, OWNER) == "in"


async def test_only_the_gateway_reaches_its_socket(node: Node) -> None:
    info = await started(node)
    await (await pooled(node, info)).close()
    beside = info.__class__(
        **{name: getattr(info, name) for name in info.__struct_fields__}
        | {"socket_dir": await node.computes.pool(info.endpoint_id, info.generation, OWNER)}
    )
    assert _knock(beside, GATEWAY_UID, OWNER) == "in"
    for uid in (STRANGER_UID, node.new_compute().uid):
        assert _knock(beside, uid, OWNER) == "PermissionError"
    # Whoever is admin of PgBouncer's console could read and stop everything in it.
    assert "not allowed" in _knock(beside, GATEWAY_UID, OWNER, "pgbouncer")


def _knock(info: ComputeInfo, uid: int, user: str, database: str = "neondb") -> str:
    return knock(info, uid=uid, gid=SHARED_GID, user=user, database=database)
