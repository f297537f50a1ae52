"""The HTTPS port: whose is this connection? The SQL protocols' of this worker, or the API's in its own process.

    (1) a PROXY header, from configured balancers and only from them
    (2) attempts of its network are counted; the ClientHello is looked at, not read: it stays in the socket
    (3) a name of ours with one label (`ep-….DOMAIN`, `api.DOMAIN`) is SQL's: TLS, then `connection`
    (4) everything else is the API's: the open socket goes there with the client's address (docs/adr/0012)

What is given away has no part of this process any more: SQL clients, slow or many, do not touch the API's connections,
and an API that is being restarted finds those waiting that came meanwhile.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Final

from cloister.base.errors import CloisterError
from cloister.base.handover import Giver
from cloister.base.ipallow import IpAddress
from cloister.base.settings import Settings
from cloister.edge.gateway import limits
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.shared import Gateway
from cloister.edge.sql.hello import HELLO_BYTES_MAX, IncompleteHelloError, server_name
from cloister.protocol.proxy_header import HEADER_BYTES_MAX, ProxyHeaderError, take_proxy_header

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S: Final = 10.0
# From accept to the whole ClientHello: one or two packets of an honest client.


class HttpsFront:
    """The worker's second door."""

    def __init__(self, settings: Settings) -> None:
        self._giver = Giver(settings.paths.https_socket)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self._giver.close()

    async def serve(self, gateway: Gateway, sock: socket.socket, address: IpAddress) -> None:
        arrival = Arrival(gateway, sock, address)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await arrival.look()
            await self._giver.give(sock, str(arrival.address), patience_s=limits.DIRECTORY_PATIENCE_S)
        except (ClientLeftError, TimeoutError, OSError) as error:
            log.debug("%s left before it said what it wants: %s", address, error)
        except ProxyHeaderError as error:
            log.warning("%s: %s", address, error)
        except CloisterError as error:
            log.warning("%s is not served: %s", address, error)
        except Exception:
            log.exception("a connection of %s failed", address)
        finally:
            arrival.forget()
            sock.close()


class Arrival:
    """(1) and (2): a connection that nobody has answered yet."""

    def __init__(self, gateway: Gateway, sock: socket.socket, address: IpAddress) -> None:
        self.address = address
        """The client's, also behind a balancer."""
        self._gateway = gateway
        self._sock = sock
        self._network = network_of(address)

    def abort(self) -> None:
        """It must go for another."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # whoever waits for it sees its end

    def forget(self) -> None:
        self._gateway.half_open.remove(self, self._network)

    async def look(self) -> str | None:
        """The name that the client asks for."""
        if self.address in self._gateway.balancers:
            await self._take_proxy_header()
        self._network = network_of(self.address)
        if (victim := self._gateway.half_open.add(self, self._network)) is not None:
            victim.abort()
        seen = b""
        while True:
            seen = await self._peek(len(seen), HELLO_BYTES_MAX)
            try:
                return server_name(seen)
            except IncompleteHelloError:
                pass

    async def _take_proxy_header(self) -> None:
        seen = b""
        while True:
            seen = await self._peek(len(seen), HEADER_BYTES_MAX)
            rest = bytearray(seen)
            if (header := take_proxy_header(rest)) is not None:
                break
        self._sock.recv(len(seen) - len(rest))
        if header.address is not None:
            self.address = header.address

    async def _peek(self, seen: int, bytes_max: int) -> bytes:
        """What lies in the socket, as soon as it is more than `seen`."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
        await _readable(self._sock)
        found = self._sock.recv(bytes_max, socket.MSG_PEEK)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if len(found) <= seen:
            raise ClientLeftError  # readable without more bytes: that is the end
        return found


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiting.done():
            waiting.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await waiting
    finally:
        loop.remove_reader(sock)
