"""What a project's clients execute, on its way to the record: watched on the wire, kept until it is committed.

    relay ─bytes─▶ Watch ─statements of this level─▶ StatementTrail ─batches─▶ control plane

A session of a project whose level is `off` has no watch, and its relay does not know of one.

What must stay true: a statement is in the queue before its client hears of its end. The queue is never cut short to make
room: while it is above its mark, the clients of projects that fill it are not read, so a control plane that is away stops
audited sessions, rather than have them go on unrecorded. What is under way then still ends, and the queue has room for that;
beyond it, what is lost is counted, and the count is recorded. One project's statements are not another's wait, nor its loss.

The gateway knows a statement by what the server says of it. Functions and DO blocks are one statement, whatever they do; what
they do, the guard notes (`control/computes/touched.py`).
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import StatementRecord
from cloister.base.errors import CloisterError
from cloister.edge.gateway.limits import (
    STATEMENT_BATCH_BYTES_MAX,
    STATEMENT_BATCH_MAX,
    STATEMENT_FLUSH_S,
    STATEMENT_TEXT_CHARS_MAX,
    STATEMENTS_ASSURED_BYTES,
    STATEMENTS_BYTES_HIGH,
    STATEMENTS_BYTES_MAX,
)
from cloister.edge.gateway.memory import Share
from cloister.edge.gateway.trail import Batches, timestamp
from cloister.protocol.pgwire.masking import mask
from cloister.protocol.pgwire.statements import Kind, Observer, Outcome, Statement

if TYPE_CHECKING:
    from cloister.edge.gateway.visit import Visit

log = logging.getLogger(__name__)

_RECORD_BYTES: Final = 900
# Of a record beside what strangers put into it.


def size_of(record: StatementRecord) -> int:
    """Its share of a queue and a batch. Encoded, a character may have four bytes."""
    told = (record.text, record.name, record.role, record.database, *record.tags)
    return _RECORD_BYTES + sum(map(len, told))


_READS: Final = frozenset(
    {
        "SELECT",
        "FETCH",
        "MOVE",
        "SHOW",
        "EXPLAIN",
        "DECLARE CURSOR",
        "CLOSE CURSOR",
        "CLOSE CURSOR ALL",
        "BEGIN",
        "COMMIT",
    }
    | {"ROLLBACK", "START TRANSACTION", "SAVEPOINT", "RELEASE", "PREPARE", "DEALLOCATE", "DEALLOCATE ALL", "LISTEN"}
    | {"UNLISTEN", "NOTIFY", "LOCK TABLE", "DISCARD ALL", "CHECKPOINT", ""}
)
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "CALL", "DO"})
# What is in neither changes what there is, or is new to us: both are recorded from `base` on.


def is_wanted(level: AuditLevel, statement: Statement) -> bool:
    """Whether a project of this level records it."""
    if level is AuditLevel.FULL:
        return True
    if level is AuditLevel.OFF:
        return False
    if statement.outcome in (Outcome.FAILED, Outcome.UNKNOWN, Outcome.SKIPPED) or statement.results_left_out:
        return True
    if _CREATES.search(statement.text) is not None:
        return True
    # A portal of which only some rows were taken has no tag, and has done all that it does.
    words = {result.tag.rstrip("0123456789 ") for result in statement.results} or {"SELECT"}
    is_write = statement.kind is Kind.FUNCTION or not words.isdisjoint(_WRITES)
    if not words.isdisjoint(_MAY_BE_MORE):
        if statement.digest or _INTO.search(statement.text) is not None:
            return True
        is_write = is_write or not statement.text or _CHANGES.search(statement.text) is not None
    return bool(words - _READS - _WRITES) or (is_write and level is AuditLevel.EXTENDED)


_MAY_BE_MORE: Final = frozenset({"SELECT", "EXPLAIN"})
# SELECT INTO, WITH … (DELETE …), EXPLAIN ANALYZE UPDATE, the EXECUTE of what was prepared: the tag says that it was read. So its
# text decides; where that is cut, or is not here, it may say anything.
_CREATES: Final = re.compile(r"\bcreate\b", re.IGNORECASE)
_INTO: Final = re.compile(r"\binto\b", re.IGNORECASE)
_CHANGES: Final = re.compile(r"\b(?:insert|update|delete|merge|execute)\b", re.IGNORECASE)


class _Line:
    """One project's statements that wait to be sent, and its clients that wait for it."""

    def __init__(self) -> None:
        self.records: deque[StatementRecord] = deque()
        self.bytes = 0
        self.lost = 0
        self.holding: set[Callable[[bool], None]] = set()
        self.has_room = asyncio.Event()
        self.has_room.set()

    @property
    def is_idle(self) -> bool:
        return not self.records and not self.lost and not self.holding and self.has_room.is_set()


class StatementTrail(Batches):
    """`add` at any time. Every project has a line of its own: the one that fills the queue is held up, beside those that fill it
    too; who has no more than it is assured of is not, and loses nothing as long as another cannot take more than half of the
    room. A batch takes from each line in turn."""

    def __init__(
        self,
        record: Callable[[list[StatementRecord], dict[str, int]], Awaitable[None]],
        *,
        bytes_high: int = STATEMENTS_BYTES_HIGH,
        bytes_max: int = STATEMENTS_BYTES_MAX,
        assured: int = STATEMENTS_ASSURED_BYTES,
    ) -> None:
        super().__init__(STATEMENT_FLUSH_S)
        self._record = record
        self._bytes_high = bytes_high
        self._bytes_max = bytes_max
        self._assured = min(assured, bytes_high)
        self._lines: dict[str, _Line] = {}
        self._count = 0
        self._bytes = 0

    def is_full(self, project_id: str) -> bool:
        line = self._lines.get(project_id)
        return line is not None and not line.has_room.is_set()

    async def room(self, project_id: str) -> None:
        """Wait until there is some: before a query begins that could not be held up later."""
        if (line := self._lines.get(project_id)) is not None:
            await line.has_room.wait()

    def add(self, record: StatementRecord) -> None:
        size = size_of(record)
        line = self._lines.setdefault(record.project_id, _Line())
        self._has_any.set()
        if self._bytes + size > self._bytes_max or line.bytes + size > self._bytes_max // 2:
            line.lost += 1
            return
        line.records.append(record)
        line.bytes += size
        self._count += 1
        self._bytes += size
        if self._count >= STATEMENT_BATCH_MAX or self._bytes >= STATEMENT_BATCH_BYTES_MAX:
            self._has_batch.set()
        if self._takes_too_much(line):
            line.has_room.clear()

    def hold(self, project_id: str, hold: Callable[[bool], None]) -> None:
        """Stop this client until there is room for its project: `hold(True)` now, `hold(False)` then."""
        line = self._lines[project_id]
        if hold not in line.holding:
            line.holding.add(hold)
            hold(True)

    def forget(self, project_id: str, hold: Callable[[bool], None]) -> None:
        if (line := self._lines.get(project_id)) is not None:
            line.holding.discard(hold)

    def _takes_too_much(self, line: _Line) -> bool:
        return self._bytes >= self._bytes_high and line.bytes >= self._assured

    @property
    def _is_empty(self) -> bool:
        return not self._count and not any(line.lost for line in self._lines.values())

    async def finish(self, running: "asyncio.Task[None]") -> None:
        await super().finish(running)
        if self._count:
            log.error("%d statements were not recorded before the end", self._count)

    async def _send(self) -> bool:
        batch = self._batch()
        lost = {project_id: line.lost for project_id, line in self._lines.items() if line.lost}
        if not batch and not lost:
            return True
        try:
            await self._record(batch, lost)
        except CloisterError as error:
            log.warning("statements cannot be recorded, %d wait: %s", self._count, error)
            return False
        for record in batch:
            line = self._lines[record.project_id]
            line.records.popleft()  # each line's first ones, in their order
            line.bytes -= size_of(record)
            self._bytes -= size_of(record)
        self._count -= len(batch)
        for project_id, count in lost.items():
            self._lines[project_id].lost -= count
        if not self._is_ending:
            if self._bytes < STATEMENT_BATCH_BYTES_MAX and self._count < STATEMENT_BATCH_MAX:
                self._has_batch.clear()
            if self._is_empty:
                self._has_any.clear()
        self._let_go()
        return True

    def _let_go(self) -> None:
        for line in self._lines.values():
            if not line.has_room.is_set() and not self._takes_too_much(line):
                line.has_room.set()
                for hold in list(line.holding):
                    hold(False)
                line.holding.clear()
        self._lines = {project_id: line for project_id, line in self._lines.items() if not line.is_idle}

    def _batch(self) -> list[StatementRecord]:
        """One of each project, then another of each …: whoever has many has no other wait behind all of them."""
        batch: list[StatementRecord] = []
        size = 0
        lines = [iter(line.records) for line in self._lines.values()]
        while lines:
            left = []
            for line in lines:
                if (record := next(line, None)) is None:
                    continue
                left.append(line)
                batch.append(record)
                size += size_of(record)
                if len(batch) >= STATEMENT_BATCH_MAX or size >= STATEMENT_BATCH_BYTES_MAX:
                    return batch
            lines = left
        return batch


class Watch:
    """One session's statements. `from_client` and `from_compute` raise ProtocolViolationError where they cannot follow, and
    RefusedError where they could, but nothing more: either way it must end."""

    def __init__(
        self,
        trail: StatementTrail,
        level: AuditLevel,
        visit: "Visit",
        share: Share,
        clock: Callable[[], float],
        *,
        backend: int,
    ) -> None:
        self._backend = backend
        self._trail = trail
        self._level = level
        self._visit = visit
        assert visit.route is not None
        self._project_id = visit.route.project_id
        self._share = share
        self._clock = clock
        self._observer = Observer()
        self._hold: Callable[[bool], None] | None = None

    def holds(self, hold: Callable[[bool], None]) -> None:
        """How this client is stopped, where it can be."""
        self._hold = hold

    @property
    def rows_out(self) -> int:
        return self._observer.rows_out

    async def room(self) -> None:
        """For who cannot be held: wait until this project has room."""
        await self._trail.room(self._project_id)

    def from_client(self, data: bytes) -> None:
        self._observer.from_client(data, self._clock())
        if self._hold is not None and self._trail.is_full(self._project_id):
            self._trail.hold(self._project_id, self._hold)
        self._share.hold(self._observer.held_bytes)

    def from_compute(self, data: bytes) -> None:
        if ended := self._observer.from_server(data, self._clock()):
            self._add(ended)
        self._share.hold(self._observer.held_bytes)

    def end(self) -> None:
        self._share.hold(0)
        self._add(self._observer.end(self._clock()))
        if self._hold is not None:
            self._trail.forget(self._project_id, self._hold)

    def _add(self, statements: list[Statement]) -> None:
        for statement in statements:
            if is_wanted(self._level, statement):
                self._trail.add(_record(self._visit, statement, self._backend))


def _record(visit: "Visit", statement: Statement, backend: int) -> StatementRecord:
    route, startup = visit.route, visit.startup
    assert route is not None
    assert startup is not None
    text = mask(statement.text, is_cut=bool(statement.digest))
    return StatementRecord(
        at=timestamp(),
        session_id=visit.id,
        project_id=route.project_id,
        branch_id=route.branch_id,
        endpoint_id=route.endpoint_id,
        role=startup.user,
        database=startup.database,
        address=str(visit.address),
        kind=statement.kind,
        outcome=statement.outcome,
        text=text[:STATEMENT_TEXT_CHARS_MAX],
        text_bytes=statement.text_bytes,
        name=statement.name,
        tags=[result.tag[:64] for result in statement.results[:16]],
        rows=statement.rows,
        rows_sent=statement.rows_sent,
        bytes_sent=statement.bytes_sent,
        bytes_taken=statement.bytes_taken,
        sqlstate=statement.sqlstate[:5],
        duration_ms=round((statement.ended - statement.began) * 1000, 3),
        backend=backend,
    )
