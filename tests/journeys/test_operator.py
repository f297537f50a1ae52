"""The operator's contract: up, status, down, and clear words when something is in the way."""

import json
import socket
import time

import pytest

from cloister.trust.keys.notary import read_last
from tests.instance import Instance, Tenant, tail

pytestmark = pytest.mark.root


def test_status_says_what_scripts_rely_on(instance: Instance, tenant: Tenant) -> None:
    """The cipher is what a volume's header says, so there must be one."""
    assert tenant.project_id
    status = instance.status()
    assert status["ready"] is True
    assert status["api_url"] == f"https://db.localhost:{instance.https_port}/api/v2"
    assert status["domain"] == "db.localhost"
    assert status["postgres"].endswith(f":{instance.postgres_port}")
    assert instance.paths.ca_file.samefile(status["ca_file"])
    assert instance.paths.admin_key.samefile(status["admin_key_file"])
    assert status["storage"]["driver"] == "luks"
    assert status["storage"]["cipher"].startswith("aes-xts")


def test_up_again_is_quick_and_changes_nothing(instance: Instance) -> None:
    before = instance.pids()
    instance.up()
    assert instance.pids() == before


def test_a_taken_port_is_named(instance: Instance) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = Instance()
        try:
            said = other.cloister("up", "--state-dir", str(other.state_dir), "--listen-postgres", f"127.0.0.1:{port}",
                                  "--listen-https", f"127.0.0.1:{other.https_port}", "--detach", check=False)  # fmt: skip
            assert said.returncode == 1
            assert str(port) in said.stderr
            assert "Traceback" not in said.stderr
            assert len(said.stderr.strip().splitlines()) == 1
        finally:
            other.destroy()


def test_a_state_directory_of_another_version_is_refused() -> None:
    other = Instance()
    try:
        other.paths.layout_version.write_text("99\n")
        said = other.cloister("up", "--state-dir", str(other.state_dir), "--detach", check=False)
        assert said.returncode == 1
        assert "layout version '99'" in said.stderr
    finally:
        other.destroy()


def test_down_and_up_keep_everything(mortal: Instance) -> None:
    tenant = mortal.create_project("kept")
    assert tenant.psql("CREATE TABLE t AS SELECT 5 AS n; SELECT n FROM t").stdout == "5\n"
    mortal.down()
    assert mortal.descendants() == []
    assert mortal.status()["ready"] is False
    mortal.up()
    assert tenant.psql("SELECT n FROM t").stdout == "5\n"


def test_plain_storage_says_that_nothing_is_encrypted() -> None:
    with Instance(storage="plain") as instance, tail(instance):
        tenant = instance.create_project("plain")
        assert tenant.psql("SELECT 1").stdout == "1\n"
        storage = instance.status()["storage"]
        assert (storage["driver"], storage["encrypted"]) == ("plain", False)
        doctor = instance.cloister("doctor", "--state-dir", str(instance.state_dir), "--json", check=False)
        assert "not encrypted" in doctor.stdout.lower() or "nothing is encrypted" in doctor.stdout.lower()


def test_doctor_finds_nothing_wrong(instance: Instance) -> None:
    """And its knocking at every socket, as everybody, is no event of anybody's."""
    denied = "/cloister/audit/events?action=key.denied&limit=1"
    before = instance.api("GET", denied)
    said = instance.cloister("doctor", "--state-dir", str(instance.state_dir), "--json", check=False)
    failed = [check for check in json.loads(said.stdout)["checks"] if check["verdict"] == "fail"]
    assert failed == []
    assert instance.api("GET", denied) == before


def test_doctor_fails_when_a_secret_can_be_read(instance: Instance) -> None:
    instance.paths.mock_key.chmod(0o644)
    try:
        said = instance.cloister("doctor", "--state-dir", str(instance.state_dir), check=False)
        assert said.returncode == 1
        assert "mock.key" in said.stdout
    finally:
        instance.paths.mock_key.chmod(0o600)


def test_the_audit_log_tells_the_story(instance: Instance) -> None:
    """Create, key use, start, connection: each is there, in order, and the chain holds."""
    tenant = instance.create_project("story")
    assert tenant.psql("SELECT 1").stdout == "1\n"
    instance.suspend(tenant)
    said = instance.cloister(
        "audit",
        "list",
        "--state-dir",
        str(instance.state_dir),
        "--project",
        tenant.project_id,
        "--output",
        "json",
        "--limit",
        "200",
    )
    actions = [event["action"] for event in json.loads(said.stdout)]
    for action in (
        "project.create",
        "key.unwrap",
        "compute.start",
        "connection.opened",
        "connection.closed",
        "compute.stop",
    ):
        assert action in actions, actions
    _await_signature(instance, max(event["seq"] for event in json.loads(said.stdout)))
    verified = instance.cloister("audit", "verify", "--state-dir", str(instance.state_dir))
    assert verified.returncode == 0
    assert "\nsigned: the first " in verified.stdout


def _await_signature(instance: Instance, seq: int) -> None:
    """Until the key broker has signed a tree with that event in it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        last = read_last(instance.paths.notary)
        if last is not None and last.size >= seq:
            return
        time.sleep(0.2)
    raise AssertionError(f"event {seq} was never signed")
