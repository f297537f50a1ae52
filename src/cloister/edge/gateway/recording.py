"""Sessions that must be recorded: those of people whose access to data was approved.

A recording is open before the client's first byte goes to the compute. An observer makes statements of the bytes, and they
are stored, their secrets masked, twice:

1. What is asked, before its bytes go to the compute. They wait in `RecordedRelay`, and nothing is read behind them. So nothing
   runs that is not written down, whichever process dies, and whenever.
2. What came of it, before the client's next bytes go.

What cannot be understood is not passed on, and a recording that cannot be kept ends its session: what waits is dropped. Only
such sessions pay for this: the relay itself knows nothing of it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from cloister.base.directory import ASKED, BIND, PREPARE, Spoken
from cloister.base.errors import CloisterError
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.memory import Share
from cloister.edge.gateway.relay import Relay
from cloister.edge.gateway.statements import Watch
from cloister.edge.gateway.wire import AnyTunnel
from cloister.protocol.pgwire.frames import ProtocolViolationError
from cloister.protocol.pgwire.masking import mask
from cloister.protocol.pgwire.statements import Asked, Observer, Outcome, Statement

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

STORE_TIMEOUT_S: Final = 5.0
# For one chunk. A commit takes milliseconds; a session whose record does not come through by then is ended.

CHUNK_STATEMENTS: Final = 500
CHUNK_BYTES: Final = 1 << 20
# A message may have 4 MiB; one statement has at most 64 kB of text, and masking can only make it longer by a little.

BACKLOG_BYTES: Final = 32 << 20
# Not stored yet. A client is held after its first statement, so only what was under way already can grow to this.

TAGS_MAX: Final = 20
ERROR_CHARS_MAX: Final = 2_000

_FAILED: Final = "recording_failed"


class Recorder:
    """Of one session. `hold` is told whether the client, and what it has said, must wait; `fail`, that the session must end."""

    def __init__(self, directory: Directory, recording_id: str, share: Share) -> None:
        self.hold: Callable[[bool], None] = lambda _: None
        self.fail: Callable[[], None] = lambda: None
        self._directory = directory
        self._id = recording_id
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._observer = Observer()
        self._waiting: list[Spoken] = []
        self._waiting_bytes = 0
        self._chunks = 0
        self._storing: asyncio.Task[None] | None = None
        self._has_failed = False
        self._is_over = False

    def from_client(self, data: bytes) -> None:
        """To be passed on when `is_stored`. Raises ProtocolViolationError and RefusedError: not at all, then."""
        now = self._now()
        self._keep([_as_asked(it, round(now * 1000)) for it in self._observer.from_client(data, now)])
        self._share.hold(self._observer.held_bytes)

    def from_compute(self, data: bytes) -> None:
        """Raises ProtocolViolationError and RefusedError."""
        self._keep([_spoken(it) for it in self._observer.from_server(data, self._now())])
        self._share.hold(self._observer.held_bytes)

    @property
    def rows_out(self) -> int:
        return self._observer.rows_out

    @property
    def is_stored(self) -> bool:
        return self._storing is None and not self._has_failed

    async def finish(self, reason: str) -> None:
        """Whatever was under way, and why it ended. Never raises for a record that cannot be kept: the session is over,
        and the recording stays open until the control plane closes it as cut."""
        if self._is_over:
            return
        self._is_over = True
        self._share.hold(0)
        self._keep([_spoken(it) for it in self._observer.end(self._now())])
        if self._storing is not None:
            await asyncio.wait([self._storing])
        if self._has_failed:
            return
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._directory.end_recording(self._id, reason)
        except (CloisterError, TimeoutError) as error:
            log.warning("the end of recording %s could not be stored: %r", self._id, error)

    def _now(self) -> float:
        return self._loop.time() - self._began

    def _keep(self, said: list[Spoken]) -> None:
        if not said or self._has_failed:
            return
        self._waiting += said
        self._waiting_bytes += sum(len(spoken.text) + len(spoken.error) for spoken in said)
        if self._waiting_bytes > BACKLOG_BYTES:
            self._give_up("too much is waiting to be stored")
        elif self._storing is None:
            self._storing = self._loop.create_task(self._store())
            self.hold(True)

    async def _store(self) -> None:
        try:
            while self._waiting and not self._has_failed:
                chunk = self._take()
                async with asyncio.timeout(STORE_TIMEOUT_S):
                    await self._directory.append_recording(self._id, self._chunks, chunk)
                self._chunks += 1
        except (CloisterError, TimeoutError) as error:
            self._give_up(repr(error))
        finally:
            self._storing = None
        if not self._has_failed:
            self.hold(False)

    def _take(self) -> list[Spoken]:
        size, count = 0, 0
        for spoken in self._waiting[:CHUNK_STATEMENTS]:
            size += len(spoken.text.encode()) + len(spoken.error.encode()) + 512
            if count and size > CHUNK_BYTES:
                break
            count += 1
        chunk, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= sum(len(spoken.text) + len(spoken.error) for spoken in chunk)
        return chunk

    def _give_up(self, why: str) -> None:
        log.warning("recording %s cannot be kept, so its session ends: %s", self._id, why)
        self._has_failed = True
        self._waiting.clear()
        self.fail()


class RecordedRelay(Relay):
    """A relay that a recorder listens to. Its compute session is nobody's afterwards."""

    def __init__(
        self,
        client: asyncio.Transport,
        tunnel: AnyTunnel,
        compute: asyncio.Transport,
        recorder: Recorder,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(client, tunnel, compute, lambda: False, watch)
        self._recorder = recorder
        self._is_waiting = False
        self._unsent: list[bytes] = []
        """What the client said, and is not written down yet. At most what was read at once: nothing is read behind it."""
        self._to_compute = self._from_client._compute_write  # noqa: SLF001 - the parts of one relay
        self._to_client = self._from_compute._tls_write  # noqa: SLF001
        self._from_client._compute_write = self._heard_client  # noqa: SLF001 - the parts of one relay
        self._from_compute._tls_write = self._heard_compute  # noqa: SLF001
        recorder.hold = self._wait
        recorder.fail = lambda: self.end(_FAILED, sqlstate="58000", text="this session cannot be recorded any more")

    def start(self, first: bytes, rest: bytes = b"") -> None:
        try:
            self._recorder.from_compute(rest)
        except ProtocolViolationError as error:
            self._not_understood(error)
        except RefusedError as refusal:
            self.refuse(refusal)
        else:
            super().start(first, rest)

    @property
    def rows_out(self) -> int:
        return self._recorder.rows_out

    def _heard_client(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._recorder.from_client(bytes(data))
        except ProtocolViolationError as error:
            self._not_understood(error)
        except RefusedError as refusal:
            self.refuse(refusal)
        else:
            self._unsent.append(bytes(data))
            self._send()

    def _heard_compute(self, data: bytes) -> int:
        try:
            self._recorder.from_compute(data)
        except ProtocolViolationError as error:
            self._not_understood(error)
            return 0
        except RefusedError as refusal:
            self._to_client(data)
            self.refuse(refusal)
            return 0
        return self._to_client(data)

    def _not_understood(self, error: ProtocolViolationError) -> None:
        log.warning("a recorded session said what is no protocol: %s", error)
        self.end(_FAILED)

    def thaw(self) -> None:
        super().thaw()
        self._send()

    def _wait(self, is_waiting: bool) -> None:
        self._is_waiting = is_waiting
        self._send()
        self._set_client_reading()

    def _send(self) -> None:
        if self.closed.done():
            self._unsent.clear()
        elif self._unsent and self._recorder.is_stored and not self._is_frozen:
            unsent, self._unsent = b"".join(self._unsent), []
            self._to_compute(unsent)

    def _wants_pause(self) -> bool:
        return self._is_waiting or super()._wants_pause()


def _as_asked(asked: Asked, at_ms: int) -> Spoken:
    kind = PREPARE if asked.is_preparation else BIND if asked.is_binding else str(asked.kind)
    return Spoken(
        number=asked.number,
        kind=kind,
        text=mask(asked.text, is_cut=bool(asked.digest)),
        name=asked.name,
        source=asked.source,
        text_bytes=asked.text_bytes,
        digest=asked.digest,
        outcome=ASKED,
        began_ms=at_ms,
        ended_ms=at_ms,
    )


def _spoken(statement: Statement) -> Spoken:
    text = mask(statement.text, is_cut=bool(statement.digest))
    # What a server says about a text with a secret in it may quote the secret.
    error = statement.error[:ERROR_CHARS_MAX] if text == statement.text else ""
    failed = statement.outcome is Outcome.FAILED
    return Spoken(
        number=statement.number,
        kind=str(statement.kind),
        text=text,
        name=statement.name,
        text_bytes=statement.text_bytes,
        digest=statement.digest,
        outcome=str(statement.outcome),
        tags=[result.tag[:200] for result in statement.results[:TAGS_MAX]],
        rows=statement.rows,
        rows_sent=statement.rows_sent,
        bytes_sent=statement.bytes_sent,
        bytes_taken=statement.bytes_taken,
        sqlstate=statement.sqlstate[:5],
        error=error if error or not failed else "(not kept: the statement has a secret in it)",
        began_ms=round(statement.began * 1000),
        ended_ms=round(statement.ended * 1000),
    )
