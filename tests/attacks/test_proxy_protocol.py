"""Claiming another address with a PROXY header: only configured balancers may, and they must."""

import asyncio
import ssl
import struct
from ipaddress import ip_address

from cloister.protocol.pgwire.messages import ssl_request, startup_message
from cloister.protocol.proxy_header import SIGNATURE
from tests.fix_gateway import DOMAIN, ENDPOINT, GatewayWorld
from tests.raw_client import answer_in_clear


def header(source: str) -> bytes:
    body = ip_address(source).packed + ip_address("10.0.0.1").packed + struct.pack(">HH", 1234, 5432)
    return SIGNATURE + struct.pack(">BBH", 0x21, 0x11, len(body)) + body


async def test_a_stranger_cannot_choose_an_address(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    answer = await answer_in_clear(gateway_world, header("192.0.2.1") + ssl_request())
    assert b"C08P01\0" in answer


async def test_a_balancer_must_say_whose_connection_it_is(gateway_world: GatewayWorld) -> None:
    await gateway_world.start(proxy_protocol_from=("127.0.0.0/8",))
    assert await answer_in_clear(gateway_world, ssl_request()) == b""
    assert await answer_in_clear(gateway_world, b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n") == b""


async def test_the_address_in_the_header_is_the_clients(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.allowed_ips = ["127.0.0.1"]
    await gateway_world.start(proxy_protocol_from=("127.0.0.0/8",))
    reader, writer = await gateway_world.open_raw()
    told = await _say_hello(gateway_world, reader, writer, header("192.0.2.99"))
    assert b"This IP address 192.0.2.99 is not allowed" in told
    (denied,) = await gateway_world.directory.until("connection.denied")
    assert denied.address == "192.0.2.99"


async def test_a_header_may_come_in_pieces(gateway_world: GatewayWorld) -> None:
    await gateway_world.start(proxy_protocol_from=("127.0.0.1",))
    reader, writer = await gateway_world.open_raw()
    for byte in header("192.0.2.99"):
        writer.write(bytes((byte,)))
        await writer.drain()
    writer.write(ssl_request())
    assert await reader.readexactly(1) == b"S"
    writer.close()


async def _say_hello(
    world: GatewayWorld, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prefix: bytes
) -> bytes:
    """A header, TLS, a startup packet; all that is answered."""
    writer.write(prefix + ssl_request())
    assert await reader.readexactly(1) == b"S"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = world.client_tls().wrap_bio(incoming, outgoing, server_hostname=f"{ENDPOINT}.{DOMAIN}")
    answer = b""
    is_up = False
    while True:
        try:
            if not is_up:
                tls.do_handshake()
                is_up = True
                tls.write(startup_message({"user": "ada"}))
            while part := tls.read(65_536):
                answer += part
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            if not (data := await reader.read(65_536)):
                break
            incoming.write(data)
        else:
            break
    writer.close()
    return answer
