"""Ways out of a project's computes, on a real platform: one project reads another's table through the gateway.

The gateway is this machine's own, where no way out leads but that this platform's operator allows the loopback.
"""

import time

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

SERVER_NAME = "far"
THROUGH = "<through>"


@pytest.fixture(scope="module")
def near(shared_instance: Instance) -> Tenant:
    return shared_instance.create_project("near")


@pytest.fixture(scope="module")
def far(shared_instance: Instance) -> Tenant:
    tenant = shared_instance.create_project("far")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE public.things AS SELECT 7 AS n")
    return tenant


def egress(tenant: Tenant) -> str:
    return f"/cloister/projects/{tenant.project_id}/egress"


def allow(instance: Instance, tenant: Tenant, target: Tenant) -> str:
    body = {"to": f"{target.host}:{target.port}", "ca_pem": target.ca_file.read_text()}
    rule = instance.api("POST", egress(tenant), body, expect=201)["egress_rule"]
    assert rule["host"] == f"/egress/{target.host}"
    return str(rule["id"])


def conninfo(target: Tenant) -> str:
    return (
        f"host=/egress/{target.host} port={target.port} dbname={target.database} user={target.role} "
        f"password={target.password}"
    )


def attempt(connection: psycopg.Connection, target: Tenant) -> str:
    """`THROUGH`, or why not."""
    try:
        connection.execute("SELECT public.dblink_connect(%s, %s)", (SERVER_NAME, conninfo(target)))
    except psycopg.Error as error:
        return str(error)
    return THROUGH


def attempts(connection: psycopg.Connection, target: Tenant, wanted: str) -> None:
    """Until the answer is the wanted one: a rule takes a moment."""
    deadline = time.monotonic() + 60
    while wanted not in (said := attempt(connection, target)):
        assert time.monotonic() < deadline, said


def ends(connection: psycopg.Connection, through: str) -> bool:
    """Whether the connection that dblink holds comes to its end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            connection.execute(through, (SERVER_NAME,))
        except psycopg.Error:
            connection.execute(
                "SELECT public.dblink_disconnect(name) FROM unnest(public.dblink_get_connections()) AS name"
            )
            return True
    return False


def actions(instance: Instance, tenant: Tenant) -> list[dict[str, str]]:
    query = {"project_id": tenant.project_id, "action": "egress."}
    return [each["event"] for each in instance.api("GET", "/cloister/audit/events", params=query)["events"]]


def test_a_rule_lets_a_running_compute_out_and_its_end_ends_the_connection(
    instance: Instance, near: Tenant, far: Tenant
) -> None:
    with near.connect() as connection:
        connection.execute("CREATE EXTENSION dblink")
        assert "No such file or directory" in attempt(connection, far)

        rule = allow(instance, near, far)
        attempts(connection, far, THROUGH)
        through = "SELECT n FROM public.dblink(%s, 'SELECT n FROM public.things') AS things (n int)"
        assert connection.execute(through, (SERVER_NAME,)).fetchone() == (7,)

        # The relay dies: the connection with it, and the doors are there again soon.
        instance.kill_and_await("egress")
        assert ends(connection, through)
        attempts(connection, far, THROUGH)

        instance.api("DELETE", f"{egress(near)}/{rule}")
        assert ends(connection, through)
        assert "No such file or directory" in attempt(connection, far)
    deadline = time.monotonic() + 60
    while [each["action"] for each in actions(instance, near)].count("egress.closed") < 1:
        assert time.monotonic() < deadline
    seen = actions(instance, near)
    assert {"egress.allow", "egress.opened", "egress.closed", "egress.remove"} <= {each["action"] for each in seen}


def test_a_foreign_table_is_read_after_a_sleep(instance: Instance, near: Tenant, far: Tenant) -> None:
    """A role that is no superuser makes the server, and a compute that has just woken has its doors."""
    rule = allow(instance, near, far)
    with near.connect() as connection:
        connection.execute("CREATE EXTENSION postgres_fdw")
        connection.execute(
            f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/egress/{far.host}', "
            f"port '{far.port}', dbname '{far.database}')"
        )
        connection.execute(
            f"CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user '{far.role}', password '{far.password}')"
        )
        connection.execute("CREATE FOREIGN TABLE public.things (n int) SERVER far")
    instance.suspend(near)
    with near.connect() as connection:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert connection.execute("SELECT n FROM public.things").fetchone() == (7,)
                break
            except psycopg.Error:
                assert time.monotonic() < deadline
    instance.api("DELETE", f"{egress(near)}/{rule}")


def test_a_certificate_that_the_rule_does_not_trust_is_refused(instance: Instance, near: Tenant, far: Tenant) -> None:
    rule = instance.api("POST", egress(near), {"to": f"{far.host}:{far.port}"}, expect=201)["egress_rule"]
    with near.connect() as connection:
        attempts(connection, far, "is not trusted")
    instance.api("DELETE", f"{egress(near)}/{rule['id']}")


def test_the_neighbour_has_no_way_out(instance: Instance, near: Tenant, far: Tenant) -> None:
    rule = allow(instance, near, far)
    with near.connect() as connection:
        attempts(connection, far, THROUGH)
    with far.connect() as connection:
        connection.execute("CREATE EXTENSION dblink")
        assert "No such file or directory" in attempt(connection, far)
    instance.api("DELETE", f"{egress(near)}/{rule}")


def test_where_no_way_out_leads_without_the_operator(instance: Instance, near: Tenant) -> None:
    for to in ("10.0.0.1:5432", "169.254.169.254:80", "[fd00:ec2::254]:80"):
        refused = instance.api("POST", egress(near), {"to": to}, expect=422)
        assert "unless the operator allows it" in refused["message"]
