"""The answering end: accepts, asks the kernel who calls, runs one task per command.

A handler that raises a CloisterError answers with it; any other exception is logged here and answered as INTERNAL
without its text.
"""

import asyncio
import contextlib
import functools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cloister.base.errors import BadRequestError, CloisterError, InternalError
from cloister.base.identities import Service, service_of_uid
from cloister.base.rpc.wire import LENGTH, Command, Failure, FrameTooLongError, Reply, Request, frame, frame_length
from cloister.base.sockets import listen_at

log = logging.getLogger(__name__)

_UCRED: Final = struct.Struct("3i")

# A caller of ours that was taken over must not fill the memory of who it calls.

CONNECTIONS_MAX: Final = 256
# 64 gateway workers at most, each with one connection, and some for people's commands.

OPEN_CALLS_BYTES_MAX: Final = 64 * 1024 * 1024
_CALL_BYTES: Final = 2048
# What callers may have asked and not been answered yet: 30 000 small calls, more than all half-open clients of the
# gateways. Beyond it nothing more is read.

_BACKLOG: Final = 100
# asyncio's own: it says so again when it takes the socket.

UNREAD_BYTES_MAX: Final = 16 * 1024 * 1024
# Answers and events that a caller does not read. An honest one reads at once.


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by the kernel's word at the time of connect(2)."""

    pid: int
    uid: int
    service: Service | None

    @classmethod
    def of(cls, sock: socket.socket) -> "Peer":
        pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return cls(pid, uid, service_of_uid(uid))


class Connection:
    """One caller. `send_event` reaches it at any time; `closed` is set when it is gone."""

    def __init__(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.closed = asyncio.Event()
        self._writer = writer

    def send_event(self, event: msgspec.Struct) -> None:
        self._send(Reply(0, msgspec.Raw(msgspec.msgpack.encode(event))))

    async def drain(self) -> None:
        """Until it has read what it was told: before a large answer is made to somebody who may have others unread."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def _send(self, reply: Reply) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(frame(msgspec.msgpack.encode(reply)))
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            log.error("uid %d pid %d does not read what it is told: cut off", self.peer.uid, self.peer.pid)
            self._writer.transport.abort()


class _OpenCalls:
    """How much is asked and not answered."""

    def __init__(self) -> None:
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def take(self, size: int) -> None:
        while self._bytes and self._bytes + size > OPEN_CALLS_BYTES_MAX:
            self._has_room.clear()
            await self._has_room.wait()
        self._bytes += size

    def give(self, size: int, _task: object = None) -> None:
        self._bytes -= size
        self._has_room.set()


Handler = Callable[[Connection, Any], Awaitable[Any]]


class Server:
    """Listens on a Unix socket for the commands of one union type.

    `commands` is the union of accepted Command types, `allowed` the services that may connect at all; what each may
    send is the handler's decision (it is given the Connection). `mode` is the socket's permission bits.
    """

    def __init__(
        self,
        path: Path,
        commands: Any,
        handler: Handler,
        *,
        allowed: frozenset[Service],
        mode: int = 0o666,
        on_connect: Callable[[Connection], None] | None = None,
    ) -> None:
        self._path = path
        self._decoder = msgspec.msgpack.Decoder(commands)
        self._handler = handler
        self._allowed = allowed
        self._mode = mode
        self._on_connect = on_connect
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open_calls = _OpenCalls()
        self.connections: set[Connection] = set()

    async def start(self) -> None:
        sock = listen_at(self._path, socket.SOCK_STREAM, mode=self._mode, backlog=_BACKLOG)
        self._server = await asyncio.start_unix_server(self._accept, sock=sock)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer.of(writer.get_extra_info("socket"))
        if peer.service not in self._allowed:
            log.warning("refused a caller on %s: uid %d pid %d", self._path.name, peer.uid, peer.pid)
            writer.close()
            return
        if len(self.connections) >= CONNECTIONS_MAX:
            log.error("too many connections on %s: uid %d pid %d", self._path.name, peer.uid, peer.pid)
            writer.close()
            return
        connection = Connection(peer, writer)
        self.connections.add(connection)
        self._writers.add(writer)
        if self._on_connect is not None:
            self._on_connect(connection)
        try:
            while True:
                length = frame_length(await reader.readexactly(LENGTH.size))
                request = msgspec.msgpack.decode(await reader.readexactly(length), type=Request)
                size = _CALL_BYTES + length
                await self._open_calls.take(size)
                task = asyncio.create_task(self._answer(connection, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(functools.partial(self._open_calls.give, size))
        except (asyncio.IncompleteReadError, ConnectionError, FrameTooLongError, msgspec.DecodeError):
            pass
        finally:
            connection.closed.set()
            self.connections.discard(connection)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, connection: Connection, request: Request) -> None:
        try:
            command: Command[Any] = self._decoder.decode(request.body)
            answer = await self._handler(connection, command)
            reply = Reply(request.id, msgspec.Raw(msgspec.msgpack.encode(answer)))
        except msgspec.DecodeError as error:
            reply = Reply(request.id, failure=Failure.of(BadRequestError(f"unreadable command: {error}")))
        except CloisterError as error:
            reply = Reply(request.id, failure=Failure.of(error))
        except Exception:
            log.exception("a command on %s failed", self._path.name)
            reply = Reply(request.id, failure=Failure.of(InternalError()))
        if request.id:
            connection._send(reply)  # noqa: SLF001 - the two halves of one connection
