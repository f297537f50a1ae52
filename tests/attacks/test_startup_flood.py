"""Holding the door: half-open sockets, slow clients, large packets. Honest clients still get in."""

import asyncio
import struct

import pytest

from cloister.edge.gateway import limits
from cloister.edge.gateway.wire import Wire
from cloister.protocol.pgwire.messages import ssl_request, startup_message
from tests.fix_gateway import GatewayWorld
from tests.raw_client import RawClient, answer_in_clear


async def test_an_honest_client_gets_in_between_half_open_sockets(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    count = limits.HALF_OPEN_PER_NETWORK_MAX + 50
    crowd = [await gateway_world.open_raw() for _ in range(count)]
    async with asyncio.timeout(5):
        await (await gateway_world.connect()).close()
        assert await crowd[0][0].read() == b""  # the oldest was closed for a newer one
    for _, writer in crowd:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"\0\0\0", ssl_request()[:5], ssl_request()])
async def test_silence_has_an_end(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.2)
    await gateway_world.start()
    answer = await answer_in_clear(gateway_world, said)
    assert b"Authentication timed out" in answer or answer in (b"", b"S")


async def test_silence_inside_tls_has_an_end(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.5)
    await gateway_world.start()
    client = await RawClient.open(gateway_world)
    client.send(startup_message({"user": "ada"}))
    assert b"Authentication timed out" in await client.rest()
    await client.close()


@pytest.mark.parametrize("length", [10_001, 1 << 20, (1 << 32) - 1])
async def test_a_large_startup_packet_is_refused_before_it_is_read(gateway_world: GatewayWorld, length: int) -> None:
    await gateway_world.start()
    client = await RawClient.open(gateway_world)
    client.send(struct.pack(">I", length))
    assert b"C08P01\0" in await client.rest()
    await client.close()


async def test_a_client_that_talks_on_is_not_listened_to_beyond_the_limit() -> None:
    """While the gateway waits for somebody, what a client sends stays in the kernel."""
    transport = FakeTransport()
    wire = Wire()
    wire.connection_made(transport)
    wire.data_received(b"x" * limits.WIRE_BUFFER_BYTES_MAX)
    assert transport.is_reading_now
    wire.data_received(b"x")
    assert not transport.is_reading_now
    assert len(await wire.read()) == limits.WIRE_BUFFER_BYTES_MAX + 1
    assert transport.is_reading_now


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.is_reading_now = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True
