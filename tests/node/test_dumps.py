"""pg_dump in its sandbox, on real computes: what it says, what ends it, and what it cannot do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from cloister.base.errors import ExhaustedError, UnavailableError, UnprocessableError
from cloister.base.identities import READER_UID
from cloister.control.branches.tables import Column, Constraint, Referenced, Table, parse_tables
from cloister.node import dumps as dumps_module
from cloister.node.dumps import Dumps
from cloister.node.sandbox import cgroups as cgroups_module
from cloister.node.sandbox.cgroups import CPU_PERIOD_US, detect
from tests.fix_computes import (
    API_UID,
    GATEWAY_UID,
    MAJOR,
    PATIENCE_S,
    SHARED_GID,
    EnginesOnHost,
    Node,
    connect,
    knock,
    limits_of,
    members_of,
    running_node,
)

pytestmark = pytest.mark.root


@pytest.fixture
async def node(engines: EnginesOnHost) -> AsyncIterator[Node]:
    async with running_node(engines) as node:
        yield node


@pytest.fixture
def dumps(engines: EnginesOnHost) -> Dumps:
    return Dumps(engines.paths, engines.engines, detect(engines.paths.instance))


async def test_a_schema_is_told_without_its_secrets(node: Node, dumps: Dumps) -> None:
    spec = node.new_compute()
    info = await node.start(spec)
    session = await connect(info, database="neondb")
    await session.execute("""
        CREATE TABLE public.orders (id bigint PRIMARY KEY, note text);
        INSERT INTO public.orders VALUES (1, 'a canary in a coal mine');
        CREATE EXTENSION postgres_fdw;
        CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'example.com');
        CREATE USER MAPPING FOR neondb_owner SERVER elsewhere OPTIONS (user 'u', password 'hidden-in-the-mapping');
        CREATE SUBSCRIPTION s CONNECTION 'host=example.com password=hidden-in-the-subscription' PUBLICATION p
            WITH (connect = false);
    """)
    await session.execute("""CREATE DATABASE "o'dd = na""me" TEMPLATE template0""")
    text = (await dumps.schema(info, MAJOR, "neondb")).decode()
    assert "CREATE TABLE public.orders" in text
    assert "canary" not in text
    assert "hidden" not in text
    odd = await dumps.schema(info, MAJOR, "o'dd = na\"me")
    assert b"database dump" in odd
    assert b"orders" not in odd
    await session.close()


IN_THE_WAY = """
    CREATE SCHEMA trap;
    CREATE FUNCTION trap.format_type(oid, integer) RETURNS text LANGUAGE sql RETURN 'trapped';
    CREATE FUNCTION trap.never(oid, oid) RETURNS boolean LANGUAGE sql RETURN false;
    CREATE OPERATOR trap.= (FUNCTION = trap.never, LEFTARG = oid, RIGHTARG = oid);
    CREATE TABLE trap.pg_class (n integer);
    ALTER DATABASE neondb SET search_path = trap, public, pg_catalog;
    ALTER DATABASE neondb SET quote_all_identifiers = on;
    ALTER DATABASE neondb SET statement_timeout = '1ms';
    ALTER DATABASE neondb SET client_encoding = 'LATIN1';
"""

TABLES = """
    CREATE TYPE public.mood AS ENUM ('calm');
    CREATE DOMAIN public.given AS text NOT NULL;
    CREATE TABLE public.customers (region integer, id bigint, name public.given, dropped text, PRIMARY KEY (region, id))
        PARTITION BY RANGE (region);
    CREATE TABLE public.customers_1 PARTITION OF public.customers FOR VALUES FROM (0) TO (10);
    CREATE TABLE public.customers_2 PARTITION OF public.customers FOR VALUES FROM (10) TO (20);
    ALTER TABLE public.customers DROP COLUMN dropped;
    CREATE TABLE public."Größe ""x"" \\ y" (
        customer bigint, price numeric(10, 2), twice numeric GENERATED ALWAYS AS (price * 2) STORED, mood public.mood[],
        region integer NOT NULL, UNIQUE (price, mood), CHECK (price > 0),
        CONSTRAINT whose FOREIGN KEY (region, customer) REFERENCES public.customers (region, id)
    );
    CREATE TABLE public.bare ();
    CREATE VIEW public.looked AS SELECT 1 AS n;
    CREATE TEMPORARY TABLE passing (n integer);
    CREATE EXTENSION hstore SCHEMA public;
    CREATE TABLE public.its_own (n integer);
    ALTER EXTENSION hstore ADD TABLE public.its_own;
"""


async def test_tables_are_told_whatever_a_tenant_has_put_in_the_way(node: Node, dumps: Dumps) -> None:
    info = await node.start(node.new_compute())
    session = await connect(info, database="neondb")
    assert parse_tables((await dumps.schema(info, MAJOR, "neondb", "tables")).decode()) == []
    await session.execute(TABLES)
    before = await dumps.schema(info, MAJOR, "neondb", "tables")
    await session.execute(IN_THE_WAY)
    said = await dumps.schema(info, MAJOR, "neondb", "tables")
    assert said.startswith(before)
    odd, bare, whole, part, *_, trap = parse_tables(said.decode())
    assert trap == Table("trap", "pg_class", [Column("n", "integer", nullable=True, generated=False)], [])
    assert bare == Table("public", "bare", [], [])
    assert (odd.schema, odd.name) == ("public", 'Größe "x" \\ y')
    assert [(it.name, it.type, it.nullable, it.generated) for it in odd.columns] == [
        ("customer", "bigint", True, False),
        ("price", "numeric(10,2)", True, False),
        ("twice", "numeric", True, True),
        ("mood", "public.mood[]", True, False),
        ("region", "integer", False, False),
    ]
    unique, whose = odd.constraints
    assert (unique.type, unique.columns) == ("unique", ["price", "mood"])
    assert whose == Constraint(
        "foreign_key", ["region", "customer"], "whose", Referenced("public", "customers", ["region", "id"])
    )
    assert [(it.name, it.nullable) for it in whole.columns] == [("region", False), ("id", False), ("name", False)]
    assert [(it.type, it.columns) for it in whole.constraints] == [("primary_key", ["region", "id"])]
    assert (part.name, part.columns) == ("customers_1", whole.columns)
    with pytest.raises(UnprocessableError, match='database "host=/tmp" does not exist'):
        await dumps.schema(info, MAJOR, "host=/tmp", "tables")
    await session.close()


async def test_what_pg_dump_cannot_do_is_told_in_its_words(node: Node, dumps: Dumps) -> None:
    info = await node.start(node.new_compute())
    session = await connect(info, database="neondb")
    with pytest.raises(UnprocessableError, match='database "host=/tmp" does not exist'):
        await dumps.schema(info, MAJOR, "host=/tmp")
    await session.execute("REVOKE CONNECT ON DATABASE neondb FROM PUBLIC")
    with pytest.raises(UnprocessableError, match="permission denied for database"):
        await dumps.schema(info, MAJOR, "neondb")
    await session.execute("GRANT CONNECT ON DATABASE neondb TO pg_read_all_data")
    assert b"database dump" in await dumps.schema(info, MAJOR, "neondb")
    await session.close()


async def test_a_schema_that_is_too_large_ends_it(node: Node, dumps: Dumps, monkeypatch: pytest.MonkeyPatch) -> None:
    info = await node.start(node.new_compute())
    await (await connect(info)).close()
    monkeypatch.setattr(dumps_module, "SCHEMA_BYTES_MAX", 100)
    with pytest.raises(ExhaustedError):
        await dumps.schema(info, MAJOR, "neondb")
    assert _left() == {}


async def test_a_server_that_never_answers_holds_it_only_for_so_long(
    node: Node, dumps: Dumps, monkeypatch: pytest.MonkeyPatch, engines: EnginesOnHost
) -> None:
    """A compute that was taken over listens in the server's place. Meanwhile, it has its limits, and is within them."""
    monkeypatch.setattr(cgroups_module, "HOST_CORES", 4)
    info = await node.start(node.new_compute())
    await (await connect(info)).close()
    socket = Path(info.socket_dir) / ".s.PGSQL.5432"
    socket.unlink()
    heard = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(listen, socket)
    socket.chmod(0o777)
    monkeypatch.setattr(dumps_module, "DUMP_TIMEOUT_S", 1.0)
    dumping = asyncio.create_task(dumps.schema(info, MAJOR, "neondb"))
    async with asyncio.timeout(PATIENCE_S):
        await heard.wait()
    (group,) = [name for name in detect(engines.paths.instance).names() if name.startswith("dump-")]
    memory, processes, cpu = dumps_module._MEMORY_BYTES, dumps_module._PROCESSES_MAX, CPU_PERIOD_US
    assert limits_of(engines.paths, group) == (str(memory), str(processes), str(cpu))
    (dumper,) = [pid for pid, name in _left().items() if name == "pg_dump"]
    assert members_of(engines.paths, group) >= {dumper}
    with pytest.raises(UnavailableError):
        await dumping
    assert _left() == {}
    assert not list((engines.paths.run / "dumps").iterdir())
    server.close()


async def test_the_reader_reads_and_nobody_else_becomes_it(node: Node) -> None:
    spec = node.new_compute()
    info = await node.start(spec)
    session = await connect(info, database="neondb")
    row = await session.fetchrow("SELECT * FROM pg_catalog.pg_authid WHERE rolname = 'cloister_reader'")
    rights = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
    assert [right for right in rights if row[right]] == []
    assert row["rolpassword"] is None
    await session.execute("SET SESSION AUTHORIZATION neondb_owner")
    for statement in (
        "GRANT cloister_reader TO neondb_owner",
        "ALTER ROLE cloister_reader SUPERUSER",
        "ALTER ROLE cloister_reader PASSWORD 'Kx9#mP2$vL7@qR4!'",
        "SET ROLE cloister_reader",
    ):
        with pytest.raises(asyncpg.PostgresError):
            await session.execute(statement)
    await session.close()
    assert knock(info, uid=READER_UID, gid=SHARED_GID, user="cloister_reader") == "in"
    for uid, user in (
        (READER_UID, "cloister_admin"),
        (READER_UID, "neondb_owner"),
        (API_UID, "cloister_reader"),
        (GATEWAY_UID, "cloister_reader"),
        (spec.uid, "cloister_reader"),
    ):
        assert "authentication failed" in knock(info, uid=uid, gid=SHARED_GID, user=user), (uid, user)
    assert knock(info, uid=READER_UID, gid=READER_UID, user="cloister_reader") == "PermissionError"


def _left() -> dict[int, str]:
    """Processes of the reader's uid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"Uid:\t{READER_UID}\t" in (entry / "status").read_text():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found
