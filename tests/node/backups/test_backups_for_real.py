"""A project's data goes into a store and comes back into another volume, with real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cloister.base.ids import new_endpoint_id, new_timeline_id
from cloister.node.backups import drilling
from cloister.node.backups.keeper import Outside
from cloister.node.commands import (
    Backed,
    BackUpTimeline,
    ComputeSpec,
    CreateVolume,
    DeleteVolume,
    Drilled,
    DrillRestore,
    ReadBack,
    Recovered,
    RestoreTimeline,
    SendWal,
    SentWal,
    StopCompute,
)
from cloister.node.timelines import wal
from tests.fix_computes import EnginesOnHost, connect
from tests.node.backups.bucket import BackupKeys, Bucket
from tests.node.real_node import UID, Node, running_node
from tests.node.timelines.test_branches_for_real import copy
from tests.node.volumes.host import MIB

pytestmark = pytest.mark.root

DAYS = 30


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
async def node(
    engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket
) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch, backups=Outside(bucket, BackupKeys())) as node:
        node.host.paths.backups.mkdir(mode=0o700)
        node.host.paths.secrets.mkdir(exist_ok=True)
        node.host.paths.control_key.write_bytes(b"c" * 32)
        yield node


async def back_up(node: Node, spec: ComputeSpec) -> Backed:
    command = BackUpTimeline(project_id=spec.project_id, timeline_id=spec.timeline_id, pg_version=18, retain_days=DAYS)
    backed: Backed = await node.ask(command)
    return backed


async def send_wal(node: Node, spec: ComputeSpec) -> SentWal:
    sent: SentWal = await node.ask(SendWal(project_id=spec.project_id, timeline_id=spec.timeline_id, retain_days=DAYS))
    return sent


async def restore(
    node: Node, spec: ComputeSpec, *, lsn: str | None = None, known_lsn: str | None = None
) -> ComputeSpec:
    command = RestoreTimeline(
        project_id=spec.project_id,
        source_id=spec.timeline_id,
        timeline_id=new_timeline_id(),
        uid=UID,
        pg_version=18,
        lsn=lsn,
        known_lsn=known_lsn,
    )
    first: Recovered = await node.ask(command)
    assert await node.ask(command) == first
    return msgspec.structs.replace(spec, endpoint_id=new_endpoint_id(), timeline_id=command.timeline_id)


async def rows(node: Node, spec: ComputeSpec) -> list[int]:
    """What is in the table, of an index that is whole."""
    session = await connect(await node.start(spec))
    try:
        found = [row["n"] for row in await session.fetch("SELECT n FROM public.t ORDER BY n")]
        await session.execute("CREATE EXTENSION amcheck")
        await session.execute("SELECT bt_index_parent_check('public.t_pkey', true)")
        assert not await session.fetch(
            """SELECT found.* FROM pg_class c JOIN pg_am a ON a.oid = c.relam, verify_heapam(c.oid) found
                WHERE a.amname = 'heap' AND c.relkind = 'r'"""
        )
        return found
    finally:
        await session.close()
        await node.ask(StopCompute(endpoint_id=spec.endpoint_id))


async def test_every_commit_before_the_last_sending_comes_back_in_another_volume(node: Node, bucket: Bucket) -> None:
    spec = msgspec.structs.replace(await node.create(), history_retention_s=DAYS * 86_400)
    session = await connect(await node.start(spec))
    await session.execute("CREATE TABLE public.t (n integer PRIMARY KEY, text text)")
    await session.execute("INSERT INTO public.t VALUES (0, 'before the base')")
    await session.close()
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    base = await back_up(node, spec)
    assert base.new_chunks > 0
    assert not base.left_out

    session = await connect(await node.start(spec))
    await session.execute("INSERT INTO public.t VALUES (1, repeat('long', 1000))")
    between = await session.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    for number in range(2, 6):
        await session.execute("INSERT INTO public.t VALUES ($1, repeat(md5(random()::text), 20000))", number)
        await session.execute("SELECT pg_switch_wal()")
    first = await send_wal(node, spec)
    assert first.segments >= 4
    assert not first.is_broken
    await copy(node, spec, session, None)
    second = await back_up(node, spec)
    assert second.base > base.base
    assert second.new_chunks < second.chunks
    await session.execute("INSERT INTO public.t VALUES (6, 'in the segment that is being written')")
    sent = await send_wal(node, spec)
    assert not sent.is_broken
    assert (await send_wal(node, spec)).segments == 0
    await session.execute("INSERT INTO public.t VALUES (7, 'not sent')")
    again = await back_up(node, spec)
    assert (again.base, again.new_chunks) == (second.base, 0)
    await session.close()
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))

    await node.ask(DeleteVolume(spec.project_id))
    await node.ask(
        CreateVolume(project_id=spec.project_id, timeline_id=None, pg_version=18, uid=UID, size_bytes=1024 * MIB)
    )
    seen = await node.ask(ReadBack(project_id=spec.project_id, timeline_id=spec.timeline_id, sample=10))
    assert (seen.base, seen.damaged) == (second.base, [])
    restored = await restore(node, spec, known_lsn=sent.end_lsn)
    assert await rows(node, restored) == [0, 1, 2, 3, 4, 5, 6]
    assert await rows(node, await restore(node, spec, lsn=between)) == [0, 1]

    # What came back is a timeline as any other, so it is backed up as any other, and most of it is in the store.
    later = await back_up(node, restored)
    assert later.new_chunks < later.chunks
    assert wal.parse_lsn(later.stop_lsn) > wal.parse_lsn(sent.end_lsn)


async def drill(node: Node, spec: ComputeSpec) -> Drilled:
    command = DrillRestore(
        project_id=spec.project_id, timeline_id=spec.timeline_id, uid=UID, pg_version=18, known_lsn=None, bytes=64 * MIB
    )
    found: Drilled = await node.ask(command)
    return found


async def test_a_restore_that_is_tried_finds_what_was_damaged_before_it_was_sent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store gives back faithfully what it was given: that it is a database, amcheck says."""
    monkeypatch.setattr(drilling, "SPARE_BYTES", 0)
    spec = msgspec.structs.replace(await node.create(), history_retention_s=DAYS * 86_400)
    session = await connect(await node.start(spec))
    # In its way, if it could be: the names are the tenant's, and what its expression does it would do as the superuser.
    await session.execute(
        "CREATE EXTENSION amcheck; CREATE VIEW public.v AS SELECT blkno FROM verify_heapam('pg_class')"
    )
    await session.execute(
        "CREATE FUNCTION public.trap(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS "
        "$$BEGIN IF NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() "
        "AND backend_type = 'client backend') THEN RAISE EXCEPTION 'executed'; END IF; RETURN n; END$$"
    )
    await session.execute(
        "CREATE TABLE public.t (n integer PRIMARY KEY); INSERT INTO public.t SELECT generate_series(1, 5000)"
    )
    await session.execute("CREATE INDEX ON public.t (public.trap(n))")
    table = await session.fetchval("SELECT pg_relation_filepath('public.t')")
    oid = await session.fetchval("SELECT 'public.t'::regclass::oid::int")
    database = await session.fetchval("SELECT oid::int FROM pg_database WHERE datname = current_database()")
    await session.close()
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    await back_up(node, spec)
    whole = await drill(node, spec)
    assert whole.damaged == []
    assert whole.databases == 4, "template0, template1, postgres and the tenant's"
    assert whole.relations > 4 * 150

    await node.start(spec)
    timelines = node.host.paths.mounts / spec.project_id / "timelines"
    assert [path.name for path in timelines.iterdir()] == [spec.timeline_id]
    with (timelines / spec.timeline_id / "data" / table).open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"\xff" * 100)
    await node.ask(StopCompute(endpoint_id=spec.endpoint_id))
    await back_up(node, spec)
    assert (await drill(node, spec)).damaged == [f"database {database}, relation {oid}: XX001"]
