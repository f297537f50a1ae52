"""Somebody gets at a tenant's data: asks, is not allowed to approve it, is approved, reads, is recorded, is thrown out; and is
asked about at the next review."""

import contextlib
import hashlib
import json
import time
from typing import Any

import psycopg
import pytest

from tests.back_doors import control, superuser, try_control
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

PATIENCE_S = 60


class Person:
    def __init__(self, instance: Instance, email: str, role: str) -> None:
        self.instance = instance
        made = instance.api("POST", "/cloister/accounts", {"email": email, "name": email})
        self.headers = {"Authorization": f"Bearer {made['key']}"}
        (org,) = instance.api("GET", "/users/me/organizations")["organizations"]
        instance.api(
            "POST", f"/organizations/{org['id']}/invitations", {"invitations": [{"email": email, "role": role}]}
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.instance.request(method, path, json=body, headers=self.headers)
        return answer.status_code, answer.json()


def connect(credentials: Any, tenant: Tenant) -> psycopg.Connection[Any]:
    found = {each["connection_parameters"]["database"]: each for each in credentials["connection_uris"]}
    uri = found[tenant.database]["connection_uri"]
    return psycopg.connect(f"{uri}&sslrootcert={tenant.ca_file}", autocommit=True)


def test_access_from_request_to_replay(instance: Instance, tenant: Tenant) -> None:
    with tenant.connect() as owner:
        owner.execute("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g")
    dev = Person(instance, "jit@example.com", "editor")
    base = f"/cloister/projects/{tenant.project_id}"
    wanted = {"access_request": {"reason": "INC-7: wrong totals", "duration_seconds": 3600}}
    status, made = dev.ask("POST", f"{base}/access_requests", wanted)
    assert status == 201, made
    path = f"{base}/access_requests/{made['access_request']['id']}"

    # Not by oneself, and nothing before.
    assert dev.ask("POST", f"{path}/approve")[0] == 403
    assert dev.ask("POST", f"{path}/credentials")[0] == 409

    instance.api("POST", f"{path}/approve")
    status, credentials = dev.ask("POST", f"{path}/credentials")
    assert status == 200, credentials

    with connect(credentials, tenant) as session:
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (1000,)
        assert len(session.execute("SELECT id FROM orders WHERE id <= %s", (7,)).fetchall()) == 7
        with session.cursor().copy("COPY orders TO STDOUT") as rows:
            assert sum(len(bytes(row).splitlines()) for row in rows) == 1000
        session.execute("SET default_transaction_read_only = off")
        for refused in ("INSERT INTO orders VALUES (0)", "CREATE TABLE mine (n int)", "DROP TABLE orders"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(refused)
        with pytest.raises(psycopg.Error):
            session.execute("ALTER ROLE neondb_owner PASSWORD 'hunter2'")
        role = session.execute("SELECT session_user").fetchone()
        assert role == (credentials["role"],)

        # Doors that cannot record refuse it, and a branch has none of it.
        pooled = credentials["connection_uris"][0]["connection_uri"].replace(".", "-pooler.", 1)
        with pytest.raises(psycopg.OperationalError, match="recorded"):
            psycopg.connect(f"{pooled}&sslrootcert={tenant.ca_file}")

        # Its time is over while it is at work.
        control(instance, "UPDATE access_request SET ends_at = now() WHERE state = 'active'")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT pg_sleep(300)")

    with pytest.raises(psycopg.OperationalError):
        connect(credentials, tenant)
    with tenant.connect() as owner:
        deadline = time.monotonic() + PATIENCE_S
        while owner.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", role).fetchall():
            assert time.monotonic() < deadline, "the role is still there"
        owner.execute("DROP TABLE orders")

    (recording,) = instance.api("GET", f"{path}/recordings")["recordings"]
    assert dev.ask("GET", f"{base}/recordings/{recording['id']}")[0] == 403
    replayed = instance.api("GET", f"{base}/recordings/{recording['id']}")
    told = {it["text"]: it for it in replayed["statements"]}
    assert told["SELECT count(*) FROM orders"]["rows_sent"] == 1
    assert told["SELECT id FROM orders WHERE id <= $1"]["rows_sent"] == 7
    assert told["COPY orders TO STDOUT"]["rows"] == 1000
    assert told["DROP TABLE orders"]["sqlstate"] == "42501"
    assert "hunter2" not in json.dumps(replayed)
    shown = instance.cloister("access", "replay", recording["id"], "--verify", "--project", tenant.project_id)
    assert shown.stdout.startswith("Whole: ")

    # Its key stands below the project's, and reading it was a use.
    uses = json.loads(instance.cloister("audit", "list", "--action", "key.unwrap", "--output", "json").stdout)
    whose = [it["reason"] for it in uses if it.get("details", {}).get("recording") == recording["id"]]
    assert whose == ["replay", "replay", "record"], "the newest first"

    # What was kept cannot be read where it lies, and not rewritten, not by the API's own user either.
    assert "orders" not in control(instance, "SELECT string_agg(encode(sealed, 'escape'), '') FROM recording_chunk")
    forged = try_control(instance, "UPDATE recording SET chunks = chunks - 1, head = sha256(head)")
    assert "PR422: a recording" in forged.stderr

    # At the next review somebody asks whether they need to be here at all; and nobody answers for their own.
    boss = Person(instance, "boss@example.com", "admin")
    (org,) = instance.api("GET", "/users/me/organizations")["organizations"]
    reviews = f"/cloister/organizations/{org['id']}/access_reviews"
    started = instance.api("POST", reviews, {})
    review = f"{reviews}/{started['access_review']['id']}"
    for item in started["items"]:
        answer = {"decision": "remove" if item["facts"].get("email") == "jit@example.com" else "keep"}
        path = f"{review}/items/{item['number']}"
        if item["facts"].get("email") == "admin@localhost":
            assert instance.request("POST", path, json=answer).status_code == 403
            assert boss.ask("POST", path, answer)[0] == 200
        else:
            instance.api("POST", path, answer)
    assert dev.ask("GET", f"{base}/access_requests")[0] == 404
    closed = instance.cloister("access", "review", "close").stderr
    report = instance.cloister("access", "review", "show", "--report").stdout
    digest = hashlib.sha256(report.encode()).hexdigest()
    assert digest in closed
    assert f'"{digest}"' in instance.cloister("audit", "list", "--action", "review.close", "--output", "json").stdout


def test_what_was_asked_is_there_when_the_gateway_is_killed(instance: Instance, tenant: Tenant) -> None:
    """The statement under way has no outcome, and the recording says so."""
    dev = Person(instance, "cut@example.com", "editor")
    base = f"/cloister/projects/{tenant.project_id}"
    wanted = {"access_request": {"reason": "INC-8: a lock", "duration_seconds": 3600}}
    _, made = dev.ask("POST", f"{base}/access_requests", wanted)
    path = f"{base}/access_requests/{made['access_request']['id']}"
    instance.api("POST", f"{path}/approve")
    _, credentials = dev.ask("POST", f"{path}/credentials")

    at_work = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'cloister_access%' AND state = 'active'"
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.closing(connect(credentials, tenant)) as session:
        session.pgconn.send_query_params(b"SELECT pg_sleep($1)", [b"600"])
        while superuser(instance, tenant, at_work) != "1":
            assert time.monotonic() < deadline, "it does not begin"
        for label in [label for label in instance.pids() if label.startswith("gateway")]:
            instance.kill_and_await(label)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")

    def replayed() -> list[tuple[str, str]]:
        (recording,) = instance.api("GET", f"{path}/recordings")["recordings"]
        statements = instance.api("GET", f"{base}/recordings/{recording['id']}")["statements"]
        return [(it["text"], it["outcome"]) for it in statements]

    assert replayed() == [("SELECT pg_sleep($1)", "asked")]
    instance.api("POST", f"{path}/terminate")
    control(instance, "UPDATE access_request SET closed_at = closed_at - interval '1 min' WHERE state = 'revoked'")
    while replayed() != [("SELECT pg_sleep($1)", "unknown")]:
        assert time.monotonic() < deadline, replayed()
    while superuser(instance, tenant, at_work) != "0":
        assert time.monotonic() < deadline, "its session goes on"
