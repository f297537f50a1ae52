"""Threats to the SQL front on HTTPS: endless and slow requests, requests that two parsers read differently, names that do
not agree, guessing passwords and names, and what a proof may outlive."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from wsproto.events import BytesMessage

from cloister.base.directory import Invalidate
from cloister.edge.gateway import limits as gateway_limits
from cloister.edge.sql import front, limits
from cloister.protocol.scram import Verifier
from tests.fix_gateway import DOMAIN, ENDPOINT, OTHER_ENDPOINT, PASSWORD, GatewayWorld
from tests.sql_client import Answer, FramedClient, SqlClient, connection_string, first_words

SELECT = json.dumps({"query": "SELECT 1 AS n"}).encode()
WITH_PASSWORD = {"Neon-Connection-String": connection_string()}
WITHOUT = {"Neon-Connection-String": connection_string(password="npg_wrong")}


@pytest.fixture
async def world(gateway_world: GatewayWorld) -> GatewayWorld:
    await gateway_world.start(https=True)
    return gateway_world


# -- too much


async def test_a_body_beyond_the_limit_by_its_own_word(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        client.writer.write(client.head(limits.BODY_BYTES_MAX + 1, WITH_PASSWORD) + b" " * 65_536)
        assert await _until_413(client)


async def test_a_body_beyond_the_limit_in_chunks(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        client.writer.write(client.head(None, WITH_PASSWORD | {"Transfer-Encoding": "chunked"}))
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(11):
            client.writer.write(chunk)
        assert (await client.answer()).status == 413


async def _until_413(client: SqlClient) -> bool:
    for _ in range(limits.BODY_BYTES_MAX // 65_536 + 1):
        client.writer.write(b" " * 65_536)
    return (await client.answer()).status == 413


async def test_nothing_of_a_body_is_waited_for_before_the_proof(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        client.writer.write(client.head(9_000_000, WITHOUT))
        answer = await client.answer()
        assert (answer.status, answer.json["code"]) == (400, "28P01")
        assert answer.headers["connection"] == "close"


async def test_a_head_beyond_the_limit(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        client.writer.write(client.head(2, WITH_PASSWORD | {"X": "x" * limits.HEAD_BYTES_MAX}))
        assert (await client.answer()).status == 431
    async with await SqlClient.open(world) as client:
        long = connection_string(more=f"?application_name={'x' * limits.CONNECTION_STRING_BYTES_MAX}")
        assert (await client.query("SELECT 1", to=long)).status == 400


async def test_an_endpoint_cannot_take_all_memory(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "MEMORY_PER_ENDPOINT_BYTES_MAX", 1_000_000)
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as client:
        answer = await client.query("SELECT $1::text", "x" * 2_000_000)
        assert (answer.status, answer.json["code"]) == (503, "53200")
    async with await SqlClient.open(gateway_world) as client:
        for _ in range(5):  # what was taken was given back
            assert (await client.query("SELECT $1::text", "x" * 200_000)).status == 200


async def test_a_batch_of_more_queries_than_allowed(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        answer = await client.ask({"queries": [{"query": ""}] * (limits.QUERIES_MAX + 1)})
        assert answer.status == 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"query":"x","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}"])
async def test_nesting_without_end_is_refused(world: GatewayWorld, body: bytes) -> None:
    async with await SqlClient.open(world) as client:
        assert (await client.ask(body)).status == 400
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1 AS n")).status == 200


# -- too slow


async def test_a_slow_hello_is_given_up(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HELLO_TIMEOUT_S", 0.1)
    await gateway_world.start(https=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway_world.https_port)
    writer.write(b"\x16\x03\x01\x02\x00")
    assert await asyncio.wait_for(_end_of(reader), 10)
    writer.close()


async def test_a_slow_head_is_given_up(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", 0.2)
    async with await SqlClient.open(world) as client:
        client.writer.write(b"POST /sql HT")
        assert await client.ends()


async def test_a_slow_body_is_given_up_and_keeps_no_session(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    async with await SqlClient.open(world) as client:
        client.writer.write(client.head(100, WITH_PASSWORD) + b"{")
        assert await client.ends()
    assert world.directory.events == []  # nobody was let in to a compute for it


async def test_strangers_crowd_out_strangers_and_not_who_has_proved_who_they_are(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await SqlClient.open(world) as proved:
        assert (await proved.query("SELECT 1 AS n")).status == 200
        silent = []
        monkeypatch.setattr(gateway_limits, "HALF_OPEN_PER_NETWORK_MAX", 512)
        for _ in range(600):
            silent.append(await asyncio.open_connection("127.0.0.1", world.https_port))
        first, _ = silent[0]
        assert await asyncio.wait_for(_end_of(first), 10)
        assert (await proved.query("SELECT 1 AS n")).status == 200
        for _, writer in silent:
            writer.transport.abort()


async def _end_of(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


# -- read two ways


IN_CHUNKS = f"{len(SELECT):x}\r\n".encode() + SELECT + b"\r\n0\r\n\r\n"
MALFORMED = "malformed HTTP request"


@dataclass(frozen=True)
class Fault:
    """What frames the body, beside a head that is good; a reader that overlooks what is wrong finds the query in it."""

    headers: str
    body: bytes
    status: int = 400
    text: str = MALFORMED


FAULTS = {
    "two lengths": Fault(f"Content-Length: {len(SELECT)}\r\nContent-Length: {len(SELECT) + 1}", SELECT + b" "),
    "two lengths in one": Fault(f"Content-Length: {len(SELECT)}, {len(SELECT) + 1}", SELECT + b" "),
    "a length before chunks": Fault(
        f"Content-Length: {len(IN_CHUNKS)}\r\nTransfer-Encoding: chunked", IN_CHUNKS, text="a length beside chunks"
    ),
    "a length behind chunks": Fault(
        f"Transfer-Encoding: chunked\r\nContent-Length: {len(IN_CHUNKS)}", IN_CHUNKS, text="a length beside chunks"
    ),
    "chunks, and something else": Fault("Transfer-Encoding: chunked, identity", IN_CHUNKS, 501),
    "chunks twice": Fault("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", IN_CHUNKS, 501),
    "nearly chunks": Fault("Transfer-Encoding: xchunked", IN_CHUNKS, 501),
    "chunks behind a strange space": Fault("Transfer-Encoding: \x0bchunked", IN_CHUNKS),
    "a length with a sign": Fault(f"Content-Length: +{len(SELECT)}", SELECT),
    "a length below zero": Fault(f"X: a\r\n folded\r\nContent-Length: -{len(SELECT)}", SELECT),
    "a length in hexadecimal": Fault(f"Content-Length: {len(SELECT):#x}", SELECT),
    "a space before the colon": Fault(f"Content-Length : {len(SELECT)}", SELECT),
    "two hosts": Fault(f"Content-Length: {len(SELECT)}\r\nHost: other.{DOMAIN}", SELECT),
    "a NUL": Fault(f"Content-Length: {len(SELECT)}\r\nX: a\x00b", SELECT),
    "a chunk's length with a sign": Fault("Transfer-Encoding: chunked", b"+" + IN_CHUNKS),
    "a chunk's length in C": Fault("Transfer-Encoding: chunked", b"0x" + IN_CHUNKS),
    "a chunk that ends as no chunk does": Fault("Transfer-Encoding: chunked", IN_CHUNKS.replace(b"}\r\n", b"}xx")),
}


def framed(client: SqlClient, headers: str, body: bytes) -> bytes:
    """A request for rows by somebody who may have them. Whoever takes the last of two headers takes the good one."""
    who = f"Host: {client.name}\r\nNeon-Connection-String: {connection_string()}"
    return f"POST /sql HTTP/1.1\r\n{headers}\r\n{who}\r\n\r\n".encode() + body


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_what_can_be_read_two_ways_is_refused_and_nothing_follows(world: GatewayWorld, fault: Fault) -> None:
    """The password is right and the query is there: it is for the fault alone that there are no rows."""
    async with await SqlClient.open(world) as client:
        second = client.head(len(SELECT), WITH_PASSWORD) + SELECT
        client.writer.write(framed(client, fault.headers, fault.body) + second)
        answer = await client.answer()
        assert answer.status == fault.status, answer.body
        assert (answer.json["message"], answer.headers["connection"]) == (fault.text, "close")
        assert await client.ends()


@pytest.mark.parametrize(
    ("headers", "body"),
    [(f"Content-Length: {len(SELECT)}", SELECT), ("Transfer-Encoding: chunked", IN_CHUNKS)],
    ids=["a length", "chunks"],
)
async def test_what_can_be_read_one_way_is_answered_and_so_is_what_follows(
    world: GatewayWorld, headers: str, body: bytes
) -> None:
    async with await SqlClient.open(world) as client:
        client.writer.write(2 * framed(client, headers, body))
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.json["rows"]) == (200, [{"n": 1}])


# -- names that do not agree


async def test_a_host_that_tls_was_not_asked_for(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        client.name = f"{ENDPOINT}.{DOMAIN}"
        assert (await client.query("SELECT 1")).status == 421
        assert await client.ends()


async def test_a_connection_string_of_another_endpoint_than_the_host(world: GatewayWorld) -> None:
    async with await SqlClient.open(world, name=OTHER_ENDPOINT) as client:
        answer = await client.query("SELECT 1")
        assert (answer.status, answer.json["code"]) == (400, "08004")
        assert "Inconsistent project name" in answer.json["message"]
    async with await SqlClient.open(world) as client:
        two = connection_string(more=f"?options=endpoint%3D{OTHER_ENDPOINT}")
        assert (await client.query("SELECT 1", to=two)).json["code"] == "08004"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ada%00database%00postgres:x@{host}/app",
        "postgresql://ada:x@{host}/app%00options%00-c",
        "postgresql://ada:x@{host}/app?application_name=a%00user%00bob",
        "postgresql://ada:x@{host}/app?options=%ff",
        "postgresql://:x@{host}/app",
        "postgresql:///app",
        "https://ada:x@{host}/app",
        "postgresql://ada:x@{host}:port/app",
        "postgresql://ada:x@[::1/app",
        "",
    ],
)
async def test_connection_strings_that_say_more_or_less_than_they_may(world: GatewayWorld, text: str) -> None:
    async with await SqlClient.open(world) as client:
        answer = await client.query("SELECT 1", to=text.format(host=f"{ENDPOINT}.{DOMAIN}"))
        assert answer.status == 400
        assert "x@" not in answer.body.decode()
    assert world.directory.asked == []


async def test_two_connection_strings(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        head = client.head(len(SELECT), WITH_PASSWORD).replace(
            b"\r\n\r\n", f"\r\nneon-connection-string: {connection_string(role='bob')}\r\n\r\n".encode()
        )
        client.writer.write(head + SELECT)
        answer = await client.answer()
        assert (answer.status, answer.json["message"]) == (400, "more than one header neon-connection-string")


async def test_a_query_cannot_end_its_message(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1\0Q\0\0\0\x0dSELECT 2\0")).status == 400
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT $1::text", "a\0b")).status == 400
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1; SELECT 2")).json["code"] == "42601"  # one statement a query


# -- guessing

WHO = [("ada", ENDPOINT), ("ghost", ENDPOINT), ("ada", OTHER_ENDPOINT), ("ghost", OTHER_ENDPOINT)]


async def test_what_is_wrong_cannot_be_told_apart(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """By status, text or headers; and each costs the same PBKDF2, once, every time."""
    work: list[int] = []
    matches = Verifier.matches_password

    def counted(self: Verifier, password: str) -> bool:
        work.append(self.iterations)
        return matches(self, password)

    monkeypatch.setattr(Verifier, "matches_password", counted)
    shapes = set()
    for role, endpoint in WHO * 2:
        work.clear()
        async with await SqlClient.open(world) as client:
            answer = await client.query(
                "SELECT 1", to=connection_string(role=role, endpoint=endpoint, password="wrong")
            )
        said = {
            name: value for name, value in answer.headers.items() if name not in ("neon-request-id", "content-length")
        }
        shapes.add((answer.status, answer.body.replace(role.encode(), b"ROLE"), tuple(sorted(said.items())), *work))
    assert len(shapes) == 1
    assert world.directory.wakes == []


async def test_over_a_websocket_neither(world: GatewayWorld) -> None:
    shapes = set()
    for role, endpoint in WHO:
        async with await FramedClient.open(world, name=endpoint) as client:
            client.send(BytesMessage(first_words(password="wrong", role=role)))
            said = await client.payload_until(b"authentication failed for user")
            shapes.add((said[: said.index(b"E")], said[said.index(b"SFATAL") :].replace(role.encode(), b"ROLE")))
    assert len(shapes) == 1


async def test_an_address_that_is_not_allowed_learns_nothing_about_the_password(world: GatewayWorld) -> None:
    world.directory.allowed_ips = ["192.0.2.0/24"]
    bodies = set()
    for password in (PASSWORD, "npg_wrong"):
        async with await SqlClient.open(world) as client:
            answer = await client.query("SELECT 1", to=connection_string(password=password))
            assert answer.status == 400
            bodies.add(answer.json["message"])
    (text,) = bodies
    assert text.startswith("This IP address 127.0.0.1 is not allowed to connect to this endpoint.")


async def test_guesses_run_out(few_guesses: int, world: GatewayWorld) -> None:
    async def guess() -> Answer:
        async with await SqlClient.open(world) as client:
            return await client.query("SELECT 1", to=connection_string(password="npg_wrong"))

    statuses = [(await guess()).status for _ in range(few_guesses + 1)]
    assert statuses == few_guesses * [400] + [429]


# -- what a proof may outlive


async def test_a_changed_password_counts_at_once(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client, await SqlClient.open(world) as second:
        assert (await client.query("SELECT 1")).status == 200
        assert (await second.query("SELECT 1")).status == 200
        world.directory.set_password("ada", "npg_new")
        world.directory.send(Invalidate(endpoint_id=ENDPOINT))
        await _until(lambda: client.query("SELECT 1"), 400)
        assert (await second.query("SELECT 1")).status == 400
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1", to=connection_string(password="npg_new"))).status == 200


async def test_an_address_that_is_removed_is_refused_on_a_connection_that_stands(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1")).status == 200
        world.directory.allowed_ips = ["192.0.2.1"]
        world.directory.send(Invalidate(endpoint_id=ENDPOINT))
        await _until(lambda: client.query("SELECT 1"), 400)


async def test_a_query_under_way_ends_when_its_address_is_removed(world: GatewayWorld) -> None:
    async with await SqlClient.open(world) as client:
        sleeping = asyncio.create_task(client.query("SELECT pg_sleep(60)"))
        await world.directory.until("connection.opened")
        world.directory.allowed_ips = ["192.0.2.1"]
        world.directory.send(Invalidate(endpoint_id=ENDPOINT))
        answer = await asyncio.wait_for(sleeping, 10)
        assert (answer.status, answer.json["code"]) == (400, "28000")


async def test_the_right_password_of_one_role_is_not_anothers(world: GatewayWorld) -> None:
    world.directory.set_password("bob", "npg_bob")
    async with await SqlClient.open(world) as client:
        assert (await client.query("SELECT 1")).status == 200
        assert (await client.query("SELECT 1", to=connection_string(role="bob"))).status == 400
    async with await SqlClient.open(world) as client:
        answer = await client.query("SELECT current_user AS u", to=connection_string(role="bob", password="npg_bob"))
        assert answer.json["rows"] == [{"u": "bob"}]


async def test_a_password_that_was_right_is_not_hashed_again(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str] = []
    matches = Verifier.matches_password

    def counted(self: Verifier, password: str) -> bool:
        work.append("once")
        return matches(self, password)

    monkeypatch.setattr(Verifier, "matches_password", counted)
    for _ in range(3):
        async with await SqlClient.open(world) as client:
            assert (await client.query("SELECT 1")).status == 200
    assert work == ["once"]


async def _until(ask: Callable[[], Awaitable[Answer]], status: int) -> None:
    async with asyncio.timeout(10):
        while (await ask()).status != status:
            pass
