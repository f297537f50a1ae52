"""The HTTPS server: uvicorn on connections that the gateway's workers hand over, with an end to every patience.

uvicorn and h11 parse requests (h11 refuses two lengths, and codings but chunks; beside chunks a length does not count).
This file adds what they leave open: how many connections there may be, how long a handshake, the head of a request and a
whole request may take, and answers of our own shape when a request cannot be read. Signals stay with whoever runs the
process: setting `stop` ends the server after the requests under way.
"""

import asyncio
import contextlib
import logging
import math
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h11
import msgspec
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from cloister.base.handover import Receiver
from cloister.base.identities import Service
from cloister.edge.api.content import HEAD_BYTES_MAX
from cloister.edge.api.errors import GeneralError
from cloister.edge.api.rates import address_group
from cloister.edge.api.refusals import Refusal
from cloister.edge.api.tls import ServerCertificate

if TYPE_CHECKING:
    from cloister.edge.api.boundary import Boundary

_log = logging.getLogger(__name__)

GIVERS: Final[frozenset[Service | None]] = frozenset({Service.GATEWAY})

CONNECTIONS_MAX: Final = 1024
# Each costs a descriptor and some 50 kB with TLS: together 50 MB.

CONNECTIONS_PER_ADDRESS_MAX: Final = 256
# An office behind one address fits; one stranger cannot take all of them.

HANDSHAKE_TIMEOUT_S: Final = 10.0
# TLS on the slowest honest line takes two round trips of a second or two.

HEAD_TIMEOUT_S: Final = 10.0
# From the connection, or the first byte of a further request, to the end of its head: one packet, honestly.

IDLE_TIMEOUT_S: Final = 75.0
# A kept connection may be silent this long: clients that poll do not need a new handshake each time.

REQUEST_TIMEOUT_S: Final = 120.0
# From the end of the head to the end of the answer. Handlers return at once; most of this is for slow readers.

STOP_TIMEOUT_S: Final = 10
# For requests under way when the server stops. What is cut then is cut like a lost connection.

_BACKLOG: Final = 1024

_Refuse = Callable[[str, str], None]
"""Hears of a connection that is not served: which limit was reached, and whose address it came from."""


class _PatientProtocol(H11Protocol):
    """One connection. Exactly one timer runs at any time: for the head, the request, or the pause between two."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        connections_from: Counter[str],
        refuse: _Refuse,
        address: str | None = None,
    ) -> None:
        """`address` is the client's, where whoever handed the connection over knows better than the kernel."""
        super().__init__(config=config, server_state=state, app_state={})
        self._connections_from = connections_from
        self._refuse = refuse
        self._told_address = address
        self._address: str | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._is_idle = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._told_address is not None:
            self.client = (self._told_address, self.client[1] if self.client else 0)
        self._address = address_group(self.client[0]) if self.client else ""
        self._connections_from[self._address] += 1
        if limit := self._limit_reached(self._address):
            self._refuse(limit, self.client[0] if self.client else "")
            transport.abort()
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does this only where `proto` says TCP; what a listener with proto 0 accepted does not say so, and
            # then Nagle and delayed ACKs cost each answer 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._allow(HEAD_TIMEOUT_S)

    def _limit_reached(self, address: str) -> str:
        if self._connections_from[address] > CONNECTIONS_PER_ADDRESS_MAX:
            return "connections_per_address"
        return "connections" if len(self.connections) > CONNECTIONS_MAX else ""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._address is not None:
            self._connections_from[self._address] -= 1
            if not self._connections_from[self._address]:
                del self._connections_from[self._address]
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._allow(HEAD_TIMEOUT_S)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._is_idle = False
            self._allow(REQUEST_TIMEOUT_S)

    def on_response_complete(self) -> None:
        # What of a refused body still comes is thrown away, for as long as a head may take.
        is_read = self.conn.their_state is not h11.SEND_BODY
        self._is_idle = is_read
        self._allow(IDLE_TIMEOUT_S if is_read else HEAD_TIMEOUT_S)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours to say
        body = msgspec.json.encode(
            GeneralError(request_id=str(uuid.uuid4()), code="", message="malformed HTTP request")
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _allow(self, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self.transport.abort()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, handed_over: Path | None, refuse: _Refuse) -> None:
        super().__init__(config)
        self._refuse = refuse
        self._receiver = None if handed_over is None else Receiver(handed_over, self._take, allowed=GIVERS)
        self._arriving: set[asyncio.Task[None]] = set()
        self._connections_from: Counter[str] = Counter()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a limit to the handshake, which uvicorn does not pass on."""
        assert sockets is not None
        await self.lifespan.startup()

        def connection() -> asyncio.Protocol:
            return _PatientProtocol(self.config, self.server_state, self._connections_from, self._refuse)

        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(connection, sock=sock, backlog=_BACKLOG, **self._tls()) for sock in sockets
        ]
        if self._receiver is not None:
            self._receiver.start()
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._receiver is not None:
            self._receiver.stop()
        await super().shutdown(sockets)

    def _tls(self) -> dict[str, Any]:
        if self.config.ssl is None:
            return {}
        return {"ssl": self.config.ssl, "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": 5.0}

    def _take(self, sock: socket.socket, address: str) -> None:
        """A connection that was handed over: as if it had been accepted here."""
        if len(self._arriving) >= CONNECTIONS_MAX:
            self._refuse("connections", address)
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._arrive(sock, address))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _arrive(self, sock: socket.socket, address: str) -> None:
        def connection() -> asyncio.Protocol:
            return _PatientProtocol(self.config, self.server_state, self._connections_from, self._refuse, address)

        try:
            await asyncio.get_running_loop().connect_accepted_socket(connection, sock, **self._tls())
        except OSError as error:  # ssl.SSLError is one
            _log.debug("%s did not get through the handshake: %s", address, error)
            sock.close()

    def cut(self) -> None:
        """Leave nothing open. After an orderly stop there is nothing; after a cancellation there may be."""
        if self._receiver is not None:
            self._receiver.stop()
        for task in list(self._arriving):
            task.cancel()
        for listener in getattr(self, "servers", []):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


async def serve(
    app: Starlette,
    sockets: list[socket.socket],
    certificate: ServerCertificate | None,
    stop: asyncio.Event,
    *,
    handed_over: Path | None = None,
) -> None:
    """Serve until `stop` is set, then finish what is under way (at most STOP_TIMEOUT_S) and close. Connections come from
    `sockets`, and from the gateway's workers through the Unix socket `handed_over`.

    `certificate` None serves plain HTTP: only for tests and for a proxy on a Unix socket.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_keep_alive=math.ceil(IDLE_TIMEOUT_S) + 1,  # ours comes first
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        ssl_context_factory=(lambda _config, _default: certificate.context) if certificate else None,
    )
    boundary: Boundary = app.state.boundary

    def refuse(limit: str, address: str) -> None:
        boundary.refusals.note(Refusal(reason=limit, actor="", address=address, attempted=""), str(uuid.uuid4()))

    server = _Server(config, handed_over, refuse)

    async def stop_when_told() -> None:
        await stop.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(stop_when_told()), tasks.create_task(boundary.refusals.run())]
        if certificate is not None:
            beside.append(tasks.create_task(certificate.watch()))
        beside.append(tasks.create_task(boundary.sweep()))
        try:
            await server.serve(sockets=sockets)
        finally:
            for task in beside:
                task.cancel()
            server.cut()
