"""Connections that are used again: for the next request, until the other end closes them, and not for longer than was meant."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloister.base.errors import UnavailableError
from cloister.trust.sending import https
from cloister.trust.sending.https import Lines
from tests.trust.sentinel.receiver import make_certificate

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request as it is told, and counts connections."""

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self.connections = 0
        self.requests: list[bytes] = []
        self.answer = OK
        self.per_connection = 100
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for _ in range(self.per_connection):
            try:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                break
            writer.write(self.answer)
            await writer.drain()
        writer.close()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Lines]:
        make_certificate(self.certificate)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate)
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        lines = Lines(ca_file=str(self.certificate), private=True)
        try:
            yield lines
        finally:
            lines.close()
            server.close()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "both.pem")


async def test_requests_share_a_connection_until_it_is_closed(server: Server) -> None:
    async with server.open() as lines:
        server.per_connection = 3
        for _ in range(7):
            answer = await lines.exchange("GET", server.url, {}, wanted=10)
            assert (answer.status, answer.body) == (200, b"ok")
        assert (server.connections, len(server.requests)) == (3, 7)


async def test_two_at_a_time_are_two_connections(server: Server) -> None:
    async with server.open() as lines:
        for _ in range(2):
            await asyncio.gather(*(lines.exchange("GET", server.url, {}, wanted=10) for _ in range(2)))
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]
)  # fmt: skip
async def test_an_end_that_was_announced_is_kept(server: Server, answer: bytes) -> None:
    async with server.open() as lines:
        server.answer = answer
        for _ in range(2):
            await lines.exchange("GET", server.url, {}, wanted=10)
        assert server.connections == 2


async def test_what_waited_for_too_long_or_broke_is_not_used_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.open() as lines:
        await lines.exchange("GET", server.url, {}, wanted=10)
        monkeypatch.setattr(https, "IDLE_S", -1.0)
        await lines.exchange("GET", server.url, {}, wanted=10)
        assert server.connections == 2
        monkeypatch.setattr(https, "IDLE_S", 60.0)
        with pytest.raises(UnavailableError, match="more than 1 bytes"):
            await lines.exchange("GET", server.url, {}, wanted=1)
        await lines.exchange("GET", server.url, {}, wanted=10)
        assert server.connections == 3


async def test_a_server_that_only_closes_is_told_of_and_not_asked_for_ever(server: Server) -> None:
    async with server.open() as lines:
        server.per_connection = 0
        with pytest.raises(UnavailableError, match="closed without an answer"):
            await lines.exchange("GET", server.url, {}, wanted=10)
        assert server.connections == 1
