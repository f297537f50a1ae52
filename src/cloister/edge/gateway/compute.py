"""Logging in to a compute over its Unix socket, as the role the client proved to be.

A compute that was just started needs some milliseconds before it listens, and longer after a crash: it is tried again
until it accepts. One that does not listen although it is said to run is gone, and another is asked for.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cloister.base.directory import Compute, Route
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.errors import RefusedError, compute_unavailable
from cloister.edge.gateway.limits import (
    CANCEL_TIMEOUT_S,
    CONNECT_EAGER_S,
    CONNECT_PAUSE_FIRST_S,
    CONNECT_PAUSE_MAX_S,
    REFUSING_COMPUTE_S,
)
from cloister.protocol.pgwire.backend import BackendError, BackendLogin
from cloister.protocol.pgwire.frames import ProtocolViolationError
from cloister.protocol.pgwire.messages import cancel_request, startup_message

SOCKET_NAME: Final = ".s.PGSQL.5432"

_CANNOT_CONNECT_NOW: Final = "57P03"
# Starting up, in recovery, or shutting down: worth another try, until the socket is gone or it accepts.


_ERROR_RESPONSE: Final = b"E"


class ComputeGoneError(Exception):
    """Nobody listens on the socket."""


@dataclass(frozen=True, slots=True)
class ComputeSession:
    """A session that is ready; its transport is paused until the relay takes it."""

    transport: asyncio.Transport
    login: BackendLogin
    socket_dir: str
    generation: int
    was_cold: bool
    since: float
    """When it logged in, by the loop's clock."""

    @property
    def has_ended(self) -> bool:
        """The server has closed it, or said that it will: after ReadyForQuery nothing but a farewell is an error."""
        return self.transport.is_closing() or self.login.rest.startswith(_ERROR_RESPONSE)


async def reach(directory: Directory, route: Route, parameters: Mapping[str, str]) -> ComputeSession:
    """A ready session, waking the compute if it sleeps. The caller limits the time. Raises CloisterError where waking
    is refused, BackendError where PostgreSQL refuses, RefusedError where it makes no sense."""
    if route.socket_dir is not None:
        compute = Compute(
            endpoint_id=route.endpoint_id, socket_dir=route.socket_dir, generation=route.generation, was_cold=False
        )
        try:
            return await log_in_patiently(compute, parameters, refusing_s=0.0)
        except ComputeGoneError:
            directory.forget_compute(route.endpoint_id)
    stale = route.generation if route.socket_dir is not None else 0
    was_cold = False
    while True:
        compute = await directory.wake(route.endpoint_id, stale)
        was_cold = was_cold or compute.was_cold
        try:
            session = await log_in_patiently(compute, parameters, refusing_s=REFUSING_COMPUTE_S)
        except ComputeGoneError:
            stale = compute.generation
        else:
            return replace(session, was_cold=was_cold)


async def log_in_patiently(compute: Compute, parameters: Mapping[str, str], *, refusing_s: float) -> ComputeSession:
    """Raises ComputeGoneError when nobody has listened for so long, BackendError."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + refusing_s
    eager_until = loop.time() + CONNECT_EAGER_S
    pause_s = CONNECT_PAUSE_FIRST_S
    while True:
        try:
            return await _log_in(compute, parameters)
        except BlockingIOError:
            pass  # EAGAIN: its queue of connections is full, so it lives
        except (ConnectionError, FileNotFoundError, PermissionError) as error:
            # PermissionError: PostgreSQL binds its socket under a umask of 077 and gives it its mode a moment later.
            if loop.time() >= give_up_at:
                raise ComputeGoneError from error
        except BackendError as error:
            if error.sqlstate != _CANNOT_CONNECT_NOW:
                raise
        await asyncio.sleep(pause_s)
        if loop.time() >= eager_until:
            pause_s = min(pause_s * 1.5, CONNECT_PAUSE_MAX_S)


async def _log_in(compute: Compute, parameters: Mapping[str, str]) -> ComputeSession:
    loop = asyncio.get_running_loop()
    path = str(Path(compute.socket_dir) / SOCKET_NAME)
    transport, protocol = await loop.create_unix_connection(_Login, path)
    try:
        transport.write(startup_message(parameters))
        await protocol.done
    except BaseException as error:
        transport.abort()
        if isinstance(error, ProtocolViolationError):
            raise compute_unavailable(str(error)) from error
        raise
    return ComputeSession(
        transport, protocol.login, compute.socket_dir, compute.generation, compute.was_cold, loop.time()
    )


class _Login(asyncio.Protocol):
    def __init__(self) -> None:
        self.login = BackendLogin()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            self.login.rest += data
            return
        try:
            self.login.receive_data(data)
        except (BackendError, ProtocolViolationError) as error:
            self.done.set_exception(error)
            return
        if self.login.is_ready:
            self.done.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionResetError("the compute closed the connection during login"))


async def send_cancel(socket_dir: str, pid: int, secret: bytes) -> None:
    """Have PostgreSQL cancel what a backend does. It never says whether it did."""
    async with asyncio.timeout(CANCEL_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(str(Path(socket_dir) / SOCKET_NAME))
        try:
            writer.write(cancel_request(pid, secret))
            await reader.read(1)  # its end: PostgreSQL says nothing, and whoever says more is not listened to
        finally:
            writer.close()


def as_refusal(error: BackendError) -> RefusedError:
    """PostgreSQL's refusal, for the audit log; its own words go to the client as they are."""
    return RefusedError("refused_by_postgres", error.sqlstate, "", str(error))
