"""A tenant's first minutes: a project, a row over verify-full, sleep, and a wake by connecting."""

import asyncio
import ssl
import time
from dataclasses import replace

import asyncpg
import psycopg
import pytest

from tests.instance import Instance, Tenant
from tests.trees import contents

pytestmark = pytest.mark.root


def test_a_new_project_answers_over_verify_full(instance: Instance) -> None:
    """The connection string of a new project works as it was given, with channel binding required."""
    tenant = instance.create_project("fresh", wait=False)
    with tenant.connect() as connection:
        assert connection.pgconn.ssl_in_use
        row = connection.execute(
            "SELECT current_user, current_database(), current_setting('server_version_num')"
        ).fetchone()
        assert row is not None
        assert (row[0], row[1]) == ("neondb_owner", "neondb")
        assert int(row[2]) >= 160000


def test_names_a_tenant_chooses_are_only_names(instance: Instance) -> None:
    """Quotes, spaces, emoji and SQL in role and database names arrive in PostgreSQL as they were given."""
    role, database = 'o"brien; drop role x 🐘', "it's; $(reboot) `x` – db"
    tenant = instance.create_project(
        "naïve 'name'", branch={"role_name": role, "database_name": database, "name": "main; rm -rf /"}
    )
    with psycopg.connect(
        host=tenant.host, port=tenant.port, user=role, password=tenant.password, dbname=database,
        sslmode="verify-full", sslrootcert=str(tenant.ca_file),
    ) as connection:  # fmt: skip
        assert connection.execute("SELECT current_user, current_database()").fetchone() == (role, database)


def test_sleep_and_wake(instance: Instance, tenant: Tenant) -> None:
    """What was committed before a suspend is there after the wake that a connect causes."""
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    instance.suspend(tenant)
    assert instance.endpoint(tenant)["current_state"] == "idle"
    with tenant.connect() as connection:
        row = connection.execute("SELECT count(*) >= 1 FROM kept").fetchone()
    assert row == (True,)
    assert instance.endpoint(tenant)["current_state"] == "active"


def test_the_password_is_shown_once_and_stored_nowhere(instance: Instance) -> None:
    """reveal_password refuses by default, and no file under the state directory holds the password."""
    tenant = instance.create_project("once")
    refused = instance.http.get(
        f"/projects/{tenant.project_id}/branches/{tenant.branch_id}/roles/{tenant.role}/reveal_password"
    )
    assert refused.status_code == 412
    assert refused.json()["message"] == "Storing passwords is disabled"
    needle = tenant.password.encode()
    for path, content in contents(instance.state_dir):
        assert needle not in content, path


def test_reset_password_ends_the_old_one(instance: Instance) -> None:
    tenant = instance.create_project("reset")
    reset = instance.api(
        "POST", f"/projects/{tenant.project_id}/branches/{tenant.branch_id}/roles/{tenant.role}/reset_password"
    )
    instance.settle(tenant.project_id)
    new = reset["role"]["password"]
    assert new.startswith("npg_")
    assert new != tenant.password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        tenant.connect()
    assert tenant.psql("SELECT 1", PGPASSWORD=new).stdout == "1\n"


def test_a_password_changed_in_sql_is_the_password(instance: Instance) -> None:
    """ALTER ROLE in the tenant's own session is honoured within a moment, and still after a suspend."""
    tenant = instance.create_project("alter")
    new = "npg_" + "Zk7Qw2Lp9Xv4Rt6N"
    with tenant.connect() as connection:
        connection.execute(f"ALTER ROLE neondb_owner PASSWORD '{new}'")
    deadline = time.monotonic() + 5
    while tenant.psql("SELECT 1", PGPASSWORD=new).returncode != 0:
        assert time.monotonic() < deadline, "the new password is not accepted"
    while tenant.psql("SELECT 1").returncode == 0:
        # Another worker has yet to hear of it; it forgets by itself after a second.
        assert time.monotonic() < deadline, "the old password is still accepted"
    instance.suspend(tenant)
    assert tenant.psql("SELECT 1").returncode != 0
    assert tenant.psql("SELECT 1", PGPASSWORD=new).stdout == "1\n"


def test_roles_and_databases_by_api(instance: Instance, tenant: Tenant) -> None:
    """A role and a database made by the API work; deleted, they do not."""
    base = f"/projects/{tenant.project_id}/branches/{tenant.branch_id}"
    role = instance.api("POST", f"{base}/roles", {"role": {"name": "alice"}}, expect=201)["role"]
    instance.settle(tenant.project_id)
    instance.api("POST", f"{base}/databases", {"database": {"name": "wonder", "owner_name": "alice"}}, expect=201)
    instance.settle(tenant.project_id)
    seen = tenant.psql("SELECT current_user, pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'wonder'",
                       PGUSER="alice", PGPASSWORD=role["password"], PGDATABASE="wonder")  # fmt: skip
    assert seen.stdout == "alice|alice\n", seen.stderr
    instance.api("DELETE", f"{base}/databases/wonder")
    instance.settle(tenant.project_id)
    instance.api("DELETE", f"{base}/roles/alice")
    instance.settle(tenant.project_id)
    assert tenant.psql("SELECT 1", PGUSER="alice", PGPASSWORD=role["password"]).returncode != 0


def test_an_idle_compute_sleeps_by_itself(instance: Instance) -> None:
    """An idle connection does not hold a compute; it is told 57P01 when the compute goes."""
    tenant = instance.create_project("idle")
    instance.api(
        "PATCH",
        f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}",
        {"endpoint": {"suspend_timeout_seconds": 60}},
    )
    instance.settle(tenant.project_id)
    # A test does not wait for a minute: the rule itself is a table in the unit tests. Here: a transaction holds it …
    busy = tenant.connect()
    busy.execute("BEGIN")
    busy.execute("SELECT 1")
    refused_or_kept = instance.endpoint(tenant)["current_state"]
    assert refused_or_kept == "active"
    busy.execute("COMMIT")
    # … and an explicit suspend ends an idle session with the right code.
    instance.suspend(tenant)
    with pytest.raises(psycopg.OperationalError) as ended:
        busy.execute("SELECT 1")
    assert ended.value.sqlstate in {"57P01", None}
    busy.close()


def test_a_role_made_by_sql_gets_in_at_once(instance: Instance) -> None:
    """Within the second in which the platform has read the list of roles, and although it was tried before it existed."""
    tenant = instance.create_project("newcomer")
    app = replace(tenant, role="app", password="npg_aB3dE5gH7jK9mN1p")
    with tenant.connect() as connection:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            app.connect()
        connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{app.password}'")
        connection.commit()
        app.connect().close()


def test_twenty_clients_knock_at_once(instance: Instance) -> None:
    """Twenty clients of a sleeping project all get in, and the compute was started once."""
    tenant = instance.create_project("storm")
    instance.suspend(tenant)

    async def knock() -> int:
        connection = await tenant.connect_async()
        try:
            return int(await connection.fetchval("SELECT 1"))
        finally:
            await connection.close()

    async def storm() -> list[int]:
        return await asyncio.gather(*(knock() for _ in range(20)))

    assert asyncio.run(storm()) == [1] * 20
    operations = instance.api("GET", f"/projects/{tenant.project_id}/operations")["operations"]
    starts = [each for each in operations if each["action"] == "start_compute"]
    assert len(starts) <= 2, "the first start, and the one wake"


def test_pgvector_is_there(tenant: Tenant) -> None:
    assert (
        tenant.psql("CREATE EXTENSION IF NOT EXISTS vector; SELECT '[1,2,3]'::vector <-> '[1,2,4]'::vector").stdout
        == "1\n"
    )


def test_asyncpg_verifies_the_host_name(instance: Instance, tenant: Tenant) -> None:
    """The certificate is for *.DOMAIN: a client that calls the same server by another name refuses it."""

    async def connect_by_address() -> None:
        await asyncpg.connect(
            host="127.0.0.2", port=tenant.port, user=tenant.role, password=tenant.password, database=tenant.database,
            ssl=ssl.create_default_context(cafile=str(tenant.ca_file)), timeout=5,
        )  # fmt: skip

    with pytest.raises((ssl.SSLError, OSError)):
        asyncio.run(connect_by_address())
