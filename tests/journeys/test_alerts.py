"""An attack on a real platform: found in seconds, told to a receiver, and answered with everything in the playbook."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import psycopg
import pytest

from tests.instance import Instance, Tenant
from tests.trust.sentinel.receiver import make_certificate

pytestmark = pytest.mark.root

PATIENCE_S = 60.0


class Receiver(http.server.BaseHTTPRequestHandler):
    heard: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def heard(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What arrives at a webhook that the operator added."""
    certificate = tmp_path_factory.mktemp("receiver") / "both.pem"
    make_certificate(certificate)
    readable = instance.state_dir / "certificates" / "receiver.pem"
    readable.write_bytes(certificate.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    readable.chmod(0o644)
    Receiver.heard.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}/"
    instance.cloister("alerts", "channels", "add-webhook", "hook", url, "--private", "--ca-file", str(readable))
    yield Receiver.heard
    instance.cloister("alerts", "channels", "remove", "hook")
    readable.unlink()  # `cloister doctor` would name it
    server.shutdown()
    server.server_close()


def found(instance: Instance, rule: str, tenant: Tenant) -> dict[str, Any]:
    """The finding, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for each in instance.api("GET", "/cloister/findings?limit=500")["findings"]:
            if each["rule"] == rule and each["subject"].get("project_id") == tenant.project_id:
                finding: dict[str, Any] = each
                return finding
        time.sleep(0.1)
    raise AssertionError(f"{rule} was not raised: {instance.logs()}")


def attack(tenant: Tenant) -> None:
    for number in range(10):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(
                host=tenant.host, port=tenant.port, user=tenant.role, password=f"npg_guess{number:011}",
                dbname=tenant.database, sslmode="verify-full", sslrootcert=str(tenant.ca_file),
            )  # fmt: skip


def test_every_finding_is_raised_by_the_real_way_and_told(instance: Instance, heard: list[dict[str, Any]]) -> None:
    """The self-test's own verdict; and each of its alerts arrives."""
    report = json.loads(instance.cloister("alerts", "selftest", "--output", "json").stdout)
    assert report["missing"] == []
    deadline = time.monotonic() + PATIENCE_S
    while len([it for it in heard if it["finding"]["is_test"]]) < report["raised"]:
        assert time.monotonic() < deadline, instance.logs()
        time.sleep(0.1)
    assert json.loads(instance.cloister("alerts", "heartbeat", "--output", "json").stdout)["is_well"]


def test_what_the_guard_refused_is_found(instance: Instance, tenant: Tenant) -> None:
    """Also where a block swallows the error, so that no client was told."""
    done = tenant.psql("DO $$BEGIN LOAD 'e'; EXCEPTION WHEN OTHERS THEN NULL; END$$")
    assert done.returncode == 0, done.stderr
    finding = found(instance, "hostile-statement", tenant)
    assert finding["summary"] == f"Role {tenant.role} at {tenant.endpoint_id} tried LOAD"
    instance.api("POST", f"/cloister/findings/{finding['id']}/resolve", {"note": "a test"})


def test_who_was_made_more_powerful_in_sql_is_found(instance: Instance, tenant: Tenant) -> None:
    """By a block, in a transaction that is taken back: it was tried."""
    done = tenant.psql("BEGIN; DO $$BEGIN CREATE ROLE back_door BYPASSRLS; END$$; ROLLBACK")
    assert done.returncode == 0, done.stderr
    finding = found(instance, "role-empowered", tenant)
    assert finding["summary"] == f"Role {tenant.role} at {tenant.endpoint_id} gave back_door BYPASSRLS"
    instance.api("POST", f"/cloister/findings/{finding['id']}/resolve", {"note": "a test"})


def test_a_guesser_is_found_and_every_answer_does_what_it_says(instance: Instance, heard: list[dict[str, Any]]) -> None:
    """Ten wrong passwords and a right one: a critical finding. Then the playbook, from the mildest on."""
    tenant = instance.create_project("attacked")
    attack(tenant)
    with tenant.connect() as session:
        finding = found(instance, "brute-force-succeeded", tenant)
        assert finding["level"] == "critical"

        def respond(action: str) -> list[str]:
            answer = instance.api("POST", f"/cloister/findings/{finding['id']}/respond", {"action": action})
            instance.settle(tenant.project_id)
            done: list[str] = answer["done"]
            return done

        respond("end-sessions")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert tenant.psql("SELECT 1").returncode == 0

    with tenant.connect() as session:
        respond("lock-role")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert tenant.psql("SELECT 1").returncode != 0
    instance.api("POST", f"/cloister/findings/{finding['id']}/release", {})
    assert tenant.psql("CREATE TABLE evidence AS SELECT 42 AS n").returncode == 0

    respond("quarantine")
    assert tenant.psql("SELECT 1").returncode != 0
    assert instance.endpoint(tenant)["current_state"] == "idle"
    path = f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}"
    instance.api("POST", f"{path}/start", expect=None)
    instance.settle(tenant.project_id)
    assert instance.endpoint(tenant)["current_state"] == "idle"
    names = {it["name"] for it in instance.api("GET", f"/projects/{tenant.project_id}/branches")["branches"]}
    assert f"forensic-{finding['id']}" in names
    instance.api("POST", f"/cloister/findings/{finding['id']}/release", {})
    assert tenant.psql("SELECT n FROM evidence").stdout.strip() == "42"

    path = f"/cloister/findings/{finding['id']}"
    instance.api("POST", f"{path}/assign", {"email": "admin@localhost"})
    instance.api("POST", f"{path}/notes", {"text": "a drill"})
    shown = instance.cloister("alerts", "show", finding["id"]).stdout
    for said in (
        "with         admin@localhost",
        "a drill",
        "connection.denied (denied)",
        "connection.opened",
        "finding.respond",
    ):
        assert said in shown

    respond("freeze-project")
    assert tenant.psql("SELECT 1").returncode != 0
    instance.api("POST", f"/cloister/findings/{finding['id']}/release", {})

    assert respond("rotate-credentials")
    assert tenant.psql("SELECT 1").returncode != 0
    instance.api("POST", f"/cloister/findings/{finding['id']}/resolve", {"note": "over"})
    asked = instance.api("GET", "/cloister/audit/events?action=finding.&limit=100")["events"]
    actions = [
        it["event"].get("details", {}).get("action") for it in asked if it["event"].get("resource") == finding["id"]
    ]
    assert {"end-sessions", "lock-role", "quarantine", "freeze-project", "rotate-credentials"} <= set(actions)
    assert any(it["finding"]["id"] == finding["id"] for it in heard)
