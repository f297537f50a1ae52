"""Branches in an encrypted volume, with real PostgreSQL: at rest."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import ConflictError
from cloister.base.ids import new_endpoint_id, new_timeline_id
from cloister.node.commands import (
    CloneTimeline,
    ComputeSpec,
    CreateTimeline,
    DeleteTimeline,
    StopCompute,
)
from tests.fix_computes import EnginesOnHost, connect
from tests.node.real_node import UID, Node, running_node

pytestmark = pytest.mark.root


@pytest.fixture
async def node(engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch) as node:
        yield node


def on(spec: ComputeSpec, timeline_id: str) -> ComputeSpec:
    return msgspec.structs.replace(spec, endpoint_id=new_endpoint_id(), timeline_id=timeline_id)


async def run(node: Node, spec: ComputeSpec, *statements: str) -> Any:
    """On a compute of its own, which is stopped again. Gives the last statement's value."""
    session = await connect(await node.start(spec))
    try:
        for statement in statements[:-1]:
            await session.execute(statement)
        return await session.fetchval(statements[-1])
    finally:
        await session.close()
        await node.ask(StopCompute(endpoint_id=spec.endpoint_id))


async def clone(node: Node, spec: ComputeSpec) -> ComputeSpec:
    command = CloneTimeline(
        project_id=spec.project_id, source_id=spec.timeline_id, target_id=new_timeline_id(), uid=UID
    )
    first = await node.ask(command)
    assert await node.ask(command) == first
    return on(spec, command.target_id)


async def test_a_clone_at_rest_has_everything_and_goes_its_own_way(node: Node) -> None:
    parent = await node.create()
    await run(node, parent, "CREATE TABLE public.t AS SELECT 1 AS n", "SELECT 1")
    child = await clone(node, parent)
    assert await run(node, child, "INSERT INTO public.t VALUES (2)", "SELECT sum(n) FROM public.t") == 3
    assert await run(node, parent, "INSERT INTO public.t VALUES (10)", "SELECT sum(n) FROM public.t") == 11
    assert await run(node, child, "SELECT sum(n) FROM public.t") == 3
    grandchild = await clone(node, child)
    assert await run(node, grandchild, "SELECT sum(n) FROM public.t") == 3

    for spec in (child, parent):
        delete = DeleteTimeline(project_id=parent.project_id, timeline_id=spec.timeline_id)
        await node.ask(delete)
        await node.ask(delete)
    assert await run(node, grandchild, "SELECT sum(n) FROM public.t") == 3


async def test_a_running_timeline_is_neither_cloned_nor_deleted(node: Node) -> None:
    spec = await node.create()
    await node.start(spec)
    with pytest.raises(ConflictError):
        await clone(node, spec)
    with pytest.raises(ConflictError):
        await node.ask(DeleteTimeline(project_id=spec.project_id, timeline_id=spec.timeline_id))


async def test_a_fresh_timeline_is_like_a_new_project(node: Node) -> None:
    spec = await node.create()
    await run(node, spec, "CREATE TABLE public.t (n integer)", "SELECT 1")
    command = CreateTimeline(project_id=spec.project_id, timeline_id=new_timeline_id(), pg_version=18, uid=UID)
    await node.ask(command)
    await node.ask(command)
    assert await run(node, on(spec, command.timeline_id), "SELECT to_regclass('public.t')") is None
