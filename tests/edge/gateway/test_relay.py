"""The relay's last words to a client, with transports in memory."""

import asyncio
import ssl
from typing import Any, cast

import pytest

from cloister.edge.gateway.relay import Relay
from cloister.protocol.pgwire.messages import error_response


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_gone = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.is_gone = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Clear:
    """A tunnel without encryption: what is written comes out."""

    def __init__(self) -> None:
        self.incoming = self.outgoing = ssl.MemoryBIO()
        self.tls = self
        self.said = b""

    def write(self, data: bytes) -> int:
        self.said += data
        return len(data)

    def read(self, _size: int) -> bytes:
        raise ssl.SSLWantReadError

    def goodbye(self) -> bytes:
        return self.said


@pytest.mark.parametrize(
    ("rest", "texts"),
    [(b"", [b"57P02"]), (error_response("57P01", "terminating connection due to administrator command"), [])],
)
async def test_a_compute_that_left_before_the_relay_began_is_spoken_for_once(rest: bytes, texts: list[bytes]) -> None:
    client, compute = Transport(), Transport()
    compute.is_gone = True
    relay = Relay(client, cast("Any", Clear()), compute, lambda: False)
    relay.start(b"", rest)
    assert await relay.closed == "compute_closed"
    assert [text for text in (b"57P01", b"57P02") if text in client.written] == texts
