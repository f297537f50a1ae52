"""Asking a compute: one statement, or a batch as one transaction, in one round trip.

Everything is sent at once, with one Sync at its end: after an error PostgreSQL skips what follows, the transaction's
COMMIT included. A session goes on to another client only if it ended idle, outside a transaction, with nothing in the
pipe; otherwise it is closed, which undoes what it left open.

To the gateway's sessions a query is what a relay is: it counts as under way, and it can be ended.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from cloister.edge.gateway.compute import ComputeSession
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.statements import Watch
from cloister.edge.sql.answers import AnswerTooLargeError, ResultWriter, Room
from cloister.edge.sql.limits import ANSWER_BYTES_MAX
from cloister.edge.sql.request import Head, Work
from cloister.protocol.pgwire.extended import SYNC, command_tag, data_row, row_description, statement
from cloister.protocol.pgwire.frames import UINT32, ProtocolViolationError, take_message
from cloister.protocol.pgwire.messages import TERMINATE

_MESSAGE_BYTES_MAX: Final = ANSWER_BYTES_MAX + 65_536
# One row may be the whole answer.


class QueryError(Exception):
    """PostgreSQL's own error."""

    def __init__(self, body: bytes) -> None:
        super().__init__("the query failed")
        self.body = body


class Query(asyncio.Protocol):
    """Runs from `start` until `done`, whose result is the answer's JSON. The caller then closes it, or has it kept."""

    is_unanswered: Final = True

    def __init__(
        self, compute: ComputeSession, head: Head, work: Work, grow: Callable[[int], None], watch: Watch | None = None
    ) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.bytes_in = 0
        self.bytes_out = 0
        self.rows_out = 0
        self.is_reusable = False
        self._transport = compute.transport
        self._early = compute.login.rest
        self._work = work
        self._transaction = head.transaction.begin if work.is_batch else None
        self._grow = grow
        self._watch = watch
        self._buffer = bytearray()
        self._buffer_share = 0
        self._error: bytes | None = None
        room = Room(grow)
        self._writers = [ResultWriter(room, as_array=each.as_array, is_raw=head.is_raw) for each in work.statements]
        if self._transaction is not None:
            between = Room(lambda _size: None)
            self._writers = [
                ResultWriter(between, as_array=False, is_raw=True),
                *self._writers,
                ResultWriter(between, as_array=False, is_raw=True),
            ]
        self._current = 0

    def start(self) -> None:
        statements = [statement(each.query, each.parameters) for each in self._work.statements]
        if self._transaction is not None:
            statements = [statement(self._transaction, []), *statements, statement("COMMIT", [])]
        message = b"".join(statements) + SYNC
        self._grow(len(message))
        self.bytes_in = len(message)
        if self._watch is not None:
            self._watch.from_client(message)
        self._transport.set_protocol(self)
        self._transport.write(message)
        if self._early:  # notices of the login
            self.data_received(self._early)
        if self._transport.is_closing():
            self.connection_lost(None)

    def close(self) -> None:
        """Nobody is to have the session after this, and nobody waits for an answer."""
        self.done.cancel()
        if not self._transport.is_closing():
            self._transport.write(TERMINATE)
            self._transport.close()

    # -- as a relay

    def freeze(self) -> None:
        """Nothing of a client is still to be sent."""

    def thaw(self) -> None:
        pass

    def end(self, reason: str, *, sqlstate: str = "", text: str = "") -> None:
        self._fail(RefusedError(reason, sqlstate or "57P01", text or "terminating connection"))

    # -- what the event loop calls

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            self.is_reusable = False  # it says more than it was asked
            return
        self.bytes_out += len(data)
        self._buffer += data
        try:
            if self._watch is not None:
                self._watch.from_compute(data)
            while not self.done.done() and (taken := self._take()) is not None:
                self._receive(*taken)
        except (AnswerTooLargeError, ProtocolViolationError, RefusedError) as error:
            self._fail(error)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.is_reusable = False
        if self._error is not None:
            self._fail(QueryError(self._error))  # its last word: it was told to end
        self._fail(RefusedError("compute_closed", "57P02", "the compute closed the connection"))

    # -- inside

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.is_reusable = False
            self.done.set_exception(error)

    def _take(self) -> tuple[int, bytes] | None:
        if len(self._buffer) >= 5 and UINT32.unpack_from(self._buffer, 1)[0] > _MESSAGE_BYTES_MAX:
            raise AnswerTooLargeError
        if (taken := take_message(self._buffer, _MESSAGE_BYTES_MAX)) is None and len(self._buffer) > self._buffer_share:
            self._grow(len(self._buffer) - self._buffer_share)
            self._buffer_share = len(self._buffer)
        return taken

    def _receive(self, kind: int, body: bytes) -> None:
        match chr(kind):
            case "D":
                self.rows_out += 1
                writer = self._writer
                writer.row(data_row(body, writer.columns))
            case "T":
                self._writer.describe(row_description(body))
            case "C":
                self._writer.complete(command_tag(body))
                self._current += 1
            case "I":  # an empty query
                self._writer.complete("")
                self._current += 1
            case "E":
                self._error = self._error or body
            case "Z":
                self._ended(body)
            case "1" | "2" | "n" | "N" | "S" | "A":
                pass
            case "G" | "H" | "W":
                raise RefusedError("not_supported", "0A000", "COPY is not supported over HTTP")
            case _:
                raise ProtocolViolationError(f"the compute sent an unexpected {chr(kind)!r}")

    @property
    def _writer(self) -> ResultWriter:
        if self._error is not None or self._current >= len(self._writers):
            raise ProtocolViolationError("the compute sent a result that nobody asked for")
        return self._writers[self._current]

    def _ended(self, status: bytes) -> None:
        if self._error is not None:
            self.is_reusable = status == b"I" and not self._buffer
            self.done.set_exception(QueryError(self._error))
            return
        if self._current != len(self._writers):
            raise ProtocolViolationError("the compute left a query without a result")
        self.is_reusable = status == b"I" and not self._buffer
        if self._transaction is None:
            self.done.set_result(self._writers[0].finish())
        else:
            results = b",".join(writer.finish() for writer in self._writers[1:-1])
            self.done.set_result(b'{"results":[' + results + b"]}")
