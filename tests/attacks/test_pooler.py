"""A tenant who owns its compute, or its pooler: what either gives them that they had not.

The reasoning is in docs/adr/0015. Whoever owns the compute can feed PgBouncer, a program in C, any bytes, so PgBouncer counts
as taken over as well; and whoever owns PgBouncer is that tenant's gateway to that tenant's compute, and nothing else.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.identities import POOLER_UID
from cloister.node.commands import ComputeInfo
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import AUTHENTICATION_CLEARTEXT
from tests.fix_computes import PATIENCE_S, EnginesOnHost, Node, connect, pooled, running_node, started

pytestmark = pytest.mark.root


@pytest.fixture
async def node(engines: EnginesOnHost) -> AsyncIterator[Node]:
    async with running_node(engines) as node:
        yield node


def pooler_of(info: ComputeInfo) -> Path:
    """Its directory under /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                is_its = info.endpoint_id in (entry / "cgroup").read_text()
                if is_its and f"\nUid:\t{POOLER_UID}\t" in (entry / "status").read_text():
                    return entry
    raise AssertionError("there is no pooler")


async def test_what_a_pooler_that_is_taken_over_has_in_reach(node: Node, engines: EnginesOnHost) -> None:
    """Its tenant's door, its own door, and no right over anything else."""
    info, other = await started(node), await started(node)
    clients = [await pooled(node, each) for each in (info, other)]
    process, neighbour = pooler_of(info), pooler_of(other)

    status = (process / "status").read_text()
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{capabilities}:\t0+$", status, re.MULTILINE), capabilities
    assert "\nNoNewPrivs:\t1\n" in status
    assert "\nSeccomp:\t2\n" in status
    shared_gid = engines.engines.doors.shared_gid
    assert f"\nGroups:\t{shared_gid} \n" in status

    for kind in ("net", "pid", "ipc", "uts", "mnt"):
        outside = [(each / "ns" / kind).readlink() for each in (Path("/proc/self"), neighbour)]
        assert (process / "ns" / kind).readlink() not in outside, kind
    places = {line.split()[4]: line.split()[5] for line in (process / "mountinfo").read_text().splitlines()}
    assert set(places) == {"/", "/dev/null", "/dev/urandom", "/etc/pgbouncer", "/pool", "/run/postgresql"}
    writable = {place for place, options in places.items() if "rw" in options.split(",")}
    assert writable == {"/pool", "/dev/null", "/dev/urandom"}
    root = process / "root"
    assert {path.name for path in (root / "run/postgresql").iterdir()} == {".s.PGSQL.5432", ".s.PGSQL.5432.lock"}
    assert {path.name for path in (root / "etc").iterdir()} == {"pgbouncer"}
    assert [path for path in (root / "sbin").iterdir() if path.name not in ("pgbouncer", "setpriv")] == []
    for client in clients:
        await client.close()


async def test_nothing_secret_lies_in_its_files_or_on_its_command_line(node: Node, engines: EnginesOnHost) -> None:
    info = await started(node)
    admin = await connect(info)
    await admin.execute("ALTER ROLE neondb_owner PASSWORD 'b7Qz-canary-of-the-pooler-9vTm'")
    verifier = await admin.fetchval("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = 'neondb_owner'")
    assert verifier.startswith("SCRAM-SHA-256$")
    client = await pooled(node, info)
    files = engines.paths.run / "pooler-records" / info.endpoint_id
    text = "".join(path.read_text() for path in files.rglob("*") if path.is_file())
    assert '"neondb_owner" ""' in text
    assert "canary" not in text
    assert "SCRAM" not in text
    assert files.parent.stat().st_mode & 0o077 == 0
    process = pooler_of(info)
    assert (process / "cmdline").read_bytes() == b"/sbin/pgbouncer\0/etc/pgbouncer/pgbouncer.ini\0"
    assert b"canary" not in (process / "environ").read_bytes()
    await client.close()
    await admin.close()


async def test_a_compute_sees_nothing_of_its_pooler(node: Node) -> None:
    """Its superuser reads what the process may read."""
    info = await started(node)
    client = await pooled(node, info)
    admin = await connect(info)
    places = [row[0] for row in await admin.fetch("SELECT pg_catalog.pg_ls_dir('/')")]
    assert "data" in places
    assert "pool" not in places
    for path in ("/etc/pgbouncer/users.txt", "/etc/pgbouncer/pgbouncer.ini"):
        with pytest.raises(asyncpg.UndefinedFileError):
            await admin.fetchval("SELECT pg_catalog.pg_read_file($1)", path)
    await client.close()
    await admin.close()


async def test_a_server_that_asks_the_pooler_for_a_password_gets_none(node: Node) -> None:
    """The tenant's own program listens in the server's place, and asks in clear."""
    info = await started(node)
    socket = Path(info.socket_dir) / ".s.PGSQL.5432"
    socket.unlink()
    said = bytearray()
    was_answered = asyncio.Event()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup_bytes = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(startup_bytes - 4)
        writer.write(AUTHENTICATION_CLEARTEXT)
        said.extend(await reader.read(8192))
        writer.close()
        was_answered.set()

    server = await asyncio.start_unix_server(ask, socket)
    socket.chmod(0o777)
    client = asyncio.create_task(pooled(node, info))
    async with asyncio.timeout(PATIENCE_S):
        await was_answered.wait()
    assert bytes(said) in (b"", message(b"p", b"\0")), "not a word, or an empty one"
    await abandon(client)
    server.close()
    await server.wait_closed()


async def test_a_link_in_the_place_of_a_server_leads_the_pooler_nowhere(node: Node) -> None:
    """Every compute lets a pooler's uid in, so it must not be led from one to another. No compute can make a link (the filter
    refuses it, tests/attacks/test_sandbox_escape.py); had one made it all the same, what it names is not there."""
    info, other = await started(node), await started(node)
    await (await pooled(node, info)).close()
    target = Path(other.socket_dir) / ".s.PGSQL.5432"
    assert target.is_socket()
    root = pooler_of(info) / "root"
    assert (root / "run/postgresql/.s.PGSQL.5432").is_socket(), "so it is the pooler's view that is looked at"
    assert not (root / target.relative_to("/")).exists()
    assert not (root / target.parent.parent.relative_to("/")).exists()


async def abandon(client: "asyncio.Task[Any]") -> None:
    """It waits for a server that PgBouncer tries again and again."""
    client.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError):
        await client


async def test_a_role_whose_name_is_configuration_is_a_name(node: Node) -> None:
    info = await started(node)
    await (await pooled(node, info)).close()
    evil = 'x" ""\n"cloister_admin'
    directory = await node.computes.pool(info.endpoint_id, info.generation, evil)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncpg.PostgresError, match="trust"):
            await asyncpg.connect(host=directory, user="cloister_admin", database="neondb")
        # Known or not yet: PostgreSQL has no such role.
        with pytest.raises(asyncpg.PostgresError, match=r"does not exist|trust"):
            await asyncpg.connect(host=directory, user=evil, database="neondb")
