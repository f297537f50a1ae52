"""PostgreSQL's protocol inside a WebSocket inside TLS: the handshake's answer, and frames to bytes and back.

To the gateway a `FramedTunnel` is a tunnel like TLS alone, so the session and the relay of port 5432 serve these clients
as well. What a frame carries is passed on as it arrives: a frame, however long, is never kept.

Whose page opened the WebSocket (`Origin`) is not asked: nothing here is let in by a cookie or an address alone, so a page
can do no more than whoever has the password that it was given.
"""

import base64
import contextlib
import hashlib
import ssl
from collections.abc import Callable, Mapping
from typing import Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, ProtocolError

from cloister.edge.gateway.wire import Tunnel
from cloister.edge.sql.request import RequestError

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# RFC 6455 §1.3: the server shows that it read the key as WebSocket's.
_KEY_BYTES: Final = 16


def answer_handshake(method: bytes, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers of the 101. Raises RequestError. We know no extension and no subprotocol."""
    connection = [word.strip() for word in headers.get("connection", "").lower().split(",")]
    if method != b"GET" or "upgrade" not in connection:
        raise RequestError("not a WebSocket handshake")
    if headers.get("sec-websocket-version") != "13":
        raise RequestError("Sec-WebSocket-Version must be 13", status=426)
    key = headers.get("sec-websocket-key", "")
    try:
        is_key = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except ValueError:
        is_key = False
    if not is_key:
        raise RequestError("Sec-WebSocket-Key is not 16 bytes in Base64")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()  # noqa: S324 - RFC 6455's, no secret
    return [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)]


class FramedTunnel:
    """Bytes in frames in TLS, with the face of a tunnel. What is to be sent lies in TLS' `outgoing`."""

    def __init__(self, inner: Tunnel, *, is_full: Callable[[], bool]) -> None:
        """`is_full`: the client does not read what it is sent. Its pings are not answered then: the answers would be
        kept for it."""
        self.identity = inner.identity
        self._is_full = is_full
        self.outgoing: ssl.MemoryBIO = inner.outgoing
        self.incoming = _FromNetwork(self)
        self.tls = _Payload(self)
        self.is_closed = False
        self.plain = bytearray()
        """Payload that nobody has read yet."""
        self._inner = inner
        self._frames = Connection(ConnectionType.SERVER)

    @property
    def is_established(self) -> bool:
        return not self.is_closed

    def receive(self, data: bytes) -> bytes:
        """Feed what came, get what it says; ssl.SSLError where TLS failed."""
        self.unframe(self._inner.receive(data))
        return self.take()

    def take(self) -> bytes:
        plain = bytes(self.plain)
        self.plain.clear()
        return plain

    def decrypt(self, data: bytes) -> None:
        self.unframe(self._inner.receive(data))

    def unframe(self, data: bytes) -> None:
        """What TLS gave out: payload for `plain`; pings and farewells are answered."""
        if self.is_closed:
            return
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                match event:
                    case BytesMessage(data=payload):
                        self.plain += payload
                    case Ping():
                        if not self._is_full():
                            self._send(event.response())
                    case Pong():
                        pass
                    case CloseConnection():
                        self._send(event.response())
                        self.is_closed = True
                    case Message():  # text
                        self._close(CloseReason.UNSUPPORTED_DATA)
        except ProtocolError:
            self._close(CloseReason.PROTOCOL_ERROR)
        self.is_closed = self.is_closed or self._inner.is_closed

    def frame(self, data: bytes) -> None:
        if self._frames.state is ConnectionState.OPEN:
            self._send(BytesMessage(data=data))

    def goodbye(self) -> bytes:
        self._close(CloseReason.NORMAL_CLOSURE)
        return self._inner.goodbye()

    def _close(self, reason: CloseReason) -> None:
        if self._frames.state is ConnectionState.OPEN:
            self._send(CloseConnection(code=reason))
        self.is_closed = True

    def _send(self, event: Event) -> None:
        with contextlib.suppress(LocalProtocolError):  # an answer to who has been told goodbye
            self._inner.tls.write(self._frames.send(event))


class _FromNetwork:
    """`incoming`."""

    def __init__(self, tunnel: FramedTunnel) -> None:
        self._tunnel = tunnel

    @property
    def pending(self) -> int:
        return len(self._tunnel.plain) or int(self._tunnel.is_closed)

    def write(self, data: bytes, /) -> int:
        try:
            self._tunnel.decrypt(data)
        except ssl.SSLError:
            self._tunnel.is_closed = True
        return len(data)


class _Payload:
    """`tls`."""

    def __init__(self, tunnel: FramedTunnel) -> None:
        self._tunnel = tunnel

    def read(self, size: int, /) -> bytes:
        plain = self._tunnel.plain
        if plain:
            part = bytes(plain[:size])
            del plain[:size]
            return part
        if self._tunnel.is_closed:
            return b""
        raise ssl.SSLWantReadError

    def write(self, data: bytes, /) -> int:
        self._tunnel.frame(data)
        return len(data)
