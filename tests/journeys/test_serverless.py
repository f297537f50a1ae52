"""The serverless driver as npm has it, unmodified and with its defaults: port 443 of names below the domain."""

import json
import socket
import ssl
import subprocess
from typing import Any

import pytest

from tests.front import Front
from tests.instance import Instance, Tenant
from tests.npm import NODE_MODULES

pytestmark = pytest.mark.root

PRELUDE = """
const { neon, neonConfig, Pool, Client } = require('@neondatabase/serverless');
const say = (value) => console.log(JSON.stringify(value));
const url = process.env.DATABASE_URL;
if (!globalThis.WebSocket) neonConfig.webSocketConstructor = require('ws');  // node 20 has none of its own
const told = (error) => ({ message: error.message, code: error.code, name: error.name });
"""


@pytest.fixture
def node(tenant: Tenant, front: Front) -> Any:
    """Run a script with the tenant's connection string; what it says, a value a line."""

    def run(script: str, **changes: str) -> list[Any]:
        parts = {"role": tenant.role, "password": tenant.password, "host": tenant.host} | changes
        url = f"postgresql://{parts['role']}:{parts['password']}@{parts['host']}/{tenant.database}?sslmode=require"
        whole = f"{PRELUDE}(async () => {{ {script} }})().catch((e) => {{ console.error(e); process.exit(1); }});"
        done = subprocess.run(
            front.seen_by(["node", "-e", whole], tenant.host),
            env={
                "PATH": tenant.environment["PATH"], "NODE_PATH": str(NODE_MODULES), "DATABASE_URL": url,
                "NODE_EXTRA_CA_CERTS": str(tenant.ca_file),
            },
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_template_over_http(node: Any) -> None:
    (rows,) = node(
        "const sql = neon(url); const n = 41;"
        "say(await sql`SELECT ${n}::int + 1 AS n, ${'x'} AS t, ${null}::text AS nothing, now() > '2020-01-01' AS late,"
        " ${[1, 2]}::int[] AS list, ${{ k: 1 }}::jsonb AS document`);"
    )
    assert rows == [{"n": 42, "t": "x", "nothing": None, "late": True, "list": [1, 2], "document": {"k": 1}}]


def test_full_results_and_array_mode(node: Any) -> None:
    (result, arrays) = node(
        "const sql = neon(url, { fullResults: true }); say(await sql.query('SELECT $1::int8 AS big', [2n ** 60n + '']));"
        "say(await neon(url, { arrayMode: true })`SELECT 1 AS a, 2 AS b`);"
    )
    assert (result["command"], result["rowCount"], result["rows"]) == ("SELECT", 1, [{"big": str(2**60)}])
    assert result["fields"][0]["dataTypeID"] == 20
    assert arrays == [[1, 2]]


def test_a_transaction_over_http(node: Any) -> None:
    results, failure, count = node(
        "const sql = neon(url); await sql`CREATE TABLE IF NOT EXISTS carts (id int)`; await sql`TRUNCATE carts`;"
        "say(await sql.transaction([sql`INSERT INTO carts VALUES (1) RETURNING id`, sql`SHOW transaction_isolation`],"
        " { isolationLevel: 'RepeatableRead' }));"
        "await sql.transaction([sql`INSERT INTO carts VALUES (2)`, sql`SELECT 1 / 0`]).catch((e) => say(told(e)));"
        "say(await sql`SELECT count(*)::int AS n FROM carts`);"
    )
    assert results == [[{"id": 1}], [{"transaction_isolation": "repeatable read"}]]
    assert failure == {"message": "division by zero", "code": "22012", "name": "NeonDbError"}
    assert count == [{"n": 1}]


def test_read_only_and_deferrable(node: Any) -> None:
    (failure,) = node(
        "const sql = neon(url); await sql.transaction([sql`CREATE TABLE never (a int)`],"
        " { readOnly: true, isolationLevel: 'Serializable', deferrable: true }).catch((e) => say(told(e)));"
    )
    assert failure["code"] == "25006"


@pytest.mark.parametrize("change", ["password", "role", "host"])
def test_what_is_wrong_is_not_said(node: Any, tenant: Tenant, change: str) -> None:
    """A wrong password, an unknown role and an unknown endpoint: the same words, over HTTP and WebSocket."""
    host = tenant.host.replace(tenant.endpoint_id, "ep-never-was-00000000")
    wrong = {"password": "npg_wrong", "role": "nobody", "host": host}[change]
    role = "nobody" if change == "role" else tenant.role
    expected = f'password authentication failed for user "{role}"'
    (over_http,) = node("await neon(url)`SELECT 1`.catch((e) => say(told(e)));", **{change: wrong})
    assert over_http == {"message": expected, "code": "28P01", "name": "NeonDbError"}
    if change != "host":  # the driver's WebSocket goes to the endpoint's own name, which the hosts file does not have
        (over_websocket,) = node(
            "const client = new Client(url); client.on('error', () => {});"
            "await client.connect().then(() => client.query('SELECT 1')).catch((e) => say(told(e)));",
            **{change: wrong},
        )
        assert (over_websocket["message"], over_websocket["code"]) == (expected, "28P01")


def test_a_pool_over_websocket(node: Any) -> None:
    rows, pids, failure, batch = node(
        "const pool = new Pool({ connectionString: url });"
        "say((await pool.query('SELECT $1::int + 1 AS n', [41])).rows);"
        "const client = await pool.connect();"
        "await client.query('BEGIN'); await client.query('CREATE TEMP TABLE t (a text) ON COMMIT DROP');"
        "await client.query('INSERT INTO t VALUES ($1)', ['x'.repeat(1000000)]);"
        "say((await client.query('SELECT length(a) AS n, current_user AS u FROM t')).rows);"
        "await client.query('COMMIT');"
        "await client.query('SELECT 1 / 0').catch((e) => say(told(e))); client.release();"
        "say((await Promise.all([1, 2, 3].map((n) => pool.query('SELECT $1::int AS n', [n])))).map((r) => r.rows[0].n));"
        "await pool.end();"
    )
    assert rows == [{"n": 42}]
    assert pids == [{"n": 1_000_000, "u": "neondb_owner"}]
    assert failure["code"] == "22012"
    assert batch == [1, 2, 3]


def test_drizzle_over_http(node: Any) -> None:
    (rows,) = node(
        "const { drizzle } = require('drizzle-orm/neon-http'); const { sql } = require('drizzle-orm');"
        "say((await drizzle(neon(url)).execute(sql`SELECT ${41}::int + 1 AS n`)).rows);"
    )
    assert rows == [{"n": 42}]


def test_a_sleeping_database_is_woken(instance: Instance, tenant: Tenant, node: Any) -> None:
    for query in (
        "say(await neon(url)`SELECT 1 AS n`);",
        "const c = new Client(url); await c.connect(); say((await c.query('SELECT 1 AS n')).rows); await c.end();",
    ):
        path = f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}"
        instance.api("POST", f"{path}/suspend")
        instance.settle(tenant.project_id)
        assert instance.api("GET", path)["endpoint"]["current_state"] == "idle"
        assert node(query) == [[{"n": 1}]]


def test_an_address_that_is_not_allowed(instance: Instance, tenant: Tenant, node: Any) -> None:
    path = f"/projects/{tenant.project_id}"
    allow = {"ips": ["192.0.2.1"], "protected_branches_only": False}
    instance.api("PATCH", path, {"project": {"settings": {"allowed_ips": allow}}})
    try:
        (failure,) = node("await neon(url)`SELECT 1`.catch((e) => say(told(e)));")
    finally:
        allow["ips"] = []
        instance.api("PATCH", path, {"project": {"settings": {"allowed_ips": allow}}})
    assert failure["message"].startswith("This IP address 127.0.0.1 is not allowed to connect to this endpoint.")
    assert node("say(await neon(url)`SELECT 1 AS n`);") == [[{"n": 1}]]


def test_a_connection_of_the_api_outlives_the_worker_that_passed_it_on(instance: Instance) -> None:
    instance.api("GET", "/projects")
    trust = ssl.create_default_context(cafile=str(instance.paths.ca_file))
    with (
        socket.create_connection(("127.0.0.1", instance.https_port), timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as kept,
    ):
        assert _health(kept).startswith(b"HTTP/1.1 200 ")
        for worker in ("gateway-1", "gateway-2"):
            instance.kill(worker)
        assert _health(kept).startswith(b"HTTP/1.1 200 ")
    instance.await_ready()
    instance.api("GET", "/projects")


def _health(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /api/v2/cloister/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = b""
    while not said.endswith(b"}"):
        said += connection.recv(65_536)
    return said


def test_sql_goes_on_while_the_api_is_restarted(instance: Instance, node: Any) -> None:
    instance.api("GET", "/projects")
    assert node("say(await neon(url)`SELECT 1 AS n`);") == [[{"n": 1}]]
    instance.kill("api")
    assert node("say(await neon(url)`SELECT 2 AS n`);") == [[{"n": 2}]]
    instance.await_ready()
    instance.api("GET", "/projects")
