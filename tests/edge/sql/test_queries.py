"""`POST /sql` against a real PostgreSQL, as the driver asks."""

import asyncio
import json

import pytest

from cloister.base.audit_levels import AuditLevel
from tests.fix_gateway import ENDPOINT, GatewayWorld
from tests.sql_client import SqlClient, connection_string

RAW = {"Neon_Raw_Text_Output": "true", "Neon_Array_Mode": "true"}


async def test_one_query(sql: SqlClient) -> None:
    answer = await sql.query("SELECT $1::int + 1 AS n, 'x' AS t", 41)
    assert answer.status == 200, answer.body
    assert answer.json == {
        "command": "SELECT",
        "rowCount": 1,
        "rowAsArray": False,
        "rows": [{"n": 42, "t": "x"}],
        "fields": [
            {"name": "n", "dataTypeID": 23, "tableID": 0, "columnID": 0, "dataTypeSize": 4, "dataTypeModifier": -1,
             "format": "text"},
            {"name": "t", "dataTypeID": 25, "tableID": 0, "columnID": 0, "dataTypeSize": -1, "dataTypeModifier": -1,
             "format": "text"},
        ],
    }  # fmt: skip
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["neon-request-id"]


async def test_raw_and_array_mode_as_the_driver_asks(sql: SqlClient) -> None:
    answer = await sql.query("SELECT 1 AS a, true AS b, NULL AS c, '{1,2}'::int[] AS d", **RAW)
    assert answer.json["rows"] == [["1", "t", None, "{1,2}"]]
    assert answer.json["rowAsArray"] is True


async def test_what_json_can_say_is_json(sql: SqlClient) -> None:
    answer = await sql.query(
        """SELECT 9007199254740993::int8 AS big, 1.10::numeric AS exact, 1.5::float8 AS f, 'NaN'::float8 AS nan,
        '{"a": [1, 2.50]}'::jsonb AS j, '{{1,2},{3,NULL}}'::int[] AS nested, ARRAY['a,b','c"d','NULL'] AS texts,
        ARRAY['{"k":1}'::json] AS documents, '[0:1]={7,8}'::int2[] AS bounds, '{}'::text[] AS none,
        '2020-01-02'::date AS day, '\\x00ff'::bytea AS bytes, ARRAY[true, false] AS flags"""
    )
    assert answer.json["rows"] == [
        {
            "big": "9007199254740993", "exact": "1.10", "f": 1.5, "nan": "NaN", "j": {"a": [1, 2.5]},
            "nested": [[1, 2], [3, None]], "texts": ["a,b", 'c"d', "NULL"], "documents": [{"k": 1}], "bounds": [7, 8],
            "none": [], "day": "2020-01-02", "bytes": "\\x00ff", "flags": [True, False],
        }
    ]  # fmt: skip
    assert b"2.50" in answer.body  # every digit


async def test_parameters_of_every_json_kind(sql: SqlClient) -> None:
    answer = await sql.query(
        "SELECT $1 AS s, $2::text AS n, $3::bool AS b, $4::numeric AS x, $5::jsonb AS j, $6::text[] AS a, $7::int[] AS m",
        "it's", None, True, 12.5, {"k": [1, "ü"]}, ["a", 'q"\\', None, "NULL", "{x}"], [[1, 2], [3, 4]],
    )  # fmt: skip
    assert answer.status == 200, answer.body
    assert answer.json["rows"] == [
        {"s": "it's", "n": None, "b": True, "x": "12.5", "j": {"k": [1, "ü"]},
         "a": ["a", 'q"\\', None, "NULL", "{x}"], "m": [[1, 2], [3, 4]]}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "command", "count"),
    [
        ("CREATE TEMP TABLE t (a int)", "CREATE", None),
        ("INSERT INTO pg_temp.u SELECT generate_series(1, 3)", "INSERT", 3),
        ("UPDATE pg_temp.u SET a = 1", "UPDATE", 3),
        ("", "", None),
        ("SELECT", "SELECT", 1),
    ],
)
async def test_commands_and_counts(sql: SqlClient, query: str, command: str, count: int | None) -> None:
    batch = [{"query": "CREATE TEMP TABLE u (a int) ON COMMIT DROP"}]
    batch += [{"query": "INSERT INTO pg_temp.u VALUES (1), (2), (3)"}, {"query": query}]
    answer = await sql.ask({"queries": batch})
    assert answer.status == 200, answer.body
    last = answer.json["results"][-1]
    assert (last["command"], last["rowCount"]) == (command, count)


async def test_an_error_has_postgres_fields(sql: SqlClient) -> None:
    answer = await sql.query("SELEC 1")
    assert answer.status == 400
    assert answer.json["message"] == 'syntax error at or near "SELEC"'
    assert (answer.json["code"], answer.json["position"]) == ("42601", "1")
    assert answer.json["severity"] == "ERROR"
    assert answer.json["detail"] is None
    constraint = await sql.ask({"queries": [
        {"query": "CREATE TEMP TABLE v (a int CONSTRAINT positive CHECK (a > 0)) ON COMMIT DROP"},
        {"query": "INSERT INTO pg_temp.v VALUES ($1)", "params": ["-1"]},
    ]})  # fmt: skip
    assert (constraint.status, constraint.json["code"], constraint.json["constraint"]) == (400, "23514", "positive")
    assert (await sql.query("SELECT 1")).status == 200  # the connection goes on


async def test_a_batch_is_one_transaction(sql: SqlClient) -> None:
    both = await sql.ask(
        {"queries": [{"query": "SELECT txid_current() AS t"}, {"query": "SELECT txid_current() AS t"}]}
    )
    first, second = both.json["results"]
    assert first["rows"] == second["rows"]
    assert (await sql.ask({"queries": []})).json == {"results": []}


async def test_an_error_undoes_the_batch(sql: SqlClient) -> None:
    await sql.query("DROP TABLE IF EXISTS undone")
    await sql.query("CREATE TABLE undone (a int)")
    failed = await sql.ask({"queries": [{"query": "INSERT INTO undone VALUES (1)"}, {"query": "SELECT 1 / 0"}]})
    assert (failed.status, failed.json["code"]) == (400, "22012")
    assert (await sql.query("SELECT count(*)::int AS n FROM undone")).json["rows"] == [{"n": 0}]


async def test_how_a_transaction_runs(sql: SqlClient) -> None:
    asked = [{"query": f"SHOW transaction_{what}"} for what in ("isolation", "read_only", "deferrable")]
    answer = await sql.ask(
        {"queries": asked},
        Neon_Batch_Isolation_Level="Serializable", Neon_Batch_Read_Only="true", Neon_Batch_Deferrable="true", **RAW,
    )  # fmt: skip
    assert [result["rows"] for result in answer.json["results"]] == [[["serializable"]], [["on"]], [["on"]]]
    assert answer.headers["neon-batch-isolation-level"] == "Serializable"
    refused = await sql.ask({"queries": asked}, Neon_Batch_Isolation_Level="Serializable; DROP TABLE x")
    assert refused.status == 400


@pytest.mark.parametrize(
    "leak",
    [
        "BEGIN",
        "SET work_mem = '77MB'",
        "SET ROLE none",
        "LISTEN x",
        "PREPARE p AS SELECT 1",
        "SELECT pg_advisory_lock(7)",
    ],
)
async def test_nothing_is_left_for_the_next(sql: SqlClient, leak: str) -> None:
    for _ in range(8):  # often enough that sessions are kept
        assert (await sql.query(leak)).status == 200
        answer = await sql.query(
            """SELECT current_setting('work_mem') <> '77MB' AS a,
            (SELECT count(*) FROM pg_prepared_statements WHERE name = 'p')::int AS c,
            (SELECT count(*) FROM pg_listening_channels())::int AS d,
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())::int AS e"""
        )
        assert answer.json["rows"] == [{"a": True, "c": 0, "d": 0, "e": 0}]
        assert (await sql.query("SAVEPOINT s")).json["code"] == "25P01"  # no transaction is open


async def test_sessions_are_kept_for_those_who_come_often(sql: SqlClient) -> None:
    pids = [(await sql.query("SELECT pg_backend_pid() AS p")).json["rows"][0]["p"] for _ in range(30)]
    assert len(set(pids)) < 30


async def test_a_client_that_leaves_cancels_its_query(sql_world: GatewayWorld, sql: SqlClient) -> None:
    async def sleepers() -> int:
        answer = await sql.query(
            "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(61)%' AND pid <> pg_backend_pid()"
            " AND state = 'active'"
        )
        return int(answer.json["rows"][0]["n"])

    async with await SqlClient.open(sql_world) as leaving:
        text = json.dumps({"query": "SELECT pg_sleep(61)"}).encode()
        leaving.writer.write(leaving.head(len(text), {"Neon-Connection-String": connection_string()}) + text)
        async with asyncio.timeout(10):
            while await sleepers() != 1:
                pass
    async with asyncio.timeout(10):
        while await sleepers():
            pass


@pytest.mark.parametrize("query", ["COPY (SELECT 1) TO STDOUT", "COPY pg_temp.c FROM STDIN"])
async def test_copy_is_refused_and_hurts_nobody(sql: SqlClient, query: str) -> None:
    batch = {"queries": [{"query": "CREATE TEMP TABLE c (a int) ON COMMIT DROP"}, {"query": query}]}
    answer = await sql.ask(batch)
    assert (answer.status, answer.json["code"]) == (400, "0A000")


async def test_an_answer_beyond_the_limit(sql: SqlClient) -> None:
    answer = await sql.query("SELECT repeat('x', 11 * 1024 * 1024)")
    assert answer.status == 507
    assert answer.json["message"] == "response is too large (max is 10485760 bytes)"
    many = await sql.query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
    assert many.status == 507
    large = await sql.query("SELECT repeat('x', 10000000) AS x")
    assert (large.status, len(large.body) > 10_000_000) == (200, True)


async def test_a_large_parameter_arrives(sql: SqlClient) -> None:
    answer = await sql.query("SELECT length($1::text) AS n", "y" * 9_000_000)
    assert answer.json["rows"] == [{"n": 9_000_000}]


async def test_the_host_of_the_endpoint_serves_too(sql_world: GatewayWorld) -> None:
    for name in (ENDPOINT, f"{ENDPOINT}-pooler"):
        async with await SqlClient.open(sql_world, name=name) as client:
            assert (await client.query("SELECT 1 AS n")).json["rows"] == [{"n": 1}]


async def test_a_sleeping_endpoint_is_woken(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_asleep = True
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as client:
        assert (await client.query("SELECT 1 AS n")).json["rows"] == [{"n": 1}]
    assert len(gateway_world.directory.wakes) == 1
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert opened.was_cold
    assert opened.role == "ada"
    assert opened.tls_version == "TLSv1.3"


async def test_a_connection_is_one_visit_in_the_audit(sql_world: GatewayWorld) -> None:
    async with await SqlClient.open(sql_world) as client:
        for _ in range(3):
            await client.query("SELECT 1")
    (closed,) = await sql_world.directory.until("connection.closed")
    assert [event.action for event in sql_world.directory.events] == ["connection.opened", "connection.closed"]
    assert closed.bytes_in > 0
    assert closed.bytes_out > 0
    assert closed.session_id == sql_world.directory.events[0].session_id


async def test_preflight(sql: SqlClient) -> None:
    sql.writer.write(sql.head(None, {"Origin": "https://shop.example"}, method="OPTIONS"))
    answer = await sql.answer()
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "neon-connection-string" in answer.headers["access-control-allow-headers"]


async def test_a_worker_that_stops_ends_idle_connections_at_once(gateway_world: GatewayWorld) -> None:
    index = await gateway_world.start(https=True, drain_timeout_s=60)
    async with await SqlClient.open(gateway_world) as client:
        await client.query("SELECT 1")
        async with asyncio.timeout(10):
            await gateway_world.begin_stop(index)
        assert await client.ends()


async def test_a_worker_that_stops_lets_a_query_end(gateway_world: GatewayWorld) -> None:
    index = await gateway_world.start(https=True, drain_timeout_s=60)
    async with await SqlClient.open(gateway_world) as client:
        asking = asyncio.create_task(client.query("SELECT 'whole' AS t FROM pg_sleep(0.5)"))
        await gateway_world.directory.until("connection.opened")
        stopping = gateway_world.begin_stop(index)
        answer = await asking
        assert answer.json["rows"] == [{"t": "whole"}]
        assert answer.headers["connection"] == "close"
        async with asyncio.timeout(10):
            await stopping


async def test_what_is_asked_over_https_is_recorded_as_on_the_other_port(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as sql:
        assert (await sql.query("SELECT 'recorded', $1::int", 41)).status == 200
        assert (await sql.query("SELECT 1 / 0 AS failed")).status == 400
    told = await gateway_world.directory.until_told("recorded")
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert (told.kind, told.rows, told.session_id, told.role) == ("extended", 1, opened.session_id, "ada")
    assert (await gateway_world.directory.until_told("failed")).sqlstate == "22012"
