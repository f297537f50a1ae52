"""gRPC on one connection: a call is a request over HTTP/2 with one message in it, and gets one back (or a reason why not).

Only what Terraform's own client needs: no streams, no compression, no deadlines. h2 parses. The other end has shown a certificate
that only the program that started us has (`plugin.py`), so what is here holds back mistakes, not attacks.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import quote

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

log = logging.getLogger(__name__)
logging.getLogger("hpack").setLevel(logging.WARNING)

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
# gRPC's own default. One object's state has some kilobytes.
READ_BYTES: Final = 65_536

OK: Final = 0
INVALID: Final = 3
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

_PREFIX_BYTES: Final = 5
# Whether it is compressed, and how long it is.
_CONFIG: Final = H2Configuration(client_side=False, header_encoding=False)

Answer: TypeAlias = Callable[[str, bytes], Awaitable[bytes]]
"""From a method's path and its message to the answer. Raises RefusedError."""


class RefusedError(Exception):
    """The call is not answered. The message is for whoever reads Terraform's log."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def unframed(body: bytes) -> bytes:
    """The one message. Raises RefusedError."""
    if len(body) < _PREFIX_BYTES or int.from_bytes(body[1:_PREFIX_BYTES]) != len(body) - _PREFIX_BYTES:
        raise RefusedError(INVALID, "a call has one message")
    if body[0] != 0:
        raise RefusedError(UNIMPLEMENTED, "compressed messages are not understood")
    return body[_PREFIX_BYTES:]


@dataclass(slots=True)
class _Call:
    path: str
    body: bytearray = field(default_factory=bytearray)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """A window grew."""


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._http = H2Connection(_CONFIG)
        self._calls: dict[int, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """To the end of the connection. Calls that are being carried out then are carried out; nobody hears of it."""
        with contextlib.closing(self._writer), contextlib.suppress(ConnectionError):
            self._http.initiate_connection()
            self._flush()
            while data := await self._reader.read(READ_BYTES):
                try:
                    for event in self._http.receive_data(data):
                        self._take(event)
                except ProtocolError as error:
                    log.warning("HTTP/2: %r", error)
                    self._flush()
                    break
                self._flush()
                await self._writer.drain()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived(stream_id=int(stream), headers=headers):
                path = dict(headers or []).get(b":path", b"")
                self._calls[stream] = _Call(path.decode("latin-1"))
            case events.DataReceived(stream_id=int(stream), data=data, flow_controlled_length=length):
                self._http.acknowledge_received_data(length or 0, stream)
                if (call := self._calls.get(stream)) is None:
                    return
                call.body += data or b""
                if len(call.body) > MESSAGE_BYTES_MAX + _PREFIX_BYTES:
                    self._forget(stream)
            case events.StreamEnded(stream_id=int(stream)) if (call := self._calls.get(stream)) is not None:
                task = asyncio.get_running_loop().create_task(self._carry_out(stream, call))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case events.StreamReset(stream_id=int(stream)):
                if (left := self._calls.pop(stream, None)) is not None:
                    left.moved.set()
            case events.WindowUpdated() | events.RemoteSettingsChanged():
                for each in self._calls.values():
                    each.moved.set()
            case _:
                pass

    def _forget(self, stream: int) -> None:
        del self._calls[stream]
        self._http.reset_stream(stream, ErrorCodes.CANCEL)

    async def _carry_out(self, stream: int, call: _Call) -> None:
        code, reason, message = OK, "", b""
        try:
            message = framed(await self._answer(call.path, unframed(bytes(call.body))))
        except RefusedError as error:
            code, reason = error.code, str(error)
        except Exception as error:
            log.exception("%s", call.path)
            code, reason = INTERNAL, f"{type(error).__name__} in the provider: its log has more"
        with contextlib.suppress(ProtocolError, ConnectionError):  # it has left, and need not be told
            self._http.send_headers(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            await self._send(stream, call, message)
            trailers = [(b"grpc-status", b"%d" % code), (b"grpc-message", quote(reason, safe=" ").encode())]
            self._http.send_headers(stream, trailers, end_stream=True)
            self._flush()
        self._calls.pop(stream, None)

    async def _send(self, stream: int, call: _Call, message: bytes) -> None:
        """As its window, and the connection's, allow."""
        while message:
            room = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size)
            if room <= 0:
                self._flush()
                call.moved.clear()
                await call.moved.wait()
                continue
            part, message = message[:room], message[room:]
            self._http.send_data(stream, part)
        self._flush()

    def _flush(self) -> None:
        if data := self._http.data_to_send():
            self._writer.write(data)
