"""Branches in an encrypted volume, with real PostgreSQL."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import ConflictError, InternalError, PreconditionError, UnavailableError
from cloister.base.ids import new_endpoint_id, new_timeline_id, parse_timeline_id
from cloister.node.commands import (
    CloneTimeline,
    CloseVolume,
    ComputeSpec,
    CopyTimeline,
    CreateTimeline,
    DeleteTimeline,
    DeleteVolume,
    FinishCopy,
    GetTimeline,
    GetVolume,
    PruneTimeline,
    Recovered,
    RecoverTimeline,
    ScrubTimeline,
    StopCompute,
    TimelineInfo,
)
from cloister.node.runs import PROCESSES_MAX, Run, Runs
from cloister.node.sandbox import cgroups
from cloister.node.timelines import recovery, scrub, wal
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Making
from tests.fix_computes import EnginesOnHost, connect, limits_of, members_of
from tests.node.real_node import PATIENCE_S, UID, Node, running_node
from tests.node.volumes.host import MIB

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


async def test_the_maps_that_the_template_has_not_are_made_where_they_are_wanted(node: Node) -> None:
    spec = await node.create()
    session = await connect(await node.start(spec))
    there = "SELECT count(*) FROM pg_class WHERE pg_relation_size(oid, $1) > 0 AND NOT relisshared"
    assert await session.fetchval(there, "vm") < 20, "those that the start itself writes to"
    await session.execute("CREATE EXTENSION amcheck")
    await session.execute("CREATE TABLE public.t AS SELECT n FROM generate_series(1, 5000) n")
    await session.execute("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING)")
    wrong = await session.fetchval(
        """SELECT count(*) FROM pg_class c, LATERAL verify_heapam(c.oid) WHERE c.relkind IN ('r', 't')"""
    )
    assert wrong == 0
    assert await session.fetchval(there, "vm") > 30
    assert await session.fetchval(there, "fsm") > 10
    await session.close()


async def copy(node: Node, spec: ComputeSpec, session: Any, target_id: str | None) -> Recovered:
    """As the API does it."""
    common: dict[str, Any] = {"project_id": spec.project_id, "source_id": spec.timeline_id, "target_id": target_id}
    await session.execute("SELECT pg_backup_start('a copy', fast => true)")
    await node.ask(CopyTimeline(uid=UID, **common))
    stop = await session.fetchrow("SELECT lsn::text, labelfile FROM pg_backup_stop(wait_for_archive => false)")
    command = FinishCopy(uid=UID, label=stop["labelfile"], stop_lsn=stop["lsn"], **common)
    first = await node.ask(command)
    assert await node.ask(command) == first
    assert first.lsn == stop["lsn"]
    return first  # type: ignore[no-any-return]


async def recover(node: Node, spec: ComputeSpec, **point: Any) -> tuple[ComputeSpec, Recovered]:
    command = RecoverTimeline(
        project_id=spec.project_id,
        source_id=spec.timeline_id,
        target_id=new_timeline_id(),
        pg_version=18,
        uid=UID,
        **point,
    )
    first = await node.ask(command)
    assert await node.ask(command) == first
    return on(spec, command.target_id), first


class Writer:
    """Commits numbers one after the other, and knows when."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.done: list[tuple[float, float]] = []
        """For each number from 1 on: a moment before its commit, and one after."""
        self._task: asyncio.Task[None] | None = None

    async def write(self, count: int) -> None:
        for _ in range(count):
            before = time.time()
            await self.session.execute("INSERT INTO public.stamped VALUES ($1, repeat('x', 2000))", len(self.done) + 1)
            self.done.append((before, time.time()))


CREATE_STAMPED = "CREATE TABLE public.stamped (n integer PRIMARY KEY, filler text)"
COUNTS = "SELECT ARRAY[count(*), coalesce(max(n), 0)] FROM public.stamped"


async def test_a_copy_of_a_running_timeline_is_one_moment_of_it(node: Node) -> None:
    parent = await node.create()
    session = await connect(await node.start(parent))
    await session.execute(CREATE_STAMPED)
    other = await connect(await node.start(parent))
    writer = Writer(other)
    await writer.write(20)
    writing = asyncio.create_task(writer.write(400))
    before = len(writer.done)
    child = msgspec.structs.replace(on(parent, new_timeline_id()), history_retention_s=3600)
    before_lsn = str(await session.fetchval("SELECT pg_current_wal_insert_lsn()::text"))
    copied = await copy(node, parent, session, child.timeline_id)
    after = len(writer.done)
    await writing
    count, last = await run(node, child, COUNTS)
    assert count == last
    assert before <= count <= after + 1
    assert (
        await run(node, child, "CREATE EXTENSION amcheck", "SELECT bt_index_check('public.stamped_pkey', true)") is None
    )
    await session.close()
    await other.close()

    # Its history begins with a snapshot of the parent's and the parent's WAL, and nothing before the copy is in it.
    info: TimelineInfo = await node.ask(GetTimeline(project_id=child.project_id, timeline_id=child.timeline_id))
    assert info.since_lsn == copied.lsn
    await run(node, child, "DELETE FROM public.stamped", "SELECT 1")
    born, _ = await recover(node, child, lsn=copied.lsn)
    assert await run(node, born, COUNTS) == [count, last]
    checked = await run(node, born, "CREATE EXTENSION amcheck", "SELECT bt_index_check('public.stamped_pkey', true)")
    assert checked is None
    assert await run(node, child, COUNTS) == [0, 0]
    with pytest.raises(PreconditionError, match="reaches from"):
        await recover(node, child, lsn=before_lsn)


async def test_a_history_that_began_with_another_ones_leads_to_a_third(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first snapshot of a copy is the source's last one with WAL, also where that is made of another's."""
    taken: list[object] = []
    take = Making.take_first_from

    def take_and_count(*given: Any) -> None:
        take(*given)
        taken.append(given)

    monkeypatch.setattr(Making, "take_first_from", take_and_count)
    writing = msgspec.structs.replace(await node.create(), history_retention_s=3600)
    session = await connect(await node.start(writing))
    await session.execute(CREATE_STAMPED)
    copies: list[tuple[ComputeSpec, Recovered, int]] = []
    for generation in range(1, 4):
        writer = Writer(session)
        writer.done = [(0.0, 0.0)] * 300 * (generation - 1)
        await writer.write(300)
        copy_of = msgspec.structs.replace(on(writing, new_timeline_id()), history_retention_s=3600)
        copies.append((copy_of, await copy(node, writing, session, copy_of.timeline_id), 300 * generation))
        await session.close()
        session, writing = await connect(await node.start(copy_of)), copy_of
    await session.execute("DELETE FROM public.stamped")
    await session.close()
    for spec, copied, count in copies:
        info: TimelineInfo = await node.ask(GetTimeline(project_id=spec.project_id, timeline_id=spec.timeline_id))
        assert info.since_lsn == copied.lsn
        born, _ = await recover(node, spec, lsn=copied.lsn)
        assert await run(node, born, COUNTS) == [count, count]
    assert len(taken) == len(copies), "or it tells nothing of it"


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "asleep"])
async def test_any_moment_comes_back_exactly(node: Node, is_running: bool) -> None:
    parent = await node.create()
    parent = msgspec.structs.replace(parent, history_retention_s=3600)
    session = await connect(await node.start(parent))
    await session.execute(CREATE_STAMPED)
    writer = Writer(session)
    await writer.write(700)
    await copy(node, parent, session, None)
    await writer.write(700)
    lsn = str(await session.fetchval("SELECT pg_current_wal_insert_lsn()::text"))
    at_lsn = len(writer.done)
    await writer.write(300)
    end = time.time()
    if not is_running:
        await session.close()
        await node.ask(StopCompute(endpoint_id=parent.endpoint_id))

    generator = random.Random(4)
    # Between two commits, so that it is known what must be there.
    for number in [*generator.sample(range(1, len(writer.done)), 2), at_lsn]:
        at = (writer.done[number - 1][1] + writer.done[number][0]) / 2
        child, recovered = await recover(node, parent, at=at)
        assert await run(node, child, COUNTS) == [number, number]
        assert recovered.at is not None
        assert recovered.at <= at
    child, _ = await recover(node, parent, lsn=lsn)
    assert await run(node, child, COUNTS) == [at_lsn, at_lsn]
    child, _ = await recover(node, parent, at=end)
    assert await run(node, child, COUNTS) == [len(writer.done)] * 2
    # What was recovered has a history of its own.
    grandchild, _ = await recover(node, child, at=time.time())
    assert await run(node, grandchild, COUNTS) == [len(writer.done)] * 2

    for outside in ({"at": 1_000_000_000.0}, {"at": time.time() + 3600}, {"lsn": "0/100"}, {"lsn": "F/0"}):
        with pytest.raises(PreconditionError, match="reaches from"):
            await recover(node, parent, **outside)
    info: TimelineInfo = await node.ask(GetTimeline(project_id=parent.project_id, timeline_id=parent.timeline_id))
    assert info.since is not None
    assert info.history_bytes > 0
    assert info.logical_bytes > 20_000_000
    await node.ask(PruneTimeline(project_id=parent.project_id, timeline_id=parent.timeline_id, keep_since=end))
    with pytest.raises(PreconditionError):
        await recover(node, parent, at=writer.done[5][1])
    if is_running:
        await session.close()


async def test_damaged_wal_ends_nothing_in_silence(node: Node) -> None:
    """A replay takes it for the end of all WAL, and what was written after it would be missing from what is said to be all."""
    parent = msgspec.structs.replace(await node.create(), history_retention_s=3600)
    session = await connect(await node.start(parent))
    await session.execute(CREATE_STAMPED)
    writer = Writer(session)
    await writer.write(2000)
    end = time.time()
    child, _ = await recover(node, parent, at=end)
    assert await run(node, child, COUNTS) == [2000, 2000]
    await session.execute("CHECKPOINT")  # the server gives up its own
    layout = Layout(node.host.paths.mounts / parent.project_id)
    archive = layout.timeline(parse_timeline_id(parent.timeline_id)).archive
    third = sorted(path for path in archive.iterdir() if path.name != "index")[2]
    third.write_bytes(b"x" * wal.SEGMENT_BYTES)
    with pytest.raises(PreconditionError, match="has a gap after LSN"):
        await recover(node, parent, at=end)
    child, _ = await recover(node, parent, at=(writer.done[50][1] + writer.done[51][0]) / 2)
    assert await run(node, child, COUNTS) == [51, 51], "what was before it comes back"
    await session.close()


async def test_secrets_are_taken_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = await node.create()
    secret = "a-secret-of-the-parent"
    await run(
        node,
        parent,
        "CREATE EXTENSION postgres_fdw",
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere')",
        f"CREATE USER MAPPING FOR neondb_owner SERVER far OPTIONS (user 'u', password '{secret}')",
        f"UPDATE pg_authid SET rolpassword = 'SCRAM-SHA-256$4096:{secret}' WHERE rolname = 'neondb_owner'",
        """CREATE DATABASE "o'dd = data""base" """,
        "SELECT 1",
    )
    child = await clone(node, parent)
    await node.start(parent)  # keeps the volume open
    words: list[str] = []
    plain = recovery.single_user

    def noted(engine: Any, database: str, more: dict[str, str]) -> list[str]:
        words.append(database)
        return plain(engine, database, more)

    monkeypatch.setattr(recovery, "single_user", noted)
    command = ScrubTimeline(project_id=parent.project_id, timeline_id=child.timeline_id, pg_version=18, uid=UID)
    # One that is cut short leaves names of ours; the next gives them back.
    with monkeypatch.context() as cut_short:
        cut_short.setattr(scrub, "statements_for_each", lambda: b"SELECT 1/0;\n")
        with pytest.raises(InternalError):
            await node.ask(command)
    await node.ask(command)
    await node.ask(command)
    assert all(word == "template1" or word.startswith("cloister_") for word in words), "no tenant's name in a command"
    session = await connect(await node.start(child))
    names = await session.fetch("SELECT datname FROM pg_database ORDER BY 1")
    assert [name for (name,) in names] == ["neondb", "o'dd = data\"base", "postgres", "template0", "template1"]
    assert await session.fetchval("SELECT count(*) FROM pg_shseclabel WHERE classoid = 1262") == 0
    assert await session.fetchval("SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL") == 0
    assert await session.fetchval("SELECT count(*) FROM pg_user_mapping WHERE umoptions IS NOT NULL") == 0
    mountpoint = node.host.paths.mounts / parent.project_id
    child_files = [path for path in (mountpoint / "timelines" / child.timeline_id).rglob("*") if path.is_file()]
    assert not [path for path in child_files if secret.encode() in path.read_bytes()]
    parent_files = [path for path in (mountpoint / "timelines" / parent.timeline_id).rglob("*") if path.is_file()]
    assert [path for path in parent_files if secret.encode() in path.read_bytes()], "or the test finds nothing"
    await session.close()


ENDLESS = ["/bin/sh", "-c", "while :; do :; done"]


async def test_others_wake_during_a_recovery_and_the_end_of_the_project_ends_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await node.create()
    parent = msgspec.structs.replace(parent, history_retention_s=3600)
    await run(node, parent, CREATE_STAMPED, "SELECT 1")
    at = time.time()
    await run(node, parent, "INSERT INTO public.stamped VALUES (1, '')", "SELECT 1")
    replaying = asyncio.Event()

    def endless(*_arguments: Any) -> list[str]:
        replaying.set()
        return ENDLESS

    monkeypatch.setattr(recovery, "single_user", endless)
    recovering = asyncio.create_task(recover(node, parent, at=at))
    await asyncio.wait_for(replaying.wait(), PATIENCE_S)
    assert await run(node, parent, "SELECT count(*) FROM public.stamped") == 1
    assert (await node.ask(GetVolume(parent.project_id))).is_open
    with pytest.raises(ConflictError):
        await node.ask(CloseVolume(parent.project_id))
    await node.ask(DeleteVolume(parent.project_id))
    with pytest.raises(UnavailableError):
        await recovering
    assert node.host.traces() == []


async def test_a_run_that_takes_too_long_is_ended_and_nothing_is_left(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await node.create()
    child = await clone(node, parent)
    monkeypatch.setattr(recovery, "single_user", lambda *_arguments: ENDLESS)
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.3)
    with pytest.raises(UnavailableError):
        await node.ask(
            ScrubTimeline(project_id=parent.project_id, timeline_id=child.timeline_id, pg_version=18, uid=UID)
        )
    # It lingers after the clone; anything that still held it would make this a refusal.
    await node.ask(CloseVolume(parent.project_id))
    assert not (await node.ask(GetVolume(parent.project_id))).is_open
    assert node.host.traces() == []


async def test_what_a_killed_agent_left_running_is_found_and_ended(
    node: Node, engines: EnginesOnHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it has its limits, and is within them."""
    monkeypatch.setattr(cgroups, "HOST_CORES", 4)
    spec = await node.create()
    session = await connect(await node.start(spec))
    timeline = Layout(node.host.paths.mounts / spec.project_id).timeline(parse_timeline_id(spec.timeline_id))
    engine = engines.engines.get(18)
    running = asyncio.create_task(
        Runs(node.host.paths, cgroups.detect(node.host.paths.instance)).run(
            Run(
                engine=engine,
                data=timeline.data,
                uid=UID,
                program=ENDLESS,
                memory_bytes=64 * MIB,
                cpu_cores=1,
                patience_s=PATIENCE_S,
            )
        )
    )
    records = node.host.paths.run / "runs"

    def let_go() -> dict[str, int]:
        """The shell is there, so its agent has done all of a launch: a sweep before that is one no killed agent sees."""
        pids = {
            path.stem: json.loads(path.read_bytes().splitlines()[0])["child-pid"]
            for path in records.glob("*.status")
            if path.stat().st_size
        }
        return {name: pid for name, pid in pids.items() if (Path("/proc") / str(pid) / "comm").read_text() == "sh\n"}

    async with asyncio.timeout(PATIENCE_S):
        while not let_go():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    ((name, pid),) = let_go().items()
    assert limits_of(node.host.paths, name) == (str(64 * MIB), str(PROCESSES_MAX), str(cgroups.CPU_PERIOD_US))
    assert pid in members_of(node.host.paths, name)
    await asyncio.to_thread(Runs(node.host.paths, None).sweep)
    assert (await running).code == -9
    assert not list(node.host.paths.computes.glob("run-*"))
    await session.close()
