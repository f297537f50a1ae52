"""PostgreSQL's protocol inside a WebSocket, as the driver speaks it."""

import os

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from cloister.base.audit_levels import AuditLevel
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import READY_FOR_QUERY_IDLE, TERMINATE, startup_message
from tests.fix_gateway import DOMAIN, PASSWORD, GatewayWorld
from tests.sql_client import FramedClient, SqlClient, first_words

DONE = READY_FOR_QUERY_IDLE


async def test_everything_in_the_first_frame(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(BytesMessage(first_words()))
        said = await client.payload_until(b"42")
        assert said.startswith(message(b"R", b"\0\0\0\3") + message(b"R", b"\0\0\0\0"))  # a password, and it was right
        client.send(BytesMessage(TERMINATE))
        assert await client.close_code() == 1000
    (closed,) = await sql_world.directory.until("connection.closed")
    assert closed.role == "ada"


async def test_word_for_word(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(BytesMessage(startup_message({"user": "ada", "database": "app"})))
        assert await client.payload_until(b"R") == message(b"R", b"\0\0\0\3")
        client.send(BytesMessage(message(b"p", PASSWORD.encode() + b"\0")))
        assert DONE in await client.payload_until(DONE)


async def test_frames_cut_anywhere(sql_world: GatewayWorld) -> None:
    """Fragments, and bytes that come one by one."""
    words = first_words(query="SELECT repeat('z', 100000)")
    async with await FramedClient.open(sql_world) as client:
        client.send(
            *(BytesMessage(words[i : i + 7], message_finished=i + 7 >= len(words)) for i in range(0, len(words), 7))
        )
        assert (await client.payload_until(DONE + b"T") + await client.payload_until(DONE)).count(b"z") >= 100_000


async def test_frames_behind_the_handshake_in_one_piece(sql_world: GatewayWorld) -> None:
    early = Connection(ConnectionType.CLIENT).send(BytesMessage(first_words()))
    async with await FramedClient.open(sql_world, early=early) as client:
        assert b"42" in await client.payload_until(b"42")


async def test_a_frame_longer_than_any_buffer(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(BytesMessage(first_words(query=f"SELECT length('{'y' * 5_000_000}')")))
        assert b"5000000" in await client.payload_until(b"5000000")


async def test_pings_are_answered(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(Ping(b"before"))
        assert await client.receive() == [Pong(b"before")]
        client.send(BytesMessage(first_words()))
        await client.payload_until(b"42")
        client.send(Ping(b"after"))
        while Pong(b"after") not in await client.receive():
            pass


async def test_a_goodbye_is_answered(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(BytesMessage(first_words()))
        await client.payload_until(b"42")
        client.send(CloseConnection(code=1000))
        assert await client.close_code() == 1000
    (closed,) = await sql_world.directory.until("connection.closed")
    assert closed.reason == "client_left"


async def test_text_is_not_understood(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.send(TextMessage("SELECT 1"))
        assert await client.close_code() == 1003


async def test_an_unmasked_frame_ends_it(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world) as client:
        client.writer.write(b"\x82\x03abc")
        assert await client.close_code() == 1002


async def test_a_page_of_any_origin_needs_the_password_all_the_same(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world, Origin="https://elsewhere.example") as client:
        client.send(BytesMessage(first_words(password="npg_wrong")))
        assert b'password authentication failed for user "ada"' in await client.payload_until(b"ada")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "not base64!"}, 400),
        ({"Connection": "close"}, 400),
    ],
)
async def test_what_is_no_handshake(sql: SqlClient, changes: dict[str, str], status: int) -> None:
    sql.writer.write(sql.head(None, FramedClient.HANDSHAKE | changes, method="GET", path="/v2"))
    assert (await sql.answer()).status == status
    assert await sql.ends()


async def test_the_common_name_needs_the_endpoint_in_options(sql_world: GatewayWorld) -> None:
    async with await FramedClient.open(sql_world, name="api") as client:
        client.send(BytesMessage(first_words()))
        # `api` is taken for an endpoint that is not there, which is told like a wrong password.
        assert b"password authentication failed" in await client.payload_until(b"failed")


async def test_a_cancel_request_inside_a_websocket_is_not_answered(sql_world: GatewayWorld) -> None:
    from cloister.protocol.pgwire.messages import cancel_request

    async with await FramedClient.open(sql_world, name=f"ep-{os.getpid()}") as client:
        client.send(BytesMessage(cancel_request(1, b"1234")))
        assert await client.close_code() == 1000
    (event,) = await sql_world.directory.until("connection.cancel")
    assert event.reason == "unknown_key"
    assert DOMAIN not in event.endpoint_id


async def test_what_is_asked_in_a_websocket_is_recorded(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start(https=True)
    async with await FramedClient.open(gateway_world) as client:
        client.send(BytesMessage(first_words(query="SELECT 'framed'")))
        await client.payload_until(b"framed")
    assert (await gateway_world.directory.until_told("framed")).role == "ada"
