"""A schema made anew, with real PostgreSQL: what comes along, what does not, and who is in the way."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import PreconditionError, UnprocessableError
from cloister.base.ids import new_endpoint_id, new_timeline_id, parse_project_id
from cloister.control.branches.tables import parse_tables
from cloister.node.commands import CloneTimeline, ComputeSpec, CopySchema, DumpSchemaAt, SchemaForm, StopCompute
from cloister.node.timelines.layout import Layout
from tests.fix_computes import EnginesOnHost, connect
from tests.node.real_node import UID, Node, running_node

pytestmark = pytest.mark.root

CANARY = "a-row-that-nobody-may-find"
PASSWORD = "plenty of bits in this Sentence 4711"


@pytest.fixture
async def node(engines: EnginesOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    async with running_node(engines, tmp_path, monkeypatch) as node:
        yield node


async def schema_of(node: Node, parent: ComputeSpec, *, keeps_passwords: bool) -> ComputeSpec:
    """As the API does it: a frozen copy, and what is made by way of it."""
    way_id, target_id = new_timeline_id(), new_timeline_id()
    await node.ask(
        CloneTimeline(
            project_id=parent.project_id, source_id=parent.timeline_id, target_id=way_id, uid=UID, is_frozen=True
        )
    )
    command = CopySchema(
        project_id=parent.project_id,
        source_id=way_id,
        target_id=target_id,
        pg_version=18,
        uid=UID,
        keeps_passwords=keeps_passwords,
    )
    await node.ask(command)
    await node.ask(command)
    return msgspec.structs.replace(parent, endpoint_id=new_endpoint_id(), timeline_id=target_id)


PLATFORM = """
    CREATE ROLE app LOGIN CREATEDB NOINHERIT CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';
    CREATE ROLE "o'dd ""role" NOLOGIN CREATEROLE;
    GRANT "o'dd ""role" TO app WITH ADMIN TRUE, INHERIT FALSE, SET TRUE;
    GRANT neon_superuser TO neondb_owner;
    ALTER ROLE app SET search_path = "o'dd schema", public;
    ALTER DATABASE neondb SET default_transaction_read_only = on;
    REVOKE CONNECT, TEMPORARY ON DATABASE neondb FROM PUBLIC;
    GRANT CONNECT ON DATABASE neondb TO app WITH GRANT OPTION;
"""

TENANT = f"""
    SET default_transaction_read_only = off; SET transaction_read_only = off;
    CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text CHECK (note <> ''));
    INSERT INTO public.orders (note) SELECT '{CANARY}' FROM generate_series(1, 100);
    CREATE INDEX ON public.orders (lower(note));
    CREATE EXTENSION citext SCHEMA public;
    CREATE SCHEMA "o'dd schema";
    CREATE TABLE "o'dd schema".theirs (word public.citext);
    CREATE EXTENSION hstore SCHEMA "o'dd schema";
    CREATE MATERIALIZED VIEW public.seen AS SELECT note FROM public.orders;
    CREATE FUNCTION public.evil() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN EXECUTE 'CREATE ROLE conquered SUPERUSER'; RETURN true; END $$;
    GRANT SELECT ON public.orders TO app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO app;
"""

ADMIN = """
    SET default_transaction_read_only = off; SET transaction_read_only = off;
    ALTER SCHEMA "o'dd schema" OWNER TO "o'dd ""role";
    ALTER TABLE "o'dd schema".theirs OWNER TO app;
    CREATE TABLE public.apps (n integer); ALTER TABLE public.apps OWNER TO app;
"""


async def test_everything_but_the_rows_comes_along(node: Node) -> None:
    parent = await node.create()
    info = await node.start(parent)
    admin = await connect(info, database="neondb")
    await admin.execute(PLATFORM)
    await admin.execute("""CREATE DATABASE "o'dd = data""base" OWNER app""")
    await as_owner(admin, TENANT)
    await admin.execute(ADMIN)
    await admin.execute(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE app PASSWORD '{PASSWORD}'")
    roles = (
        "SELECT rolname, rolpassword, rolcreatedb, rolinherit, rolconnlimit, rolvaliduntil FROM pg_authid ORDER BY 1"
    )
    labels = "SELECT provider, label FROM pg_shseclabel ORDER BY 2"
    before, vouched = await admin.fetch(roles), await admin.fetch(labels)
    assert vouched
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))

    child = await schema_of(node, parent, keeps_passwords=True)
    info = await node.start(child)
    admin = await connect(info, database="neondb")
    assert await admin.fetch(roles) == before
    assert await admin.fetch(labels) == vouched
    assert await admin.fetchval("SELECT count(*) FROM public.orders") == 0
    owners = """SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner) AS owner FROM pg_class c
                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')
                 AND n.nspname IN ('public', 'o''dd schema') ORDER BY 1, 2"""
    assert [tuple(row) for row in await admin.fetch(owners)] == [
        ("o'dd schema", "theirs", "app"),
        ("public", "apps", "app"),
        ("public", "orders", "neondb_owner"),
        ("public", "seen", "neondb_owner"),
    ]
    assert await value(admin, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'o''dd schema'") == (
        "o'dd \"role"
    )
    assert await value(admin, "SELECT pg_get_userbyid(extowner) FROM pg_extension WHERE extname = 'citext'") == (
        "neondb_owner"
    )
    # Whoever could not create there cannot now.
    assert not await value(admin, "SELECT has_schema_privilege('app', 'public', 'CREATE')")
    assert not await value(admin, "SELECT has_database_privilege('public', 'neondb', 'CONNECT')")
    assert await value(admin, "SELECT has_database_privilege('app', 'neondb', 'CONNECT WITH GRANT OPTION')")
    assert await value(admin, "SELECT has_table_privilege('app', 'public.orders', 'SELECT')")
    assert (
        await value(admin, "SELECT count(*) FROM pg_auth_members WHERE member = 'app'::regrole AND admin_option") == 1
    )
    assert await value(admin, "SHOW default_transaction_read_only") == "on"
    assert (
        await value(admin, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'o''dd = data\"base'")
        == "app"
    )
    assert await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'cloister%' ORDER BY 1") == [
        ("cloister_admin",),
        ("cloister_reader",),
    ]
    assert await value(admin, "SELECT count(*) FROM pg_roles WHERE rolsuper") == 1
    await admin.close()
    await node.ask(StopCompute(endpoint_id=child.endpoint_id))


async def test_neither_rows_nor_secrets_lie_in_its_files(node: Node) -> None:
    parent = await node.create()
    info = await node.start(parent)
    admin = await connect(info, database="neondb")
    await admin.execute(f"""
        CREATE TABLE public.t AS SELECT '{CANARY}'::text AS note; ANALYZE public.t; ALTER TABLE public.t OWNER TO neondb_owner;
        ALTER ROLE neondb_owner PASSWORD '{PASSWORD}';
    """)
    verifier = await value(admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'neondb_owner'")
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))
    child = await schema_of(node, parent, keeps_passwords=False)
    admin = await connect(await node.start(child), database="neondb")
    assert await value(admin, "SELECT count(rolpassword) FROM pg_authid") == 0
    assert await value(admin, "SELECT count(*) FROM public.t") == 0
    directory = Layout(mountpoint(node, child)).timeline(child.timeline_id).directory  # type: ignore[arg-type]
    await admin.close()
    searched = [path for path in directory.rglob("*") if path.is_file()]
    assert len(searched) > 500
    for path in searched:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
        assert verifier.encode() not in content, path
    await node.ask(StopCompute(endpoint_id=child.endpoint_id))


async def test_what_a_tenant_wrote_is_restored_as_no_superuser(node: Node) -> None:
    """The bound of a partition is checked by the function of a domain while it is made: that runs as whoever restores."""
    parent = await node.create()
    info = await node.start(parent)
    admin = await connect(info)
    await as_owner(
        admin,
        """
        CREATE FUNCTION public.trap(integer) RETURNS integer LANGUAGE plpgsql AS $$
        BEGIN
            IF current_user LIKE 'cloister%' OR current_setting('is_superuser') = 'on' THEN
                EXECUTE 'ALTER ROLE neondb_owner SUPERUSER';
            END IF;
            RETURN $1;
        END $$;
        CREATE DOMAIN public.bait AS integer CHECK (public.trap(VALUE) > 0);
        CREATE TABLE public.t (n public.bait, CHECK (public.trap(1) = 1)) PARTITION BY RANGE (n);
        CREATE TABLE public.t1 PARTITION OF public.t FOR VALUES FROM (1) TO (10);
        """,
    )
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))
    with pytest.raises(UnprocessableError, match="no role can be a superuser"):
        await schema_of(node, parent, keeps_passwords=True)


async def test_a_schema_is_told_as_it_was_and_nothing_of_it_stays(node: Node) -> None:
    parent = msgspec.structs.replace(await node.create(), history_retention_s=3600)
    info = await node.start(parent)
    admin = await connect(info)
    await admin.execute("""CREATE DATABASE "o'dd = data""base" """)
    await admin.execute(f"CREATE TABLE public.before AS SELECT '{CANARY}'::text AS note")
    lsn = await value(admin, "SELECT pg_current_wal_insert_lsn()::text")
    at = (await value(admin, "SELECT clock_timestamp()")).timestamp()
    await admin.execute("CREATE TABLE public.after (n integer)")

    async def ask(database: str, form: SchemaForm = "sql", **point: Any) -> str:
        command = DumpSchemaAt(
            project_id=parent.project_id,
            source_id=parent.timeline_id,
            target_id=new_timeline_id(),
            pg_version=18,
            uid=UID,
            database=database,
            form=form,
            **point,
        )
        return str((await node.ask(command)).text, "utf-8")

    for point in ({"lsn": lsn}, {"at": at}):
        text = await ask("neondb", **point)
        assert "CREATE TABLE public.before" in text
        assert "CREATE TABLE public.after" not in text
        assert CANARY not in text
    assert "database dump" in await ask("o'dd = data\"base", lsn=lsn)
    with pytest.raises(UnprocessableError, match='database "host=/tmp" does not exist'):
        await ask("host=/tmp", lsn=lsn)
    with pytest.raises(PreconditionError):
        await ask("neondb", lsn="0/10")
    layout = Layout(mountpoint(node, parent))
    assert [path.name for path in (layout.mountpoint / "timelines").iterdir()] == [parent.timeline_id]
    assert not list((layout.mountpoint / "unfinished").iterdir())
    await admin.close()
    await node.ask(StopCompute(endpoint_id=parent.endpoint_id))
    tables = parse_tables(await ask("neondb", "tables", at=time.time()))
    assert [(it.schema, it.name) for it in tables] == [("public", "after"), ("public", "before")]
    assert node.agent._volumes.mountpoint(parse_project_id(parent.project_id)) is None


def mountpoint(node: Node, spec: ComputeSpec) -> Path:
    found = node.agent._volumes.mountpoint(spec.project_id)  # type: ignore[arg-type]
    assert found is not None
    return found


async def as_owner(admin: Any, statements: str) -> None:
    await admin.execute("SET SESSION AUTHORIZATION neondb_owner")
    await admin.execute(statements)
    await admin.execute("RESET SESSION AUTHORIZATION")


async def value(session: Any, query: str) -> Any:
    return await session.fetchval(query)
