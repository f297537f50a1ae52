"""Keys on a real platform: what a person who governs them sees, and what a client does."""

import json

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
