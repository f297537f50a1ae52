"""What is said over HTTP/1.1: as h11 would say it, and nothing that anybody could have made of one answer two."""

import asyncio

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.edge.sql.exchange import answer_headers
from cloister.edge.sql.http1 import answer_head
from tests.fix_gateway import GatewayWorld
from tests.sql_client import SqlClient, connection_string

SELECT = b'{"query":"SELECT 1","params":[]}'
WITH_PASSWORD = {"Neon-Connection-String": connection_string()}
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
names = st.from_regex("[a-z][a-z0-9-]{0,20}", fullmatch=True)


def as_h11_says(status: int, headers: list[tuple[str, str]]) -> bytes:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.next_event()
    return server.send(h11.Response(status_code=status, headers=headers)) or b""


@given(st.sampled_from([200, 204, 400, 421, 507]), st.lists(st.tuples(names, printable.map(str.strip)), max_size=4))
def test_a_head_is_said_as_h11_says_it(status: int, more: list[tuple[str, str]]) -> None:
    framing = {"content-length", "transfer-encoding", "connection"}
    more = [(name, value) for name, value in more if name not in framing]
    headers = answer_headers(status, 17, more)
    assert answer_head(status, headers) == as_h11_says(status, headers)


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nset-cookie: b"), ("x", "a\nb"), ("x", "a\rb"), ("x", "a\0b"), ("x", "a\tb"), ("x", "\x7f"),
        ("x", "é"), ("x", "a\u2028b"), ("x: y\r\nz", "a"), ("x y", "a"), ("x:", "a"), ("", "a"), ("x\n", "a"),
        ("X", "a"),
    ],
)  # fmt: skip
def test_what_would_be_more_than_one_header_is_not_said(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be said as a header"):
        answer_head(200, [("content-length", "0"), header])


@given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=20)), max_size=4))
def test_whatever_is_said_has_as_many_lines_as_headers(headers: list[tuple[str, str]]) -> None:
    try:
        said = answer_head(200, headers)
    except ValueError:
        return
    assert said.endswith(b"\r\n\r\n")
    lines = said[:-4].splitlines()
    assert lines == [b"HTTP/1.1 200 ", *(f"{name}: {value}".encode() for name, value in headers)]


async def test_requests_that_came_in_one_piece_are_answered_one_after_the_other(sql: SqlClient) -> None:
    one = sql.head(len(SELECT), WITH_PASSWORD) + SELECT
    sql.writer.write(one + one + one[:50])
    for _ in range(2):
        answer = await sql.answer()
        assert (answer.status, answer.json["rowCount"]) == (200, 1)
    sql.writer.write(one[50:])
    assert (await sql.answer()).status == 200


async def test_a_client_that_waits_to_be_told_to_go_on_is_told_once(sql: SqlClient) -> None:
    head = sql.head(len(SELECT), WITH_PASSWORD | {"Expect": "100-continue"})
    for _ in range(2):
        sql.writer.write(head)
        assert await sql.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        sql.writer.write(SELECT[:7])
        sql.writer.write(SELECT[7:])
        assert (await sql.answer()).status == 200


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "9.9"])
async def test_another_version_of_http_is_not_guessed_at(sql: SqlClient, version: str) -> None:
    sql.writer.write(sql.head(len(SELECT), WITH_PASSWORD).replace(b"HTTP/1.1", b"HTTP/" + version.encode()) + SELECT)
    answer = await sql.answer()
    assert (answer.status, answer.headers["connection"]) in {(400, "close"), (505, "close")}
    assert await sql.ends()


@pytest.mark.parametrize(
    "change",
    [(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"), (b"Content-Length", b"Connection: close\r\nContent-Length")],
    ids=["HTTP/1.0", "its own wish"],
)
async def test_who_cannot_go_on_is_told_so(sql: SqlClient, change: tuple[bytes, bytes]) -> None:
    sql.writer.write(sql.head(len(SELECT), WITH_PASSWORD).replace(*change) + SELECT)
    answer = await sql.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await sql.ends()


async def test_whoever_asks_for_a_head_alone_gets_no_body(sql: SqlClient) -> None:
    sql.writer.write(sql.head(None, {}, method="HEAD"))
    async with asyncio.timeout(10):
        said = await sql.reader.read()
    assert said.startswith(b"HTTP/1.1 405 ")
    assert said.endswith(b"\r\n\r\n")
    assert b"content-length: " in said


async def test_a_client_that_leaves_while_it_waits_for_its_turn_asks_nothing(sql_world: GatewayWorld) -> None:
    """It has left before its query is done, and the connection's end is nobody's error."""
    async with await SqlClient.open(sql_world) as client:
        body = b'{"query":"SELECT pg_sleep(60)","params":[]}'
        client.writer.write(client.head(len(body), WITH_PASSWORD) + body)
        await sql_world.directory.until("connection.opened")
    (closed,) = await sql_world.directory.until("connection.closed")
    assert closed.reason == "client_left"
