"""The audit log on its way to a collector, on a real platform whose processes are killed: no gap, and no second with another id."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.instance import Instance
from tests.trust.sentinel.receiver import make_certificate

pytestmark = pytest.mark.root

PATIENCE_S = 60.0


class Collector:
    """Takes batches while it is up. Down, its port is closed."""

    def __init__(self, certificate: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._certificate = certificate
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = 0

    def up(self) -> None:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.events += json.loads(body)["events"]
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def down(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collector, str]]:
    """And the path of its certificate, where the platform can read it."""
    certificate = tmp_path_factory.mktemp("collector") / "both.pem"
    make_certificate(certificate)
    readable = instance.state_dir / "certificates" / "collector.pem"
    readable.write_bytes(certificate.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    readable.chmod(0o644)
    made = Collector(certificate)
    made.up()
    yield made, str(readable)
    made.down()
    readable.unlink()  # `cloister doctor` would name it


def listed(instance: Instance) -> dict[str, Any]:
    (row,) = json.loads(instance.cloister("audit", "export-to", "list", "--output", "json").stdout)
    found: dict[str, Any] = row
    return found


def appended(instance: Instance) -> int:
    """An event, and its number."""
    instance.api("GET", "/projects")
    return int(instance.api("GET", "/cloister/audit/events?limit=1")["events"][0]["seq"])


def test_whoever_is_killed_the_collector_has_every_event(instance: Instance, collector: tuple[Collector, str]) -> None:
    """The collector, the process that sends, and the API, one after the other, with events in between."""
    receiver, ca_file = collector
    url = f"https://127.0.0.1:{receiver.port}/"
    secret = instance.cloister(
        "audit", "export-to", "add-webhook", "siem", url, "--private", "--ca-file", ca_file
    ).stdout.strip()
    assert len(secret) == 64
    added = instance.api("GET", "/cloister/audit/events?action=export.add&limit=1")["events"][0]
    assert secret not in json.dumps(added)

    def await_event(seq: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not any(event["metadata"]["sequence"] >= seq for event in receiver.events):
            assert time.monotonic() < deadline, instance.logs()
            time.sleep(0.1)

    await_event(appended(instance))
    receiver.down()
    appended(instance)
    deadline = time.monotonic() + PATIENCE_S
    while not instance.status()["audit_exports"]["siem"].startswith("export.failed since "):
        assert time.monotonic() < deadline, instance.logs()
    instance.kill_and_await("sentinel")
    instance.kill_and_await("api")
    last = appended(instance)
    assert listed(instance)["behind"] > 0
    receiver.up()
    await_event(last)

    ids = {event["metadata"]["sequence"]: event["metadata"]["uid"] for event in receiver.events}
    assert min(ids) <= added["seq"]
    assert sorted(ids) == list(range(min(ids), max(ids) + 1))
    assert len({(event["metadata"]["sequence"], event["metadata"]["uid"]) for event in receiver.events}) == len(ids)
    firsts = [event["metadata"]["sequence"] for event in receiver.events]
    assert list(dict.fromkeys(firsts)) == sorted(ids)
    kept = instance.api("GET", f"/cloister/audit/events?cursor={added['seq'] + 1}&limit=1")["events"][0]
    assert ids[added["seq"]] == kept["hash"]

    assert "siem took it" in instance.cloister("audit", "export-to", "test", "siem").stdout
    instance.cloister("audit", "export-to", "remove", "siem")
    assert instance.status()["audit_exports"] == {}
