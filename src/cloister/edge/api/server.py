"""The HTTPS server: uvicorn on sockets that the supervisor opened, with an end to every patience.

uvicorn and h11 parse requests (h11 refuses what smugglers need: two lengths, a length beside chunks, folded headers).
This file adds what they leave open: how many connections there may be, how long a handshake, the head of a request and a
whole request may take, and answers of our own shape when a request cannot be read. Signals stay with whoever runs the
process: setting `stop` ends the server after the requests under way.
"""

import asyncio
import contextlib
import math
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import h11
import msgspec
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from cloister.edge.api.content import HEAD_BYTES_MAX
from cloister.edge.api.errors import GeneralError
from cloister.edge.api.rates import address_group
from cloister.edge.api.tls import ServerCertificate

if TYPE_CHECKING:
    from cloister.edge.api.endpoint import Boundary

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


class _PatientProtocol(H11Protocol):
    """One connection. Exactly one timer runs at any time: for the head, the request, or the pause between two."""

    def __init__(self, config: uvicorn.Config, state: ServerState, connections_from: Counter[str]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._connections_from = connections_from
        self._address: str | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._is_idle = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = address_group(self.client[0]) if self.client else ""
        self._connections_from[self._address] += 1
        if (
            len(self.connections) > CONNECTIONS_MAX
            or self._connections_from[self._address] > CONNECTIONS_PER_ADDRESS_MAX
        ):
            transport.abort()
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does this only where `proto` says TCP; what a listener with proto 0 accepted does not say so, and
            # then Nagle and delayed ACKs cost each answer 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._allow(HEAD_TIMEOUT_S)

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
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a limit to the handshake, which uvicorn does not pass on."""
        assert sockets is not None
        await self.lifespan.startup()
        config = self.config
        connections_from: Counter[str] = Counter()

        def connection() -> asyncio.Protocol:
            return _PatientProtocol(config, self.server_state, connections_from)

        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": _BACKLOG}
        if config.ssl is not None:
            options |= {"ssl": config.ssl, "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": 5.0}
        self.servers = [await loop.create_server(connection, sock=sock, **options) for sock in sockets]
        self.started = True

    def cut(self) -> None:
        """Leave nothing open. After an orderly stop there is nothing; after a cancellation there may be."""
        for listener in getattr(self, "servers", []):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


async def serve(
    app: Starlette, sockets: list[socket.socket], certificate: ServerCertificate | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set, then finish what is under way (at most STOP_TIMEOUT_S) and close.

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
    server = _Server(config)
    boundary: Boundary = app.state.boundary

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
