"""What was done inside a compute, into the statement log: the guard notes it (guard/src/touched.c), the platform reads it with
every look, seals it beside what the gateways saw, and then has it forgotten. Whoever dies in between causes lines twice, never
none.

The level travels the other way on the same occasion: a compute is started with its project's, and told of another one with
the next look. What the guard had no room for, and what a server took with it that went down before it was read, is a gap in the
log (`statements.gap`).

A server that its tenant has taken over may say here what it likes, also nothing. So its answer is parsed within bounds, and it
speaks of its own project only; what was read before is sealed.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cloister.base.audit_levels import AuditLevel
from cloister.base.database import Database
from cloister.base.directory import StatementRecord
from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.computes import store
from cloister.control.computes.tallies import Place
from cloister.protocol.pgwire.masking import mask
from cloister.trust.audit.statements import StatementLog, gap

KIND: Final = "inside"
"""Of a record that a guard made. The others are a gateway's."""

LINES_MAX: Final = 1024
TEXT_BYTES: Final = 1000
# As the guard has them.

_SOURCE: Final = "platform:guard"
_LEVELS: Final = tuple(AuditLevel)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
# PostgreSQL's.

_NUMBER: Final = r"([0-9]{1,18})"
_HEAD: Final = re.compile(rf"{_NUMBER} ([0-3]) {_NUMBER} {_NUMBER}")
_NAME: Final = r"x((?:[0-9a-f]{2}){0,63})"
_LINE: Final = re.compile(
    # times, rows, began, ended, pid, is it a worker, access, bytes of the text, six names, the text
    rf"{_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER} ([0-9]{{1,9}}) ([01]) ([0-9]|1[0-5]) ([0-9]{{1,9}})"
    rf" {_NAME} {_NAME} {_NAME} {_NAME} {_NAME} {_NAME} x((?:[0-9a-f]{{2}}){{0,{TEXT_BYTES}}})"
)
_ACCESSES: Final = ("read", "insert", "update", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """So many times this statement, on this table, by this session."""

    login: str
    role: str
    """Whose rights it had: another one in a SECURITY DEFINER function."""
    database: str
    schema: str
    relation: str
    access: str
    command: str
    times: int
    rows: int
    """Of the statement, where it came to its end."""
    began: datetime
    ended: datetime
    pid: int
    is_worker: bool
    text: str
    """Where it came from within, and then not masked."""
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Touched:
    epoch: int = 0
    level: AuditLevel = AuditLevel.OFF
    total: int = 0
    lost: int = 0
    lines: tuple[Line, ...] = ()


class Server(Protocol):
    async def touched(self) -> Touched | None:
        """None of a server whose guard does not note."""
        ...

    async def take_touched(self, found: Touched, level: AuditLevel) -> None:
        """What was found is forgotten; this is the level from now on."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """At the last look: which server it was, and the level that it was told."""

    generation: int
    epoch: int
    level: AuditLevel


class Inside:
    """Reads what computes noted. `look` with every look at one, and before it ends."""

    def __init__(self, database: Database, log: StatementLog) -> None:
        self._database = database
        self._log = log
        self._seen: dict[EndpointId, _Seen] = {}
        """Lost at a restart of ours: then the next look is the first."""

    async def look(self, server: Server, place: Place, generation: int) -> None:
        """Raises UnavailableError."""
        found = await server.touched()
        if found is None:
            return
        async with self._database.reading() as tx:
            level = await store.audit_level(tx, place.project_id)
        before = self._seen.get(place.id)
        was_lost = (
            before is not None
            and before.generation == generation
            and before.epoch != found.epoch
            and before.level is not AuditLevel.OFF
        )
        if found.lines or found.lost or was_lost:
            await self._write(found, place, was_lost=was_lost)
        self._seen[place.id] = _Seen(generation, found.epoch, level)
        if found.lines or found.lost or found.level is not level:
            await server.take_touched(found, level)

    async def _write(self, found: Touched, place: Place, *, was_lost: bool) -> None:
        gaps = []
        if found.lost:
            gaps.append(gap(_SOURCE, place.project_id, found.lost, endpoint_id=place.id))
        if was_lost:
            gaps.append(gap(_SOURCE, place.project_id, None, endpoint_id=place.id, reason="server_restarted"))
        records = [_record(line, place) for line in found.lines]
        await self._log.keep({place.project_id: records} if records else {}, gaps, source=_SOURCE)

    def keep_only(self, running: Container[EndpointId]) -> None:
        """Forget all others: they do not run any more."""
        self._seen = {each: seen for each, seen in self._seen.items() if each in running}


def _record(line: Line, place: Place) -> StatementRecord:
    is_cut = line.text_bytes > len(line.text.encode())
    return StatementRecord(
        at=line.ended.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        session_id="",
        project_id=place.project_id,
        branch_id=place.branch_id,
        endpoint_id=place.id,
        role=line.login,
        database=line.database,
        address="",
        kind=KIND,
        outcome="noted",
        text=mask(line.text, is_cut=is_cut),
        text_bytes=line.text_bytes,
        tags=[line.command],
        rows=line.rows,
        touched=f"{line.access} {_quoted(line.schema)}.{_quoted(line.relation)}" if line.relation else "",
        acting_as=line.role if line.role != line.login else "",
        times=line.times,
        backend=line.pid,
        duration_ms=0.0,
    )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else '"{}"'.format(name.replace('"', '""'))


def order(found: Touched, level: AuditLevel) -> str:
    """What `guard.touched` is set to."""
    return f"{found.total} {found.lost} {_LEVELS.index(level)}"


def parse(text: str) -> Touched:
    """`SHOW guard.touched`. Raises UnavailableError for what no guard says."""
    head, *lines = text.split("\n", LINES_MAX + 1)
    numbers = _HEAD.fullmatch(head)
    matches = [_LINE.fullmatch(line) for line in lines]
    if numbers is None or len(matches) > LINES_MAX or None in matches:
        raise UnavailableError("the branch's server answers something else than what was done in it")
    epoch, level, total, lost = map(int, numbers.groups())
    return Touched(epoch, _LEVELS[level], total, lost, tuple(_line(match) for match in matches if match is not None))


def _line(match: re.Match[str]) -> Line:
    times, rows, began, ended, pid, is_worker, access, text_bytes = map(int, match.groups()[:8])
    login, role, database, schema, relation, command, text = (
        bytes.fromhex(said).decode(errors="replace") for said in match.groups()[8:]
    )
    return Line(
        login=login,
        role=role,
        database=database,
        schema=schema,
        relation=relation,
        access=", ".join(name for bit, name in enumerate(_ACCESSES) if access & 1 << bit),
        command=command,
        times=times,
        rows=rows,
        began=_moment(began),
        ended=_moment(ended),
        pid=pid,
        is_worker=bool(is_worker),
        text=text,
        text_bytes=text_bytes,
    )


def _moment(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise UnavailableError("the branch's server names a moment that there is not") from None
