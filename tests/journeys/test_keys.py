"""Keys on a real platform: what a person who governs them sees, and what a client does."""

import json
from pathlib import Path

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


def keys(instance: Instance, tenant: Tenant, *words: str) -> dict[str, object]:
    """`cloister keys …` about this project."""
    run = instance.cloister("keys", *words, "--project-id", tenant.project_id, "--output", "json")
    shown: dict[str, object] = json.loads(run.stdout)
    return shown


def test_a_disabled_key_refuses_the_wake_and_leaves_what_runs_alone(instance: Instance) -> None:
    """The sleeper's client is told why, each time; nothing ends the session that is open; enabled, it wakes again."""
    tenant = instance.create_project("disabled")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        assert keys(instance, tenant, "disable", "--reason", "laptop stolen")["state"] == "disabled"
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
        with tenant.connect() as second:
            assert second.execute("SELECT n FROM kept").fetchone() == (7,)
    instance.suspend(tenant)
    for _ in range(2):
        said = tenant.psql("SELECT n FROM kept")
        assert said.returncode == 2
        assert "the key of this project is disabled" in said.stderr
    assert keys(instance, tenant, "enable")["state"] == "enabled"
    assert tenant.psql("SELECT n FROM kept").stdout == "7\n"
    query = f"/cloister/audit/events?project_id={tenant.project_id}&action=key."
    events = [it["event"] for it in instance.api("GET", query)["events"]]
    assert [it.get("outcome", "ok") for it in events if it["action"] == "key.unwrap"][:3] == ["ok", "denied", "denied"]
    (disabled,) = [it for it in events if it["action"] == "key.disable"]
    assert disabled["reason"] == "laptop stolen"
    assert disabled["actor"].startswith("user:"), "the person, not the process"


def test_a_project_is_encrypted_anew_while_a_client_is_connected(instance: Instance) -> None:
    """By one command. Its client is disconnected once, the rows are there, the image wants another key, and the log says who."""
    tenant = instance.create_project("anew")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 10000) AS n")
        done = keys(instance, tenant, "reencrypt", "--now", "--speed", "200M", "--wait")
        assert (done["state"], done["now"]) == ("done", True)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert tenant.psql("SELECT sum(n) FROM kept").stdout == "50005000\n"
    shown = json.loads(instance.cloister("keys", "list", "--project-id", tenant.project_id, "--output", "json").stdout)
    volume = {it["version"]: it["state"] for it in shown if it["purpose"] == "volume"}
    assert volume == {1: "destroyed", 2: "enabled"}
    query = f"/cloister/audit/events?project_id={tenant.project_id}&action=key."
    events = [
        it["event"] for it in reversed(instance.api("GET", query)["events"]) if it["event"]["action"] != "key.list"
    ]
    said = [f"{it['action']} {it.get('details', {}).get('step', it.get('reason', ''))}" for it in events]
    steps = [it for it in said if it != "key.unwrap open"]  # Its history may be looked at in between.
    begun = steps.index("key.reencrypt begin")
    assert steps[begun - 1] == "key.create reencrypt"
    assert steps[begun + 1 : begun + 3] == ["key.unwrap reencrypt"] * 2
    assert steps[begun + 3 : begun + 5] == ["key.destroy reencrypted", "key.reencrypt done"]
    refused = instance.cloister("keys", "reencrypt", "--pause", "--project-id", tenant.project_id, check=False)
    assert refused.returncode == 1
    assert "is not being encrypted anew" in refused.stderr


@pytest.mark.soak
def test_the_root_key_moves_to_another_file_and_the_old_one_can_go(tmp_path: Path) -> None:
    """Of a platform with one project that runs and one that sleeps; a root that cannot be used changes nothing."""
    with Instance("--idle-check-interval", "1") as instance:
        runs, sleeps = instance.create_project("runs"), instance.create_project("sleeps")
        for tenant in (runs, sleeps):
            tenant.psql("CREATE TABLE kept AS SELECT 9 AS n")
        instance.suspend(sleeps)
        new, description = instance.paths.secrets / "root-2.key", tmp_path / "root.json"
        for text in (
            '{"kind": "file", "path": "/etc/passwd"}',
            '{"kind": "melted"}',
            '{"kind": "file", "path": "/no/x"}',
        ):
            description.write_text(text)
            refused = instance.cloister("keys", "migrate", str(description), check=False)
            assert refused.returncode == 1, refused.stdout
            assert "Traceback" not in refused.stderr
        description.write_text(json.dumps({"kind": "file", "path": str(new)}))
        with runs.connect() as connection:
            connection.execute("SELECT 1")
            shown = json.loads(instance.cloister("keys", "migrate", str(description), "--output", "json").stdout)
            assert connection.execute("SELECT n FROM kept").fetchone() == (9,)
        assert [(it["is_current"], it["projects"] > 0) for it in shown["roots"]] == [(True, True), (False, False)]
        # Without the old one, also after a restart: projects, and the notary that signs the audit log.
        configuration = json.loads(instance.paths.key_providers.read_bytes())
        instance.paths.key_providers.write_text(json.dumps({"current": configuration["current"]}))
        instance.paths.root_key.unlink()
        instance.cloister("down", "--state-dir", str(instance.state_dir))
        instance.up()
        assert not instance.paths.root_key.exists(), "and it is not made anew"
        assert sleeps.psql("SELECT n FROM kept").stdout == "9\n"
        assert instance.cloister("audit", "verify").returncode == 0
        (moved,) = instance.api("GET", "/cloister/audit/events?action=key.root")["events"]
        assert moved["event"]["details"]["provider"] == "file"


def test_a_rotation_is_not_noticed_and_a_destruction_can_be_called_off(instance: Instance) -> None:
    tenant = instance.create_project("rotated")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 8 AS n")
        before = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
        shown = keys(instance, tenant, "rotate")
        assert [(it["purpose"], it["version"]) for it in shown["keys"]] == [  # type: ignore[attr-defined]
            ("project", 1),
            ("project", 2),
            ("volume", 1),
            ("volume", 2),
        ]
        assert connection.execute("SELECT pg_postmaster_start_time()").fetchone() == before
    instance.suspend(tenant)
    assert tenant.psql("SELECT n FROM kept").stdout == "8\n"
    instance.suspend(tenant)
    assert keys(instance, tenant, "destroy", "--days", "7")["state"] == "pending_destruction"
    with pytest.raises(psycopg.OperationalError, match="will be destroyed at"):
        tenant.connect()
    assert keys(instance, tenant, "cancel")["state"] == "disabled"
    keys(instance, tenant, "enable")
    assert tenant.psql("SELECT n FROM kept").stdout == "8\n"


def test_a_backup_of_the_keystore_opens_what_it_must(instance: Instance, tmp_path: Path) -> None:
    """By the broker that runs, and again by what is there without it: no project sleeps or wakes for it."""
    instance.create_project("kept")
    here = ("--state-dir", str(instance.state_dir))
    try:
        said = instance.cloister("keys", "backup", "--to", str(tmp_path), *here).stdout
        assert "seals of epoch" in said
        (file,) = tmp_path.iterdir()
        assert "projects open" in instance.cloister("keys", "drill", str(file), *here).stdout
        refused = instance.cloister("keys", "restore", str(file), *here, check=False)
        assert (refused.returncode, "never replaced" in refused.stderr) == (1, True)
    finally:
        instance.paths.key_backup.unlink(missing_ok=True)
    events = [it["event"] for it in instance.api("GET", "/cloister/audit/events?action=key.drill")["events"]]
    assert events[0]["details"]["with_shares"] is False
