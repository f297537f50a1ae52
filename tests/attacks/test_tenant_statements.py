"""T1 to T6 of the threat model, as statements: a tenant with CREATEROLE and CREATEDB on a real compute, and who refuses it.

Every statement of the tables below is run twice. With the guard every one is refused. On a compute without it those that
only the guard stands against succeed, which is what makes this a test of the guard; the others are PostgreSQL's or the
sandbox's to refuse, and stay refused.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from cloister.node.postgres import engines as engines_module
from cloister.node.postgres import tuning
from cloister.node.postgres.extensions import OFFERED
from tests.fix_computes import GATEWAY_UID, SHARED_GID, EnginesOnHost, connect, running_node

pytestmark = pytest.mark.root

GUARD, POSTGRESQL = "guard", "PostgreSQL"


@dataclass(frozen=True)
class Attack:
    threat: str
    sql: str
    says: str
    """Part of the guard's message; empty where PostgreSQL is left to answer."""
    by: str = GUARD
    """Who is the only one to refuse it; PostgreSQL: it would without the guard as well."""
    first: list[str] = field(default_factory=list)


def borrowed(sql: str) -> str:
    """Run with the rights of the superuser, by a function such as an extension of the future might have."""
    return f"SELECT borrowed($${sql}$$)"


TENANT_CANNOT_CHANGE = "cannot be changed"

ATTACKS = [
    # T1: programs.
    Attack("T1", "COPY (SELECT 1) TO PROGRAM 'id'", "not available", POSTGRESQL),
    Attack("T1", "GRANT pg_execute_server_program TO neondb_owner", "not available", POSTGRESQL),
    Attack("T1", "CREATE ROLE evil IN ROLE pg_execute_server_program", "not available", POSTGRESQL),
    Attack("T1", borrowed("GRANT pg_execute_server_program TO neondb_owner"), "rights of a superuser"),
    Attack("T1", "CREATE ROLE evil IN ROLE pg_use_reserved_connections", "not available", POSTGRESQL),
    # T2: code of any kind.
    Attack("T2", "CREATE LANGUAGE plpython3u", "not available", POSTGRESQL),  # to PostgreSQL, CREATE EXTENSION
    Attack("T2", "CREATE LANGUAGE e HANDLER plpgsql_call_handler", "no language can be created", POSTGRESQL),
    Attack("T2", "CREATE FUNCTION e() RETURNS int LANGUAGE c AS 'plpgsql', 'e'", "functions in C", POSTGRESQL),
    Attack(
        "T2",
        "CREATE FUNCTION e(text) RETURNS text LANGUAGE internal AS 'pg_read_file_all'",
        "functions in C",
        POSTGRESQL,
    ),
    Attack(
        "T2",
        borrowed("CREATE FUNCTION e(text) RETURNS text LANGUAGE internal AS 'pg_read_file_all'"),
        "rights of a superuser",
    ),
    Attack("T2", "LOAD '$libdir/plugins/e'", "LOAD is not available", POSTGRESQL),
    Attack("T2", borrowed("LOAD 'pg_prewarm'"), "rights of a superuser"),
    # T3: files.
    Attack("T3", "COPY (SELECT 1) TO '/data/e'", "not available", POSTGRESQL),
    Attack("T3", "CREATE TEMP TABLE e (t text); COPY e FROM '/etc/passwd'", "not available", POSTGRESQL),
    Attack("T3", borrowed("COPY (SELECT 1) TO '/data/e'"), "rights of a superuser"),
    Attack("T3", "GRANT pg_read_server_files TO neondb_owner", "not available", POSTGRESQL),
    Attack("T3", "GRANT pg_write_server_files TO neondb_owner", "not available", POSTGRESQL),
    Attack("T3", "SELECT pg_read_file('/etc/passwd')", "", POSTGRESQL),
    Attack("T3", "SELECT pg_read_binary_file('postgresql.auto.conf')", "", POSTGRESQL),
    Attack("T3", "SELECT pg_ls_dir('/')", "", POSTGRESQL),
    Attack("T3", "SELECT lo_import('/etc/passwd')", "", POSTGRESQL),
    Attack("T3", "SELECT lo_export(lo_creat(-1), '/data/e')", "", POSTGRESQL),
    Attack("T3", "CREATE TABLESPACE e LOCATION '/data/e'", "tablespaces are not available", POSTGRESQL),
    Attack("T3", borrowed("CREATE TABLE e (t text) TABLESPACE pg_global"), "rights of a superuser", POSTGRESQL),
    # T4: connections.
    Attack("T4", "CREATE EXTENSION pageinspect", "not available", POSTGRESQL),
    Attack("T4", borrowed("CREATE EXTENSION pageinspect"), "rights of a superuser"),
    Attack("T4", "CREATE FOREIGN DATA WRAPPER e", "", POSTGRESQL),
    Attack(
        "T4",
        "CREATE SUBSCRIPTION e CONNECTION 'host=/run/postgresql user=cloister_admin' PUBLICATION e WITH (connect = false)",
        "subscriptions are not available",
        POSTGRESQL,
    ),
    Attack(
        "T4",
        "CREATE SUBSCRIPTION e CONNECTION 'host=/egress/db.example.com user=u password=p' PUBLICATION e "
        "WITH (connect = false)",
        "subscriptions are not available",
        POSTGRESQL,
    ),
    Attack("T4", "ALTER SUBSCRIPTION e CONNECTION 'host=/egress/db.example.com'", "subscriptions are", POSTGRESQL),
    Attack("T4", "GRANT pg_create_subscription TO neondb_owner", "not available", POSTGRESQL),
    # T5: extensions.
    Attack("T5", "CREATE EXTENSION pageinspect", "not available", POSTGRESQL),
    Attack("T5", "CREATE EXTENSION file_fdw", "not available", POSTGRESQL),
    Attack("T5", "CREATE EXTENSION hstore SCHEMA pg_catalog", "in this schema"),
    Attack("T5", "CREATE EXTENSION hstore SCHEMA information_schema", "in this schema"),
    Attack("T5", "CREATE EXTENSION earthdistance SCHEMA pg_catalog CASCADE", "in this schema"),
    Attack("T5", "CREATE EXTENSION citext", "in this schema", first=["SET search_path = pg_catalog"]),
    Attack("T5", "CREATE EXTENSION hstore VERSION '1.4'", "version of an extension"),
    Attack(
        "T5", "ALTER EXTENSION hstore UPDATE TO '1.8'", "version of an extension", first=["CREATE EXTENSION hstore"]
    ),
    Attack(
        "T5",
        "ALTER EXTENSION hstore ADD FUNCTION mine()",
        "members of extension",
        first=["CREATE EXTENSION hstore", "CREATE FUNCTION mine() RETURNS int RETURN 1"],
    ),
    # T6: becoming somebody else.
    Attack("T6", "CREATE ROLE evil SUPERUSER", "no role can be a superuser", POSTGRESQL),
    Attack("T6", "ALTER ROLE neondb_owner SUPERUSER", "no role can be a superuser", POSTGRESQL),
    Attack("T6", borrowed("ALTER ROLE neondb_owner SUPERUSER"), "rights of a superuser"),
    Attack("T6", borrowed("EXPLAIN ANALYZE CREATE TABLE e AS SELECT 1"), "rights of a superuser"),
    Attack("T6", borrowed("UPDATE pg_authid SET rolsuper = true WHERE rolname = 'neondb_owner'"), "system catalogs"),
    Attack(
        "T6", borrowed("INSERT INTO pg_auth_members VALUES (99999, 10, 16384, 10, true, true, true)"), "system catalogs"
    ),
    Attack("T6", borrowed("SET allow_system_table_mods = on"), "rights of a superuser"),
    Attack("T6", borrowed("DO 'BEGIN EXECUTE ''ALTER ROLE neondb_owner SUPERUSER''; END'"), "rights of a superuser"),
    Attack("T6", "SET ROLE cloister_admin", "", POSTGRESQL),
    Attack("T6", "SET SESSION AUTHORIZATION cloister_admin", "", POSTGRESQL),
    Attack("T6", "GRANT cloister_admin TO neondb_owner", "platform's to give", POSTGRESQL),
    Attack("T6", "GRANT neon_superuser TO mine", "platform's to give", POSTGRESQL, first=["CREATE ROLE mine"]),
    Attack("T6", "GRANT mine TO cloister_admin", TENANT_CANNOT_CHANGE, first=["CREATE ROLE mine"]),
    Attack("T6", "CREATE ROLE mine ROLE cloister_admin", TENANT_CANNOT_CHANGE),
    Attack("T6", "ALTER ROLE cloister_admin PASSWORD 'x'", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "ALTER ROLE neon_superuser LOGIN", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack(
        "T6", "ALTER ROLE neon_superuser SET work_mem = '64kB'", TENANT_CANNOT_CHANGE, first=["SET ROLE neon_superuser"]
    ),
    Attack(
        "T6", "ALTER ROLE CURRENT_USER SET work_mem = '64kB'", TENANT_CANNOT_CHANGE, first=["SET ROLE neon_superuser"]
    ),
    Attack("T6", "ALTER ROLE neon_superuser PASSWORD NULL", TENANT_CANNOT_CHANGE, first=["SET ROLE neon_superuser"]),
    Attack("T6", "DROP OWNED BY neon_superuser", TENANT_CANNOT_CHANGE),
    Attack("T6", "DROP ROLE neon_superuser", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "ALTER ROLE neon_superuser RENAME TO mine", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "COMMENT ON ROLE cloister_admin IS 'x'", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "REASSIGN OWNED BY cloister_admin TO neondb_owner", "", POSTGRESQL),
    Attack("T6", "CREATE ROLE cloister_gateway LOGIN", "is reserved"),
    Attack("T6", "CREATE ROLE postgres", "is reserved"),
    Attack("T6", "CREATE USER cloud_admin", "is reserved"),
    Attack("T6", "CREATE GROUP zenith_admin", "is reserved"),
    Attack("T6", "ALTER ROLE mine RENAME TO cloister_api", "is reserved", first=["CREATE ROLE mine"]),
    Attack("T6", "ALTER DATABASE neondb SET role = 'mine'", "for a database", first=["CREATE ROLE mine"]),
    Attack("T6", "ALTER ROLE ALL IN DATABASE neondb SET role = 'mine'", "for a database", first=["CREATE ROLE mine"]),
    Attack("T6", "ALTER DATABASE neondb SET local_preload_libraries = 'e'", "cannot be set here"),
    Attack("T6", "ALTER ROLE neondb_owner SET password_encryption = 'md5'", "cannot be set here"),
    Attack("T6", "ALTER DATABASE neondb SET log_parameter_max_length_on_error = -1", "cannot be set here"),
    Attack("T6", "ALTER DATABASE neondb SET event_triggers = off", "cannot be set here", POSTGRESQL),
    Attack("T6", "SECURITY LABEL ON ROLE neondb_owner IS 'checked'", "labels are not available", POSTGRESQL),
    Attack("T6", "ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM is not available", POSTGRESQL),
    Attack("T6", "ALTER DATABASE postgres SET search_path = public", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "DROP DATABASE postgres", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack("T6", "ALTER DATABASE template1 OWNER TO neondb_owner", TENANT_CANNOT_CHANGE, POSTGRESQL),
    Attack(
        "T6",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION e()",
        "",
        POSTGRESQL,
        first=["CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"],
    ),
    Attack("T6", "CREATE FUNCTION pg_catalog.now(int) RETURNS int RETURN 1", "", POSTGRESQL),
    Attack("T6", "CREATE CAST (text AS oid) WITH INOUT AS IMPLICIT", "", POSTGRESQL),
    Attack("T6", "SET session_replication_role = replica", "", POSTGRESQL),
    Attack("T6", "SET guard.extensions = 'dblink'", ""),
    Attack("T6", "SELECT set_config('guard.space_reserve', '0', false)", ""),
]

ALLOWED = [
    "CREATE EXTENSION vector",
    "CREATE ROLE mine CREATEDB CREATEROLE BYPASSRLS REPLICATION LOGIN",
    "GRANT mine TO neon_superuser",
    "GRANT pg_monitor TO mine",
    "ALTER ROLE mine SET role = 'neondb_owner'",
    "ALTER ROLE mine RENAME TO still_mine",
    "COMMENT ON ROLE still_mine IS 'x'",
    "DROP OWNED BY still_mine",
    "DROP ROLE still_mine",
    "ALTER DATABASE neondb SET search_path = public",
    "ALTER DATABASE neondb RESET ALL",
    "CREATE FUNCTION e() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
    "CREATE PUBLICATION p",
    "DROP PUBLICATION p",
    "SELECT pg_create_physical_replication_slot('s', true)",
    "SELECT pg_drop_replication_slot('s')",
    "CREATE TABLE e (v vector(3))",
    "CREATE INDEX ON e USING hnsw (v vector_l2_ops)",
    "DROP TABLE e",
    "DROP EXTENSION vector",
]


@dataclass
class Server:
    info: Any

    def tenant(self, database: str = "neondb") -> psycopg.Connection[Any]:
        """As the gateway logs in for a client that it has authenticated."""
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(SHARED_GID)
        os.seteuid(GATEWAY_UID)
        try:
            return psycopg.connect(host=self.info.socket_dir, user="neondb_owner", dbname=database, autocommit=True)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    def admin(self, database: str = "neondb") -> psycopg.Connection[Any]:
        return psycopg.connect(host=self.info.socket_dir, user="cloister_admin", dbname=database, autocommit=True)


@contextlib.asynccontextmanager
async def running(engines: EnginesOnHost) -> AsyncIterator[Server]:
    async with running_node(engines) as node:
        info = await node.start(node.new_compute())
        await (await connect(info)).close()
        server = Server(info)
        with server.admin() as admin:
            admin.execute(
                "CREATE FUNCTION public.borrowed(text) RETURNS void SECURITY DEFINER LANGUAGE plpgsql "
                "AS 'BEGIN EXECUTE $1; END'"
            )
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(engines: EnginesOnHost) -> AsyncIterator[Server]:
    async with running(engines) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unguarded(engines: EnginesOnHost) -> AsyncIterator[Server]:
    """The same compute, but for the guard."""
    original = tuning.command_line

    def without_guard(*arguments: Any) -> list[str]:
        off = {"shared_preload_libraries=guard": "shared_preload_libraries=", "archive_mode=on": "archive_mode=off"}
        return [off.get(word, word) for word in original(*arguments)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines_module, "command_line", without_guard)
        async with running(engines) as server:
            yield server


def attempt(session: psycopg.Connection[Any], attack: Attack) -> psycopg.Error | None:
    """In a transaction that is taken back. What refused the attack itself, if anything did."""
    session.execute("BEGIN")
    try:
        for statement in attack.first:
            session.execute(statement.encode())
        try:
            session.execute(attack.sql.encode())
        except psycopg.Error as error:
            return error
        return None
    finally:
        session.execute("ROLLBACK")
        session.execute("DISCARD ALL")


def ids(attack: Attack) -> str:
    return f"{attack.threat} {attack.sql[:70]}"


@pytest.mark.parametrize("attack", ATTACKS, ids=ids)
def test_with_the_guard_it_is_refused(guarded: Server, attack: Attack) -> None:
    with guarded.tenant() as session:
        error = attempt(session, attack)
    assert error is not None
    if attack.says:
        assert error.sqlstate == "42501"
        assert attack.says in (error.diag.message_primary or "")
        assert error.diag.message_hint


@pytest.mark.parametrize("attack", ATTACKS, ids=ids)
def test_without_the_guard_only_what_postgresql_refuses_is(unguarded: Server, attack: Attack) -> None:
    with unguarded.tenant() as session:
        error = attempt(session, attack)
    assert (error is None) == (attack.by == GUARD), error


ROUTES = {
    "a DO block": "DO $route$BEGIN EXECUTE $what${}$what$; END$route$",
    "a function": "CREATE FUNCTION route() RETURNS void LANGUAGE plpgsql AS $route$BEGIN EXECUTE $what${}$what$; END$route$;"
    "SELECT route()",
    "a procedure": "CREATE PROCEDURE route() LANGUAGE plpgsql AS $route$BEGIN EXECUTE $what${}$what$; END$route$;CALL route()",
    "SECURITY DEFINER": "CREATE FUNCTION route() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS "
    "$route$BEGIN EXECUTE $what${}$what$; END$route$;SELECT route()",
    "CREATE SCHEMA": "CREATE SCHEMA route; {}",
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("CREATE ROLE cloister_x", "is reserved"),
        ("CREATE EXTENSION hstore SCHEMA pg_catalog", "in this schema"),
        ("DROP OWNED BY neon_superuser", TENANT_CANNOT_CHANGE),
    ],
)
def test_no_route_leads_around_it(guarded: Server, route: str, sql: str, says: str) -> None:
    with guarded.tenant() as session:
        error = attempt(session, Attack("T6", ROUTES[route].format(sql), says))
    assert error is not None
    assert error.sqlstate == "42501"
    assert says in (error.diag.message_primary or "")


def test_a_prepared_statement_does_not_lead_around_it(guarded: Server) -> None:
    with guarded.tenant() as session, pytest.raises(psycopg.errors.InsufficientPrivilege, match="is reserved"):
        session.execute("CREATE ROLE cloister_x", prepare=True)


def test_honest_statements_go_through(guarded: Server) -> None:
    with guarded.tenant() as session:
        for statement in ALLOWED:
            session.execute(statement.encode())


@pytest.mark.parametrize("extension", sorted(OFFERED - {"plpgsql"}))
def test_every_extension_of_the_list_can_be_created_by_a_tenant(guarded: Server, extension: str) -> None:
    with guarded.tenant() as session:
        available = session.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]).fetchone()
        if available is None:
            pytest.skip("not part of this installation")
        session.execute(f'CREATE EXTENSION "{extension}" CASCADE'.encode())
        session.execute(f'DROP EXTENSION "{extension}"'.encode())
        session.execute("DROP EXTENSION IF EXISTS cube")


PLANTED = """
CREATE TABLE IF NOT EXISTS public.ran (what text, is_superuser text);
CREATE FUNCTION public.record(what text) RETURNS void LANGUAGE sql
    AS 'INSERT INTO public.ran VALUES (what, pg_catalog.current_setting(''is_superuser''))';
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN PERFORM public.record(''format''); RETURN pg_catalog.format($1, $2); END';
CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN PERFORM public.record(''set_config''); RETURN pg_catalog.set_config($1, $2, $3); END';
CREATE FUNCTION public.same(name, name) RETURNS boolean LANGUAGE plpgsql
    AS 'BEGIN PERFORM public.record(''=''); RETURN $1 OPERATOR(pg_catalog.=) $2; END';
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.same);
CREATE FUNCTION public.joined(text, text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN PERFORM public.record(''||''); RETURN pg_catalog.concat($1, $2); END';
CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = public.joined);
"""


def test_what_lies_in_the_way_of_an_extensions_script_is_never_run_by_it(guarded: Server) -> None:
    with guarded.tenant() as session:
        session.execute("BEGIN")
        session.execute(PLANTED)
        session.execute("SELECT 'a'::name OPERATOR(public.=) 'b'::name")
        for extension in sorted(OFFERED - {"plpgsql"}):
            if session.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]).fetchone():
                session.execute(f'CREATE EXTENSION IF NOT EXISTS "{extension}" CASCADE'.encode())
        found = session.execute("SELECT what, is_superuser FROM public.ran").fetchall()
        session.execute("ROLLBACK")
    assert found == [("=", "off")], "the trap works, and only its owner stepped into it"


@pytest.mark.parametrize(
    "function",
    ["earth() RETURNS float8", "sec_to_gc(float8) RETURNS float8", "ll_to_earth(float8, float8) RETURNS int"],
)
def test_an_extension_takes_over_nothing_that_is_there(guarded: Server, function: str) -> None:
    """CVE-2022-2625: a tenant makes an object first, and the script, with CREATE OR REPLACE, makes it its own."""
    with guarded.tenant() as session:
        session.execute("BEGIN")
        session.execute("CREATE EXTENSION cube")
        session.execute(f"CREATE FUNCTION {function} RETURN 1".encode())
        with pytest.raises(psycopg.errors.DuplicateFunction), session.transaction():
            session.execute("CREATE EXTENSION earthdistance")
        owner = session.execute(
            "SELECT proowner::regrole::text FROM pg_proc WHERE oid = %s::regprocedure",
            [function.split(" RETURNS ", maxsplit=1)[0]],
        ).fetchone()
        session.execute("ROLLBACK")
    assert owner == ("neondb_owner",)


def test_the_platforms_own_session_may_do_what_tenants_may_not(guarded: Server) -> None:
    with guarded.admin("postgres") as session:
        session.execute("CREATE ROLE cloister_made IN ROLE neon_superuser")
        session.execute("DROP ROLE cloister_made")


def test_nothing_of_a_refused_statement_is_logged(guarded: Server) -> None:
    with guarded.tenant() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("DO $$BEGIN EXECUTE $e$CREATE ROLE cloister_y PASSWORD 'xyzzy-plugh-4711'$e$; END$$")
    log = Path(f"/proc/{guarded.info.pid}/fd/2").resolve().read_bytes()
    assert b"42501" in log or b"cloister_y" in log
    assert b"xyzzy-plugh-4711" not in log
