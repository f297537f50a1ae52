"""A tenant with the strongest role there is for tenants, through the gateway, with nothing but SQL and start-up options."""

import contextlib
import re
import secrets
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance("--idle-check-interval", "0.5", "--suspend-timeout", "2", storage="plain") as platform:
        yield platform


@pytest.fixture(scope="module")
def tenant(instance: Instance) -> Tenant:
    return instance.create_project("hostile")


REFUSED = [
    # Become somebody else.
    "SET ROLE cloister_admin",
    "SET SESSION AUTHORIZATION cloister_admin",
    "GRANT cloister_admin TO neondb_owner",
    "CREATE ROLE evil SUPERUSER",
    "ALTER ROLE neondb_owner SUPERUSER",
    "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'neondb_owner'",
    "GRANT pg_execute_server_program TO neondb_owner",
    "CREATE ROLE evil IN ROLE pg_read_server_files",
    "GRANT neon_superuser TO neondb_owner WITH ADMIN OPTION",
    "ALTER ROLE neon_superuser LOGIN",
    "DROP ROLE neon_superuser",
    # Lay something in the way of the platform's sessions.
    "ALTER ROLE cloister_admin SET search_path = public",
    "ALTER ROLE cloister_admin PASSWORD 'x'",
    "ALTER ROLE ALL SET search_path = public",
    "ALTER DATABASE postgres SET search_path = public",
    "ALTER DATABASE template1 SET search_path = public",
    "ALTER DATABASE neondb SET session_preload_libraries = 'x'",
    "CREATE FUNCTION pg_catalog.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE CAST (text AS oid) WITH INOUT AS IMPLICIT",
    "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS ''; CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION e()",
    # Files, programs, code, connections.
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY (SELECT 1) TO '/data/x'",
    "SELECT lo_import('/etc/passwd')",
    "LOAD 'dblink'",
    "CREATE FUNCTION e() RETURNS int LANGUAGE c AS 'plpgsql', 'plpgsql_validator'",
    "CREATE FUNCTION e() RETURNS int LANGUAGE internal AS 'pg_read_file'",
    "CREATE LANGUAGE plpython3u",
    "CREATE SUBSCRIPTION e CONNECTION 'host=/run/postgresql user=cloister_admin' PUBLICATION e",
    "CREATE TABLESPACE e LOCATION '/data/e'",
    # The server itself.
    "ALTER SYSTEM SET archive_command = 'id'",
    "SELECT pg_reload_conf()",
]


def test_what_a_tenant_may_not_do_is_refused(tenant: Tenant) -> None:
    succeeded = []
    with tenant.connect() as session:
        session.autocommit = False
        for statement in REFUSED:
            with contextlib.suppress(psycopg.Error):
                session.execute(statement.encode())
                succeeded.append(statement)
            session.rollback()
    assert succeeded == []


@pytest.mark.parametrize(
    "option",
    [
        "-c role=cloister_admin", "--role=cloister_admin", "-c session_authorization=cloister_admin",
        "-c is_superuser=on", "-c session_preload_libraries=x", "-c config_file=/data/x", "-O", "-B 16",
        "-c event_triggers=off", "-c allow_alter_system=on", "-c log_statement=all",
    ],
)  # fmt: skip
def test_start_up_options_do_not_help(tenant: Tenant, option: str) -> None:
    with pytest.raises(psycopg.OperationalError):
        tenant.connect(options=option)


@pytest.mark.parametrize("role", ["cloister_admin", "neon_superuser", "pg_monitor", "cloister_of_my_own"])
def test_reserved_roles_do_not_log_in_whatever_the_tenant_made_of_them(tenant: Tenant, role: str) -> None:
    password = secrets.token_urlsafe(18)
    with tenant.connect() as session, contextlib.suppress(psycopg.Error):
        session.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'".encode())
    answer = tenant.psql("SELECT 1", PGUSER=role, PGPASSWORD=password)
    assert f'password authentication failed for user "{role}"' in answer.stderr


@pytest.mark.parametrize("replication", ["true", "on", "1"])
def test_physical_replication_is_refused(tenant: Tenant, replication: str) -> None:
    answer = subprocess.run(
        ["psql", "-X", f"dbname={tenant.database} replication={replication}", "-c", "IDENTIFY_SYSTEM"],
        env=tenant.environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert answer.returncode != 0
    assert "no pg_hba.conf entry for replication" in answer.stderr


def test_the_platforms_databases_hold_nothing_of_a_tenants(tenant: Tenant) -> None:
    for database in ("postgres", "template1"):
        for statement in ("CREATE TABLE e (e int)", "CREATE SCHEMA e", "CREATE FUNCTION e() RETURNS int RETURN 1"):
            assert "permission denied" in tenant.psql(statement, PGDATABASE=database).stderr


def test_what_connects_from_inside_is_let_in_as_nobody_and_gets_no_further(instance: Instance, tenant: Tenant) -> None:
    """The server's own socket, this machine, and a way out whose name is the platform's own."""
    rule = {"to": f"{tenant.host}:{tenant.port}", "ca_pem": tenant.ca_file.read_text()}
    instance.api("POST", f"/cloister/projects/{tenant.project_id}/egress", rule, expect=201)
    with tenant.connect() as session:
        session.execute("CREATE EXTENSION dblink")
        for where, why in (
            ("host=/run/postgresql user=cloister_admin", "Peer authentication failed"),
            (f"host=/run/postgresql user={tenant.role}", "Peer authentication failed"),
            ("host=127.0.0.1 user=x", "could not establish connection"),
            (f"host={tenant.host} port={tenant.port} user=x", "could not translate host name"),
            (f"host=/egress/{tenant.host} port={tenant.port} user=x", "leads to"),
        ):
            said = _dial(session, f"{where} dbname=neondb password={tenant.password}", until=why)
            assert re.search(why, said), f"{where}: {said}"


def _dial(session: psycopg.Connection, where: str, *, until: str) -> str:
    """What dblink says of it; a rule takes a moment, until which there is no such file."""
    deadline = time.monotonic() + 60
    while True:
        try:
            session.execute("SELECT public.dblink_connect(%s, %s)", (secrets.token_hex(4), where))
        except psycopg.Error as error:
            session.rollback()
            if "No such file" not in str(error) or re.search(until, str(error)) or time.monotonic() > deadline:
                return str(error)
        else:
            return "in"


def test_names_that_are_no_utf8_and_broken_settings_keep_nobody_out_and_nothing_awake(
    instance: Instance, tenant: Tenant
) -> None:
    with tenant.connect() as session:
        session.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc")
    with tenant.connect(dbname="latin") as session:
        session.execute('CREATE ROLE "caf\u00e9"')
        session.execute("ALTER DATABASE neondb SET default_transaction_read_only = on")
    instance.suspend(tenant)
    assert instance.endpoint(tenant)["current_state"] == "idle"
    with tenant.connect() as session:
        assert session.execute("SELECT count(*) FROM pg_roles WHERE rolname::bytea = '\\x636166e9'").fetchone() == (1,)
