"""One HTTPS client of ours, from TLS to goodbye: requests over HTTP/1.1 or HTTP/2, or a WebSocket.

(1) TLS, counted; which HTTP is agreed upon with it
(2) to (6), for each request: `serving`
"""

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final

from cloister.base.ipallow import IpAddress
from cloister.edge.gateway import errors
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.limits import WRITE_BUFFER_HIGH_BYTES
from cloister.edge.gateway.session import Session
from cloister.edge.gateway.visit import Visit
from cloister.edge.gateway.wire import Tunnel, Wire
from cloister.edge.sql import limits
from cloister.edge.sql.exchange import Exchange
from cloister.edge.sql.guests import Guests
from cloister.edge.sql.http1 import Http1
from cloister.edge.sql.http2 import Http2
from cloister.edge.sql.serving import Serving, Sql
from cloister.edge.sql.websocket import FramedTunnel, answer_handshake

if TYPE_CHECKING:
    from cloister.edge.gateway.certificates import ServerTls, TlsIdentity

log = logging.getLogger(__name__)

HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
ALPN: Final = (HTTP2, HTTP1)
"""What is offered, in order. Whoever names none of them speaks HTTP/1.1."""


class HttpConnection:
    """`run` is the whole of it, and never raises."""

    def __init__(self, sql: Sql, wire: Wire, address: IpAddress) -> None:
        self._sql = sql
        self._gateway = sql.gateway
        self._wire = wire
        self._address = address
        self._network = network_of(address)
        self._guests = Guests(1)
        self._http: Http1 | Http2 | None = None
        self._loop = asyncio.get_running_loop()

    def abort(self) -> None:
        """It must go for another."""
        self._wire.abort()

    def stop(self) -> None:
        """The worker ends: after the requests under way, if there are any."""
        if self._http is not None:
            self._http.stop()
        else:
            self._wire.close()

    async def run(self, identity: "TlsIdentity") -> None:
        reason = "client_left"
        try:
            self._count_in()
            async with asyncio.timeout(limits.HEAD_TIMEOUT_S):
                tls = await self._wire.start_tls(identity, b"")
            await self._talk(tls)
        except (ClientLeftError, ssl.SSLError) as error:
            log.debug("%s: %s", self._address, error or "left")
        except TimeoutError:
            reason = "timeout"
        except Exception:
            reason = "internal"
            log.exception("a connection of %s failed", self._address)
        finally:
            self._is_known()
            self._guests.all_left(reason)
            self._wire.close()
            if self._wire.transport.get_write_buffer_size():
                self._loop.call_later(limits.LINGER_S, self._wire.transport.abort)

    def _count_in(self) -> None:
        """(1) Before TLS."""
        victim = self._gateway.half_open.add(self, self._network)
        if victim is not None:
            victim.abort()
        if not self._gateway.network_attempts.take(self._network, self._loop.time()):
            # Before TLS nobody can be told anything; it is written down as at the other door.
            refusal = errors.too_many_attempts(f"network of {self._address}")
            log.info("%s refused (%s): %r", self._address, refusal.reason, str(refusal))
            Visit(self._gateway, self._address).record_refusal(refusal)
            raise ClientLeftError

    def _is_known(self) -> None:
        self._gateway.half_open.remove(self, self._network)

    def _patience(self) -> float:
        return limits.IDLE_TIMEOUT_S if self._guests else limits.HEAD_TIMEOUT_S

    async def _talk(self, tls: "ServerTls") -> None:
        speaks_http2 = tls.selected_alpn_protocol() == HTTP2
        self._guests = Guests(limits.GUESTS_MAX if speaks_http2 else 1)
        serving = Serving(self._sql, self._address, tls, self._guests, self._is_known)
        if speaks_http2:
            self._http = http2 = Http2(self._wire)
            await http2.run(serving.serve, self._patience)
            return
        self._http = http = Http1(self._wire)

        async def serve(exchange: Exchange) -> None:
            if exchange.request.texts.get("upgrade", "").lower() == "websocket":
                serving.check_name(exchange)
                await self._become_websocket(http, tls)
            else:
                await serving.serve(exchange)

        await http.run(serve, self._patience)

    # -- WebSocket

    async def _become_websocket(self, http: Http1, tls: "ServerTls") -> None:
        wire, tunnel = self._wire, self._wire.tunnel
        assert isinstance(tunnel, Tunnel)
        answer = answer_handshake(http.request.method, http.request.texts)
        await http.body(None)
        early = http.switch(answer) + wire.take()
        wire.tunnel = framed = FramedTunnel(
            tunnel, is_full=lambda: wire.transport.get_write_buffer_size() > WRITE_BUFFER_HIGH_BYTES
        )
        framed.unframe(early)
        wire.give_back(framed.take())
        self._is_known()
        self._guests.all_left("client_left")
        await Session(self._gateway, wire, self._address, tls=tls).run()
