"""One gateway process: accepts from listening sockets that it shares with the other workers, and runs the sessions.

Several workers wait on one socket: what is queued when one of them dies is served by another. Told to stop, a worker
accepts no more and lets its sessions finish, with a limit.

There may be two doors: PostgreSQL's, and a front for HTTPS that whoever wires the process brings along. They share all of
`Gateway`, and neither can take the other's descriptors.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cloister.base import descriptors
from cloister.base.directory import AnyEvent, Close, Freeze
from cloister.base.identities import Service
from cloister.base.ipallow import AllowList, IpAddress, normalised
from cloister.base.settings import Settings
from cloister.edge.gateway import limits
from cloister.edge.gateway.cancels import CALLERS, Cancels
from cloister.edge.gateway.certificates import Certificates
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.session import Session
from cloister.edge.gateway.sessions import Sessions
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.spares import Spares
from cloister.edge.gateway.statements import StatementTrail
from cloister.edge.gateway.trail import Trail
from cloister.edge.gateway.wire import Wire

log = logging.getLogger(__name__)

_ACCEPT_PAUSE_S: Final = 0.05
# With no descriptors left, accepting is tried again after this; the kernel keeps the queue meanwhile.

_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
# A client whose machine vanished is noticed after two minutes: its session holds a backend.
_USER_TIMEOUT_MS: Final = 120_000
# The same for one that vanished while it was sent something.


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What differs between workers, and what tests change."""

    worker: int
    """1 to 64, different for each worker of a platform: it is in the cancel keys."""
    drain_timeout_s: float = limits.DRAIN_TIMEOUT_S
    siblings: frozenset[Service | None] = CALLERS
    """Who may pass cancel requests on to this worker."""
    directory_socket: Path | None = None
    run_dir: Path | None = None


class Front(Protocol):
    """Another way in than PostgreSQL's port."""

    def refresh(self) -> None:
        """Called about once a second: look for a new certificate."""

    async def serve(self, gateway: Gateway, sock: socket.socket, address: IpAddress) -> None:
        """One connection, from accept to its end. The socket is its own to close. Never raises."""

    def stop(self) -> None:
        """No more will come: end what is idle, and the others after what they do now."""

    def close(self) -> None:
        """The worker ends; every `serve` has returned."""


@dataclass(eq=False)
class _Door:
    """Listening sockets, who serves what they accept, and how many at once."""

    sockets: list[socket.socket]
    serve: Callable[[socket.socket, IpAddress], Coroutine[Any, Any, None]]
    clients_max: int
    clients: set[asyncio.Task[None]] = field(default_factory=set)
    is_accepting: bool = False


class GatewayWorker:
    """`run` serves until `stop` is set and the sessions are over. Raises PreconditionError where the certificate cannot
    be loaded. `ready` is called once, when clients are accepted. The listening sockets are the worker's to close."""

    def __init__(
        self,
        settings: Settings,
        listening: list[socket.socket],
        options: ServeOptions,
        *,
        front: Front | None = None,
        front_listening: list[socket.socket] | None = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._front = front
        clients_max = _clients_max()
        self._doors = [_Door(listening, self._serve, clients_max)]
        if front is not None:
            front_share = clients_max // limits.FRONT_SHARE
            self._doors[0].clients_max -= front_share
            self._doors.append(_Door(front_listening or [], self._serve_front, front_share))
        self._tasks: asyncio.TaskGroup | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        settings, options = self._settings, self._options
        certificates = Certificates.of(settings)

        def hear(event: AnyEvent) -> None:
            if isinstance(event, Freeze | Close):
                spares.drop(event.endpoint_id)
            sessions.hear(event)

        directory = Directory(
            options.directory_socket or settings.paths.directory_socket,
            on_event=hear,
            on_reconnect=lambda: sessions.start_over(),  # noqa: PLW0108
        )
        sessions = Sessions(directory, self._spawn)
        cancels = Cancels(
            options.worker, options.run_dir or settings.paths.gateway_run, directory, callers=options.siblings
        )
        spares = Spares()
        trail = Trail(directory.record)
        statements = StatementTrail(directory.record_statements)
        self._gateway = Gateway(
            domain=settings.domain,
            certificates=certificates,
            directory=directory,
            sessions=sessions,
            cancels=cancels,
            spares=spares,
            trail=trail,
            statements=statements,
            balancers=AllowList.parse(settings.proxy_protocol_from),
            passwords=ThreadPoolExecutor(limits.PASSWORD_CHECK_THREADS, "password"),
        )
        try:
            async with asyncio.TaskGroup() as background:
                connection = background.create_task(directory.run())
                recording = background.create_task(trail.run())
                keeping = background.create_task(statements.run())
                metering = background.create_task(self._gateway.meters.run(trail.has_room))
                watching = background.create_task(self._watch(certificates))
                await cancels.start()
                async with asyncio.TaskGroup() as self._tasks:
                    for door in self._doors:
                        self._start_accepting(door)
                    ready()
                    await stop.wait()
                    self._is_stopping = True
                    for door in self._doors:
                        self._stop_accepting(door)
                    if self._front is not None:
                        self._front.stop()
                    await self._drain(sessions)
                await trail.finish(recording)
                await statements.finish(keeping)
                for task in (watching, metering, recording, keeping, connection):
                    task.cancel()
                    await asyncio.wait([task])
        finally:
            for door in self._doors:
                self._stop_accepting(door)
                for sock in door.sockets:
                    sock.close()  # our copy: the other workers have theirs
            if self._front is not None:
                self._front.close()
            spares.drop_all()
            await cancels.stop()
            self._gateway.passwords.shutdown(cancel_futures=True)

    # -- accepting

    def _start_accepting(self, door: _Door) -> None:
        loop = asyncio.get_running_loop()
        for sock in door.sockets:
            sock.setblocking(False)
            loop.add_reader(sock, self._accept, door, sock)
        door.is_accepting = True

    def _stop_accepting(self, door: _Door) -> None:
        """Stop looking at the shared sockets; they stay open for the others."""
        if door.is_accepting:
            door.is_accepting = False
            for sock in door.sockets:
                asyncio.get_running_loop().remove_reader(sock)

    def _accept(self, door: _Door, listening: socket.socket) -> None:
        """One at a time, so that the workers share what comes."""
        if len(door.clients) >= door.clients_max:
            self._pause_accepting(door)
            return
        try:
            sock, (host, *_rest) = listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another worker was quicker, or the client gave up
        except OSError as error:
            log.warning("cannot accept: %s", error)
            self._pause_accepting(door)
            return
        address = normalised(ipaddress.ip_address(host.partition("%")[0]))
        try:
            _prepare(sock)
        except OSError as error:
            log.debug("%s was gone at once: %s", address, error)
            sock.close()
            return
        task = self._spawn(door.serve(sock, address))
        door.clients.add(task)
        task.add_done_callback(door.clients.discard)

    def _pause_accepting(self, door: _Door) -> None:
        self._stop_accepting(door)
        asyncio.get_running_loop().call_later(_ACCEPT_PAUSE_S, self._resume_accepting, door)

    def _resume_accepting(self, door: _Door) -> None:
        if self._tasks is not None and not door.is_accepting and not self._is_stopping:
            self._start_accepting(door)

    async def _serve(self, sock: socket.socket, address: IpAddress) -> None:
        try:
            _, wire = await asyncio.get_running_loop().connect_accepted_socket(Wire, sock)
        except OSError as error:
            log.debug("%s was gone at once: %s", address, error)
            sock.close()
            return
        await Session(self._gateway, wire, address).run()

    async def _serve_front(self, sock: socket.socket, address: IpAddress) -> None:
        assert self._front is not None
        await self._front.serve(self._gateway, sock, address)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self._tasks.create_task(_alone(coroutine))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return task

    # -- stopping

    async def _drain(self, sessions: Sessions) -> None:
        if self._clients:
            log.info("stopping: %d sessions may finish", sessions.total)
            await asyncio.wait(self._clients, timeout=self._options.drain_timeout_s)
        if self._clients:
            sessions.end_all("gateway_stopped", "57P01", "terminating connection due to administrator command")
            await asyncio.wait(self._clients, timeout=1.0)
        for task in list(self._clients):
            task.cancel()

    async def _watch(self, certificates: Certificates) -> None:
        while True:
            await asyncio.sleep(limits.CERTIFICATE_CHECK_S)
            certificates.refresh()
            if self._front is not None:
                self._front.refresh()


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    """What is done for some ends for those alone: an exception that left it would end the worker, with everybody's sessions."""
    try:
        await work
    except Exception:
        log.exception("what a client brought about")


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _clients_max() -> int:
    """Two descriptors per session."""
    return max(1, (descriptors.raise_to_the_most() - limits.FILES_RESERVED) // 2)
