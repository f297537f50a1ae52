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
from pathlib import Path

from cloister.base.errors import CloisterError
from cloister.base.handover import Giver
from cloister.base.ipallow import IpAddress
from cloister.base.settings import Settings
from cloister.edge.gateway import limits
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.certificates import Certificates
from cloister.edge.gateway.errors import ClientLeftError
from cloister.edge.gateway.memory import Memory
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.wire import Wire
from cloister.edge.sql.connection import ALPN, HttpConnection
from cloister.edge.sql.hello import HELLO_BYTES_MAX, IncompleteHelloError, server_name
from cloister.edge.sql.limits import (
    HELLO_TIMEOUT_S,
    MEMORY_ASSURED_BYTES,
    MEMORY_BYTES_MAX,
    MEMORY_PER_ENDPOINT_BYTES_MAX,
    PROOF_S,
    PROOFS_MAX,
)
from cloister.edge.sql.proofs import Proofs
from cloister.edge.sql.serving import Sql
from cloister.protocol.proxy_header import HEADER_BYTES_MAX, ProxyHeaderError, take_proxy_header

log = logging.getLogger(__name__)


class HttpsFront:
    """The worker's second door."""

    def __init__(self, settings: Settings, *, api_socket: Path | None = None) -> None:
        """Raises PreconditionError where the certificate cannot be loaded."""
        self._domain = settings.domain
        self._certificates = Certificates.of(settings, ALPN)
        self._giver = Giver(api_socket or settings.paths.https_socket)
        self._proofs = Proofs(life_s=PROOF_S, entries_max=PROOFS_MAX)
        self._memory = Memory(
            total_max=MEMORY_BYTES_MAX,
            per_endpoint_max=MEMORY_PER_ENDPOINT_BYTES_MAX,
            assured=MEMORY_ASSURED_BYTES,
            public="too many large requests at once: try again in a moment",
        )
        self._open: set[Arrival | HttpConnection] = set()

    def refresh(self) -> None:
        self._certificates.refresh()

    def stop(self) -> None:
        for each in list(self._open):
            each.stop()

    def close(self) -> None:
        self._giver.close()

    async def serve(self, gateway: Gateway, sock: socket.socket, address: IpAddress) -> None:
        arrival = Arrival(gateway, sock, address)
        self._open.add(arrival)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                name = await arrival.look()
            if self._is_ours(name):
                arrival.forget()
                self._open.discard(arrival)  # what is asked from now on may end, when the worker does
                await self._serve_sql(gateway, sock, arrival.address)
            else:
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
            self._open.discard(arrival)
            arrival.forget()
            sock.close()

    def _is_ours(self, name: str | None) -> bool:
        label, _, rest = (name or "").partition(".")
        return bool(label) and rest == self._domain

    async def _serve_sql(self, gateway: Gateway, sock: socket.socket, address: IpAddress) -> None:
        # From here on the transport closes it, when all was sent; a second hand could close the next one's by its number.
        taken = socket.socket(fileno=sock.detach())
        try:
            _, wire = await asyncio.get_running_loop().connect_accepted_socket(Wire, taken)
        except OSError:
            taken.close()
            raise
        sql = Sql(gateway=gateway, proofs=self._proofs, memory=self._memory)
        connection = HttpConnection(sql, wire, address)
        self._open.add(connection)
        try:
            await connection.run(self._certificates.identity)
        finally:
            self._open.discard(connection)


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

    stop = abort

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
