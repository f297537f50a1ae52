"""Whose is a connection on the HTTPS port: SQL's by its name, everything else the API's, untouched."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloister.base.handover import Receiver
from cloister.base.identities import service_of_uid
from tests.fix_gateway import DOMAIN, ENDPOINT, GatewayWorld
from tests.sql_client import SqlClient

US: Any = frozenset({service_of_uid(os.geteuid())})


@asynccontextmanager
async def api(world: GatewayWorld) -> AsyncIterator["asyncio.Queue[tuple[socket.socket, str]]"]:
    taken: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()
    receiver = Receiver(world.api_socket, lambda sock, address: taken.put_nowait((sock, address)), allowed=US)
    receiver.start()
    yield taken
    receiver.stop()


@pytest.mark.parametrize("name", [DOMAIN, f"a.b.{DOMAIN}", "elsewhere.example", f"not{DOMAIN}", None])
async def test_other_names_go_to_the_api_with_their_hello(sql_world: GatewayWorld, name: str | None) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with api(sql_world) as taken:
        connecting = asyncio.create_task(
            asyncio.open_connection("127.0.0.1", sql_world.https_port, ssl=context, server_hostname=name or "")
        )
        sock, address = await asyncio.wait_for(taken.get(), 10)
        with sock:
            assert address == "127.0.0.1"
            hello = await asyncio.get_running_loop().sock_recv(sock, 5)
            assert hello[:2] == b"\x16\x03"  # nothing was taken from it
        with pytest.raises((OSError, ssl.SSLError)):
            await connecting


async def test_what_is_not_tls_is_the_apis_to_refuse(sql_world: GatewayWorld) -> None:
    async with api(sql_world) as taken:
        _, writer = await asyncio.open_connection("127.0.0.1", sql_world.https_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        sock, _ = await asyncio.wait_for(taken.get(), 10)
        sock.close()
        writer.close()


async def test_a_hello_in_pieces(sql_world: GatewayWorld) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = sql_world.client_tls().wrap_bio(incoming, outgoing, server_hostname=f"{ENDPOINT}.{DOMAIN}")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    reader, writer = await asyncio.open_connection("127.0.0.1", sql_world.https_port)
    for start in range(0, len(hello), 100):
        writer.write(hello[start : start + 100])
        await asyncio.sleep(0.001)
    assert (await asyncio.wait_for(reader.read(5), 10))[:1] == b"\x16"  # the server's hello
    writer.transport.abort()


async def test_a_balancer_tells_the_clients_address_on_this_port_too(gateway_world: GatewayWorld) -> None:
    await gateway_world.start(https=True, proxy_protocol_from=("127.0.0.1",))
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 7, 10, 0, 0, 1)) + b"\x30\x39\x01\xbb"
    async with api(gateway_world) as taken:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway_world.https_port)
        writer.write(header[:9])
        await asyncio.sleep(0.01)
        writer.write(header[9:] + b"GET / HTTP/1.1\r\n\r\n")
        sock, address = await asyncio.wait_for(taken.get(), 10)
        with sock:
            assert address == "192.0.2.7"
            assert (await asyncio.get_running_loop().sock_recv(sock, 3)) == b"GET"
        writer.close()
        without, second = await asyncio.open_connection("127.0.0.1", gateway_world.https_port)
        second.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(_end(without), 10)
        assert taken.empty()
        second.close()


async def test_sql_is_served_while_the_api_is_away(sql_world: GatewayWorld) -> None:
    assert not sql_world.api_socket.exists()
    async with await SqlClient.open(sql_world) as client:
        assert (await client.query("SELECT 1 AS n")).json["rows"] == [{"n": 1}]


async def _end(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
