"""HTTP/2 on a wire (RFC 9113): many exchanges at the same time. h2 parses and keeps the protocol's state; what a client may
take of us is counted here.

    (1) settings of ours: how many exchanges, how large a head, how much of bodies may be under way
    (2) a head becomes a request, or is refused: pseudo-headers, one authority, https
    (3) more exchanges than may be under way are refused unserved, also while those that were reset still end
    (4) frames that ask for nothing cost patience, a reset most of all; answers that are read give it back
        (CVE-2023-44487, and floods of PING, SETTINGS, WINDOW_UPDATE, PRIORITY and empty DATA: RFC 9113 §10.5)
    (5) nothing more is read while the client does not read what it was sent
    (6) an answer waits for its stream's window, with the same limit as for the line's

What h2 refuses ends the connection with what it says: heads larger than (1) allows or in too many pieces (CONTINUATION),
connection-specific headers, lengths that do not fit, frames out of place.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.wire import Wire
from cloister.edge.sql import answers, limits
from cloister.edge.sql.exchange import SEND_BYTES, Header, Patience, Request, Serve, answer_headers
from cloister.edge.sql.request import RequestError

if TYPE_CHECKING:
    from hyperframe.frame import Frame, GoAwayFrame

    from cloister.edge.gateway.memory import Share

log = logging.getLogger(__name__)
logging.getLogger("hpack").setLevel(logging.WARNING)
# At its lowest level it tells every header, and with them passwords.

_CONFIG: Final = H2Configuration(
    client_side=False, header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False
)
# Heads stay bytes, and ours are in lower case as they are.

_SETTINGS: Final = {
    SettingCodes.MAX_CONCURRENT_STREAMS: limits.STREAMS_MAX,
    SettingCodes.INITIAL_WINDOW_SIZE: limits.WINDOW_BYTES,
    SettingCodes.MAX_HEADER_LIST_SIZE: limits.HEAD_BYTES_MAX,
    SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,  # a WebSocket comes by HTTP/1.1
}
_DEFAULT_WINDOW_BYTES: Final = 65_535  # RFC 9113 §6.9.2


class _Connection(H2Connection):
    """To h2 a client's GOAWAY is the end of everything. What it asked for before it said so is still its due: RFC 9113 §6.8."""

    def _receive_goaway_frame(self, _frame: "GoAwayFrame") -> "tuple[list[Frame], list[events.Event]]":
        return [], [events.ConnectionTerminated()]


class Http2:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = _Connection(_CONFIG)
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patience_left = limits.PATIENCE
        self._is_closing = False
        self._linger_s = limits.LINGER_S
        """After the last answer: the client should read why it is the last."""
        self._loop = asyncio.get_running_loop()

    async def run(self, serve: Serve, patience: Patience) -> None:
        """To the end of the connection. Raises ClientLeftError, TimeoutError, ssl.SSLError."""
        self._greet()
        try:
            while True:
                try:
                    async with asyncio.timeout(patience()):
                        data = await self._wire.read()
                except TimeoutError:
                    if self._tasks:
                        continue
                    self.goodbye(ErrorCodes.NO_ERROR)
                    raise
                try:
                    for event in self._http.receive_data(data):
                        self._take(event, serve)
                except ProtocolError as error:
                    log.debug("HTTP/2: %r", error)
                    self.flush()  # what h2 says about it
                    return
                self.flush()
                # (5) Before more is read.
                async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                    await self._wire.drained()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """After the exchanges under way, if there are any."""
        self.goodbye(ErrorCodes.NO_ERROR)
        if not self._tasks:
            self._wire.close()

    def goodbye(self, code: ErrorCodes) -> None:
        """No new exchange; the connection goes when the last one is over, or a moment later, that the client reads this."""
        if self._is_closing:
            return
        self._is_closing = True
        # GOAWAY by hand: to h2 it would be the end, and the others' answers are still to be said.
        self._wire.write(self._frames() + _goaway(self._http.highest_inbound_stream_id, code))
        self._end_if_over()

    def flush(self) -> None:
        if data := self._frames():
            self._wire.write(data)

    # -- what streams need

    async def drained(self) -> None:
        await self._wire.drained()

    def earn(self, points: int) -> None:
        self._patience_left = min(limits.PATIENCE, self._patience_left + points)

    @property
    def http(self) -> H2Connection:
        return self._http

    # -- inside

    def _frames(self) -> bytes:
        return self._http.data_to_send()

    def _greet(self) -> None:
        """(1) What a client may do, before it says anything."""
        self._http.local_settings = Settings(client=False, initial_values=_SETTINGS)
        # h2 believes in what it was told only when the client has agreed, which it may never do.
        self._http.decoder.max_header_list_size = limits.HEAD_BYTES_MAX
        self._http.initiate_connection()
        self._http.increment_flow_control_window(limits.WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        self.flush()

    def _take(self, event: events.Event, serve: Serve) -> None:
        match event:
            case events.RequestReceived():
                self._begin(event, serve)
            case events.DataReceived():
                if not event.data and event.stream_ended is None:
                    self._spend(1)
                if (stream := self._stream(event.stream_id)) is not None:
                    stream.feed(event.data or b"", event.flow_controlled_length or 0)
                else:
                    self.acknowledge(event.stream_id or 0, event.flow_controlled_length or 0)
            case events.StreamEnded():
                if (stream := self._stream(event.stream_id)) is not None:
                    stream.body_ended()
            case events.StreamReset():
                if (stream := self._stream(event.stream_id)) is not None:
                    stream.has_left()
                self._spend(limits.PATIENCE_OF_A_RESET)
            case events.WindowUpdated():
                self._windows_moved(event.stream_id or 0)
                self._spend(1)
            case events.RemoteSettingsChanged():
                self._windows_moved(0)
                self._spend(1)
            case events.ConnectionTerminated():
                self._is_closing, self._linger_s = True, 0.0
                self._end_if_over()
            case _:
                self._spend(1)

    def _begin(self, event: events.RequestReceived, serve: Serve) -> None:
        stream_id = event.stream_id or 0
        # (3) Those that were reset still count while their queries end.
        if self._is_closing or len(self._tasks) >= limits.STREAMS_MAX:
            self._spend(limits.PATIENCE_OF_A_RESET)
            self._http.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = self._streams[stream_id] = Stream(self, stream_id, list(event.headers or []))
        task = self._loop.create_task(self._serve(stream, serve))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(stream, done))

    async def _serve(self, stream: "Stream", serve: Serve) -> None:
        code: ErrorCodes | None = None
        try:
            try:
                stream.read_head()
                await serve(stream)
            except RequestError as error:
                await stream.say(error.status, answers.complaint(error.text), close=True)
        except (ClientLeftError, ProtocolError):  # it left, and h2 knew before we did
            pass
        except TimeoutError:
            code = ErrorCodes.CANCEL
        except Exception:
            log.exception("an exchange over HTTP/2 failed")
            code = ErrorCodes.INTERNAL_ERROR
        if code is not None:
            stream.give_up(code)
            self.goodbye(code)

    def _over(self, stream: "Stream", task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._streams.pop(stream.id, None)
        if not self._wire.has_left:
            with contextlib.suppress(ProtocolError):  # the connection is over as well
                stream.over()
            self.flush()
        if self._is_closing:
            self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._tasks:
            self._loop.call_later(self._linger_s, self._wire.close)

    def _stream(self, stream_id: int | None) -> "Stream | None":
        return self._streams.get(stream_id or 0)

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Of a body: read, or not wanted any more. The client may send as much again."""
        if length:
            self._http.acknowledge_received_data(length, stream_id)

    def _windows_moved(self, stream_id: int) -> None:
        """Of one stream; 0 is the connection, and so all of them."""
        for stream in list(self._streams.values()) if stream_id == 0 else filter(None, [self._stream(stream_id)]):
            stream.window_moved()

    def _spend(self, points: int) -> None:
        """(4). Raises ClientLeftError: this connection is over."""
        self._patience_left -= points
        if self._patience_left < 0:
            log.info("HTTP/2: a client sends frames that ask for nothing")
            self.goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ClientLeftError


class Stream:
    """One exchange."""

    def __init__(self, connection: Http2, stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.id = stream_id
        self._connection = connection
        self._http = connection.http
        self._headers = headers
        self._request: Request | None = None
        self._chunks: list[tuple[bytes, int]] = []
        """Of the body, with what each counts in the windows."""
        self._has_whole_body = False
        self._is_answered = False
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()
        """A piece of the body came, or a window grew."""

    # -- the exchange

    @property
    def request(self) -> Request:
        assert self._request is not None
        return self._request

    async def body(self, share: "Share | None") -> bytes:
        body = bytearray()
        async with asyncio.timeout(limits.BODY_TIMEOUT_S):
            while True:
                chunks, self._chunks = self._chunks, []
                for data, length in chunks:
                    self._connection.acknowledge(self.id, length)
                    if data and (share is None or len(body) + len(data) > limits.BODY_BYTES_MAX):
                        raise RequestError(f"request is too large (max is {limits.BODY_BYTES_MAX} bytes)", status=413)
                    if share is not None:
                        share.grow(len(data))
                    body += data
                if chunks:
                    self._connection.flush()
                elif self._has_whole_body:
                    return bytes(body)
                else:
                    await self._until_moved()

    async def say(self, status: int, body: bytes, headers: Iterable[Header] = (), *, close: bool = False) -> None:
        if self._is_answered:
            return
        self._check()
        self._is_answered = True
        said = [(b":status", b"%d" % status)]
        said += [(name.encode(), value.encode()) for name, value in answer_headers(status, len(body), headers)]
        self._http.send_headers(self.id, said, end_stream=not body)
        # (6) As its window allows.
        for start in range(0, len(body), SEND_BYTES):
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                end = min(start + SEND_BYTES, len(body))
                await self._send(memoryview(body)[start:end], is_last=end == len(body))
        self._connection.flush()
        self._connection.earn(limits.PATIENCE_FOR_AN_ANSWER)
        if close:
            self._connection.goodbye(ErrorCodes.NO_ERROR)

    # -- what the connection says

    def read_head(self) -> None:
        """(2). Raises RequestError. h2 has seen to it that pseudo-headers come first, and once, and that a `host` beside an
        authority is the same."""
        pseudo = {name: value for name, value in self._headers if name.startswith(b":")}
        headers = [(name, value) for name, value in self._headers if not name.startswith(b":")]
        authority = pseudo.get(b":authority") or dict(headers).get(b"host", b"")
        request = self._request = Request(
            pseudo.get(b":method", b""), pseudo.get(b":path", b""), authority.decode("latin-1"), headers
        )
        if request.size > limits.HEAD_BYTES_MAX:
            raise RequestError("the head is too large", status=431)
        if pseudo.get(b":scheme") != b"https":
            raise RequestError("the scheme is not https")

    def feed(self, data: bytes, length: int) -> None:
        self._chunks.append((data, length))
        self._moved.set()

    def body_ended(self) -> None:
        self._has_whole_body = True
        self._moved.set()

    def window_moved(self) -> None:
        self._moved.set()

    def has_left(self) -> None:
        """The client does not want it any more."""
        if not self.left.done():
            self.left.set_result(None)
        self._moved.set()

    def give_up(self, code: ErrorCodes) -> None:
        """We do not."""
        if not self.left.done():
            self.left.set_result(None)
            with contextlib.suppress(ProtocolError):
                self._http.reset_stream(self.id, code)
            self._connection.flush()

    def over(self) -> None:
        """What it did not read of the body is given back, and the rest of that need not come."""
        for _, length in self._chunks:
            self._connection.acknowledge(self.id, length)
        self._chunks.clear()
        if not self._has_whole_body or not self._is_answered:
            self.give_up(ErrorCodes.NO_ERROR if self._is_answered else ErrorCodes.CANCEL)

    # -- inside

    async def _send(self, data: memoryview, *, is_last: bool) -> None:
        while data:
            self._check()
            room = min(self._http.local_flow_control_window(self.id), self._http.max_outbound_frame_size)
            if room <= 0:
                self._connection.flush()
                await self._until_moved()
                continue
            part, data = data[:room], data[room:]
            self._http.send_data(self.id, bytes(part), end_stream=is_last and not data)
            self._connection.earn(len(part) // limits.BYTES_OF_A_POINT)
            if not data:
                self._connection.flush()
                await self._connection.drained()

    async def _until_moved(self) -> None:
        self._check()
        self._moved.clear()
        await self._moved.wait()
        self._check()

    def _check(self) -> None:
        if self.left.done():
            raise ClientLeftError


def _goaway(last_stream_id: int, code: ErrorCodes) -> bytes:
    """RFC 9113 §6.8."""
    return (8).to_bytes(3) + b"\x07\x00" + bytes(4) + last_stream_id.to_bytes(4) + int(code).to_bytes(4)
