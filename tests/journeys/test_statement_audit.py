"""What a project's clients execute, from the command that turns it on to the record: with the guard, the pooler, the log."""

import ipaddress
import json
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

PATIENCE_S = 30


@pytest.fixture(scope="module")
def own_tenant(shared_instance: Instance) -> Tenant:
    """Nobody else connects to it."""
    return shared_instance.create_project("recorded")


def audit(instance: Instance, *words: str) -> Any:
    return json.loads(instance.cloister("audit", *words, "-o", "json").stdout)


def told(instance: Instance, tenant: Tenant, *texts: str) -> list[dict[str, Any]]:
    """The statements, once each of these texts is in one."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        found: list[dict[str, Any]] = audit(instance, "statements", "--project", tenant.project_id)
        if all(any(text in each.get("text", "") for each in found) for text in texts):
            return found
        assert time.monotonic() < give_up_at, found
        time.sleep(0.1)


BY_ANOTHER_NAME = "DO $$BEGIN EXECUTE 'SELECT * FROM ' || 'custo' || 'mers'; END$$"


def inside(instance: Instance, tenant: Tenant, connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """What the server notes of a table that no text of a client's names. It is told its level after the first look at it."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        connection.execute(BY_ANOTHER_NAME.encode())
        for each in audit(instance, "statements", "--project", tenant.project_id):
            if each["kind"] == "inside" and each.get("text"):
                assert each["touched"] == "read public.customers"
                return dict(each)
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def ended(connection: psycopg.Connection[Any]) -> bool:
    """Within some time."""
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        try:
            connection.execute("SELECT 'nobody sees this'")
        except psycopg.OperationalError:
            return True
        time.sleep(0.05)
    return False


def test_a_level_a_session_and_the_record(own_tenant: Tenant, instance: Instance) -> None:
    tenant = own_tenant
    pooled = replace(tenant, host=tenant.host.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler"))
    with tenant.connect() as before:
        before.execute("CREATE TABLE customers (id int)")
        audit(instance, "level", "--project", tenant.project_id, "--set", "full")
        assert ended(before), "a session goes on under the old level"
    with tenant.connect() as connection:
        connection.execute("SELECT count(*) FROM customers WHERE id = %s", [7], prepare=True)
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'Zv8-kQ2.mN7_xR4=tL9w'")
        with pytest.raises(psycopg.Error):
            connection.execute("CREATE ROLE weak LOGIN PASSWORD 'hunter2'")
        noted = inside(instance, tenant, connection)
    with pooled.connect() as connection:
        connection.execute("SELECT 'pooled'")
    found = [each for each in told(instance, tenant, "'pooled'", "CREATE ROLE weak") if each["kind"] != "inside"]
    text = json.dumps(found)
    assert "Zv8-kQ2" not in text
    assert "hunter2" not in text
    assert "CREATE TABLE customers" not in text
    refused = next(each for each in found if "ROLE weak" in each["text"])
    assert (refused["outcome"], refused["role"]) == ("failed", tenant.role)
    assert ipaddress.ip_address(refused["address"]).is_loopback
    assert len({each["session_id"] for each in found}) == 2
    assert (noted["role"], noted["text"]) == (tenant.role, "SELECT * FROM customers")
    asked = next(each for each in found if each["text"] == BY_ANOTHER_NAME)
    assert asked["backend"] == noted["backend"]
    events = audit(instance, "list", "--project", tenant.project_id, "--action", "statements.seal")
    named = audit(instance, "table", "public.customers", "--project", tenant.project_id)
    assert BY_ANOTHER_NAME not in {each.get("text") for each in named}
    assert noted["text"] in {each.get("text") for each in named}
    named = [each for each in named if each["kind"] != "inside"]
    assert {each["text"] for each in named} == {each["text"] for each in found if "customers" in each["text"]}
    assert {event["actor"] for event in events} == {"platform:gateway", "platform:guard"}
    sealed = sum(event["details"]["statements"] for event in events if event["actor"] == "platform:gateway")
    assert sealed == len(found)
    who = audit(instance, "who", named[0]["session_id"])
    assert (who["role"], who["endpoint_id"], who["tls_version"]) == (tenant.role, tenant.endpoint_id, "TLSv1.3")
    assert ipaddress.ip_address(who["address"]).is_loopback
    theirs = audit(instance, "subject", "--role", tenant.role, "--project", tenant.project_id)
    assert {each["actor"] for each in theirs} == {f"role:{tenant.role}"}
    assert any(each["details"].get("session_id") == named[0]["session_id"] for each in theirs)
    audit(instance, "level", "--project", tenant.project_id, "--set", "off")
