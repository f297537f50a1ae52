"""Real clients, as people have them, through the gateway with verify-full."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

NODE_SCRIPT = """
const { Client } = require('pg');
const fs = require('fs');
(async () => {
  const client = new Client({
    host: process.env.PGHOST, port: +process.env.PGPORT, user: process.env.PGUSER, password: process.env.PGPASSWORD,
    database: process.env.PGDATABASE, enableChannelBinding: true,
    ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: process.env.PGHOST },
  });
  await client.connect();
  const { rows } = await client.query('SELECT $1::int + 1 AS n', [41]);
  console.log(JSON.stringify(rows));
  await client.end();
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_psql(tenant: Tenant) -> None:
    assert tenant.psql("SELECT 42").stdout == "42\n"


def test_psql_says_that_the_session_is_encrypted(tenant: Tenant) -> None:
    said = subprocess.run(
        ["psql", "-X", "-c", r"\conninfo"], env=tenant.environment, capture_output=True, text=True, check=True
    )
    assert "TLSv1.3" in said.stdout


def test_psycopg_with_channel_binding(tenant: Tenant) -> None:
    with tenant.connect() as connection:
        assert connection.execute("SELECT %s::int + 1", (41,)).fetchone() == (42,)


def test_asyncpg(tenant: Tenant) -> None:
    async def ask() -> int:
        connection = await tenant.connect_async()
        try:
            return int(await connection.fetchval("SELECT $1::int + 1", 41))
        finally:
            await connection.close()

    assert asyncio.run(ask()) == 42


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("npm") is None:
        pytest.fail("npm is needed: scripts/test installs it")
    directory = tmp_path_factory.mktemp("node")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory, "pg@8"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    yield directory / "node_modules"
    shutil.rmtree(directory)


def test_node_pg(tenant: Tenant, node_modules: Path) -> None:
    done = subprocess.run(
        ["node", "-e", NODE_SCRIPT], capture_output=True, text=True, timeout=60, check=False,
        env=tenant.environment | {"NODE_PATH": str(node_modules)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"n": 42}]


def test_pgbench(tenant: Tenant) -> None:
    environment = tenant.environment | {"PATH": os.environ["PATH"]}
    for words in (["-i", "-q", "-s", "1"], ["-S", "-c", "4", "-t", "50"], ["-c", "2", "-t", "20"]):
        done = subprocess.run(
            ["pgbench", *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_pooler_host_routes_too(tenant: Tenant) -> None:
    host = tenant.host.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler")
    assert tenant.psql("SELECT 42", PGHOST=host).stdout == "42\n"


def test_a_client_without_sni_names_the_endpoint_in_options(tenant: Tenant) -> None:
    said = tenant.psql("SELECT 42", PGSSLSNI="0", PGOPTIONS=f"endpoint={tenant.endpoint_id}")
    assert said.stdout == "42\n", said.stderr


def test_a_client_without_sni_and_options_is_told_what_to_do(tenant: Tenant) -> None:
    said = tenant.psql("SELECT 42", PGSSLSNI="0", PGCHANNELBINDING="disable")
    assert said.returncode != 0
    assert "Endpoint ID is not specified" in said.stderr


def test_the_password_hack(tenant: Tenant) -> None:
    said = tenant.psql(
        "SELECT 42",
        PGSSLSNI="0",
        PGCHANNELBINDING="disable",
        PGPASSWORD=f"endpoint={tenant.endpoint_id};{tenant.password}",
    )
    assert said.stdout == "42\n", said.stderr


def test_cancel_ends_a_query(instance: Instance, tenant: Tenant) -> None:
    """A CancelRequest with the key the gateway gave reaches the query, whichever worker it comes to."""

    for _ in range(4):
        with tenant.connect() as connection:
            connection.execute("SELECT 1")
            sleeping = subprocess.Popen(
                ["psql", "-X", "-c", "SELECT pg_sleep(30)"], env=tenant.environment, stderr=subprocess.PIPE, text=True
            )
            deadline = 100
            while (
                deadline
                and tenant.psql(
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid() AND state = 'active'"
                ).stdout
                != "1\n"
            ):
                deadline -= 1
            sleeping.send_signal(2)
            _, complaint = sleeping.communicate(timeout=10)
            assert "canceling statement due to user request" in complaint
