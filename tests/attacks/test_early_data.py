"""Bytes sent before TLS must never be read as if they had come inside it (CVE-2021-23214)."""

import asyncio
import ssl

import pytest

from cloister.protocol.pgwire.messages import gssenc_request, ssl_request, startup_message
from tests.fix_gateway import DOMAIN, ENDPOINT, GatewayWorld
from tests.raw_client import answer_in_clear

STARTUP = startup_message({"user": "ada", "database": "app"})


@pytest.mark.parametrize("first", [ssl_request(), gssenc_request()])
async def test_a_startup_packet_in_the_same_segment(gateway_world: GatewayWorld, first: bytes) -> None:
    await gateway_world.start()
    answer = await answer_in_clear(gateway_world, first + STARTUP)
    assert answer.startswith(b"E")
    assert b"C08P01\0" in answer


async def test_a_startup_packet_right_behind_is_not_read_at_all(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    reader, writer = await gateway_world.open_raw()
    writer.write(ssl_request())
    assert await reader.readexactly(1) == b"S"
    writer.write(STARTUP)
    rest = await reader.read()
    assert rest[:1] in (b"", b"\x15")  # a TLS alert, never a message of PostgreSQL
    writer.close()
    assert gateway_world.directory.asked == []


async def test_injected_bytes_do_not_end_up_inside_the_tls_session(gateway_world: GatewayWorld) -> None:
    """The attacker writes a startup packet of their own, then lets the victim's handshake through."""
    await gateway_world.start()
    reader, writer = await gateway_world.open_raw()
    writer.write(ssl_request())
    assert await reader.readexactly(1) == b"S"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = gateway_world.client_tls().wrap_bio(incoming, outgoing, server_hostname=f"{ENDPOINT}.{DOMAIN}")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    writer.write(STARTUP + outgoing.read())
    async with asyncio.timeout(10):
        rest = await reader.read()
    assert rest[:1] in (b"", b"\x15")
    writer.close()
    assert gateway_world.directory.asked == []
