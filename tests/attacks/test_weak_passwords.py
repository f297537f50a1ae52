"""A tenant sets a password that is weak, or one that nobody can judge, with every statement there is.

Each way is taken three times: with a weak password, with the hash of a strong one, and with a strong one. What counts is
what the server has afterwards, not what it answered: a statement may catch the error, and a script may go on after it.
"""

import base64
import secrets
import string
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cloister.protocol.passwords import estimate
from cloister.protocol.scram import Verifier
from tests.back_doors import superuser
from tests.instance import Instance, Tenant
from tests.trees import contents

pytestmark = pytest.mark.root

NEEDLE = "dragon" + "".join(secrets.choice(string.ascii_letters) for _ in range(4))
"""In every password that must be refused, and nowhere else on this machine."""
SALT = secrets.token_bytes(15)
"""In every hash that must be refused."""
GROUP = "some_group"


@pytest.fixture(scope="module")
def platform() -> Iterator[Instance]:
    with Instance(storage="plain") as instance:
        yield instance


@pytest.fixture(scope="module")
def tenant(platform: Instance) -> Tenant:
    tenant = platform.create_project("weak")
    with tenant.connect() as session:
        session.execute(f"CREATE ROLE {GROUP}")
        session.execute(HELPERS)
    return tenant


HELPERS = """
CREATE FUNCTION by_function(role text, password text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE format('CREATE ROLE %I PASSWORD %L', role, password); RETURN 1; END $$;
CREATE FUNCTION by_definer(role text, password text) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN EXECUTE format('CREATE ROLE %I PASSWORD %L', role, password); RETURN 1; END $$;
CREATE FUNCTION by_swallowing(role text, password text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE format('CREATE ROLE %I PASSWORD %L', role, password); RETURN 1;
       EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'not this time: %', SQLERRM; RETURN 0; END $$;
CREATE FUNCTION by_pieces(role text, password text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE 'ALTER ROLE ' || quote_ident(role) || ' PASS' || 'WORD ' || quote_literal(password); RETURN 1; END $$;
CREATE FUNCTION by_depth(role text, password text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RETURN by_function(role, password); END $$;
CREATE PROCEDURE by_procedure(role text, password text) LANGUAGE plpgsql AS
    $$ BEGIN COMMIT; EXECUTE format('CREATE ROLE %I PASSWORD %L', role, password); COMMIT; END $$;
CREATE FUNCTION by_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM by_function(NEW.role, current_setting('app.password')); RETURN NULL; END $$;
CREATE TABLE wanted (role text);
CREATE TRIGGER makes AFTER INSERT ON wanted FOR EACH ROW EXECUTE FUNCTION by_trigger();
"""


@dataclass
class Attempt:
    """One way, taken with one password."""

    tenant: Tenant
    session: psycopg.Connection[Any]
    role: str
    password: str
    said: list[str] = field(default_factory=list)
    """What the server answered: messages with all their fields, and notices."""

    def run(self, text: str, *, prepare: bool = False) -> None:
        """`{r}` is the role; `{q}`, `{e}`, `{u}`, `{d}`, `{t}`, `{c}` the password in the ways there are to write it."""
        half = len(self.password) // 2
        written = {
            "r": self.role,
            "q": sql.Literal(self.password).as_string(None),
            "e": "E'" + "".join(f"\\x{byte:02x}" for byte in self.password.encode()) + "'",
            "u": "U&'" + "".join(f"\\{ord(char):04x}" for char in self.password) + "'",
            "d": f"$${self.password}$$",
            "t": f"$a_tag${self.password}$a_tag$",
            "c": f"'{self.password[:half]}'\n  '{self.password[half:]}'",
        }
        for name, value in written.items():
            text = text.replace("{" + name + "}", value)
        self._noting(lambda: self.session.execute(text.encode(), prepare=prepare))

    def call(self, text: str, *, prepare: bool = False) -> None:
        """With role and password as parameters: extended protocol."""
        parameters = (self.role, self.password)
        self._noting(lambda: self.session.execute(text.encode(), parameters, prepare=prepare))

    def psql(self, script: str) -> None:
        done = subprocess.run(
            ["psql", "-X", "-q", "-v", f"role={self.role}", "-v", "ON_ERROR_STOP=0"],
            input="\\set password `printenv TRIED`\n" + script,
            env=self.tenant.environment | {"TRIED": self.password},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.said.append(done.stderr)

    def _noting(self, act: Callable[[], object]) -> None:
        try:
            act()
        except psycopg.Error as error:
            diag = error.diag
            self.said += [str(error), *(str(getattr(diag, name)) for name in dir(diag) if not name.startswith("_"))]
        finally:
            if self.session.info.transaction_status.name != "IDLE":
                self.session.rollback()


def altered(text: str, *, prepare: bool = False) -> Callable[[Attempt], None]:
    """A way that starts from a role without a password."""

    def way(attempt: Attempt) -> None:
        attempt.run("CREATE ROLE {r} LOGIN")
        attempt.run("GRANT {r} TO CURRENT_USER WITH SET TRUE")
        attempt.run(text, prepare=prepare)

    return way


def run(text: str, *, prepare: bool = False) -> Callable[[Attempt], None]:
    return lambda attempt: attempt.run(text, prepare=prepare)


def call(text: str, *, prepare: bool = False) -> Callable[[Attempt], None]:
    return lambda attempt: attempt.call(text, prepare=prepare)


def psql(script: str) -> Callable[[Attempt], None]:
    return lambda attempt: attempt.psql(script)


def over_replication(attempt: Attempt) -> None:
    with psycopg.connect(attempt.tenant.uri + "&replication=database", autocommit=True) as session:
        Attempt(attempt.tenant, session, attempt.role, attempt.password, attempt.said).run(
            "CREATE ROLE {r} PASSWORD {q}"
        )


def in_a_pipeline(attempt: Attempt) -> None:
    statement = sql.SQL("CREATE ROLE {} PASSWORD {}").format(sql.Identifier(attempt.role), attempt.password)

    def act() -> None:
        with attempt.session.pipeline():
            attempt.session.execute(statement)

    attempt._noting(act)


def in_parts_of_a_transaction(attempt: Attempt) -> None:
    attempt.run("BEGIN; SAVEPOINT a; CREATE ROLE {r}; RELEASE a; SAVEPOINT b; ALTER ROLE {r} PASSWORD {q}; COMMIT")


WAYS: dict[str, Callable[[Attempt], None]] = {
    # How a string can be written.
    "plain": run("CREATE ROLE {r} LOGIN PASSWORD {q}"),
    "escapes": run("CREATE ROLE {r} LOGIN PASSWORD {e}"),
    "unicode escapes": run("CREATE ROLE {r} LOGIN PASSWORD {u}"),
    "dollar quotes": run("CREATE ROLE {r} LOGIN PASSWORD {d}"),
    "tagged dollar quotes": run("CREATE ROLE {r} LOGIN PASSWORD {t}"),
    "continued string": run("CREATE ROLE {r} LOGIN PASSWORD {c}"),
    # How a statement can be written.
    "comments": run("CREATE/* PASSWORD 'x' */ROLE {r} -- PASSWORD 'y'\n PASSWORD /* /* nested */ */ {q}"),
    "mixed case": run("cReAtE\trOlE\n{r}\fPaSsWoRd\n\n{q}"),
    "empty statements": run(";;; CREATE ROLE {r} PASSWORD {q};;;"),
    "quoted name": run('CREATE ROLE "{r}" PASSWORD {q}'),
    "escaped name": run("CREATE ROLE U&\"\\0{r}\" UESCAPE '!' PASSWORD {q}; ALTER ROLE U&\"\\0{r}\" UESCAPE '!' RENAME TO {r}"),
    "ENCRYPTED": run("CREATE ROLE {r} ENCRYPTED PASSWORD {q}"),
    "CREATE USER": run("CREATE USER {r} PASSWORD {q}"),
    "CREATE USER WITH": run("CREATE USER {r} WITH ENCRYPTED PASSWORD {q} VALID UNTIL 'infinity'"),
    "CREATE GROUP": run("CREATE GROUP {r} PASSWORD {q}"),
    "VALID UNTIL": run("CREATE ROLE {r} PASSWORD {q} VALID UNTIL '2100-01-01'"),
    "VALID UNTIL first": run("CREATE ROLE {r} VALID UNTIL '2100-01-01' PASSWORD {q}"),
    "IN ROLE": run(f"CREATE ROLE {{r}} IN ROLE {GROUP} PASSWORD {{q}}"),
    "IN GROUP": run(f"CREATE ROLE {{r}} PASSWORD {{q}} IN GROUP {GROUP}"),
    "ROLE": run(f"CREATE ROLE {{r}} ROLE {GROUP} PASSWORD {{q}}"),
    "ADMIN": run(f"CREATE ROLE {{r}} ADMIN {GROUP} PASSWORD {{q}}"),
    "NOLOGIN": run("CREATE ROLE {r} NOLOGIN PASSWORD {q}"),
    "all attributes": run("CREATE ROLE {r} CREATEDB CREATEROLE INHERIT LOGIN CONNECTION LIMIT 3 PASSWORD {q}"),
    # ALTER.
    "ALTER ROLE": altered("ALTER ROLE {r} PASSWORD {q}"),
    "ALTER ROLE WITH": altered("ALTER ROLE {r} WITH LOGIN PASSWORD {q} VALID UNTIL 'infinity'"),
    "ALTER USER": altered("ALTER USER {r} ENCRYPTED PASSWORD {q}"),
    "CURRENT_USER": altered("SET ROLE {r}; ALTER ROLE CURRENT_USER PASSWORD {q}; RESET ROLE"),
    "CURRENT_ROLE": altered("SET ROLE {r}; ALTER USER CURRENT_ROLE PASSWORD {q}; RESET ROLE"),
    "RENAME afterwards": altered("ALTER ROLE {r} RENAME TO a_while; ALTER ROLE a_while PASSWORD {q}; ALTER ROLE a_while RENAME TO {r}"),
    "set twice": altered("ALTER ROLE {r} PASSWORD NULL; ALTER ROLE {r} PASSWORD {q}; ALTER ROLE {r} PASSWORD {q}"),
    # Blocks and transactions.
    "several statements": run("SELECT 1; CREATE ROLE {r} PASSWORD {q}; SELECT 2"),
    "transaction": run("BEGIN ISOLATION LEVEL SERIALIZABLE; CREATE ROLE {r}; ALTER ROLE {r} PASSWORD {q}; COMMIT"),
    "savepoints": in_parts_of_a_transaction,
    "DO": run("DO $do$BEGIN CREATE ROLE {r} PASSWORD {q}; END$do$"),
    "DO EXECUTE": run("DO $do$BEGIN EXECUTE format('create role {r} login password %L', {q}::text); END$do$"),
    "DO in DO": run("DO $a$BEGIN EXECUTE 'DO $b$BEGIN CREATE ROLE {r} PASSWORD '||quote_literal({q}::text)||'; END$b$'; END$a$"),
    "DO that swallows": run("DO $do$BEGIN CREATE ROLE {r} PASSWORD {q}; EXCEPTION WHEN OTHERS THEN NULL; END$do$"),
    "DO with a setting": run("SET app.password = {q}; DO $$BEGIN PERFORM by_function('{r}', current_setting('app.password')); END$$"),
    "function": call("SELECT by_function(%s, %s)"),
    "function in a function": call("SELECT by_depth(%s, %s)"),
    "SECURITY DEFINER": call("SELECT by_definer(%s, %s)"),
    "function that swallows": call("SELECT by_swallowing(%s, %s)"),
    "function by pieces": altered("SELECT by_pieces('{r}', {q})"),
    "procedure": call("CALL by_procedure(%s, %s)"),
    "trigger": run("SET app.password = {q}; INSERT INTO wanted VALUES ('{r}')"),
    "CREATE TABLE AS": run("CREATE TEMPORARY TABLE made AS SELECT by_function('{r}', {q}); DROP TABLE made"),
    # Protocols.
    "extended protocol": run("CREATE ROLE {r} PASSWORD {q}", prepare=True),
    "extended protocol, ALTER": altered("ALTER ROLE {r} PASSWORD {q}", prepare=True),
    "prepared DO": run("DO $do$BEGIN EXECUTE format('CREATE ROLE {r} PASSWORD %L', {q}::text); END$do$", prepare=True),
    "PREPARE": run("DEALLOCATE ALL; PREPARE p(text, text) AS SELECT by_function($1, $2); EXECUTE p('{r}', {q})"),
    "prepared call": call("SELECT by_function(%s, %s)", prepare=True),
    "pipeline": in_a_pipeline,
    "replication connection": over_replication,
    # psql.
    "psql script": psql("CREATE ROLE :\"role\" LOGIN PASSWORD :'password';\n"),
    "psql gexec": psql("SELECT format('CREATE ROLE %I PASSWORD %L', :'role', :'password') \\gexec\n"),
    "psql call": psql("SELECT by_function(:'role', :'password');\n"),
}  # fmt: skip


def stored(session: psycopg.Connection[Any], role: str) -> str | None:
    row = session.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,)).fetchone()
    return row[0] if row else None


def strong_password() -> str:
    return "npg_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(16))


@pytest.fixture
def session(tenant: Tenant) -> Iterator[psycopg.Connection[Any]]:
    with tenant.connect() as session:
        yield session


def take(tenant: Tenant, session: psycopg.Connection[Any], way: str, password: str) -> tuple[str | None, list[str]]:
    """What is stored in the end, and what was said on the way."""
    attempt = Attempt(tenant, session, f"r{secrets.token_hex(4)}", password)
    session.add_notice_handler(lambda notice: attempt.said.append(notice.message_primary or ""))
    WAYS[way](attempt)
    session.execute("RESET ALL")
    return stored(session, attempt.role), attempt.said


def test_there_are_more_than_forty_ways() -> None:
    assert len(WAYS) > 50


@pytest.mark.parametrize("way", WAYS)
def test_strong_passwords_are_stored_and_weak_and_hashed_ones_are_not(
    tenant: Tenant, session: psycopg.Connection[Any], way: str
) -> None:
    strong = strong_password()
    verifier, said = take(tenant, session, way, strong)
    assert verifier is not None, said
    assert Verifier.parse(verifier).matches_password(strong)

    weak = NEEDLE + "1"
    assert not estimate(weak).is_enough
    verifier, said = take(tenant, session, way, weak)
    assert verifier is None
    assert NEEDLE not in " ".join(said)
    if way != "DO that swallows":
        assert "bits of entropy, 60 are required" in " ".join(said)

    hashed = str(Verifier.of_password(strong, salt=SALT))
    verifier, said = take(tenant, session, way, hashed)
    assert verifier is None
    assert hashed[-40:] not in " ".join(said)
    if way != "DO that swallows":
        assert "already hashed" in " ".join(said)


def test_psqls_own_command_is_refused_with_what_to_do_instead(tenant: Tenant) -> None:
    """`\\password` hashes on the client."""
    with tenant.connect() as session:
        session.execute("CREATE ROLE asks LOGIN")
    done = subprocess.run(
        ["psql", "-X", "-q", "-c", "\\password asks"],
        input=f"{NEEDLE}\n{NEEDLE}\n",
        start_new_session=True,  # without a terminal it asks on standard input
        env=tenant.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "already hashed" in done.stderr
    assert "ALTER ROLE" in done.stderr


FAILS_ELSEWHERE = [
    "CREATE ROLE x PASSWORD NEEDLE",
    "CREATE ROLE x PASSWORD 'NEEDLE' NO_SUCH_OPTION",
    "CREATE ROLE x PASSWORD 'NEEDLE",
    "CREATE ROLE neondb_owner PASSWORD 'NEEDLE'",
    "CREATE ROLE x SUPERUSER PASSWORD 'NEEDLE'",
    "ALTER ROLE nobody_there PASSWORD 'NEEDLE'",
    "ALTER ROLE cloister_admin PASSWORD 'NEEDLE'",
    "ALTER ROLE neon_superuser PASSWORD 'NEEDLE'",
    "SET password_encryption = md5; CREATE ROLE x PASSWORD 'NEEDLE'",
    "SET scram_iterations = 1; CREATE ROLE x PASSWORD 'NEEDLE'",
    "SELECT 'NEEDLE'::int",
    "DO $$BEGIN EXECUTE 'CREATE ROLE x PASSWORD ''NEEDLE'' NO_SUCH_OPTION'; END$$",
    "DO $$BEGIN EXECUTE 'CREATE ROLE neondb_owner PASSWORD ''NEEDLE'''; END$$",
    "DO $$BEGIN CREATE ROLE x PASSWORD 'NEEDLE'; PERFORM 1/0; END$$",
    "DO $$BEGIN PERFORM format('%q', 'NEEDLE'); END$$",
    "SELECT by_function('x', 'NEEDLE', 1)",
]


@pytest.mark.parametrize("statement", FAILS_ELSEWHERE)
def test_statements_that_fail_for_another_reason_fail(session: psycopg.Connection[Any], statement: str) -> None:
    """What they leave behind is looked for below."""
    with pytest.raises(psycopg.Error):
        session.execute(statement.replace("NEEDLE", NEEDLE).encode())


def test_a_megabyte_is_refused_at_once(session: psycopg.Connection[Any]) -> None:
    session.execute("SET statement_timeout = '3s'")
    for piece in ("a", NEEDLE, "é", "\N{COMBINING GRAVE ACCENT BELOW}\N{COMBINING GRAVE ACCENT}"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="at most 1000 bytes"):
            session.execute(b"CREATE ROLE long PASSWORD '%s'" % (piece * (1_000_000 // len(piece))).encode())


def test_what_others_see_of_a_session_holds_no_password(tenant: Tenant, session: psycopg.Connection[Any]) -> None:
    strong = strong_password()
    session.execute(f"CREATE ROLE seen PASSWORD '{strong}'".encode())
    with tenant.connect() as other:
        queries = [row[0] for row in other.execute("SELECT query FROM pg_stat_activity")]
    assert any("withheld" in (query or "") for query in queries)
    assert strong not in str(queries)


def test_a_verifier_that_came_past_the_check_lets_nobody_in(platform: Instance, tenant: Tenant) -> None:
    first, second, third = strong_password(), strong_password(), strong_password()
    with tenant.connect() as session:
        session.execute(f"CREATE ROLE walks_in LOGIN PASSWORD '{first}'".encode())
    assert answers(tenant, "walks_in", first, lambda said: not said)

    # A hole, whatever it may be: the catalog holds a verifier that no statement brought there.
    foreign = Verifier.of_password(second, salt=secrets.token_bytes(16))
    with tenant.connect():
        superuser(platform, tenant, f"UPDATE pg_authid SET rolpassword = '{foreign}' WHERE rolname = 'walks_in'")
        for password in (first, second):
            assert answers(tenant, "walks_in", password, lambda said: "password authentication failed" in said)
    api_log = (platform.paths.logs / "api.log").read_text()
    assert "the password of role 'walks_in' was never checked" in api_log

    # Asleep, the same.
    platform.suspend(tenant)
    assert "password authentication failed" in tenant.psql("SELECT 1", PGUSER="walks_in", PGPASSWORD=second).stderr

    with tenant.connect() as session:
        session.execute(f"ALTER ROLE walks_in PASSWORD '{third}'".encode())
        session.execute("ALTER ROLE walks_in RENAME TO walked_in")
        assert answers(tenant, "walked_in", third, lambda said: not said)


def answers(tenant: Tenant, role: str, password: str, is_so: Callable[[str], bool]) -> bool:
    """Whether a login is soon answered like this: the gateway may take a second to ask the server again."""
    deadline = time.monotonic() + 5
    while not is_so(tenant.psql("SELECT", PGUSER=role, PGPASSWORD=password).stderr):
        if time.monotonic() > deadline:
            return False
    return True


def test_nothing_of_a_refused_password_is_left_on_disk(platform: Instance, tenant: Tenant) -> None:
    """The last of this file: data, WAL, logs, the control database, everything that is below the state directory."""
    with tenant.connect() as session:
        kept = stored(session, tenant.role)
    assert kept is not None
    platform.suspend(tenant)
    platform.down()
    needles = {NEEDLE.encode(), NEEDLE.encode().hex().encode(), base64.b64encode(SALT)}
    control = kept.encode()
    found, seen_control = [], False
    for path, content in contents(platform.state_dir):
        seen_control |= control in content and "timelines" in path.parts
        found += [str(path) for needle in needles if needle in content]
    assert seen_control, "the search finds what is there"
    assert found == []
