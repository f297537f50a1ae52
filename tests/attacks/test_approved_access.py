"""Threat: somebody gets at a tenant's data without a second person's word, for longer, with more rights, or without record.

On a whole platform, through its own doors: people's keys, SQL under an approved access, and what the API's process could
write into the control database by its own door. Each refusal stands beside the case that is let through.
"""

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from tests.back_doors import as_user, control, try_control, wait_until
from tests.branches import create_child
from tests.control.access.test_service import GROWN_OTHERWISE, REFUSED_BY_THE_DATABASE
from tests.instance import Instance, Tenant
from tests.trees import contents

pytestmark = pytest.mark.root

Answer = tuple[int, Any]

PEOPLE: Final = {
    "manager": "admin",
    "deputy": "admin",
    "dev": "editor",
    "peer": "editor",
    "viewer": "viewer",
    "on-call": "viewer",
    "was-on-call": "viewer",
    "dev-on-call": "editor",
    "collaborator": "collaborator",
    "stranger": "",
}
KEYS: Final = ("organizations-key", "projects-key")
KEPT_OUT: Final = "password authentication failed|the access is over"


class Site:
    """A project with rows, people of every kind, and what they ask of the API."""

    def __init__(self, platform: Instance, tenant: Tenant) -> None:
        self.platform, self.tenant = platform, tenant
        self.org_id: str = platform.api("GET", f"/projects/{tenant.project_id}")["project"]["org_id"]
        self.context = ssl.create_default_context(cafile=str(platform.paths.ca_file))
        self.base = f"/cloister/projects/{tenant.project_id}"
        self.keys: dict[str, str] = {}
        for who, role in PEOPLE.items():
            made = platform.api("POST", "/cloister/accounts", {"email": self.email(who), "name": who})
            self.keys[who] = made["key"]
            if role:
                invited = {"invitations": [{"email": self.email(who), "role": role}]}
                platform.api("POST", f"/organizations/{self.org_id}/invitations", invited)
        for who, words in (("organizations-key", {}), ("projects-key", {"project_id": tenant.project_id})):
            made = self.done("manager", "POST", f"/organizations/{self.org_id}/api_keys", {"key_name": who} | words)
            self.keys[who] = made["key"]
        self.on_call("on-call", timedelta(hours=-1))
        self.on_call("dev-on-call", timedelta(hours=-1))
        self.on_call("was-on-call", timedelta(hours=-9))

    def email(self, who: str) -> str:
        return f"{who}@example.com"

    def on_call(self, who: str, begins: timedelta) -> None:
        """For eight hours."""
        at = datetime.now(UTC) + begins
        shift = {
            "email": self.email(who),
            "starts_at": at.isoformat(),
            "ends_at": (at + timedelta(hours=8)).isoformat(),
        }
        self.done("manager", "POST", f"/cloister/organizations/{self.org_id}/on_call", shift)

    def ask(self, who: str, method: str, path: str, body: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.keys[who]}"}
        answer = self.platform.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.json()

    def each_is_told(self, expected: Mapping[str, int], method: str, path: str, body: Any = None) -> None:
        for who, status in expected.items():
            assert self.ask(who, method, path, body)[0] == status, who

    def done(self, who: str, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.ask(who, method, path, body)
        assert status < 300, answer
        return answer

    def requested(self, who: str = "dev", **words: Any) -> str:
        """The path of the request."""
        wanted = {"reason": "INC-7", "duration_seconds": 3600} | words
        made = self.done(who, "POST", f"{self.base}/access_requests", {"access_request": wanted})
        return f"{self.base}/access_requests/{made['access_request']['id']}"

    def approved(self, who: str = "dev", **words: Any) -> str:
        path = self.requested(who, **words)
        self.done("manager", "POST", f"{path}/approve")
        return path

    def state(self, path: str) -> str:
        return str(self.done("manager", "GET", path)["access_request"]["state"])

    def approvers(self, path: str) -> list[str]:
        return list(self.done("manager", "GET", path)["access_request"]["approved_by"])

    def together(self, *calls: tuple[str, str]) -> list[int]:
        """POSTs that set out at the same moment, each on a connection of its own."""
        url = str(self.platform.http.base_url).rstrip("/")

        def post(call: tuple[str, str]) -> int:
            who, path = call
            headers = {"Authorization": f"Bearer {self.keys[who]}"}
            with httpx.Client(verify=self.context, timeout=60, headers=headers) as client:
                return client.post(f"{url}{path}").status_code

        with ThreadPoolExecutor(len(calls)) as pool:
            return sorted(pool.map(post, calls))

    def session(self, path: str, who: str = "dev", database: str | None = None) -> psycopg.Connection[Any]:
        return self.login(self.done(who, "POST", f"{path}/credentials"), database)

    def login(self, credentials: Any, database: str | None = None) -> psycopg.Connection[Any]:
        name = database or self.tenant.database
        found = {each["connection_parameters"]["database"]: each for each in credentials["connection_uris"]}
        uri = found[name]["connection_uri"]
        return psycopg.connect(f"{uri}&sslrootcert={self.tenant.ca_file}", autocommit=True)

    def over(self, path: str) -> None:
        """Its time is over now."""
        request_id = path.rpartition("/")[2]
        control(self.platform, f"UPDATE access_request SET ends_at = now() WHERE id = '{request_id}'")

    def recording(self, path: str) -> str:
        (made,) = self.done("manager", "GET", f"{path}/recordings")["recordings"]
        return f"{self.base}/recordings/{made['id']}"


def without(expected: Mapping[str, int], *people: str) -> dict[str, int]:
    return {who: status for who, status in expected.items() if who not in people}


def refused_alone(site: Site, statements: Mapping[str, str]) -> None:
    """The control database refuses each of these to the process that the API is."""
    done = {name: try_control(site.platform, statement).returncode for name, statement in statements.items()}
    assert 0 not in done.values(), done


@pytest.fixture(scope="module")
def shared_site(shared_platform: Instance) -> Site:
    tenant = shared_platform.create_project("orders")
    with tenant.connect() as owner:
        owner.execute("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 100) g")
        owner.execute("CREATE EXTENSION dblink")
        owner.execute("CREATE FUNCTION harmless() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    second = {"database": {"name": "second", "owner_name": tenant.role}}
    shared_platform.api("POST", f"/projects/{tenant.project_id}/branches/{tenant.branch_id}/databases", second)
    shared_platform.settle(tenant.project_id)
    return Site(shared_platform, tenant)


@pytest.fixture
def site(platform: Instance, shared_site: Site) -> Iterator[Site]:
    """Whatever a test does, afterwards the owner's table is as it was."""
    yield shared_site
    with shared_site.tenant.connect() as owner:
        assert owner.execute("SELECT count(*), sum(id) FROM orders").fetchone() == (100, 5050)


# ── who decides ──


def test_nobody_approves_their_own_request_by_whichever_door(site: Site) -> None:
    """Also not who could approve every other one, nor by another key, nor by a key that they made for the organization."""
    second = site.done("manager", "POST", "/api_keys", {"key_name": "second"})
    site.keys["managers-second"] = second["key"]
    for who, doors in (
        ("manager", ("manager", "managers-second", *KEYS)),
        ("dev", ("dev", *KEYS)),
    ):
        path = site.requested(who)
        for door in doors:
            for verb in ("approve", "deny"):
                assert site.ask(door, "POST", f"{path}/{verb}", {} if verb == "deny" else None)[0] == 403, (door, verb)
        assert (site.state(path), site.approvers(path)) == ("pending", [])
        assert site.ask(who, "POST", f"{path}/credentials")[0] == 409
        site.done("deputy", "POST", f"{path}/approve")
        site.done(who, "POST", f"{path}/terminate")


def test_a_shift_does_not_let_decide_about_ones_own(site: Site) -> None:
    path, others = site.requested("dev-on-call"), site.requested()
    assert site.ask("dev-on-call", "POST", f"{path}/approve")[0] == 403
    assert site.state(path) == "pending"
    site.done("dev-on-call", "POST", f"{others}/approve")
    site.done("dev-on-call", "POST", f"{path}/terminate")
    site.done("dev", "POST", f"{others}/terminate")


def test_who_has_less_right_decides_nothing(site: Site) -> None:
    """Nobody learns of a project who is not of it; who sees the request may not decide; a shift that is over is none."""
    path = site.requested()
    for who, expected in {
        "peer": 403, "viewer": 403, "was-on-call": 403, "organizations-key": 403, "projects-key": 403,
        "collaborator": 404, "stranger": 404,
    }.items():  # fmt: skip
        for verb, body in (("approve", None), ("deny", {}), ("terminate", None)):
            assert site.ask(who, "POST", f"{path}/{verb}", body)[0] == expected, (who, verb)
    assert (site.state(path), site.approvers(path)) == ("pending", [])
    site.done("on-call", "POST", f"{path}/approve")
    assert (site.state(path), site.approvers(path)) == ("active", [site.email("on-call")])
    for who in ("peer", "viewer", "was-on-call", *KEYS):
        assert site.ask(who, "POST", f"{path}/terminate")[0] == 403, who
        assert site.ask(who, "POST", f"{path}/credentials")[0] == 403, who
    assert site.ask("manager", "POST", f"{path}/credentials")[0] == 403, "approved, and still another's"
    site.done("on-call", "POST", f"{path}/terminate")


def test_an_approval_holds_for_the_request_it_was_given_to(site: Site) -> None:
    """By its id in another project's name it is not found, and what was agreed to is not asked for again in more words."""
    other = site.platform.create_project("other", wait=False)
    path = site.requested()
    elsewhere = path.replace(site.tenant.project_id, other.project_id)
    for verb in ("approve", "terminate"):
        assert site.ask("manager", "POST", f"{elsewhere}/{verb}")[0] == 404
    assert site.state(path) == "pending"
    site.done("manager", "POST", f"{path}/deny", {})
    for who in ("manager", "deputy", "on-call"):
        assert site.ask(who, "POST", f"{path}/approve")[0] == 409, "what was refused stays refused"
    assert site.ask("dev", "POST", f"{path}/credentials")[0] == 409


def test_of_two_answers_at_once_one_counts(site: Site) -> None:
    for first, second in (("approve", "deny"), ("approve", "approve"), ("deny", "terminate")):
        path = site.requested()
        assert site.together(("manager", f"{path}/{first}"), ("deputy", f"{path}/{second}")) == [200, 409]
        assert site.state(path) in {"active", "denied", "revoked"}
        assert len(site.approvers(path)) == (site.state(path) == "active")
        if site.state(path) == "active":
            site.done("dev", "POST", f"{path}/terminate")


# ── breaking the glass ──


def test_one_person_does_not_break_the_glass(site: Site) -> None:
    """Not the requester and one more, and not one person twice, at once or with another key. And it is told at once."""
    site.keys["peers-second"] = site.done("peer", "POST", "/api_keys", {"key_name": "second"})["key"]
    path = site.requested(break_glass=True)
    wait_until(lambda: "break-glass" in rules_found(site), "nobody is told that the glass is to be broken")
    assert site.ask("dev", "POST", f"{path}/approve")[0] == 403
    twice = site.together(*[(who, f"{path}/approve") for who in ("peer", "peers-second", "peer", "peers-second")])
    assert twice == [200] * 4
    assert (site.state(path), site.approvers(path)) == ("pending", [site.email("peer")])
    assert site.ask("dev", "POST", f"{path}/approve")[0] == 403
    for who, expected in {"viewer": 403, "on-call": 403, "collaborator": 404, **dict.fromkeys(KEYS, 403)}.items():
        assert site.ask(who, "POST", f"{path}/approve")[0] == expected, who
    assert site.ask("dev", "POST", f"{path}/credentials")[0] == 409
    site.done("deputy", "POST", f"{path}/approve")
    assert site.state(path) == "active"
    site.done("dev", "POST", f"{path}/terminate")
    wait_until(lambda: rules_found(site).count("break-glass") >= 2, "nobody is told that the glass is broken")
    wait_until(lambda: "decision-refused" in rules_found(site), "nobody is told of who approved their own")


def rules_found(site: Site) -> list[str]:
    found = site.platform.api("GET", "/cloister/findings?limit=500")["findings"]
    return [it["rule"] for it in found if it["subject"].get("project_id") == site.tenant.project_id]


# ── what the session may ──


@dataclass(frozen=True, slots=True)
class Escape:
    """Statements of one session, of which the last must be refused."""

    name: str
    statements: Sequence[str]
    said: str = "42501"
    """The SQLSTATE."""


WRITES: Final = "INSERT INTO orders VALUES (0)"

ESCAPES: Final = (
    Escape("the owner's role", ["SET ROLE neondb_owner"]),
    Escape("the platform's role", ["SET ROLE cloister_admin"]),
    Escape("the role of all writers", ["SET ROLE pg_write_all_data"]),
    Escape("the readers' role, and back", ["SET ROLE pg_read_all_data", "RESET ROLE", WRITES]),
    Escape("another who logged in", ["SET SESSION AUTHORIZATION neondb_owner"]),
    Escape("and back to who logged in", ["RESET SESSION AUTHORIZATION", "SET ROLE NONE", WRITES]),
    Escape("a role by set_config", ["SELECT set_config('role', 'neondb_owner', false)"]),
    Escape("all settings taken back", ["RESET ALL", "SET default_transaction_read_only = off", WRITES]),
    Escape("everything taken back", ["DISCARD ALL", "BEGIN READ WRITE", WRITES]),
    Escape("no triggers", ["SET session_replication_role = replica"]),
    Escape("a right to itself", ["GRANT pg_write_all_data TO CURRENT_USER"]),
    Escape("a right to everybody", ["GRANT INSERT ON orders TO PUBLIC", WRITES]),
    Escape("a longer life", ["ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'"]),
    Escape("a password of its own", ["ALTER ROLE CURRENT_USER PASSWORD 'npg_9fK2mQ8xR4tV7w'"]),
    Escape("a setting of its own", ["ALTER ROLE CURRENT_USER SET search_path = pg_temp"]),
    Escape("a role besides", ["CREATE ROLE besides LOGIN IN ROLE pg_read_all_data"]),
    Escape("the owner's password", ["ALTER ROLE neondb_owner PASSWORD 'npg_9fK2mQ8xR4tV7w'"]),
    Escape("the owner's verifier", ["SELECT rolpassword FROM pg_authid"]),
    Escape("the owner's verifier, by a view", ["CREATE TEMP VIEW v AS TABLE pg_shadow", "TABLE v"]),
    Escape("a program", ["COPY orders TO PROGRAM 'id'"]),
    Escape("rows from a program", ["CREATE TEMP TABLE t (s text)", "COPY t FROM PROGRAM 'id'"]),
    Escape("a file", ["COPY orders TO '/tmp/orders'"]),
    Escape("a file by function", ["SELECT pg_read_file('PG_VERSION')"]),
    Escape("a file as large object", ["SELECT lo_import('/etc/passwd')"]),
    Escape("dblink, as oneself without password", ["SELECT dblink_connect('dbname=neondb')"], "2F003"),
    Escape("dblink, as the owner", ["SELECT dblink_connect('dbname=neondb user=neondb_owner')"], "2F003"),
    Escape("dblink, unchecked", ["SELECT dblink_connect_u('dbname=neondb user=neondb_owner')"]),
    Escape("a foreign server", ["CREATE SERVER s FOREIGN DATA WRAPPER dblink_fdw"]),
    Escape("a function in everybody's way", ["CREATE FUNCTION public.lower(text) RETURNS text RETURN 'x'"]),
    Escape("another function's body", ["CREATE OR REPLACE FUNCTION harmless() RETURNS int RETURN 2"]),
    Escape("a schema of its own name", ["CREATE SCHEMA AUTHORIZATION CURRENT_USER"]),
    Escape("another search_path for all", ["ALTER DATABASE neondb SET search_path = pg_temp"]),
    Escape("a table in the owner's place", ["CREATE TABLE public.customers (n int)"]),
    Escape("the owner's session", ["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'neondb_owner'"]),
    Escape("a prepared write", [f"PREPARE w AS {WRITES}", "EXECUTE w"]),
    Escape("a write in a block", [f"DO 'BEGIN {WRITES}; END'"]),
    Escape("a write below a read", [f"WITH w AS ({WRITES} RETURNING 1) TABLE w"]),
    Escape("a lock on the owner's table", ["BEGIN", "LOCK TABLE orders"]),
    Escape("rows held", ["SELECT FROM orders FOR UPDATE"]),
)  # fmt: skip


def test_a_reader_does_not_become_anything_else(site: Site) -> None:
    """Whatever the session takes back of its settings, the read-only one first. The owner's session goes on meanwhile."""
    refused: dict[str, str | None] = {}
    path = site.approved()
    with site.tenant.connect() as owner, closing(site.session(path)) as session:
        for escape in ESCAPES:
            session.execute("RESET ROLE; RESET ALL; SET default_transaction_read_only = off")
            for statement in escape.statements:
                try:
                    session.execute(statement.encode())
                    refused[escape.name] = None
                except psycopg.Error as error:
                    refused[escape.name] = error.sqlstate
            session.rollback()
        assert owner.execute("SELECT harmless()").fetchone() == (1,)
    assert refused == {it.name: it.said for it in ESCAPES}
    site.done("dev", "POST", f"{path}/terminate")


def test_a_writer_writes_rows_and_nothing_else(site: Site) -> None:
    path = site.approved(write=True)
    refused = {}
    with closing(site.session(path)) as session:
        session.execute("BEGIN; INSERT INTO orders VALUES (0); UPDATE orders SET id = id + 1; ROLLBACK")
        for statement in (
            "TRUNCATE orders", "DROP TABLE orders", "ALTER TABLE orders ADD more int", "CREATE INDEX ON orders (id)",
            "CREATE TRIGGER t AFTER INSERT ON orders EXECUTE FUNCTION harmless()", "CREATE TABLE public.t (n int)",
            "UPDATE pg_authid SET rolsuper = true", "INSERT INTO pg_auth_members SELECT * FROM pg_auth_members",
            "SET ROLE neondb_owner", "COPY orders FROM PROGRAM 'echo 1'", "SELECT rolpassword FROM pg_authid",
        ):  # fmt: skip
            with pytest.raises(psycopg.Error) as error:
                session.execute(statement.encode())
            refused[statement] = error.value.sqlstate
    assert set(refused.values()) == {"42501"}, refused
    site.done("dev", "POST", f"{path}/terminate")


# ── what is left behind ──


def test_nothing_stays_when_the_access_ends(site: Site) -> None:
    """Threat: something of the role's keeps it from being dropped, or waits for whoever comes next. What the database keeps
    of it, a large object, is its owner's afterwards."""
    path = site.approved()
    credentials = site.done("dev", "POST", f"{path}/credentials")
    with closing(site.login(credentials)) as session, closing(site.login(credentials, "second")) as other:
        role = session.execute("SELECT session_user").fetchone()
        left = (
            "SET default_transaction_read_only = off",
            "SELECT lo_create(0)",
            "PREPARE p AS SELECT 1",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "CREATE TEMP TABLE loot AS SELECT 1; LISTEN news; SELECT pg_advisory_lock(7)",
        )
        for statement in left:
            session.execute(statement.encode())
            other.execute(statement.encode())
        pid = session.execute("SELECT pg_backend_pid()").fetchone()
        site.done("manager", "POST", f"{path}/terminate")
        for each in (session, other):
            with pytest.raises(psycopg.OperationalError):
                each.execute("SELECT pg_sleep(300)")
    with site.tenant.connect(prepare_threshold=None) as owner:  # or what is asked often is found as left behind

        def found(query: str, *words: Any) -> Any:
            return owner.execute(query.encode(), words).fetchall()

        wait_until(lambda: not found("SELECT FROM pg_roles WHERE rolname = %s", *role or ()), "the role is there")
        assert found("SELECT pid FROM pg_stat_activity WHERE pid = %s", *pid or ()) == []
        for query in (
            "SELECT FROM pg_default_acl", "SELECT FROM pg_prepared_statements",
            "SELECT FROM pg_locks WHERE locktype = 'advisory'", "SELECT FROM pg_class WHERE relname = 'loot'",
        ):  # fmt: skip
            assert found(query) == [], query
        assert found("SELECT lomowner::regrole::text FROM pg_largeobject_metadata") == [(site.tenant.role,)]


# ── after the end ──


def test_what_is_open_at_the_end_is_not_finished(site: Site) -> None:
    """A transaction that waits for COMMIT, a cursor, a prepared statement, a second session, an old password."""
    path = site.approved(write=True)
    credentials = site.done("dev", "POST", f"{path}/credentials")
    with closing(site.login(credentials)) as writing, closing(site.login(credentials)) as holding:
        writing.execute("BEGIN")
        writing.execute("UPDATE orders SET id = -1")
        holding.execute("PREPARE later AS TABLE orders")
        holding.execute("DECLARE held CURSOR WITH HOLD FOR TABLE orders")
        site.over(path)
        for session in (writing, holding):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT pg_sleep(300)")
        for session, statement in ((writing, "COMMIT"), (holding, "FETCH ALL FROM held"), (holding, "EXECUTE later")):
            with pytest.raises(psycopg.OperationalError):
                session.execute(statement.encode())
    with pytest.raises(psycopg.OperationalError, match=KEPT_OUT):
        site.login(credentials)
    wait_until(lambda: site.state(path) == "ended", "it goes on")
    for who, verb, expected in (("dev", "credentials", 409), ("manager", "approve", 409), ("manager", "deny", 409)):
        assert site.ask(who, "POST", f"{path}/{verb}", {} if verb == "deny" else None)[0] == expected, verb
    with pytest.raises(psycopg.OperationalError, match=KEPT_OUT):
        site.login(credentials)


def test_a_password_of_the_access_opens_its_own_door_once_given_anew(site: Site) -> None:
    """Not the one before, not by doors that do not record, not a copy of the branch."""
    path = site.approved()
    before, credentials = (site.done("dev", "POST", f"{path}/credentials") for _ in range(2))
    with pytest.raises(psycopg.OperationalError, match=KEPT_OUT):
        site.login(before)
    with closing(site.login(credentials)) as session:
        session.execute("TABLE orders")
    copy = create_child(site.platform, site.tenant, "copy")
    uri = credentials["connection_uris"][0]["connection_uri"]
    with pytest.raises(psycopg.OperationalError, match=KEPT_OUT):
        psycopg.connect(f"{uri.replace(site.tenant.host, copy.host)}&sslrootcert={copy.ca_file}")
    url = f"https://api.{site.platform.domain}:{site.platform.https_port}/sql"
    with httpx.Client(verify=site.context, timeout=60) as client:
        answer = client.post(url, json={"query": "TABLE orders"}, headers={"Neon-Connection-String": uri})
    assert (answer.status_code, "recorded" in answer.text) == (400, True), answer.text
    site.done("dev", "POST", f"{path}/terminate")


# ── the recording ──


def test_who_may_not_reads_no_recording(site: Site) -> None:
    """Not who is recorded, whatever they have become since; not who let them in on call; not by another project's name."""
    other = site.platform.create_project("another", wait=False)
    for who in ("dev", "deputy"):
        path = site.approved(who)
        with closing(site.session(path, who)) as session:
            session.execute("TABLE orders")
        recording = site.recording(path)
        everybody = {it: 404 if it in ("collaborator", "stranger") else 403 for it in (*PEOPLE, *KEYS)}
        for reader, expected in (
            everybody | {"manager": 200, "dev": 403} | {"deputy": 403 if who == "deputy" else 200}
        ).items():
            assert site.ask(reader, "GET", recording)[0] == expected, (who, reader)
        elsewhere = recording.replace(site.tenant.project_id, other.project_id)
        assert site.ask("manager", "GET", elsewhere)[0] == 404
        site.done(who, "POST", f"{path}/terminate")
    looks = site.platform.api(
        "GET", f"/cloister/audit/events?action=recording.read&project_id={site.tenant.project_id}"
    )
    seen = [(it["event"]["outcome"], it["event"]["resource"]) for it in looks["events"]]
    assert ("ok", recording.rpartition("/")[2]) in seen, "who looked is told"
    assert ("failed", recording.rpartition("/")[2]) in seen, "and who tried"


def test_nothing_of_it_is_rewritten_by_the_apis_own_process(site: Site) -> None:
    """Threat: whoever took over the API's process edits requests, approvals and recordings in the control database."""
    path = site.approved()
    with closing(site.session(path)) as session:
        session.execute("TABLE orders")
        site.done("manager", "POST", f"{site.requested()}/deny", {})
        waiting = site.requested()
        refused = {
            name: try_control(site.platform, statement)
            for name, statement in {
                **REFUSED_BY_THE_DATABASE,
                **GROWN_OTHERWISE,
                "the rules taken away": "ALTER TABLE access_request DISABLE TRIGGER ALL",
                "the rules passed by": "SET session_replication_role = replica",
                "a request deleted": "DELETE FROM access_request",
                "a recording deleted whole": "DELETE FROM recording",
                "everything deleted": "TRUNCATE access_request CASCADE",
            }.items()
        }
    assert [name for name, done in refused.items() if done.returncode == 0] == []
    whole = site.done("manager", "GET", site.recording(path))
    assert [it["text"] for it in whole["statements"]][:1] == ["TABLE orders"]
    for each in (waiting, path):
        site.done("dev", "POST", f"{each}/terminate")


# ── the record of statements ──


def test_recorded_statements_are_erased_by_two_and_nothing_brings_them_back(site: Site) -> None:
    """Threat: somebody erases what they did, alone; or what was erased is read all the same, out of whatever was kept."""
    marker = "Erika-Mustermann-4711"
    tenant = site.platform.create_project("to be forgotten")
    base = f"/cloister/projects/{tenant.project_id}"
    site.done("manager", "PUT", f"{base}/audit_level", {"level": "full"})
    with tenant.connect() as session:
        session.execute(f"SELECT '{marker}'".encode())

    def recorded() -> str:
        return json.dumps(site.done("manager", "GET", f"{base}/statements"))

    wait_until(lambda: marker in recorded(), "the statement is not recorded")
    site.done("manager", "PUT", f"{base}/audit_level", {"level": "off"})
    assert holding(site.platform, marker) == [], "in clear it is nowhere, before either"

    path, words = f"{base}/statement_erasures", {"reason": "Art. 17"}
    everybody = {it: 404 if it in ("collaborator", "stranger") else 403 for it in (*PEOPLE, "organizations-key")}
    askers = everybody | {"manager": 201, "deputy": 201}
    site.each_is_told(askers, "POST", path, words)
    (newest, asked) = site.done("manager", "GET", path)["erasures"]
    assert (newest["asked_by"], asked["asked_by"]) == (site.email("deputy"), site.email("manager"))
    agree = f"{path}/{asked['id']}/agree"
    site.each_is_told(without(everybody, "deputy"), "POST", agree)
    alone = {
        "the key ends": "UPDATE statement_key SET wrapped = NULL",
        "by one's own word": "UPDATE statement_erasure SET agreed_by = asked_by",
        "the segments": "DELETE FROM statement_segment",
        "the rule": "ALTER TABLE statement_key DISABLE TRIGGER ALL",
    }
    refused_alone(site, alone)
    assert marker in recorded()

    envelope = control(site.platform, f"SELECT wrapped FROM statement_key WHERE project_id = '{tenant.project_id}'")
    erased = site.done("deputy", "POST", agree)["erasure"]
    assert erased["segments"] >= 1
    said = site.done("manager", "GET", f"{base}/statements")["segments"]
    assert marker not in json.dumps(said)
    assert all(it["erased_at"] and not it["statements"] for it in said)
    # Whoever rules the database puts the envelope back that was there before: the broker has no seal for it.
    whole = f"""ALTER TABLE cloister.statement_key DISABLE TRIGGER USER;
                UPDATE cloister.statement_key SET erased_at = NULL, wrapped = '{envelope}' WHERE project_id = '{tenant.project_id}'"""
    as_owner(site.platform, whole)
    status, answer = site.ask("manager", "GET", f"{base}/statements")
    assert (status, "erased" in answer["message"]) == (412, True), answer
    as_owner(
        site.platform,
        f"""UPDATE cloister.statement_key SET erased_at = now(), wrapped = NULL WHERE project_id = '{tenant.project_id}';
            ALTER TABLE cloister.statement_key ENABLE ALWAYS TRIGGER statement_key_ends;
            ALTER TABLE cloister.statement_key ENABLE ALWAYS TRIGGER statement_key_hold""",
    )
    assert holding(site.platform, marker) == []
    told = site.platform.cloister("audit", "verify").stdout
    assert "intact" in told
    assert f"erased: {erased['segments']}" in told
    listed = site.platform.cloister("audit", "erase", "--project", tenant.project_id).stdout
    assert all(word in listed for word in ("Art. 17", site.email("manager"), site.email("deputy"))), listed


def test_one_person_is_forgotten_in_events_by_two_and_no_door_names_them_again(site: Site) -> None:
    """Threat: somebody erases whence they came, alone; or who was erased is named all the same, by whatever shows events."""
    tenant = site.platform.create_project("to forget somebody in")
    project, name = tenant.project_id, "erika_mustermann"
    (branch,) = site.done("manager", "GET", f"/projects/{project}/branches")["branches"]
    site.done("manager", "POST", f"/projects/{project}/branches/{branch['id']}/roles", {"role": {"name": name}})
    site.ask("manager", "GET", f"/projects/{project}/branches/{branch['id']}/roles/{name}")

    def events() -> list[Any]:
        found: list[Any] = site.done("manager", "GET", f"/cloister/audit/events?project_id={project}&action=role.")[
            "events"
        ]
        return found

    made = next(it for it in events() if it["event"]["action"] == "role.create" and it["event"].get("resource") == name)
    path = f"/cloister/projects/{project}/audit_forgettings"
    words = {"kind": "role", "subject": name, "reason": "Art. 17"}
    everybody = {it: 404 if it in ("collaborator", "stranger") else 403 for it in (*PEOPLE, "organizations-key")}
    site.each_is_told(without(everybody, "manager", "deputy"), "POST", path, words)
    asked = site.done("manager", "POST", path, words)["forgetting"]
    agree = f"{path}/{asked['id']}/agree"
    site.each_is_told(without(everybody, "deputy"), "POST", agree)
    site.each_is_told(dict.fromkeys(("manager", "deputy"), 403), "POST", "/cloister/audit/forgettings", words)
    refused_alone(
        site,
        {
            "the text": "UPDATE audit_event SET personal = NULL",
            "by one's own word": f"SELECT audit_forget(id, asked_by, '', '{{}}') FROM audit_forgetting WHERE id = '{asked['id']}'",
            "without a word": f"UPDATE audit_forgetting SET subject = NULL WHERE id = '{asked['id']}'",
            "what says so": 'SELECT audit_append(ARRAY[\'{"action":"audit.forget","actor":"x"}\'])',
        },
    )
    assert name in json.dumps(events())

    done = site.done("deputy", "POST", agree)["forgetting"]
    assert (done["events"], "subject" in done) == (asked["events"], False)
    now = next(it for it in events() if it["seq"] == made["seq"])
    assert (now["hash"], now["event"]["erasure"]) == (made["hash"], asked["id"])
    assert name not in json.dumps(events())
    assert site.done("manager", "GET", f"/cloister/audit/who?event={made['seq']}")["address"] == ""
    for command in (("audit", "list", "--project", project), ("audit", "forget", "--project", project)):
        said = site.platform.cloister(*command).stdout
        assert name not in said
        assert "(erased)" in said
    assert f"personal: erased in {done['events']} events" in site.platform.cloister("audit", "verify").stdout


def test_what_is_under_a_legal_hold_is_erased_by_nobody_until_two_lift_it(site: Site) -> None:
    """Threat: two people who may erase a record want it gone, or somebody alone lifts what keeps it."""
    tenant = site.platform.create_project("disputed")
    base = f"/cloister/projects/{tenant.project_id}"
    site.done("manager", "PUT", f"{base}/audit_level", {"level": "full"})
    with tenant.connect() as session:
        session.execute(b"SELECT 'the-disputed-one'")

    def recorded() -> str:
        return json.dumps(site.done("manager", "GET", f"{base}/statements"))

    wait_until(lambda: "the-disputed-one" in recorded(), "the statement is not recorded")
    asked = site.done("manager", "POST", f"{base}/statement_erasures", {"reason": "Art. 17"})["erasure"]
    site.done("manager", "POST", f"/cloister/projects/{tenant.project_id}/keys/destroy", {"days": 7})
    site.done("manager", "POST", f"/cloister/projects/{tenant.project_id}/keys/cancel")
    site.done("manager", "POST", f"/cloister/projects/{tenant.project_id}/keys/enable")

    path = f"{base}/audit_holds"
    everybody = {it: 404 if it in ("collaborator", "stranger") else 403 for it in (*PEOPLE, "organizations-key")}
    site.each_is_told(without(everybody, "manager", "deputy"), "POST", path, {"reason": "matter 17"})
    hold = site.done("manager", "POST", path, {"reason": "matter 17"})["hold"]

    held = {
        "what was asked for before": ("deputy", "POST", f"{base}/statement_erasures/{asked['id']}/agree", None),
        "what is asked for now": ("deputy", "POST", f"{base}/statement_erasures", {"reason": "Art. 17"}),
        "the keys above": ("manager", "POST", f"{base}/keys/destroy", {"days": 7}),
        "the project": ("manager", "DELETE", f"/projects/{tenant.project_id}", None),
    }
    for name, (who, method, where, body) in held.items():
        status, answer = site.ask(who, method, where, body)
        assert (status, "legal hold" in json.dumps(answer)) == (422, True), (name, status, answer)
    lift, agree, words = f"{path}/{hold['id']}/lift", f"{path}/{hold['id']}/agree", {"reason": "settled"}
    assert site.ask("deputy", "POST", agree)[0] == 409, "nobody asked for it"
    site.done("manager", "POST", lift, words)
    site.each_is_told(without(everybody, "deputy"), "POST", agree)
    alone = {
        "by one's own word": "UPDATE audit_hold SET lifted_by = lift_asked_by",
        "away with it": "DELETE FROM audit_hold",
        "the rule": "ALTER TABLE statement_key DISABLE TRIGGER ALL",
        "the key all the same": f"""UPDATE statement_erasure SET agreed_by = (SELECT id FROM account WHERE email = '{site.email("deputy")}') WHERE id = '{asked["id"]}';
                                    UPDATE statement_key SET wrapped = NULL WHERE project_id = '{tenant.project_id}'""",
    }  # fmt: skip
    refused_alone(site, alone)
    assert "the-disputed-one" in recorded()

    lifted = site.done("deputy", "POST", agree)["hold"]
    assert (lifted["lift_asked_by"], lifted["lifted_by"]) == (site.email("manager"), site.email("deputy"))
    assert site.done("deputy", "POST", f"{base}/statement_erasures/{asked['id']}/agree")["erasure"]["segments"] >= 1
    assert "the-disputed-one" not in recorded()
    assert "intact" in site.platform.cloister("audit", "verify").stdout
    listed = site.platform.cloister("audit", "hold", "--project", tenant.project_id).stdout
    assert all(word in listed for word in ("matter 17", "lifted", site.email("manager"), site.email("deputy"))), listed


def test_a_record_is_kept_for_less_long_by_nobody_alone(site: Site) -> None:
    """Threat: somebody has the record of what they did end by its age, alone, at once, or while nobody looks."""
    path = f"/cloister/organizations/{site.org_id}/audit_retention"
    words = {"record": "statements", "days": 400, "reason": "records policy 3"}
    everybody = dict.fromkeys((*PEOPLE, "organizations-key"), 403) | {"stranger": 404}
    site.each_is_told(without(everybody, "manager", "deputy"), "POST", path, words)
    assert site.ask("manager", "POST", path, words | {"days": 364})[0] == 400
    asked = site.done("manager", "POST", path, words)["retention"]
    agree = f"{path}/{asked['id']}/agree"
    site.each_is_told(without(everybody, "deputy"), "POST", agree)
    alone = {
        "by one's own word": "UPDATE audit_retention SET agreed_by = asked_by",
        "at once": "UPDATE audit_retention SET holds_from = now()",
        "a day": "UPDATE audit_retention SET days = 1",
        "without a trace": "DELETE FROM audit_retention",
        "the rule": "ALTER TABLE audit_retention DISABLE TRIGGER ALL",
    }
    refused_alone(site, alone)
    agreed = site.done("deputy", "POST", agree)["retention"]
    assert (agreed["state"], agreed["holds_from"] > agreed["asked_at"]) == ("agreed", True)
    kept = site.done("deputy", "POST", path, words | {"days": None, "reason": "not while matter 17 goes on"})
    assert kept["retention"]["state"] == "holds"
    shown = site.platform.cloister("audit", "retention", "show", "--org-id", site.org_id).stdout
    assert all(word in shown for word in ("holds", "over", "records policy 3", site.email("manager"))), shown
    due = site.platform.cloister("audit", "retention", "show", "--org-id", site.org_id, "--due")
    assert "Nothing is that old." in due.stderr


def holding(platform: Instance, text: str) -> list[Path]:
    """Files of the platform with this text in them."""
    return [path for path, content in contents(platform.state_dir) if text.encode() in content]


def as_owner(platform: Instance, sql: str) -> None:
    done = as_user(platform, "root", platform.paths.control_socket_dir, sql, role="cloister", database="cloister")
    assert done.returncode == 0, done.stderr
