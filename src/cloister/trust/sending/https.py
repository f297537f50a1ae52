"""One exchange over HTTPS: to an address that was looked at, verified, no redirect followed, and no more of the answer than wanted."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

from cloister.base.errors import UnavailableError
from cloister.trust.sending import targets

HEAD_BYTES_MAX: Final = 64 * 1024
# Of an answer.

IDLE_S: Final = 4.0
# How long a connection waits to be used again. Servers close theirs after five seconds and more.

TRUST_S: Final = 3600.0
# Authorities are read again after so long: reading those of the system takes some fifty milliseconds.


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class ClosedError(UnavailableError):
    public = "closed without an answer"


class TooLongError(UnavailableError):
    """The answer is longer than was wanted."""


@dataclass(frozen=True, slots=True)
class _Asked:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    wanted: int


async def exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    ca_file: str,
    private: bool,
    wanted: int = 0,
) -> Answer:
    """The answer's body is read where `wanted` says how long it may be. Raises UnavailableError or OSError."""
    line = await _opened(url, targets.tls(ca_file), private=private)
    try:
        return await line.exchange(_Asked(method, url, {"Connection": "close", **headers}, body, wanted))
    finally:
        line.close()


class Lines:
    """Connections to one host, each of which carries one exchange after another: most of what a small one costs is its handshake.

    That the other end has closed a connection shows when it is used. So each request must be one that may be made twice.
    """

    def __init__(self, *, ca_file: str, private: bool) -> None:
        self._ca_file = ca_file
        self._private = private
        self._trust: tuple[float, ssl.SSLContext] | None = None
        self._idle: list[tuple[float, _Line]] = []
        """Since when, the longest first."""
        self._is_closed = False

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", *, wanted: int
    ) -> Answer:
        """As the function. All URLs are of one host."""
        asked = _Asked(method, url, headers, body, wanted)
        if (line := self._kept()) is not None:
            with contextlib.suppress(ClosedError, ConnectionError):
                return await self._over(line, asked)
        return await self._over(await _opened(url, self._trusted(), private=self._private), asked)

    def close(self) -> None:
        """What is under way goes on."""
        self._is_closed = True
        for _, line in self._idle:
            line.close()
        self._idle.clear()

    async def _over(self, line: "_Line", asked: _Asked) -> Answer:
        goes_on = False
        try:
            answer = await line.exchange(asked)
            goes_on = line.http.our_state is line.http.their_state is h11.DONE and not self._is_closed
        finally:
            if not goes_on:
                line.close()
        if goes_on:
            line.http.start_next_cycle()
            self._idle.append((time.monotonic(), line))
        return answer

    def _kept(self) -> "_Line | None":
        while self._idle and self._idle[0][0] < time.monotonic() - IDLE_S:
            self._idle.pop(0)[1].close()
        return self._idle.pop()[1] if self._idle else None

    def _trusted(self) -> ssl.SSLContext:
        if self._trust is None or self._trust[0] < time.monotonic() - TRUST_S:
            self._trust = (time.monotonic(), targets.tls(self._ca_file))
        return self._trust[1]


async def _opened(url: str, trusted: ssl.SSLContext, *, private: bool) -> "_Line":
    host, port, _ = targets.target(url)
    address = await targets.resolved(host, port, private=private)
    reader, writer = await asyncio.open_connection(address, port, ssl=trusted, server_hostname=host)
    return _Line(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection, and what it expects next."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection

    def close(self) -> None:
        self.writer.transport.abort()

    async def exchange(self, asked: _Asked) -> Answer:
        try:
            await self._say(asked)
            return await self._heard(asked.wanted)
        except h11.ProtocolError as error:
            raise UnavailableError(public=f"does not speak HTTP: {error}") from error

    async def _say(self, asked: _Asked) -> None:
        host, port, path = targets.target(asked.url)
        head = {"Host": authority(host, port), "Content-Length": str(len(asked.body)), "User-Agent": "cloister",
                **asked.headers}  # fmt: skip
        request = h11.Request(method=asked.method, target=path, headers=list(head.items()))
        self.writer.write(self.http.send(request) or b"")
        self.writer.write(self.http.send(h11.Data(data=asked.body)) or b"")
        self.http.send(h11.EndOfMessage())
        await self.writer.drain()

    async def _heard(self, wanted: int) -> Answer:
        status, said, content = 0, {}, bytearray()
        while True:
            event = self.http.next_event()
            match event:
                case h11.NEED_DATA:
                    data = await self.reader.read(65_536)
                    if not data and not status:
                        raise ClosedError
                    self.http.receive_data(data)
                case h11.Response():
                    status = event.status_code
                    said = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    if not wanted:
                        return Answer(status, said, b"")
                case h11.Data():
                    content += event.data
                    if len(content) > wanted:
                        raise TooLongError(public=f"answered with more than {wanted} bytes")
                case h11.EndOfMessage():
                    return Answer(status, said, bytes(content))
                case h11.ConnectionClosed():
                    raise ClosedError


def authority(host: str, port: int) -> str:
    """As the Host header has it."""
    named = f"[{host}]" if ":" in host else host
    return named if port == 443 else f"{named}:{port}"
