"""The guard in a real PostgreSQL, without a platform around it: what it lets pass, what it says, and what it logs."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloister.node.postgres.engines import GUARDS
from cloister.protocol.scram import Verifier
from guard import build
from tests import fix_database

ADMIN = "cloister_admin"
STRONG = "kQ7vWz3XnT1mYb5R"
HASHED = str(Verifier.of_password(STRONG, salt=b"0123456789abcdef"))
SAID = psycopg.errors.InvalidParameterValue


@contextmanager
def server(policy: str, **more: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-guard-", dir=fix_database._MEMORY))
    try:
        if os.geteuid() == 0:
            os.chown(directory, fix_database.UNPRIVILEGED_UID, fix_database.UNPRIVILEGED_UID)
        data = directory / "data"
        fix_database._run(
            "initdb", "-D", data, "-U", ADMIN, *"-A trust --no-sync --encoding=UTF8".split(), "--locale=C.UTF-8"
        )
        guard = shutil.copy(GUARDS / "18" / "guard.so", directory)
        settings = {
            "shared_preload_libraries": str(guard),
            "guard.password_policy": policy,
            "log_min_error_statement": "panic",
            "wal_level": "logical",
            **more,
        }
        with fix_database._serving(data, directory, **settings):
            with first_connection(directory) as session:
                session.execute("CREATE ROLE tenant LOGIN CREATEROLE CREATEDB REPLICATION")
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def first_connection(directory: Path) -> psycopg.Connection[Any]:
    deadline = time.monotonic() + 10
    while True:
        try:
            return connect(directory, ADMIN)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def strict() -> Iterator[Path]:
    with server("strict") as directory:
        yield directory


def connect(
    directory: Path, user: str = "tenant", database: str = "postgres", **options: Any
) -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(directory), user=user, dbname=database, autocommit=True, **options)


@pytest.fixture
def session(strict: Path) -> Iterator[psycopg.Connection[Any]]:
    with connect(strict) as session:
        session.execute("CREATE ROLE r LOGIN")
        yield session
        session.execute("RESET ALL; DROP ROLE r")


def test_a_refusal_says_how_many_bits_and_why_and_what_to_do(session: psycopg.Connection[Any]) -> None:
    with pytest.raises(SAID) as caught:
        session.execute("ALTER ROLE r PASSWORD 'Password1234!'")
    assert caught.value.diag.message_primary == (
        "the password has about 18 bits of entropy, 60 are required: it contains a common word, name or password"
    )
    assert "16 random characters" in (caught.value.diag.message_hint or "")
    assert caught.value.diag.context is None


@pytest.mark.parametrize("password", ["Password1234!", HASHED])
def test_a_refusal_in_a_function_does_not_quote_the_statement_and_neither_does_what_else_fails_in_it(
    session: psycopg.Connection[Any], password: str
) -> None:
    with pytest.raises(SAID) as caught:
        session.execute(f"DO $$BEGIN ALTER ROLE r PASSWORD '{password}'; END$$")
    assert caught.value.diag.context is None
    with pytest.raises(psycopg.errors.DuplicateObject) as failed:
        session.execute(f"DO $$BEGIN CREATE ROLE r PASSWORD '{STRONG}'; END$$")
    assert failed.value.diag.context is None


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER ROLE r PASSWORD ''", "0 bits"),
        ("ALTER ROLE r PASSWORD 'r'", "1 of at least 12 characters"),
        ("ALTER ROLE r PASSWORD 'xJ4?postgres!tenant'", "a common word"),
        ("CREATE ROLE nightingale_of_mine PASSWORD '!nightingale_of_mine7'", "the name of the role or database"),
        ("ALTER ROLE r PASSWORD 'Ｐａｓｓｗｏｒｄ１２３４！'", "18 bits"),
        (f"ALTER ROLE r PASSWORD '{STRONG}{STRONG * 62}.'", "at most 1000 bytes"),
        (f"ALTER ROLE r PASSWORD 'md5{'0' * 32}'", "MD5"),
        (f"ALTER ROLE r PASSWORD '{HASHED}'", "already hashed"),
        (f"SET password_encryption = md5; ALTER ROLE r PASSWORD '{STRONG}'", "SCRAM only"),
        (f"SET scram_iterations = 4095; ALTER ROLE r PASSWORD '{STRONG}'", "4096 to 100000 iterations, not 4095"),
        (f"SET scram_iterations = 2147483647; ALTER ROLE r PASSWORD '{STRONG}'", "not 2147483647"),
    ],
)
def test_what_is_refused(session: psycopg.Connection[Any], statement: str, message: str) -> None:
    with pytest.raises(SAID, match=message):
        session.execute(statement.encode())


def test_what_is_not_refused(session: psycopg.Connection[Any]) -> None:
    session.execute(f"SET scram_iterations = 5000; ALTER ROLE r PASSWORD '{STRONG}' VALID UNTIL '2030-01-01'")
    row = session.execute("SELECT rolvaliduntil::date::text FROM pg_roles WHERE rolname = 'r'").fetchone()
    assert row == ("2030-01-01",)
    session.execute("ALTER ROLE r PASSWORD NULL")
    session.execute("ALTER ROLE r VALID UNTIL 'infinity' CREATEDB")


@pytest.mark.parametrize(
    ("verifier", "is_taken"),
    [
        (HASHED, True),
        (HASHED.replace("$4096:", "$4095:"), False),
        (HASHED.replace("$4096:", "$100001:"), False),
        ("md5" + "0" * 32, False),
    ],
)
def test_the_platform_may_bring_a_hash_of_bounded_cost_and_no_other(
    strict: Path, verifier: str, is_taken: bool
) -> None:
    with connect(strict, ADMIN) as platform:
        platform.execute("CREATE ROLE by_platform")
        try:
            if is_taken:
                platform.execute(f"ALTER ROLE by_platform PASSWORD '{verifier}'")
            else:
                with pytest.raises(SAID):
                    platform.execute(f"ALTER ROLE by_platform PASSWORD '{verifier}'")
        finally:
            platform.execute("DROP ROLE by_platform")


def test_code_of_a_tenants_in_a_session_of_the_platforms_is_still_a_tenants(strict: Path) -> None:
    """An index's function runs as the table's owner whoever reindexes; a hash is not taken from it."""
    with connect(strict, database="template1", user=ADMIN) as platform:
        platform.execute("CREATE DATABASE theirs OWNER tenant")
    with connect(strict, database="theirs") as tenant:
        tenant.execute(f"""
            CREATE ROLE borrowed; CREATE SCHEMA s; CREATE TABLE s.t (a int); INSERT INTO s.t VALUES (1);
            CREATE FUNCTION s.steal() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN
              ALTER ROLE borrowed PASSWORD '{HASHED}'; RETURN 1; END $f$;
            CREATE FUNCTION s.f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN
              IF session_user <> 'tenant' THEN PERFORM s.steal(); END IF; RETURN $1; END $f$;
            CREATE INDEX i ON s.t (s.f(a))""")
    with connect(strict, ADMIN, "theirs") as platform, pytest.raises(SAID, match="already hashed"):
        platform.execute("REINDEX TABLE s.t")


def test_the_log_has_states_and_no_texts_of_a_clients(strict: Path) -> None:
    secret = "hunter" + STRONG
    with connect(strict) as session:
        for statement in (
            f"CREATE ROLE x PASSWORD {secret}",
            f"SELECT '{secret}'::int",
            f"DO $$BEGIN EXECUTE 'CREATE ROLE tenant PASSWORD ''{secret}'''; END$$",
            f"DO $$BEGIN EXECUTE 'CREATE ROLE x PASSWORD ''{secret}'' FOO'; END$$",
            f"DO $$BEGIN SET LOCAL work_mem = '{secret}'; END$$",
            f"DO $$BEGIN PERFORM set_config('lock_timeout', '1', true), '{secret}'; RAISE disk_full USING MESSAGE = 'no room'; END$$",
        ):
            with pytest.raises(psycopg.Error):
                session.execute(statement.encode())
        pid = session.execute("SELECT pg_backend_pid()").fetchone()
    assert pid is not None
    log = (strict / "log").read_text()
    assert secret not in log
    assert re.search(rf"UTC \[{pid[0]}\] ERROR:  42601 \(the text is the client's alone\)", log)
    assert "no room" in log, "what says that the server is in trouble is logged, without its context"


def test_the_client_is_told_everything(strict: Path) -> None:
    with connect(strict) as session, pytest.raises(psycopg.errors.SyntaxError, match='at or near "hunter"') as caught:
        session.execute("DO $$BEGIN EXECUTE 'hunter'; END$$")
    assert "PL/pgSQL" in (caught.value.diag.context or "")


def test_neon_counts_characters() -> None:
    with server("neon") as directory, connect(directory) as session:
        session.execute("CREATE ROLE r PASSWORD 'Password1234!'")
        for weak in ("aB3$aB3$aB3$", "hunter2"):
            with pytest.raises(SAID):
                session.execute(f"CREATE ROLE x PASSWORD '{weak}'".encode())


def test_nobody_chooses_the_policy(session: psycopg.Connection[Any]) -> None:
    for statement in ("SET guard.password_policy = neon", "ALTER ROLE r SET guard.password_policy = neon"):
        with pytest.raises(psycopg.Error):
            session.execute(statement.encode())


def test_it_is_not_loaded_later(session: psycopg.Connection[Any], strict: Path) -> None:
    engine = fix_database._BIN / "postgres"
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [engine, "--single", "-D", directory, "-c", f"session_preload_libraries={strict / 'guard.so'}", "postgres"],
            capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL,
            user=fix_database.UNPRIVILEGED_UID if os.geteuid() == 0 else None,
        )  # fmt: skip
    assert done.returncode != 0


def test_the_same_sources_give_the_same_bytes_hardened(tmp_path: Path) -> None:
    found = build.headers()[0]
    first = build.build(found, tmp_path / "a")
    assert first.read_bytes() == (GUARDS / "18" / "guard.so").read_bytes(), "which was built elsewhere, earlier"
    said = subprocess.run(
        ["readelf", "-W", "-d", "-l", first], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert "BIND_NOW" in said
    assert "GNU_RELRO" in said
    assert re.search(r"GNU_STACK.* RW ", said)
    assert str(tmp_path).encode() not in first.read_bytes()
    built = first.stat()
    build.build(found, tmp_path / "a")
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (built.st_ino, built.st_mtime_ns), "nothing changed"


# ── the claims of a token ──

CLAIMS = '{"sub":"ada","role":"authenticated"}'


@pytest.fixture(scope="module")
def with_token(strict: Path) -> Iterator[psycopg.Connection[Any]]:
    """A session that the gateway opened for a token."""
    options = f"-c guard.has_token=on -c request.jwt.claims={CLAIMS}"
    with psycopg.connect(
        host=str(strict), user="tenant", dbname="postgres", autocommit=True, options=options
    ) as session:
        yield session


def claims_of(session: psycopg.Connection[Any]) -> object:
    row = session.execute("SELECT current_setting('request.jwt.claims', true)").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    "statement",
    [
        "SET request.jwt.claims = '{}'",
        "SET SESSION request.jwt.claims TO DEFAULT",
        "SET LOCAL request.jwt.claims = '{}'",
        "SET Request.JWT.Claims = '{}'",
        "SELECT set_config('request.jwt.claims', '{}', true)",
        "SELECT set_config('request.jwt.claims', '{}', false)",
        "DO $$ BEGIN PERFORM set_config('request.jwt.claims', '{}', true); END $$",
        "UPDATE pg_settings SET setting = '{}' WHERE name = 'request.jwt.claims'",
        "SET guard.has_token = off",
        "SELECT set_config('guard.has_token', 'off', false)",
    ],
)
def test_a_session_cannot_change_what_its_token_says(with_token: psycopg.Connection[Any], statement: str) -> None:
    try:
        with with_token.transaction():
            with_token.execute(statement)
            assert claims_of(with_token) == CLAIMS
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CantChangeRuntimeParam):
        pass
    assert claims_of(with_token) == CLAIMS
    assert with_token.execute("SHOW guard.has_token").fetchone() == ("on",)


def test_a_function_with_claims_of_its_own_does_not_run(with_token: psycopg.Connection[Any], strict: Path) -> None:
    with connect(strict, ADMIN) as admin:
        admin.execute(
            'CREATE FUNCTION public.as_bob() RETURNS text LANGUAGE sql SET request.jwt.claims = \'{"sub":"bob"}\''
            " AS $$ SELECT current_setting('request.jwt.claims') $$"
        )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the claims of a token cannot be changed"):
        with_token.execute("SELECT public.as_bob()")


@pytest.mark.parametrize(
    "statement",
    [
        f"ALTER ROLE CURRENT_USER PASSWORD '{STRONG}'",
        f"ALTER ROLE guest PASSWORD '{STRONG}'",
        "ALTER USER SESSION_USER VALID UNTIL '2001-01-01'",
        f"DO $$ BEGIN ALTER ROLE guest PASSWORD '{STRONG}'; END $$",
        f"SET ROLE member; ALTER ROLE guest PASSWORD '{STRONG}'",
        f"SET ROLE member; ALTER ROLE member PASSWORD '{STRONG}'",
        f"SELECT pg_temp.as_owner($$ALTER ROLE guest PASSWORD '{STRONG}'$$)",
        f"SELECT pg_temp.as_owner($$ALTER ROLE member PASSWORD '{STRONG}'$$)",
        "ALTER ROLE guest SET statement_timeout = 1",
        "ALTER ROLE guest IN DATABASE postgres SET search_path = evil",
        "ALTER ROLE guest RESET ALL",
        "DROP OWNED BY guest",
        "DROP OWNED BY member",
    ],
)
def test_a_session_with_a_token_cannot_change_what_opens_its_role_or_holds_it(strict: Path, statement: str) -> None:
    """A password of its own would open the role without claims: whoever has a token could then be anybody else."""
    options = f"-c guard.has_token=on -c request.jwt.claims={CLAIMS}"
    with connect(strict, ADMIN) as admin:
        admin.execute("CREATE ROLE guest LOGIN; CREATE ROLE member LOGIN; GRANT member TO guest")
        admin.execute("CREATE TABLE rows (); ALTER TABLE rows ENABLE ROW LEVEL SECURITY")
        admin.execute("CREATE POLICY held ON rows AS RESTRICTIVE TO guest, member USING (false)")
        try:
            with connect(strict, "guest", options=options) as session:
                session.execute(
                    "SET ROLE member; CREATE FUNCTION pg_temp.as_owner(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER"
                    " AS 'BEGIN EXECUTE $1; END'; RESET ROLE"
                )
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="with a token") as refused:
                    session.execute(statement)
                assert refused.value.diag.context is None
            with connect(strict, "guest") as session:
                session.execute(f"ALTER ROLE guest PASSWORD '{STRONG}'")
        finally:
            admin.execute("DROP TABLE rows; DROP OWNED BY guest, member; DROP ROLE guest, member")


@pytest.mark.parametrize("statement", ["RESET request.jwt.claims", "RESET ALL", "DISCARD ALL"])
def test_a_reset_leads_back_to_what_the_token_says(with_token: psycopg.Connection[Any], statement: str) -> None:
    with_token.execute(statement)
    assert claims_of(with_token) == CLAIMS


def test_a_setting_of_the_role_is_weaker_than_a_token(strict: Path) -> None:
    with connect(strict, ADMIN) as admin:
        admin.execute('ALTER ROLE tenant SET request.jwt.claims = \'{"sub":"bob"}\'')
    try:
        options = f"-c guard.has_token=on -c request.jwt.claims={CLAIMS}"
        with psycopg.connect(host=str(strict), user="tenant", dbname="postgres", options=options) as session:
            assert claims_of(session) == CLAIMS
    finally:
        with connect(strict, ADMIN) as admin:
            admin.execute("ALTER ROLE tenant RESET request.jwt.claims")


def test_a_parallel_worker_sees_the_claims(with_token: psycopg.Connection[Any]) -> None:
    with_token.execute("SET debug_parallel_query = on")
    assert claims_of(with_token) == CLAIMS
    with_token.execute("SET debug_parallel_query = off")


def test_without_a_token_claims_are_set_as_postgrest_sets_them(strict: Path) -> None:
    with connect(strict, "tenant") as session, session.transaction():
        session.execute("SELECT set_config('request.jwt.claims', %s, true)", [CLAIMS])
        assert claims_of(session) == CLAIMS


@pytest.fixture
def platform(strict: Path) -> Iterator[psycopg.Connection[Any]]:
    with connect(strict, ADMIN) as platform:
        forget(platform)
        yield platform


def forget(platform: psycopg.Connection[Any]) -> None:
    total = refused(platform)[0]
    platform.execute("SELECT set_config('guard.refused', %s, true)", [total])


def refused(session: psycopg.Connection[Any]) -> list[str]:
    row = session.execute("SHOW guard.refused").fetchone()
    assert row is not None
    return [*map(str, row[0].split("\n"))]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("COPY r FROM PROGRAM 'id'", "COPY PROGRAM"),
        ("COPY r FROM '/etc/passwd'", "COPY"),
        ("LOAD 'plpgsql'", "LOAD"),
        ("CREATE FUNCTION e() RETURNS int LANGUAGE c AS 'e', 'e'", "CREATE FUNCTION"),
        ("CREATE LANGUAGE e HANDLER plpgsql_call_handler", "CREATE LANGUAGE"),
        ("GRANT pg_read_server_files TO r", "GRANT ROLE"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM"),
        ("DO $$BEGIN LOAD 'plpgsql'; EXCEPTION WHEN OTHERS THEN NULL; END$$", "LOAD"),
    ],
)
def test_what_is_refused_is_counted_also_where_nobody_is_told(
    session: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str, what: str
) -> None:
    """By its name and the role that logged in, whatever it calls itself now; in a transaction that is taken back, too."""
    session.execute("BEGIN")
    for _ in range(2):
        session.execute("SAVEPOINT s")
        with suppress(psycopg.errors.InsufficientPrivilege):
            session.execute(statement.encode())
        session.execute("ROLLBACK TO s")
    session.execute("ROLLBACK")
    assert refused(platform)[1:] == [f"2 x{b'tenant'.hex()} {what}"]
    forget(platform)
    assert refused(platform)[1:] == []


def test_what_came_after_the_reading_is_not_forgotten(
    session: psycopg.Connection[Any], platform: psycopg.Connection[Any]
) -> None:
    """The number that is given back is of what was read."""
    for statement in ("LOAD 'e'", "ALTER SYSTEM SET work_mem = '1MB'"):
        read = refused(platform)[0]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement.encode())
    platform.execute("SELECT set_config('guard.refused', %s, true)", [read])
    assert refused(platform)[1:] == [f"1 x{b'tenant'.hex()} ALTER SYSTEM"]


def test_more_kinds_than_there_is_room_for_are_counted_together(
    session: psycopg.Connection[Any], platform: psycopg.Connection[Any]
) -> None:
    """A tenant cannot make the server's memory, or the audit log, grow by inventing roles or statements."""
    for number in range(12):
        platform.execute(f"CREATE ROLE many_{number} LOGIN".encode())
    with ExitStack() as sessions:
        for number in range(12):
            many = sessions.enter_context(connect(Path(platform.info.host), f"many_{number}"))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                many.execute("LOAD 'e'")
    _, *kinds = refused(platform)
    assert len(kinds) == 8
    assert kinds[-1] == "5 x others"
    for number in range(12):
        platform.execute(f"DROP ROLE many_{number}".encode())


ELSEWHERE = "CONNECTION 'host=elsewhere.example user=u password=p'"


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE SUBSCRIPTION e {ELSEWHERE} PUBLICATION e WITH (connect = false, slot_name = NONE)",
        f"ALTER SUBSCRIPTION there {ELSEWHERE}",
        "ALTER SUBSCRIPTION there SET PUBLICATION another WITH (refresh = false)",
    ],
)
def test_nobody_who_could_subscribe_does(
    session: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str
) -> None:
    """PostgreSQL would let this role: it was given the right, as a cluster that was made elsewhere may have it."""
    platform.execute("GRANT pg_create_subscription TO tenant; GRANT CREATE ON DATABASE postgres TO tenant")
    platform.execute(
        f"CREATE SUBSCRIPTION there {ELSEWHERE} PUBLICATION e WITH (connect = false, slot_name = NONE)".encode()
    )
    platform.execute("ALTER SUBSCRIPTION there OWNER TO tenant")
    before = platform.execute("SELECT subname, subconninfo, subpublications FROM pg_subscription").fetchall()
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="subscriptions are not available"):
            session.execute(statement.encode())
        after = platform.execute("SELECT subname, subconninfo, subpublications FROM pg_subscription").fetchall()
        assert after == before
    finally:
        platform.execute("DROP SUBSCRIPTION there")
        platform.execute("REVOKE pg_create_subscription FROM tenant; REVOKE CREATE ON DATABASE postgres FROM tenant")


@pytest.mark.parametrize(
    "statement",
    [
        "SET guard.refused = '99'",
        "SELECT set_config('guard.refused', '99', true)",
        "SELECT borrowed($$SELECT set_config('guard.refused', '99', true)$$)",
        "ALTER ROLE r SET guard.refused = '99'",
        "ALTER DATABASE postgres SET guard.refused = '99'",
    ],
)
def test_no_tenant_makes_it_forget(
    session: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str
) -> None:
    """Nor by a function with the rights of the superuser."""
    platform.execute(
        "CREATE OR REPLACE FUNCTION public.borrowed(text) RETURNS void SECURITY DEFINER LANGUAGE plpgsql "
        "AS 'BEGIN EXECUTE $1; END'"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("LOAD 'e'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement.encode())
    assert f"1 x{b'tenant'.hex()} LOAD" in refused(platform)


READ_BY_ACCESS = [
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT umoptions FROM pg_user_mapping",
    "SELECT stavalues1 FROM pg_statistic",
    "SELECT stxdmcv FROM pg_statistic_ext_data",
    "SELECT chunk_data FROM pg_toast.pg_toast_2619",
    "SELECT count(*) FROM pg_authid",
    "COPY pg_authid (rolpassword) TO STDOUT",
    "EXPLAIN ANALYZE SELECT FROM pg_authid WHERE rolpassword LIKE 'SCRAM%'",
    "PREPARE p AS TABLE pg_authid; EXECUTE p",
    "DECLARE c CURSOR WITH HOLD FOR TABLE pg_authid",
    "DO 'BEGIN PERFORM rolpassword FROM pg_authid; END'",
    "SET ROLE pg_read_all_data; TABLE pg_authid",
    "CREATE TEMP VIEW v AS TABLE pg_authid; TABLE v",
    "SET ROLE pg_read_all_data; CREATE TEMP VIEW v AS TABLE pg_shadow; RESET ROLE; TABLE v",
    "SELECT 1 FROM everybodys",
    "SELECT query_to_xml('TABLE pg_authid', true, true, '')",
]


@pytest.fixture(scope="module")
def reader(strict: Path) -> Iterator[str]:
    """Somebody's whose access was approved, beside a view of the owner's that shows more than it should."""
    role = f"cloister_access_{'0' * 32}"
    with connect(strict, ADMIN) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN IN ROLE pg_read_all_data; GRANT pg_read_all_data TO tenant")
        admin.execute("CREATE SCHEMA shown AUTHORIZATION tenant")
        with connect(strict) as owner:
            owner.execute("CREATE VIEW shown.everybodys AS TABLE pg_authid; GRANT USAGE ON SCHEMA shown TO PUBLIC")
        yield role
        admin.execute(f"DROP SCHEMA shown CASCADE; REVOKE pg_read_all_data FROM tenant; DROP ROLE {role}")


@pytest.mark.parametrize("statement", READ_BY_ACCESS)
def test_approved_access_takes_no_verifier_along(strict: Path, reader: str, statement: str) -> None:
    """Threat: who may read all data for an hour keeps what opens it for ever."""
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match="is not for approved access")
    with connect(strict, reader, options="-c search_path=public,shown") as session, refused:
        session.execute(statement.encode())


def test_approved_access_sees_everything_else(strict: Path, reader: str) -> None:
    with connect(strict, reader) as session:
        assert session.execute("SELECT rolpassword FROM pg_roles WHERE rolname = 'tenant'").fetchone() == ("********",)
        for each in ("pg_user", "pg_stats", "pg_class", "pg_user_mappings", "pg_db_role_setting"):
            session.execute(f"SELECT count(*) FROM {each}".encode())
    with connect(strict) as owner:
        assert owner.execute("TABLE pg_authid").fetchall(), "who is no guest reads what they may"
