"""`POST /sql` over HTTP/2: the same answers, many at the same time."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fix_gateway import DOMAIN, ENDPOINT, GatewayWorld
from tests.http2_client import Http2Client
from tests.sql_client import SqlClient, connection_string


@pytest.fixture
async def http2(sql_world: GatewayWorld) -> AsyncIterator[Http2Client]:
    async with await Http2Client.open(sql_world) as client:
        yield client


async def test_the_same_answer_as_over_http1(http2: Http2Client, sql: SqlClient) -> None:
    query = "SELECT $1::int + 1 AS n, '{1,2}'::int[] AS a"
    ours, theirs = await http2.answer(http2.ask(query, 41)), await sql.query(query, 41)
    assert ours.status == theirs.status == 200
    assert ours.body == theirs.body
    assert {name for name in theirs.headers if name != "connection"} | {":status"} == set(ours.headers)


async def test_a_hundred_queries_at_the_same_time(sql_world: GatewayWorld, http2: Http2Client) -> None:
    """Twenty of them at the compute; the others wait for their turn."""
    streams = [http2.ask("SELECT $1::int AS n", number) for number in range(100)]
    answers = [await http2.answer(stream) for stream in streams]
    assert [answer.json["rows"][0]["n"] for answer in answers] == list(range(100))
    await http2.__aexit__()
    await sql_world.directory.until("connection.closed")
    assert [event.action for event in sql_world.directory.events] == ["connection.opened", "connection.closed"]


async def test_a_slow_query_holds_up_nobody(http2: Http2Client) -> None:
    slow = http2.ask("SELECT pg_sleep(60)::text")
    quick = http2.ask("SELECT 1 AS n")
    assert (await http2.answer(quick)).status == 200
    assert slow not in http2.ended


async def test_a_stream_that_is_reset_cancels_its_query_and_no_other(http2: Http2Client, sql: SqlClient) -> None:
    running = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%sleep(1' || '23)%'"
    doomed = http2.ask("SELECT pg_sleep(123)::text")
    async with asyncio.timeout(20):
        while (await sql.query(running)).json["rows"][0]["n"] == "0":
            pass
    other = http2.ask("SELECT 'still there' AS t FROM pg_sleep(0.2)")
    http2.http.reset_stream(doomed, 8)
    http2.flush()
    assert (await http2.answer(other)).json["rows"] == [{"t": "still there"}]
    async with asyncio.timeout(20):
        while (await sql.query(running)).json["rows"][0]["n"] != "0":
            pass


async def test_a_client_that_leaves_cancels_all(sql_world: GatewayWorld, http2: Http2Client, sql: SqlClient) -> None:
    running = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%sleep(1' || '24)%'"
    for _ in range(3):
        http2.ask("SELECT pg_sleep(124)::text")
    async with asyncio.timeout(20):
        while (await sql.query(running)).json["rows"][0]["n"] != "3":
            pass
    http2.writer.transport.abort()
    async with asyncio.timeout(20):
        while (await sql.query(running)).json["rows"][0]["n"] != "0":
            pass


async def test_bodies_and_answers_of_megabytes(http2: Http2Client) -> None:
    stream = http2.begin(body=b'{"query": "SELECT length($1) AS n, $1 AS t", "params": ["', ends=False)
    left = 4_000_000
    async with asyncio.timeout(20):
        while left:
            room = min(left, http2.http.local_flow_control_window(stream), http2.http.max_outbound_frame_size)
            if room == 0:
                assert await http2.hear()
            else:
                http2.http.send_data(stream, b"x" * room)
                left -= room
                http2.flush()
    async with asyncio.timeout(20):
        while http2.http.local_flow_control_window(stream) < 3:
            assert await http2.hear()
    http2.http.send_data(stream, b'"]}', end_stream=True)
    http2.flush()
    answer = await http2.answer(stream)
    assert answer.json["rows"][0]["n"] == 4_000_000
    assert len(answer.json["rows"][0]["t"]) == 4_000_000


async def test_two_clients_on_one_connection_are_two_visits(sql_world: GatewayWorld, http2: Http2Client) -> None:
    sql_world.directory.set_password("bob", "npg_of_bob_123456789")
    ada = http2.ask("SELECT current_user::text AS who")
    bob = http2.ask(
        "SELECT current_user::text AS who",
        neon_connection_string=connection_string(role="bob", password="npg_of_bob_123456789"),
    )
    assert (await http2.answer(ada)).json["rows"] == [{"who": "ada"}]
    assert (await http2.answer(bob)).json["rows"] == [{"who": "bob"}]
    await http2.answer(http2.ask("SELECT 1"))
    await http2.__aexit__()
    closed = await sql_world.directory.until("connection.closed", 2)
    assert {event.role for event in closed} == {"ada", "bob"}
    assert len([event for event in sql_world.directory.events if event.action == "connection.opened"]) == 2


async def test_what_a_client_asked_before_it_said_goodbye_is_answered(http2: Http2Client) -> None:
    stream = http2.ask("SELECT 'late' AS t FROM pg_sleep(0.2)")
    goaway = (8).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + bytes(8)
    http2.writer.write(goaway)
    assert (await http2.answer(stream)).json["rows"] == [{"t": "late"}]
    assert await http2.ends()


async def test_a_worker_that_stops_lets_the_exchange_end(gateway_world: GatewayWorld) -> None:
    worker = await gateway_world.start(https=True, drain_timeout_s=10.0)
    async with await Http2Client.open(gateway_world) as client, await Http2Client.open(gateway_world) as idle:
        await idle.answer(idle.ask("SELECT 1"))
        stream = client.ask("SELECT 'whole' AS t FROM pg_sleep(0.5)")
        await gateway_world.directory.until("connection.opened", 2)
        stopping = gateway_world.begin_stop(worker)
        assert await idle.ends()
        assert idle.farewell == 0
        assert (await client.answer(stream)).json["rows"] == [{"t": "whole"}]
        assert client.farewell == 0
        await client.__aexit__()
        await stopping


async def test_an_error_leaves_the_connection_as_it_is(http2: Http2Client) -> None:
    wrong, right = http2.ask("SELECT nothing"), http2.ask("SELECT 1 AS n")
    assert (await http2.answer(wrong)).status == 400
    assert (await http2.answer(right)).status == 200
    assert (await http2.answer(http2.ask("SELECT 2 AS n"))).status == 200


async def test_whoever_offers_nothing_speaks_http1(sql: SqlClient) -> None:
    assert (await sql.query("SELECT 1 AS n")).status == 200


async def test_httpx_speaks_it(sql_world: GatewayWorld) -> None:
    context = sql_world.client_tls()
    transport = httpx.AsyncHTTPTransport(verify=context, http2=True)
    url = f"https://{ENDPOINT}.{DOMAIN}:{sql_world.https_port}/sql"
    async with httpx.AsyncClient(transport=transport, timeout=20) as client:
        asked = [
            client.post(url, json={"query": "SELECT $1::int AS n", "params": [number]},
                        headers={"neon-connection-string": connection_string()})
            for number in range(20)
        ]  # fmt: skip
        answers = await asyncio.gather(*asked)
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert [answer.json()["rows"][0]["n"] for answer in answers] == list(range(20))


_NODE = """
const http2 = require('node:http2'), fs = require('node:fs');
const [port, host, ca, connection] = process.argv.slice(1);
const session = http2.connect(`https://localhost:${port}`, {ca: fs.readFileSync(ca), servername: host});
const ask = n => new Promise((resolve, reject) => {
  const stream = session.request({':method': 'POST', ':path': '/sql', ':authority': host, 'neon-connection-string': connection});
  let body = '';
  stream.on('data', chunk => body += chunk).on('end', () => resolve(JSON.parse(body).rows[0].n)).on('error', reject);
  stream.end(JSON.stringify({query: 'SELECT $1::int AS n', params: [n]}));
});
Promise.all([...Array(50).keys()].map(ask)).then(found => { console.log(JSON.stringify(found)); session.close(); });
"""


async def test_node_speaks_it(sql_world: GatewayWorld) -> None:
    arguments = [str(sql_world.https_port), f"api.{DOMAIN}", str(sql_world.ca_file), connection_string()]
    ran = await asyncio.to_thread(
        subprocess.run, ["node", "-e", _NODE, *arguments], capture_output=True, timeout=60, check=True
    )
    assert json.loads(ran.stdout) == list(range(50))


async def test_curl_speaks_it(sql_world: GatewayWorld) -> None:
    name, port = f"api.{DOMAIN}", sql_world.https_port
    command = [
        "curl", "-sS", "--http2", "--cacert", str(sql_world.ca_file), "--resolve", f"{name}:{port}:127.0.0.1",
        "-w", " %{http_version}", "-H", f"Neon-Connection-String: {connection_string()}",
        "-d", '{"query": "SELECT 1 AS n"}', f"https://{name}:{port}/sql",
    ]  # fmt: skip
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    assert ran.stdout.endswith(b" 2")
    assert b'"rows":[{"n":1}]' in ran.stdout
