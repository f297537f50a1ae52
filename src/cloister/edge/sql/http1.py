"""HTTP/1.1 on a wire: requests in, answers out, with limits. h11 parses, and refuses what smugglers need; what is said, is said
here (docs/adr/0036-http1.md).

An answer is said in one piece. One that refuses closes the connection, after what is still coming was read for a moment:
a close over unread bytes would take the answer away from the client.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import h11

from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.wire import Wire
from cloister.edge.sql import answers, limits
from cloister.edge.sql.exchange import SEND_BYTES, Header, Patience, Request, Serve, answer_headers
from cloister.edge.sql.request import RequestError

if TYPE_CHECKING:
    from cloister.edge.gateway.memory import Share


_NAME: Final = re.compile("[a-z0-9-]+")
_VALUE: Final = re.compile("[ -~]*")
# Printable ASCII: no line can end in one, and no two readers differ about it.


def answer_head(status: int, headers: Iterable[Header]) -> bytes:
    """Raises ValueError for what is not one header: nobody's text becomes another one, or an answer of its own."""
    lines = [f"HTTP/1.1 {status:03d} "]
    for name, value in headers:
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError(f"cannot be said as a header: {name!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


class Http1:
    """One exchange after the other; itself the one that is under way."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = _parser()
        """Of one exchange. It is told what it must know to go on reading, and not what is answered."""
        self._request: Request | None = None
        self._is_answered = False
        self._is_closing = False
        """The answer that is said next, or was said last, is the last one."""

    async def run(self, serve: Serve, patience: Patience) -> None:
        """To the end of the connection, or until it speaks another protocol. Raises ClientLeftError, TimeoutError,
        ssl.SSLError."""
        while True:
            try:
                async with asyncio.timeout(patience()):
                    self._request = await self._next_request()
                if self._request is None:
                    return
                await serve(self)
            except RequestError as error:
                await self.say(error.status, answers.complaint(error.text), close=True)
            self._request = None
            if not await self._goes_on():
                return

    def stop(self) -> None:
        """After the exchange under way, if there is one."""
        self._is_closing = True
        if self._request is None:
            self._wire.close()

    # -- the exchange

    @property
    def request(self) -> Request:
        assert self._request is not None
        return self._request

    async def body(self, share: "Share | None") -> bytes:
        body = bytearray()
        async with asyncio.timeout(limits.BODY_TIMEOUT_S):
            while not isinstance(event := await self._next_event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    raise ClientLeftError
                if share is None or len(body) + len(event.data) > limits.BODY_BYTES_MAX:
                    raise RequestError(f"request is too large (max is {limits.BODY_BYTES_MAX} bytes)", status=413)
                share.grow(len(event.data))
                body += event.data
        return bytes(body)

    async def say(self, status: int, body: bytes, headers: Iterable[Header] = (), *, close: bool = False) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        said = answer_headers(status, len(body), headers)
        # Whoever has not sent the whole of a request, or speaks HTTP/1.0, has no other one on this connection.
        self._is_closing = self._is_closing or close or self._http.their_state is not h11.DONE
        if self._is_closing:
            said.append(("connection", "close"))
        if self._request is not None and self._request.method == b"HEAD":
            body = b""  # its length was told all the same: RFC 9110 §9.3.2
        first, rest = body[:SEND_BYTES], body[SEND_BYTES:]
        self._wire.write(answer_head(status, said) + first)  # one packet, where it fits
        for start in range(0, len(rest), SEND_BYTES):
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await self._wire.drained()
            self._wire.write(rest[start : start + SEND_BYTES])
        if rest:
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await self._wire.drained()

    @property
    def left(self) -> "asyncio.Future[None]":
        return self._wire.left

    def switch(self, headers: Iterable[Header]) -> bytes:
        """From now on it is another protocol; what came of it already."""
        self._send(h11.InformationalResponse(status_code=101, headers=list(headers)))
        return self._http.trailing_data[0]

    # -- inside

    async def _next_request(self) -> Request | None:
        """None at the end. Raises RequestError, ClientLeftError."""
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        names = [name for name, _ in event.headers]
        host = dict(event.headers).get(b"host", b"")
        request = Request(event.method, event.target, host.decode("latin-1"), list(event.headers))
        if request.size > limits.HEAD_BYTES_MAX:
            raise RequestError("the head is too large", status=431)  # h11 limits what is incomplete only
        if event.http_version not in (b"1.1", b"1.0"):
            raise RequestError("this version of HTTP is not spoken", status=505)  # h11 would read it as 1.1
        if b"content-length" in names and b"transfer-encoding" in names:
            raise RequestError("a length beside chunks")  # h11 would take the chunks; who stood between, perhaps not
        return request

    async def _goes_on(self) -> bool:
        """After an answer: True if there may be another request."""
        if self._http.their_state is h11.DONE and not self._is_closing:
            ahead, _ = self._http.trailing_data
            self._http = _parser()
            if ahead:  # nothing would be the end of what it says
                self._http.receive_data(ahead)
            self._is_answered = False
            return True
        while self._http.their_state is h11.SEND_BODY:
            if self._http.next_event() is h11.NEED_DATA:
                await self._linger()
                break
        return False

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._wire.read())
        except h11.RemoteProtocolError as error:
            raise RequestError("malformed HTTP request", status=error.error_status_hint) from None
        return event

    def _send(self, event: h11.InformationalResponse) -> None:
        if data := self._http.send(event):
            self._wire.write(data)

    async def _linger(self) -> None:
        left = limits.BODY_BYTES_MAX
        with contextlib.suppress(TimeoutError, ClientLeftError, ssl.SSLError):
            async with asyncio.timeout(limits.LINGER_S):
                while left > 0:
                    left -= len(await self._wire.read())


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HEAD_BYTES_MAX)
