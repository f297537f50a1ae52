"""Bytes both ways, between a client's TLS and its compute. The hot path: no parsing, no tasks, no copies that the event
loop does not make itself.

`is_unanswered` is what the gateway knows of activity: bytes went to the compute after the last ones came back. Each
direction is read only while the other end takes what it is sent.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.limits import WRITE_BUFFER_HIGH_BYTES
from cloister.edge.gateway.statements import Watch
from cloister.edge.gateway.wire import TLS_RECORD_BYTES_MAX, AnyTunnel
from cloister.protocol.pgwire.frames import ProtocolViolationError
from cloister.protocol.pgwire.messages import READY_FOR_QUERY_IDLE, TERMINATE, error_response

_READY_HEAD: Final = READY_FOR_QUERY_IDLE[:-1]
_READY_BYTES: Final = len(READY_FOR_QUERY_IDLE)
_TERMINATE_BYTES: Final = len(TERMINATE)


class Relay:
    """Runs from its creation until `closed` is done, whose result is a stable word for the audit log."""

    def __init__(
        self,
        client: asyncio.Transport,
        tunnel: AnyTunnel,
        compute: asyncio.Transport,
        keep: Callable[[], bool],
        watch: Watch | None = None,
    ) -> None:
        """`keep` is asked when the client takes leave of an idle session: True if it has taken over the compute's
        transport, which is then left open. `watch` sees every byte before it is passed on."""
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = client
        self._tunnel = tunnel
        self._compute = compute
        self._keep = keep
        self._is_kept = False
        self._has_taken_leave = False
        self._is_frozen = False
        self._is_compute_full = False
        self._is_client_paused = False
        self._is_compute_paused = False
        self._is_held = False
        self._watch = watch
        self._from_client = _FromClient(self)
        self._from_compute = _FromCompute(self)
        if watch is not None:
            watch.holds(self._hold)
            self._from_client.watched(watch)
            self._from_compute.watched(watch)

    def start(self, first: bytes, rest: bytes = b"") -> None:
        """Take over both transports. `first` is what the client said already; `rest`, what the compute said after it was
        ready, and the client was sent: its farewell, perhaps, after which there must be no second one."""
        self._from_compute.tail = rest[-_READY_BYTES:]
        if self._watch is not None and rest:
            self._watch.from_compute(rest)
        self._compute.set_write_buffer_limits(high=WRITE_BUFFER_HIGH_BYTES)
        if first:
            self._from_client.bytes_in = len(first)
            self._from_client.is_unanswered = True
            self._from_client.pass_on(first)
        self._compute.set_protocol(self._from_compute)
        self._client.set_protocol(self._from_client)
        # Either may have gone while the other was being made ready: nobody would tell the relay any more.
        if self._client.is_closing():
            self.end("client_left")
        elif self._compute.is_closing():
            self.compute_left()

    @property
    def bytes_in(self) -> int:
        return self._from_client.bytes_in

    @property
    def bytes_out(self) -> int:
        return self._from_compute.bytes_out

    @property
    def rows_out(self) -> int:
        """Of a session that is watched. Another's messages are not looked at: docs/adr/0049-reading.md has what it would cost."""
        return 0 if self._watch is None else self._watch.rows_out

    @property
    def is_unanswered(self) -> bool:
        return self._from_client.is_unanswered

    def freeze(self) -> None:
        """Read nothing more from the client until `thaw`."""
        self._is_frozen = True
        self._set_client_reading()

    def thaw(self) -> None:
        self._is_frozen = False
        self._set_client_reading()

    def end(self, reason: str, *, sqlstate: str = "", text: str = "") -> None:
        """End the session; with a text, tell the client why, where that cannot cut a message in half."""
        if self.closed.done():
            return
        self.closed.set_result(reason)
        if not self._client.is_closing():
            if text and self._is_between_messages:
                self._tunnel.tls.write(error_response(sqlstate, text))
            self._client.write(self._tunnel.goodbye())
        self._client.close()
        if not self._is_kept:
            self._compute.close()

    def goodbye(self, *, is_alone: bool) -> bool:
        """The client sent what ends like Terminate, or is nothing else. True if that is the end; else the compute is to
        be told."""
        self._has_taken_leave = True
        tail = self._from_compute.tail
        is_idle = not (self.is_unanswered or self._is_frozen or self._is_compute_full or self._is_compute_paused)
        if (
            not is_alone
            or self.closed.done()
            or not is_idle
            or tail not in (b"", READY_FOR_QUERY_IDLE)
            or self._compute.is_closing()
        ):
            return False
        self._is_kept = self._keep()
        if self._is_kept:
            self.end("client_left")
        return self._is_kept

    @property
    def _is_between_messages(self) -> bool:
        tail = self._from_compute.tail
        return not tail or (len(tail) == _READY_BYTES and tail.startswith(_READY_HEAD))

    def compute_left(self) -> None:
        """A compute that stops says so itself, and one that was told goodbye just closes; one that was killed under an
        idle client cannot say anything, and a pooler says nothing at its end. Frozen, it was stopped for good reasons."""
        if self._has_taken_leave:
            self.end("client_left")
        elif self.is_unanswered:
            self.end("compute_closed")
        elif self._is_frozen:
            self.end("compute_closed", sqlstate="57P01", text="terminating connection due to administrator command")
        else:
            self.end("compute_closed", sqlstate="57P02", text="terminating connection because the compute went away")

    def _hold(self, is_held: bool) -> None:
        """The record of what it does has no room, or has some again."""
        self._is_held = is_held
        self._set_client_reading()

    def unreadable(self) -> None:
        """Whoever watches cannot follow any more: nobody goes on unrecorded."""
        self.end("protocol_violation", sqlstate="08P01", text="protocol violation in an audited session")

    def refuse(self, refusal: RefusedError) -> None:
        """Whoever watches could follow, but shall not."""
        self.end(refusal.reason, sqlstate=refusal.sqlstate, text=refusal.public)

    def compute_full(self, is_full: bool) -> None:
        self._is_compute_full = is_full
        self._set_client_reading()

    def client_full(self, is_full: bool) -> None:
        if self._compute.is_closing() or self._is_kept:
            return
        self._is_compute_paused = is_full
        if is_full:
            self._compute.pause_reading()
        else:
            self._compute.resume_reading()

    def _wants_pause(self) -> bool:
        return self._is_frozen or self._is_compute_full or self._is_held

    def _set_client_reading(self) -> None:
        pause = self._wants_pause()
        if pause == self._is_client_paused or self._client.is_closing():
            return
        self._is_client_paused = pause
        if pause:
            self._client.pause_reading()
        else:
            self._client.resume_reading()


class _FromClient(asyncio.Protocol):
    """TLS in, plain bytes to the compute."""

    __slots__ = (
        "_compute_write",
        "_incoming",
        "_incoming_write",
        "_outgoing",
        "_read",
        "_relay",
        "bytes_in",
        "is_unanswered",
    )

    def __init__(self, relay: Relay) -> None:
        tunnel = relay._tunnel  # noqa: SLF001 - the halves of one relay
        self.bytes_in = 0
        self.is_unanswered = False
        self._relay = relay
        self._incoming = tunnel.incoming
        self._incoming_write = tunnel.incoming.write
        self._outgoing = tunnel.outgoing
        self._read = tunnel.tls.read
        self._compute_write = relay._compute.write  # noqa: SLF001

    def watched(self, watch: Watch) -> None:
        """From here on `watch` sees what is passed on. Without one, nothing here is different."""
        write = self._compute_write

        def seen(data: bytes | bytearray | memoryview) -> None:
            try:
                watch.from_client(bytes(data))
            except ProtocolViolationError:
                self._relay.unreadable()
            except RefusedError as refusal:
                self._relay.refuse(refusal)
            else:
                write(data)

        self._compute_write = seen

    def pass_on(self, data: bytes) -> None:
        self._compute_write(data)

    def data_received(self, data: bytes) -> None:
        self._incoming_write(data)
        incoming = self._incoming
        try:
            while True:
                plain = self._read(TLS_RECORD_BYTES_MAX)
                if not plain:
                    self._relay.end("client_left")
                    return
                if plain.endswith(TERMINATE) and self._relay.goodbye(is_alone=len(plain) == _TERMINATE_BYTES):
                    return
                self.bytes_in += len(plain)
                self.is_unanswered = True
                self._compute_write(plain)
                # A read takes a whole record: with nothing left before it, the next could only say "want more",
                # and that costs an exception.
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._relay.end("tls_failed")
            return
        if self._outgoing.pending:  # a KeyUpdate of TLS 1.3 is answered
            self._relay._client.write(self._outgoing.read())  # noqa: SLF001

    def pause_writing(self) -> None:
        self._relay.client_full(True)

    def resume_writing(self) -> None:
        self._relay.client_full(False)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._relay.end("client_left")


class _FromCompute(asyncio.Protocol):
    """Plain bytes in, TLS to the client."""

    __slots__ = ("_client_write", "_from_client", "_outgoing_read", "_relay", "_tls_write", "bytes_out", "tail")

    def __init__(self, relay: Relay) -> None:
        self.bytes_out = 0
        self.tail = b""
        """The last bytes: whether they end with ReadyForQuery."""
        self._relay = relay
        self._from_client = relay._from_client  # noqa: SLF001 - the halves of one relay
        self._tls_write = relay._tunnel.tls.write  # noqa: SLF001
        self._outgoing_read = relay._tunnel.outgoing.read  # noqa: SLF001
        self._client_write = relay._client.write  # noqa: SLF001

    def watched(self, watch: Watch) -> None:
        """As `_FromClient.watched`."""
        write = self._tls_write

        def seen(data: bytes) -> int:
            try:
                watch.from_compute(data)
            except ProtocolViolationError:
                self._relay.unreadable()
                return 0
            except RefusedError as refusal:
                write(data)
                self._relay.refuse(refusal)
                return 0
            return write(data)

        self._tls_write = seen

    def data_received(self, data: bytes) -> None:
        self._from_client.is_unanswered = False
        self.bytes_out += len(data)
        self.tail = data[-_READY_BYTES:]
        self._tls_write(data)
        self._client_write(self._outgoing_read())

    def pause_writing(self) -> None:
        self._relay.compute_full(True)

    def resume_writing(self) -> None:
        self._relay.compute_full(False)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._relay.compute_left()
