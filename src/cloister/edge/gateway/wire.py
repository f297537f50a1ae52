"""One client's bytes, until its relay takes over: plain first, then TLS in memory.

TLS runs over memory buffers: what was read before it started is handed over as an argument, so there is no moment in
which clear text could be taken for decrypted text, and the event loop sees bytes only.
"""

import asyncio
import contextlib
import ssl
from typing import Final, Protocol, cast

from cloister.edge.gateway.certificates import ServerTls, TlsIdentity
from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.limits import WIRE_BUFFER_BYTES_MAX, WRITE_BUFFER_HIGH_BYTES

TLS_RECORD_BYTES_MAX: Final = 16_384
# One read of this size takes a whole record.


class Tunnel:
    """TLS in memory, the server's side."""

    def __init__(self, identity: TlsIdentity) -> None:
        self.identity = identity
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        tls = identity.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        assert isinstance(tls, ServerTls)
        self.tls = tls
        self.is_established = False
        self.is_closed = False
        """The client said goodbye (close_notify)."""

    def receive(self, data: bytes) -> bytes:
        """Feed what came, get what it says. `outgoing` may have bytes to send afterwards, also if this raises
        ssl.SSLError."""
        self.incoming.write(data)
        plain = bytearray()
        try:
            if not self.is_established:
                self.tls.do_handshake()
                self.is_established = True
            while self.incoming.pending:  # asked again without need, it answers with an exception
                if not (part := self.tls.read(TLS_RECORD_BYTES_MAX)):
                    self.is_closed = True
                    break
                plain += part
        except ssl.SSLWantReadError:
            pass
        return bytes(plain)

    def goodbye(self) -> bytes:
        """Everything still to be sent, with close_notify at the end."""
        if self.is_established:
            with contextlib.suppress(ssl.SSLError):  # it wants the client's close_notify, for which nobody waits
                self.tls.unwrap()
        return self.outgoing.read()


class Incoming(Protocol):
    """Where bytes from the network go."""

    @property
    def pending(self) -> int: ...

    def write(self, data: bytes, /) -> int: ...


class Plain(Protocol):
    """What comes out, and where what is to be sent goes."""

    def read(self, size: int, /) -> bytes:
        """Raises ssl.SSLWantReadError where there is nothing yet; b"" is the end."""

    def write(self, data: bytes, /) -> int: ...


class AnyTunnel(Protocol):
    """What stands between a wire's bytes and what they say: TLS, or something inside it."""

    @property
    def identity(self) -> TlsIdentity: ...

    @property
    def incoming(self) -> Incoming: ...

    @property
    def outgoing(self) -> ssl.MemoryBIO: ...

    @property
    def tls(self) -> Plain: ...

    @property
    def is_established(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    def receive(self, data: bytes) -> bytes: ...

    def goodbye(self) -> bytes: ...


class Wire(asyncio.Protocol):
    """Reads wait in a small buffer; when it is full, the client waits."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.tunnel: AnyTunnel | None = None
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._is_paused = False
        self._is_over = False
        self._failure: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._leaving: asyncio.Future[None] | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not of that class
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is None:
            self._received += data
        else:
            self._decrypt(data)
        if len(self._received) > WIRE_BUFFER_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._is_over = True
        self._has_room.set()
        self._wake()

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    # -- what the session calls

    @property
    def has_left(self) -> bool:
        """Also one whose TLS has failed: nothing can be read of it, or be written to it, any more."""
        return self._is_over or self._failure is not None

    @property
    def can_speak(self) -> bool:
        """The client would understand what is written now: not in the middle of a TLS handshake, nor after it failed."""
        return (
            not self.transport.is_closing()
            and self._failure is None
            and (self.tunnel is None or self.tunnel.is_established)
        )

    async def read(self) -> bytes:
        """What came since the last read. Raises ClientLeftError at the end, ssl.SSLError where TLS failed."""
        while not self._received:
            await self._more()
        return self.take()

    def take(self) -> bytes:
        """What is there already."""
        data = bytes(self._received)
        self._received.clear()
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        return data

    def give_back(self, data: bytes) -> None:
        """Bytes that were read and belong to what comes next."""
        self._received[:0] = data

    def write(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.tls.write(data)
            data = self.tunnel.outgoing.read()
        self.transport.write(data)

    async def drained(self) -> None:
        """Until the client has read most of what was written. Raises ClientLeftError."""
        await self._has_room.wait()
        if self._is_over:
            raise ClientLeftError

    @property
    def left(self) -> "asyncio.Future[None]":
        """Done when there is no client any more. What it says meanwhile waits, up to the buffer's limit."""
        if self._leaving is None:
            self._leaving = self._loop.create_future()
            if self.has_left:
                self._leaving.set_result(None)
        return self._leaving

    async def start_tls(self, identity: TlsIdentity, first_bytes: bytes) -> ServerTls:
        """From here on all bytes are TLS: those that were read already, and those still to come."""
        first_bytes += self.take()
        tunnel = self.tunnel = Tunnel(identity)
        if first_bytes:
            self._decrypt(first_bytes)
        while not tunnel.is_established:
            await self._more()
        return tunnel.tls

    def close(self) -> None:
        """Send what is to be sent, then close."""
        if self.tunnel is not None and not self.transport.is_closing():
            self.transport.write(self.tunnel.goodbye())
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # -- inside

    def _decrypt(self, data: bytes) -> None:
        assert self.tunnel is not None
        try:
            self._received += self.tunnel.receive(data)
            self._is_over = self._is_over or self.tunnel.is_closed
        except ssl.SSLError as error:
            self._failure = error
        if self.tunnel.outgoing.pending and not self.transport.is_closing():
            self.transport.write(self.tunnel.outgoing.read())

    async def _more(self) -> None:
        """Until something changes."""
        if self._failure is not None:
            raise self._failure
        if self._is_over:
            raise ClientLeftError
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self.has_left and self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)
