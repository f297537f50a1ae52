"""HTTP/1.1 on a wire: requests in, answers out, with limits. h11 parses, and refuses what smugglers need.

An answer is said in one piece. One that refuses closes the connection, after what is still coming was read for a moment:
a close over unread bytes would take the answer away from the client.
"""

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import h11

from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.wire import Wire
from cloister.edge.sql import limits
from cloister.edge.sql.request import RequestError

if TYPE_CHECKING:
    from cloister.edge.sql.memory import Share

_ALWAYS: Final = (
    ("access-control-allow-origin", "*"),
    ("cache-control", "no-store"),
    ("strict-transport-security", "max-age=63072000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
)
# Any page may ask: no cookie and no address lets anybody in, only the password in the request itself.

_SEND_BYTES: Final = 262_144


class Http1:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HEAD_BYTES_MAX)
        self.is_closing = False
        """The answer that is said next is the last one."""

    async def request(self) -> h11.Request | None:
        """The next one's head; None at the end. Raises h11.RemoteProtocolError, RequestError, ClientLeftError."""
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        if sum(len(name) + len(value) for name, value in event.headers) > limits.HEAD_BYTES_MAX:
            raise RequestError("the head is too large", status=431)  # h11 limits what is incomplete only
        names = {name for name, _ in event.headers}
        if b"content-length" in names and b"transfer-encoding" in names:
            raise RequestError("a length beside chunks")  # h11 would take the chunks; who stood between, perhaps not
        return event

    async def body(self, share: "Share | None") -> bytes:
        """Up to its end; with no share there should be none. Raises RequestError, and what `share` raises."""
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

    async def say(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = (), *, close: bool) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # it was said already
        said = [*_ALWAYS, ("neon-request-id", str(uuid.uuid4())), *headers]
        if status != 204:
            said += [("content-type", "application/json"), ("content-length", str(len(body)))]
        if close or self.is_closing:
            said.append(("connection", "close"))
        head = self._http.send(h11.Response(status_code=status, headers=said)) or b""
        first, rest = body[:_SEND_BYTES], body[_SEND_BYTES:]
        self._wire.write(head + (self._http.send(h11.Data(data=first)) or b""))  # one packet, where it fits
        for start in range(0, len(rest), _SEND_BYTES):
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await self._wire.drained()
            self._send(h11.Data(data=rest[start : start + _SEND_BYTES]))
        self._send(h11.EndOfMessage())
        if rest:
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await self._wire.drained()

    def switch(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """From now on it is another protocol; what came of it already."""
        self._send(h11.InformationalResponse(status_code=101, headers=list(headers)))
        return self._http.trailing_data[0]

    async def goes_on(self) -> bool:
        """After an answer: True if there may be another request."""
        if (self._http.our_state, self._http.their_state) == (h11.DONE, h11.DONE) and not self.is_closing:
            self._http.start_next_cycle()
            return True
        while self._http.their_state is h11.SEND_BODY:
            if self._http.next_event() is h11.NEED_DATA:
                await self._linger()
                break
        return False

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._wire.read())
        return event

    def _send(self, event: h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage) -> None:
        if data := self._http.send(event):
            self._wire.write(data)

    async def _linger(self) -> None:
        left = limits.BODY_BYTES_MAX
        with contextlib.suppress(TimeoutError, ClientLeftError, ssl.SSLError):
            async with asyncio.timeout(limits.LINGER_S):
                while left > 0:
                    left -= len(await self._wire.read())
