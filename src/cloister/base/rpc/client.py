"""The asking end: one connection, many calls at once, connected again when it breaks.

A call that was under way when the connection broke raises UnavailableError: the caller knows whether asking twice is
safe, we do not.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cloister.base.errors import UnavailableError
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc.wire import LENGTH, Command, FrameTooLongError, Reply, Request, frame, frame_length

log = logging.getLogger(__name__)

R = TypeVar("R")


class Client:
    """A caller of the server at `path`.

    `events` is the union of event types the server may push, `on_event` receives them, `on_connect` runs after each
    (re)connection, before waiting calls go out. `connect_patience_s` is how long a call waits for a server that is
    not there (it may be restarting) before it raises UnavailableError.
    """

    def __init__(
        self,
        path: Path,
        *,
        events: Any = None,
        on_event: Callable[[Any], None] | None = None,
        on_connect: Callable[[], None] | None = None,
        connect_patience_s: float = 5.0,
    ) -> None:
        self._path = path
        self._events = msgspec.msgpack.Decoder(events) if events is not None else None
        self._on_event = on_event
        self._on_connect = on_connect
        self._patience_s = connect_patience_s
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        """The open calls of the present connection. A new one gets a new dict, so that the end of the old connection
        fails its own calls and no others."""
        self._last_id = 0

    async def call(self, command: Command[R], *, timeout_s: float = RPC_CALL_TIMEOUT_S) -> R:
        """Ask and wait for the answer. Raises what the server refused with, or UnavailableError."""
        await self.connect()
        assert self._writer is not None
        self._last_id = (self._last_id % 0x7FFF_FFFF) + 1
        call_id = self._last_id
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        calls = self._calls
        calls[call_id] = answered
        try:
            self._writer.write(self._framed(call_id, command))
            async with asyncio.timeout(timeout_s):
                reply = await answered
        except TimeoutError:
            raise UnavailableError(f"{self._path.name}: no answer to {type(command).__name__}") from None
        finally:
            calls.pop(call_id, None)
        if reply.failure is not None:
            raise reply.failure.error()
        answer: R = msgspec.msgpack.decode(reply.body, type=command.reply)
        return answer

    async def tell(self, command: Command[Any]) -> None:
        """Send without waiting for an answer; lost if the connection breaks."""
        await self.connect()
        assert self._writer is not None
        self._writer.write(self._framed(0, command))

    async def connect(self) -> None:
        """Be connected, or raise UnavailableError after `connect_patience_s`."""
        deadline = asyncio.get_running_loop().time() + self._patience_s  # also of who waits for another's attempts
        async with self._connecting:
            if self._writer is not None and not self._writer.is_closing():
                return
            while True:
                try:
                    reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                    break
                except OSError as error:
                    # Whatever it is, it may pass: nobody there, a queue that is full, no descriptor left for us.
                    if asyncio.get_running_loop().time() >= deadline:
                        raise UnavailableError(f"nobody listens on {self._path.name}: {error}") from None
                    await asyncio.sleep(0.02)
            self._calls = {}
            self._reading = asyncio.create_task(self._read(reader, self._writer, self._calls))
            if self._on_connect is not None:
                self._on_connect()

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    @staticmethod
    def _framed(call_id: int, command: Command[Any]) -> bytes:
        return frame(msgspec.msgpack.encode(Request(call_id, msgspec.Raw(msgspec.msgpack.encode(command)))))

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, calls: dict[int, asyncio.Future[Reply]]
    ) -> None:
        try:
            while True:
                length = frame_length(await reader.readexactly(LENGTH.size))
                reply = msgspec.msgpack.decode(await reader.readexactly(length), type=Reply)
                if reply.id == 0:
                    self._deliver(reply)
                elif (answered := calls.get(reply.id)) is not None and not answered.done():
                    answered.set_result(reply)
        except (asyncio.IncompleteReadError, ConnectionError, FrameTooLongError, msgspec.DecodeError):
            pass
        finally:
            writer.close()
            for answered in calls.values():
                if not answered.done():
                    answered.set_exception(UnavailableError(f"{self._path.name} went away"))

    def _deliver(self, reply: Reply) -> None:
        if self._events is None or self._on_event is None:
            return
        try:
            event = self._events.decode(reply.body)
        except msgspec.DecodeError:
            log.warning("an unreadable event from %s", self._path.name)
            return
        self._on_event(event)
