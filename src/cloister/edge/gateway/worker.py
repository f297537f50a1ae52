"""One gateway process: accepts from listening sockets that it shares with the other workers, and runs the sessions.

Several workers wait on one socket: what is queued when one of them dies is served by another. Told to stop, a worker
accepts no more and lets its sessions finish, with a limit.
"""

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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


class GatewayWorker:
    """`run` serves until `stop` is set and the sessions are over. Raises PreconditionError where the certificate cannot
    be loaded. `ready` is called once, when clients are accepted. The listening sockets are the worker's to close."""

    def __init__(self, settings: Settings, listening: list[socket.socket], options: ServeOptions) -> None:
        self._settings = settings
        self._listening = listening
        self._options = options
        self._tasks: asyncio.TaskGroup | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._clients_max = _clients_max()
        self._is_accepting = False
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
        self._gateway = Gateway(
            domain=settings.domain,
            certificates=certificates,
            directory=directory,
            sessions=sessions,
            cancels=cancels,
            spares=spares,
            trail=trail,
            balancers=AllowList.parse(settings.proxy_protocol_from),
            passwords=ThreadPoolExecutor(limits.PASSWORD_CHECK_THREADS, "password"),
        )
        try:
            async with asyncio.TaskGroup() as background:
                connection = background.create_task(directory.run())
                recording = background.create_task(trail.run())
                watching = background.create_task(_watch(certificates))
                await cancels.start()
                async with asyncio.TaskGroup() as self._tasks:
                    self._start_accepting()
                    ready()
                    await stop.wait()
                    self._stop_accepting()
                    await self._drain(sessions)
                await trail.finish(recording)
                for task in (watching, recording, connection):
                    task.cancel()
                    await asyncio.wait([task])
        finally:
            self._stop_accepting()
            for sock in self._listening:
                sock.close()  # our copy: the other workers have theirs
            spares.drop_all()
            await cancels.stop()
            self._gateway.passwords.shutdown(cancel_futures=True)

    # -- accepting

    def _start_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listening:
            sock.setblocking(False)
            loop.add_reader(sock, self._accept, sock)
        self._is_accepting = True

    def _stop_accepting(self) -> None:
        """Stop looking at the shared sockets; they stay open for the others."""
        if self._is_accepting:
            self._is_accepting = False
            for sock in self._listening:
                asyncio.get_running_loop().remove_reader(sock)

    def _accept(self, listening: socket.socket) -> None:
        """One at a time, so that the workers share what comes."""
        if len(self._clients) >= self._clients_max:
            self._pause_accepting()
            return
        try:
            sock, (host, *_rest) = listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another worker was quicker, or the client gave up
        except OSError as error:
            log.warning("cannot accept: %s", error)
            self._pause_accepting()
            return
        self._spawn(self._serve(sock, normalised(ipaddress.ip_address(host.partition("%")[0]))))

    def _pause_accepting(self) -> None:
        self._stop_accepting()
        asyncio.get_running_loop().call_later(_ACCEPT_PAUSE_S, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self._tasks is not None and not self._is_accepting and not self._is_stopping:
            self._start_accepting()

    async def _serve(self, sock: socket.socket, address: IpAddress) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            _, wire = await asyncio.get_running_loop().connect_accepted_socket(Wire, sock)
        except OSError as error:
            log.debug("%s was gone at once: %s", address, error)
            sock.close()
            return
        await Session(self._gateway, wire, address).run()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(coroutine)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    # -- stopping

    async def _drain(self, sessions: Sessions) -> None:
        self._is_stopping = True
        if self._clients:
            log.info("stopping: %d sessions may finish", sessions.total)
            await asyncio.wait(self._clients, timeout=self._options.drain_timeout_s)
        if self._clients:
            sessions.end_all("gateway_stopped", "57P01", "terminating connection due to administrator command")
            await asyncio.wait(self._clients, timeout=1.0)
        for task in list(self._clients):
            task.cancel()


async def _watch(certificates: Certificates) -> None:
    while True:
        await asyncio.sleep(limits.CERTIFICATE_CHECK_S)
        certificates.refresh()


def _clients_max() -> int:
    """Two descriptors per session. The soft limit is raised to what the process may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - limits.FILES_RESERVED) // 2)
