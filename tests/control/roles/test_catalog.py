"""The SQL on roles, databases and activity, against a real PostgreSQL 18 with names that try to break out."""

import asyncio
import contextlib
import inspect
import os
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.base.errors import ConflictError, NotFoundError, UnavailableError, UnprocessableError
from cloister.base.ids import EndpointId
from cloister.control.computes import sessions
from cloister.control.computes.sessions import Running, Sessions, TenantServer, open_server
from cloister.control.computes.touched import Touched
from cloister.control.roles import catalog
from cloister.control.roles.catalog import is_verifier
from cloister.control.roles.names import GROUP_ROLE, SUPERUSER, TEMPLATE_DATABASE, TEMPLATE_ROLE
from cloister.control.roles.server import RoleState
from cloister.node.postgres.engines import GUARDS
from cloister.protocol.scram import Verifier
from tests import fix_database

NAMES = ['a"b', "a'; DROP DATABASE neondb; --", "ünï-çødé", "🦜" * 15 + "abc", "x" * 63, "../../etc/passwd", "%I $1 \\"]
VERIFIER = str(Verifier.of_password("npg_0123456789abcdef", salt=b"0123456789abcdef", iterations=4096))
PASSWORD = "kQ7vWz3XnT1mYb5R"
OTHER = str(Verifier.of_password("npg_fedcba9876543210", salt=b"0123456789abcdef", iterations=4096))


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A server as the platform's template makes it."""
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-tenant-", dir=fix_database._MEMORY))
    try:
        if os.geteuid() == 0:
            os.chown(directory, fix_database.UNPRIVILEGED_UID, fix_database.UNPRIVILEGED_UID)
        data = directory / "data"
        fix_database._run(
            "initdb", "-D", data, "-U", SUPERUSER, *"-A trust --no-sync --encoding=UTF8".split(), "--locale=C.UTF-8"
        )
        # As the user of the test's server, who may not look into a checkout.
        guard = shutil.copy(GUARDS / "18" / "guard.so", directory)
        with fix_database._serving(data, directory, shared_preload_libraries=str(guard)):
            asyncio.run(_prepare(directory))
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _prepare(socket_dir: Path) -> None:
    server = await open_server(Running(EndpointId("ep-real-one-00000000"), 1, str(socket_dir), 18))
    await server.close()
    connection = await _connect(socket_dir, SUPERUSER, "postgres")
    await connection.execute(
        f"""CREATE ROLE {GROUP_ROLE} NOLOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION IN ROLE pg_read_all_data, pg_write_all_data;
            CREATE ROLE {TEMPLATE_ROLE} LOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION IN ROLE {GROUP_ROLE};"""
    )
    await connection.execute(f"CREATE DATABASE {TEMPLATE_DATABASE} OWNER {TEMPLATE_ROLE}")
    await connection.close()


async def _connect(socket_dir: Path, user: str, database: str) -> Any:
    # What a test sets for a database must not keep the test itself from taking it back.
    settings = {"statement_timeout": "0", "default_transaction_read_only": "off"}
    return await asyncpg.connect(
        host=str(socket_dir), port=5432, user=user, database=database, server_settings=settings
    )


@contextlib.asynccontextmanager
async def tenant(running: Running, user: str = TEMPLATE_ROLE, database: str = TEMPLATE_DATABASE) -> AsyncIterator[Any]:
    connection = await _connect(Path(running.socket_dir), user, database)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def running(cluster: Path) -> Running:
    return Running(EndpointId("ep-real-one-00000000"), 1, str(cluster), 18)


@pytest.fixture
async def server(running: Running) -> AsyncIterator[TenantServer]:
    opened = await open_server(running)
    assert isinstance(opened, TenantServer)
    yield opened
    await opened.close()


@pytest.mark.parametrize("name", NAMES)
async def test_a_role_and_its_database_come_and_go_whatever_they_are_called(
    server: TenantServer, running: Running, name: str
) -> None:
    before = await server.roles(), await server.databases()
    await server.create_role(name, VERIFIER, can_login=True)
    with pytest.raises(ConflictError):
        await server.create_role(name, VERIFIER, can_login=True)
    role = next(role for role in await server.roles() if role.name == name)
    assert (role.verifier, role.can_login, role.valid_until) == (VERIFIER, True, None)
    await server.set_verifier(name, OTHER)
    assert next(role for role in await server.roles() if role.name == name).verifier == OTHER

    await server.create_database(name, SUPERUSER)
    await server.give_database(name, name)
    with pytest.raises(ConflictError):
        await server.create_database(name, name)
    assert {database.name: database.owner_name for database in await server.databases()}[name] == name
    with pytest.raises(UnprocessableError):
        await server.drop_role(name)
    async with tenant(running, name, name) as theirs:
        assert await theirs.fetchval("SELECT current_user::text || current_database()") == name * 2
        await theirs.execute("CREATE TABLE mine (id int)")
    await server.rename_database(name, "renamed")
    await server.rename_database("renamed", name)

    await server.drop_database(name)
    await server.drop_database(name)
    await server.drop_role(name)
    await server.drop_role(name)
    assert (await server.roles(), await server.databases()) == before


async def test_a_database_in_use_is_not_renamed(server: TenantServer, running: Running) -> None:
    async with tenant(running):
        with pytest.raises(ConflictError):  # after the five seconds that PostgreSQL waits for its users to leave
            await server.rename_database(TEMPLATE_DATABASE, "renamed")


async def test_a_role_has_neons_attributes_and_may_do_what_its_owner_needs(
    server: TenantServer, running: Running
) -> None:
    await server.create_role("api-made", VERIFIER, can_login=True)
    async with tenant(running, "api-made") as theirs:
        row = await theirs.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = current_user"
        )
        assert tuple(row) == (False, True, True, True, True)
        assert await theirs.fetchval("SELECT pg_has_role(current_user, 'neon_superuser', 'usage')")
        assert not await theirs.fetchval("SELECT pg_has_role(current_user, 'pg_execute_server_program', 'usage')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await theirs.execute("ALTER ROLE cloister_admin PASSWORD 'x'")
    await server.drop_role("api-made")


async def test_what_a_dropped_role_owned_goes_to_the_owner_of_the_database(
    server: TenantServer, running: Running
) -> None:
    await server.create_role("leaver", VERIFIER, can_login=True)
    async with tenant(running) as owner, tenant(running, "leaver") as leaver:
        await owner.execute("GRANT CREATE, USAGE ON SCHEMA public TO leaver")
        await leaver.execute("CREATE TABLE left_behind (id int); CREATE ROLE made_by_leaver")
        await leaver.execute("GRANT made_by_leaver TO neondb_owner")
    await server.drop_role("leaver")
    async with tenant(running) as owner:
        found = await owner.fetchval("SELECT tableowner::text FROM pg_tables WHERE tablename = 'left_behind'")
        assert found == TEMPLATE_ROLE
        await owner.execute("DROP TABLE left_behind")
    await server.drop_role("made_by_leaver")


async def test_nothing_of_a_tenant_runs_with_our_rights(server: TenantServer, running: Running) -> None:
    """A tenant shadows what our statements use, and sets for its database what it can."""
    await server.create_role("victim", VERIFIER, can_login=True)
    async with tenant(running) as owner:
        await owner.execute(
            """CREATE SCHEMA evil;
               CREATE TABLE evil.ran (who text);
               CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE plpgsql AS $$
                 BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN 'ALTER ROLE neondb_owner SUPERUSER'; END $$;
               CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
                 BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN true; END $$;
               ALTER DATABASE neondb SET search_path = evil, public;
               ALTER DATABASE neondb SET default_transaction_read_only = on;
               ALTER DATABASE neondb SET statement_timeout = '1ms';
               ALTER DATABASE neondb SET transaction_timeout = '1ms';
               ALTER DATABASE neondb SET idle_session_timeout = '1ms';"""
        )
    # What the guard does not let it set, but a cluster that was made elsewhere could bring along.
    async with tenant(running, SUPERUSER, "postgres") as somebody:
        await somebody.execute("ALTER DATABASE neondb SET role = 'neondb_owner'")
        await somebody.execute("ALTER DATABASE neondb SET local_preload_libraries = 'no_such_library'")
    await server.drop_role("victim")
    async with tenant(running, SUPERUSER, "postgres") as somebody:
        await somebody.execute("ALTER DATABASE neondb RESET local_preload_libraries")
    async with tenant(running, database="postgres") as owner:
        await owner.execute("ALTER DATABASE neondb RESET transaction_timeout")
        await owner.execute("ALTER DATABASE neondb RESET idle_session_timeout")
    async with tenant(running) as owner:
        assert await owner.fetchval("SELECT count(*) FROM evil.ran") == 0
        assert not await owner.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = 'neondb_owner'")
        await owner.execute("""ALTER DATABASE neondb RESET ALL; DROP SCHEMA evil CASCADE""")
    assert all(role.name != "victim" for role in await server.roles())


@pytest.mark.parametrize("database", ["postgres", TEMPLATE_DATABASE])
async def test_by_its_name_alone_our_sessions_find_the_catalog_only(
    server: TenantServer, running: Running, database: str
) -> None:
    """What is set for the database does not count. Our names are qualified besides: either holds without the other."""
    async with tenant(running, SUPERUSER, database) as somebody:
        await somebody.execute(f"ALTER DATABASE {database} SET search_path = public")
    async with server._in_database(database) as ours:
        assert await ours.fetchval("SELECT pg_catalog.current_schemas(true)", timeout=5) == ["pg_catalog"]
    async with tenant(running, SUPERUSER, database) as somebody:
        await somebody.execute(f"ALTER DATABASE {database} RESET search_path")


TRAPS = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.is_laid(statement text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN EXECUTE statement; RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 0; END $$;
CREATE FUNCTION evil.trap(what text) RETURNS text LANGUAGE sql RETURN
    format('LANGUAGE plpgsql AS %L', format('BEGIN RAISE EXCEPTION %L; END', 'a trap: ' || what));

-- Of an aggregate, which then springs over no rows as well.
CREATE FUNCTION evil.last(boolean) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trap: an aggregate'; END $$;

CREATE FUNCTION evil.lay(words text[]) RETURNS bigint[] LANGUAGE sql BEGIN ATOMIC
    SELECT ARRAY[
        (SELECT sum(evil.is_laid(format('CREATE FUNCTION evil.%I(%s) RETURNS %s %s', proname,
                -- What takes anything is made in C only.
                replace(pg_get_function_arguments(oid), 'VARIADIC "any"', 'VARIADIC text[]'),
                pg_get_function_result(oid), evil.trap(proname))))
           FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname = ANY (words)),
        (SELECT sum(evil.is_laid(format('CREATE OR REPLACE FUNCTION evil.step(boolean%s) RETURNS boolean %s',
                ', ' || nullif(pg_get_function_arguments(oid), ''), evil.trap('an aggregate')))
              + evil.is_laid(format('CREATE AGGREGATE evil.%I(%s) (SFUNC = evil.step, STYPE = boolean, FINALFUNC = evil.last)',
                proname, coalesce(nullif(pg_get_function_arguments(oid), ''), '*'))))
           FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'a' AND proname = ANY (words)),
        (SELECT sum(evil.is_laid(format('CREATE FUNCTION evil.of_%s(%s, %s) RETURNS %s %s', oid, oprleft::regtype,
                oprright::regtype, oprresult::regtype, evil.trap(oprname)))
              + evil.is_laid(format('CREATE OPERATOR evil.%s (FUNCTION = evil.of_%s, LEFTARG = %s, RIGHTARG = %s)', oprname, oid,
                oprleft::regtype, oprright::regtype)))
           FROM pg_operator WHERE oprname IN ('=', '<>', '<', '>', '<=', '>=') AND oprleft <> 0),
        (SELECT sum(evil.is_laid(format('CREATE VIEW evil.%I AS SELECT', relname)))
           FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') AND relname = ANY (words)),
        (SELECT sum(evil.is_laid(format('CREATE DOMAIN evil.%I AS pg_catalog.%I CONSTRAINT "a trap" CHECK (false)', typname, typname)))
           FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typname = ANY (words))];
END;
"""

OUR_WORDS = sorted({word for it in (sessions, catalog) for word in re.findall("[a-z_0-9]+", inspect.getsource(it))})

SPRUNG = [
    "SELECT format('%I', 'a')",
    "SELECT count(*)",
    "SELECT max(1) FROM pg_catalog.pg_authid a WHERE false",
    "SELECT 1 WHERE 'a'::name = 'b'::name",
    "SELECT 1 WHERE 10::pg_catalog.oid IN (10, 11)",
    "SELECT 10::pg_catalog.oid IS DISTINCT FROM 11::pg_catalog.oid",
    "SELECT 'a'::text",
    "SELECT 10::oid",
]
"""What a tenant's names are found by, where they come first."""


async def test_our_statements_find_the_catalog_also_where_a_tenants_names_come_first(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half: the search path is left to the tenant, in whose database our session is, and every statement there is of
    ours is run. The tenant has a function, an operator, a relation or a type for each word of ours that the catalog has one for."""
    async with tenant(running) as owner:
        await owner.execute(TRAPS)
        laid = await owner.fetchval("SELECT evil.lay($1)", OUR_WORDS)
        assert all(number > 2 for number in laid), laid
        await owner.execute("ALTER DATABASE neondb SET search_path = evil, public, pg_catalog")
    try:
        async with tenant(running) as owner:
            for statement in SPRUNG:
                with pytest.raises(asyncpg.PostgresError, match="a trap"):
                    await owner.fetch(statement)
        settings = sessions._settings
        monkeypatch.setattr(
            sessions,
            "_settings",
            lambda version: {name: value for name, value in settings(version).items() if name != "search_path"},
        )
        async with contextlib.AsyncExitStack() as open_:
            ours = TenantServer(await sessions._connect(running, TEMPLATE_DATABASE), running)
            open_.push_async_callback(ours.close)
            client = await _connect(Path(running.socket_dir), TEMPLATE_ROLE, TEMPLATE_DATABASE)
            open_.callback(client.terminate)  # one to be looked at, and ended
            path = await ours._connection.fetchval("SELECT pg_catalog.current_setting('search_path')", timeout=5)
            assert path == "evil, public, pg_catalog"
            run = await _run_all(ours)
            assert run == {name for name in dir(TenantServer) if not name.startswith("_") and name != "close"}
    finally:
        async with tenant(running, database="postgres") as owner:
            await owner.execute("ALTER DATABASE neondb RESET search_path")
        async with tenant(running) as owner:
            await owner.execute("DROP SCHEMA evil CASCADE")


async def _run_all(ours: TenantServer) -> set[str]:
    """What the platform asks of a server, each at least once; their names."""
    until = datetime(2030, 1, 1, tzinfo=UTC)
    steps: list[tuple[Callable[..., Awaitable[Any]], tuple[Any, ...], dict[str, Any]]] = [
        (ours.activity, (), {}),
        (ours.refusals, (), {}),
        (ours.forget_refusals, (0,), {}),
        (ours.powers, (), {}),
        (ours.forget_powers, (0,), {}),
        (ours.ages, (), {}),
        (ours.touched, (), {}),
        (ours.take_touched, (Touched(), AuditLevel.OFF), {}),
        (ours.checkpoint, (), {}),
        (ours.hold_catalog, (), {}),
        (ours.release_catalog, (), {}),
        (ours.begin_backup, ("a backup",), {}),
        (ours.end_backup, (), {}),
        (ours.create_role, ("trapper", VERIFIER), {"can_login": True}),
        (ours.set_verifier, ("trapper", OTHER), {}),
        (ours.rename_role, ("trapper", "trapped"), {}),
        (ours.create_database, ("snare", "trapped"), {}),
        (ours.rename_database, ("snare", "pit"), {}),
        (ours.give_database, ("pit", TEMPLATE_ROLE), {}),
        (ours.drop_database, ("pit",), {}),
        (ours.databases, (), {}),
        (ours.drop_role, ("trapped",), {}),
        (ours.open_access, ("visitor", until), {"may_write": False}),
        (ours.open_access, ("visitor", until), {"may_write": True}),
        (ours.roles, (), {}),
        (ours.close_access, ("visitor",), {}),
        (ours.end_clients, ("nobody",), {}),
        (ours.end_clients, (), {}),
    ]
    for step, words, more in steps:
        await step(*words, **more)
    with pytest.raises(UnavailableError, match="recovery is not in progress"):
        await ours.is_replay_paused()
    return {step.__name__ for step, _, _ in steps} | {"is_replay_paused"}


async def test_valid_until_is_read_whatever_it_says(server: TenantServer, running: Running) -> None:
    async with tenant(running) as owner:
        for name, until in [
            ("a", "infinity"),
            ("b", "-infinity"),
            ("c", "20000-01-01"),
            ("d", "2030-01-01 00:00:00+00"),
        ]:
            await owner.execute(f"CREATE ROLE until_{name} LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '{until}'")
    found = {role.name: role.valid_until for role in await server.roles()}
    assert found["until_a"] is None
    assert [found[f"until_{name}"].year for name in "bcd"] == [1970, 9000, 2030]  # type: ignore[union-attr]
    for name in "abcd":
        await server.drop_role(f"until_{name}")


async def test_what_is_not_a_verifier_lets_nobody_in(server: TenantServer, running: Running) -> None:
    async with tenant(running, SUPERUSER) as connection:
        await connection.execute("CREATE ROLE old_style LOGIN")
        await connection.execute("UPDATE pg_authid SET rolpassword = $1 WHERE rolname = 'old_style'", "md5" + "0" * 32)
    assert next(role for role in await server.roles() if role.name == "old_style").verifier is None
    assert not is_verifier("SCRAM-SHA-256$0:x$y:z")
    await server.drop_role("old_style")


async def state_of(server: TenantServer, name: str) -> RoleState:
    return next(role for role in await server.roles() if role.name == name)


async def test_a_verifier_counts_only_as_the_guard_saw_it_stored(server: TenantServer, running: Running) -> None:
    async with tenant(running) as client:
        await client.execute(f"CREATE ROLE by_sql LOGIN PASSWORD '{PASSWORD}'")
        assert Verifier.parse((await state_of(server, "by_sql")).verifier or "").matches_password(PASSWORD)
        await client.execute("ALTER ROLE by_sql RENAME TO renamed")
        assert (await state_of(server, "renamed")).verifier is not None, "the ledger knows roles by oid"

        # A change that is taken back takes its entry with it.
        async with client.transaction():
            savepoint = client.transaction()
            await savepoint.start()
            await client.execute(f"ALTER ROLE renamed PASSWORD '{PASSWORD}!'")
            await savepoint.rollback()
        assert Verifier.parse((await state_of(server, "renamed")).verifier or "").matches_password(PASSWORD)

        for statement in (
            "SECURITY LABEL FOR cloister ON ROLE renamed IS 'x'",
            "SECURITY LABEL ON ROLE renamed IS NULL",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await client.execute(statement)
    async with tenant(running, SUPERUSER) as somebody:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await somebody.execute("SECURITY LABEL FOR cloister ON ROLE renamed IS NULL")
        await somebody.execute("UPDATE pg_authid SET rolpassword = $1 WHERE rolname = 'renamed'", OTHER)
    state = await state_of(server, "renamed")
    assert (state.verifier, state.has_unchecked_password) == (None, True)
    await server.set_verifier("renamed", OTHER)
    state = await state_of(server, "renamed")
    assert (state.verifier, state.has_unchecked_password) == (OTHER, False)

    await server.drop_role("renamed")
    async with tenant(running, SUPERUSER) as somebody:
        assert (
            await somebody.fetchval(
                "SELECT count(*) FROM pg_shseclabel WHERE objoid NOT IN (SELECT oid FROM pg_authid)"
            )
            == 0
        )


async def test_missing_things_are_said_to_be_missing(server: TenantServer) -> None:
    with pytest.raises(NotFoundError):
        await server.set_verifier("nobody", VERIFIER)
    with pytest.raises(NotFoundError):
        await server.create_database("shop", "nobody")
    with pytest.raises(NotFoundError):
        await server.give_database("nowhere", TEMPLATE_ROLE)


async def test_activity_sees_work_and_not_idle_clients_nor_ourselves(server: TenantServer, running: Running) -> None:
    assert (await server.activity()).hold is None, "our own session is no work"
    async with tenant(running) as client:
        await client.fetchval("SELECT 1")
        quiet = await server.activity()
        assert (quiet.hold, quiet.last_change_at is not None) == (None, True)
        transaction = client.transaction()
        await transaction.start()
        assert (await server.activity()).hold == "busy backends"
        await transaction.rollback()
    while (await server.activity()).sessions == quiet.sessions:
        # The counter moves when the next client comes.
        async with tenant(running) as client:
            await client.fetchval("SELECT 1")


async def test_clients_can_be_ended(server: TenantServer, running: Running) -> None:
    client = await _connect(Path(running.socket_dir), TEMPLATE_ROLE, TEMPLATE_DATABASE)
    await server.end_clients()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await client.fetchval("SELECT 1")
    client.terminate()


async def test_while_the_catalog_is_held_nobody_changes_a_role_but_all_can_read(
    server: TenantServer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(running) as client:
        await server.hold_catalog()
        await server.roles()
        await client.execute("SET lock_timeout = '20ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await client.execute(f"ALTER ROLE neondb_owner PASSWORD '{PASSWORD}'")
        await server.release_catalog()
        async with client.transaction():
            await client.execute("CREATE ROLE half_done")
            monkeypatch.setattr(sessions, "CATALOG_HOLD_S", 0.05)
            other = await open_server(running)
            with pytest.raises(UnavailableError):
                await other.hold_catalog()
            await other.close()
            await client.execute("DROP ROLE half_done")


async def test_a_server_that_sends_too_much_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ANSWER_BYTES_MAX", 200_000)
    server = await open_server(running)
    assert isinstance(server, TenantServer)
    with pytest.raises(UnavailableError):
        await server._fetch("SELECT pg_catalog.repeat('x', 1000) FROM pg_catalog.generate_series(1, 1000)")
    await server.close()


async def test_each_question_may_be_answered_with_so_much(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that lasts for days is not cut off for what it has said in all."""
    monkeypatch.setattr(sessions, "ANSWER_BYTES_MAX", 20_000)
    server = await open_server(running)
    assert isinstance(server, TenantServer)
    for _ in range(5):
        await server._fetch("SELECT pg_catalog.repeat('x', 1000) FROM pg_catalog.generate_series(1, 10)")
    await server.close()


async def test_a_role_whose_name_is_no_utf8_does_not_lock_the_others_out(
    server: TenantServer, running: Running
) -> None:
    """Anybody who may create a database and a role can make one, by accident too."""
    before = await server.roles()
    async with tenant(running) as client:
        await client.execute(
            "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"
        )
    try:
        async with tenant(running, database="latin") as client:
            await client.execute('CREATE ROLE "caf\u00e9"')
            assert await server.roles() == before
            await server.activity()  # which shows the statement to whoever looks
            assert "latin" in {database.name for database in await server.databases()}
            await client.execute('DROP ROLE "caf\u00e9"')
    finally:
        await server.drop_database("latin")


async def test_a_server_that_hangs_does_not_hang_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It accepts and says nothing."""
    monkeypatch.setattr(sessions, "QUERY_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / ".s.PGSQL.5432"))
        silent.listen()
        with pytest.raises(UnavailableError):
            await open_server(Running(EndpointId("ep-real-one-00000000"), 1, str(tmp_path), 18))


async def test_a_lasting_session_is_opened_once_and_again_after_trouble(running: Running) -> None:
    opened: list[TenantServer] = []

    async def counting(asked: Running) -> TenantServer:
        server = await open_server(asked)
        assert isinstance(server, TenantServer)
        opened.append(server)
        return server

    lasting = Sessions(counting)
    for _ in range(2):
        async with lasting.lasting(running) as server:
            await server.roles()
    assert len(opened) == 1
    with pytest.raises(NotFoundError):
        async with lasting.lasting(running) as server:
            await server.set_verifier("nobody", VERIFIER)
    async with lasting.lasting(running) as server:
        await server.roles()
    assert len(opened) == 2
    await lasting.close_all()
