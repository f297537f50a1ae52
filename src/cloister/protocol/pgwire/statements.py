"""What a session says to its server, statement by statement: for whoever must record it.

Feed an `Observer` with both directions of a session that has logged in, in the order in which the bytes went by, cut
anywhere. It follows PostgreSQL's rules of which reply belongs to which message (the manual's chapter "Message Flow", and
for what a server ignores while it takes a COPY, its source: copyfromparse.c) and returns each statement once its outcome is
known: simple queries with all their results, executions of prepared ones, COPY both ways, function calls, replication.

Neither side is trusted. Whatever a client has executed is in a statement sooner or later, at the latest in `end`, its text
cut to TEXT_BYTES_MAX. What a server answers can at most be wrong about its own outcomes. Memory is bounded by the limits
below, whatever either says; beyond them, and for bytes that are no protocol, ProtocolViolationError is raised: the observer
knows nothing from then on, and the session should not go on.

Texts are as they were sent, passwords and all: `masking.py` is for those who keep them.
"""

import enum
import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cloister.protocol.pgwire.backend import error_fields
from cloister.protocol.pgwire.frames import ProtocolViolationError
from cloister.protocol.pgwire.skimming import Glance, Skimmer

TEXT_BYTES_MAX: Final = 65_536
# Of one text; longer ones are generated, and a digest tells them apart.
NAMES_BYTES_MAX: Final = 8 << 20
# Of all prepared statements and portals of a session, names and texts. Some 16 000 of the usual size; PostgreSQL itself
# needs several kilobytes for each.
PENDING_MAX: Final = 100_000
# Messages that are under way without a reply. libpq's pipelines and JDBC's batches stay below a few thousand.
PENDING_BYTES_MAX: Final = 16 << 20
# Of the texts of those messages. A server that runs a statement reads no further than its socket's buffer has room for; one that
# reads on and never answers is no PostgreSQL.
RESULTS_MAX: Final = 1_000
# Of one simple query: statements of a script. Beyond it only their number, rows and bytes are counted.
REPLY_BYTES_MAX: Final = 8_192
# Of a reply whose content matters: a command tag has some twenty bytes, an error rarely more than a few hundred.
NAME_BYTES_MAX: Final = 1_024
# Of a prepared statement or portal. The server tells them apart by their first 63 bytes.


class Kind(enum.StrEnum):
    SIMPLE = "simple"
    EXTENDED = "extended"
    FUNCTION = "function"
    """The fast-path call: a function by its oid, without a text."""


class Outcome(enum.StrEnum):
    DONE = "done"
    SUSPENDED = "suspended"
    """The client took some rows of a portal and may come for more: another statement then."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """The server says that it did not run: it was sent behind one that failed, before Sync. Its names were not looked up, so
    an execution has no text here."""
    UNKNOWN = "unknown"
    """The session ended before the reply."""


@dataclass(frozen=True, slots=True)
class Result:
    """One command's end, as the server tells it."""

    tag: str
    """`SELECT 3`, `INSERT 0 1`, `CREATE ROLE`; empty for an empty query or a suspended portal."""

    @property
    def rows(self) -> int:
        """Read, changed or copied, as the tag says; 0 if it says nothing."""
        last = self.tag.rpartition(" ")[2]
        return int(last) if last.isascii() and last.isdigit() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client sent to be prepared or executed, before anything came of it: for whoever must know first."""

    number: int
    """Counts what was asked, from 1; the statement that comes of it has the same."""
    kind: Kind
    is_preparation: bool
    """A text without an execution."""
    is_binding: bool
    """A portal made of one."""
    text: str
    """As in Statement. Empty for a portal and its execution: the text was asked when it was prepared."""
    name: str
    source: str
    """The prepared statement that a portal is made of; empty for everything else, and for the one without a name."""
    text_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    number: int
    """As when it was asked; 0 for what nobody asked, the commit that a Sync makes."""
    kind: Kind
    text: str
    """Undecodable bytes replaced; cut to TEXT_BYTES_MAX. Empty for a function call, for what was prepared or declared in SQL
    (then `name` tells what), and for the commit that Sync makes, if that failed."""
    name: str
    """Of the prepared statement or portal."""
    text_bytes: int
    """As sent."""
    digest: bytes
    """SHA-256 of the message that the text came in, if the text is cut; empty if it is whole."""
    outcome: Outcome
    results: tuple[Result, ...]
    results_left_out: int
    rows: int
    """Over all results, those left out as well."""
    rows_sent: int
    """To the client: DataRow messages."""
    bytes_sent: int
    """To the client, in rows and COPY data."""
    bytes_taken: int
    """From the client, in COPY data."""
    sqlstate: str
    error: str
    began: float
    """When its message had come whole; on the caller's clock, as `ended`."""
    ended: float


@dataclass(frozen=True, slots=True)
class _Text:
    start: bytes = b""
    length: int = 0
    digest: bytes = b""


_NO_TEXT: Final = _Text()


@dataclass(slots=True)
class _Work:
    """A message of the client that the server answers: Q, P, B, D, E, C, S and F. Or c and f, the end of COPY data, which it
    answers only while it takes them."""

    kind: str
    began: float
    number: int = 0
    text: _Text = _NO_TEXT
    name: str = ""
    """Of the prepared statement (P; D and C of one) or portal (B, E; D and C of one)."""
    source: str = ""
    """B: the prepared statement."""
    of_portal: bool = False
    has_ended: bool = False
    """Q that failed and F: all that is missing is ReadyForQuery. Of a script that goes well nobody knows which result is
    its last."""
    results: list[Result] = field(default_factory=list)
    results_left_out: int = 0
    rows: int = 0
    rows_sent: int = 0
    bytes_sent: int = 0
    bytes_taken: int = 0
    sqlstate: str = ""
    error: str = ""
    held_bytes: int = 0
    """Of its text and its results."""


_FROM_CLIENT: Final = {
    "Q": TEXT_BYTES_MAX + 1,
    "P": NAME_BYTES_MAX + TEXT_BYTES_MAX + 1,
    "B": 2 * NAME_BYTES_MAX,
    "E": NAME_BYTES_MAX,
    "D": NAME_BYTES_MAX,
    "C": NAME_BYTES_MAX,
}
_FROM_SERVER: Final = {"C": REPLY_BYTES_MAX, "E": REPLY_BYTES_MAX, "Z": 1}

_UNASKED: Final = frozenset("NAS")
# Notices, notifications and changed settings come at any time and end nothing.

_SERVER_NAME_BYTES: Final = 63
# NAMEDATALEN, with the NUL: longer names are the same name to the server if they begin alike.

_DEALLOCATE: Final = re.compile(
    r"\s*+deallocate\s++(?:prepare\s++)?(?:\"([^\"]{1,63})\"|([a-z_][a-z0-9_$]{0,62}))\s*+;?\s*+", re.IGNORECASE
)
# White space is never given back: of 60 kB of it before a comment, every split would be tried.


class Observer:
    """Of one session, from the first message after its first ReadyForQuery."""

    def __init__(self) -> None:
        self.transaction = "I"
        """As the last ReadyForQuery said: I idle, T in a transaction, E in one that failed."""
        self.rows_out = 0
        """To the client so far: DataRow messages, and those of a COPY, which are a row each."""
        self._client = Skimmer(_FROM_CLIENT)
        self._server = Skimmer(_FROM_SERVER)
        self._pending: deque[_Work] = deque()
        self._pending_bytes = 0
        """Of the texts that wait for a reply, with their results, or were passed over and not told yet."""
        self._prepared: dict[str, _Text] = {}
        self._portals: dict[str, _Text] = {}
        self._names_bytes = 0
        self._taking: _Work | None = None
        """Takes COPY data from the client."""
        self._early_bytes = 0
        """COPY data that came before the server asked for it."""
        self._is_skipping = False
        """The server failed in a pipeline whose Sync has not come by yet, and passes over what comes before it."""
        self._skipped: list[Statement] = []
        self._count = 0

    @property
    def is_unanswered(self) -> bool:
        """The server owes the client a reply."""
        return bool(self._pending)

    @property
    def held_bytes(self) -> int:
        """What all that is known of the session takes, to within a few kilobytes. A text of several names counts for each."""
        works = len(self._pending) + len(self._skipped)
        half_read = self._client.held_bytes + self._server.held_bytes
        return self._names_bytes + self._pending_bytes + _WORK_BYTES * works + half_read

    def from_client(self, data: bytes, now: float) -> list[Asked]:
        """Bytes on their way to the server; what they ask for."""
        asked = []
        for frame in self._client.feed(data):
            work = self._work(frame, now)
            if work is None:
                continue
            if work.kind in ("Q", "P", "B", "E", "F"):
                self._count += 1
                work.number = self._count
                asked.append(_as_asked(work))
            self._await(work, now)
        return asked

    def from_server(self, data: bytes, now: float) -> list[Statement]:
        """Bytes on their way to the client; the statements that end with them."""
        ended = self._take_skipped()
        for frame in self._server.feed(data):
            ended += self._answered(frame, now)
        return ended

    def end(self, now: float) -> list[Statement]:
        """The session is over: what was under way, and nobody knows how it went."""
        ended = self._take_skipped()
        for work in self._pending:
            if work.kind == "P":
                self._prepare(work)
            elif work.kind == "B":
                self._bind(work)
            elif work.kind in ("Q", "E", "F"):
                ended.append(self._statement(work, _outcome(work) if work.has_ended else Outcome.UNKNOWN, now))
        self._pending.clear()
        return ended

    # ── what the client asks ──────────────────────────────────────────────────────────────────────────────────────

    def _work(self, frame: Glance, now: float) -> _Work | None:
        """None for what gets no reply."""
        match frame.kind:
            case "Q":
                return _Work("Q", now, text=_text(frame, 0))
            case "P":
                name, after = _name(frame.body, 0)
                return _Work("P", now, name=name, text=_text(frame, after))
            case "B":
                name, after = _name(frame.body, 0)
                source, _ = _name(frame.body, after)
                return _Work("B", now, name=name, source=source)
            case "D" | "C":
                if frame.body[:1] not in (b"P", b"S"):
                    return None  # the server will refuse it; so it is nothing that could be waited for
                name, _ = _name(frame.body, 1)
                return _Work(frame.kind, now, name=name, of_portal=frame.body[:1] == b"P")
            case "E":
                return _Work("E", now, name=_name(frame.body, 0)[0])
            case "S" | "F" | "c" | "f":
                return _Work(frame.kind, now)
            case "d":
                if self._taking is not None:
                    self._taking.bytes_taken += frame.length
                else:
                    self._early_bytes += frame.length
                return None
            case "H" | "X":
                return None
            case _:
                raise ProtocolViolationError("a message of a type that no client sends")

    def _await(self, work: _Work, now: float) -> None:
        if self._is_skipping:
            if work.kind != "S":
                if len(self._skipped) >= PENDING_MAX:
                    raise ProtocolViolationError("too many messages without a reply")
                if passed := self._passed_over(work, now):
                    self._skipped += passed
                    self._count_in(work)
                return
            self._is_skipping = False
        if len(self._pending) >= PENDING_MAX:
            raise ProtocolViolationError("too many messages without a reply")
        self._pending.append(work)
        self._count_in(work)

    def _count_in(self, work: _Work) -> None:
        work.held_bytes = len(work.text.start)
        self._pending_bytes += work.held_bytes
        if self._pending_bytes > PENDING_BYTES_MAX:
            raise ProtocolViolationError("too much is without a reply")

    def _next(self) -> _Work:
        """What was answered, or will not be."""
        work = self._pending.popleft()
        self._pending_bytes -= work.held_bytes
        return work

    def _take_skipped(self) -> list[Statement]:
        if not self._skipped:
            return []
        skipped, self._skipped = self._skipped, []
        self._pending_bytes = sum(work.held_bytes for work in self._pending)
        return skipped

    # ── what the server answers ───────────────────────────────────────────────────────────────────────────────────

    def _answered(self, frame: Glance, now: float) -> list[Statement]:
        if frame.kind in _UNASKED:
            return []
        while self._pending and self._pending[0].kind in ("c", "f"):
            self._next()  # the end of COPY data that nobody takes any more
        head = self._pending[0] if self._pending else None
        asked = head.kind if head is not None and not head.has_ended else ""
        match frame.kind, asked:
            case "E", _:
                return self._failed(head, frame, now)
            case "Z", _:
                return self._ready(head, frame, now)
            case "D", "Q" | "E":
                assert head is not None
                head.rows_sent += 1
                self.rows_out += 1
                head.bytes_sent += frame.length
            case "d", "Q" | "E":
                assert head is not None
                self.rows_out += 1
                head.bytes_sent += frame.length
            case "C", "Q" | "E":
                assert head is not None
                return self._completed(head, frame, now)
            case "I", "Q":
                assert head is not None
                self._add_result(head, Result(""))
            case "I" | "s", "E":
                self._next()
                assert head is not None
                return [self._statement(head, Outcome.SUSPENDED if frame.kind == "s" else Outcome.DONE, now)]
            case "G" | "W", "Q" | "E":
                assert head is not None
                self._taking = head
                head.bytes_taken += self._early_bytes
                self._early_bytes = 0
            case "1", "P":
                assert head is not None
                self._next()
                self._prepare(head)
            case "2", "B":
                assert head is not None
                self._next()
                self._bind(head)
            case "3", "C":
                assert head is not None
                self._next()
                self._forget(self._portals if head.of_portal else self._prepared, head.name)
            case "T" | "n", "D":
                self._next()
            case "V", "F":
                assert head is not None
                head.has_ended = True
            case "T" | "t" | "H" | "c", _:
                pass  # the shape of what comes, which ends nothing
            case _:
                raise ProtocolViolationError("the server answered what was not asked")
        return []

    def _completed(self, head: _Work, frame: Glance, now: float) -> list[Statement]:
        result = Result(frame.body.rstrip(b"\0").decode("utf-8", "replace"))
        self._add_result(head, result)
        if self._taking is head:
            self._stop_taking()
        if result.tag in ("DEALLOCATE ALL", "DISCARD ALL"):
            for name in list(self._prepared):
                self._forget(self._prepared, name)
        elif result.tag == "DEALLOCATE" and (found := _DEALLOCATE.fullmatch(_decoded(self._text_of(head).start))):
            self._forget(self._prepared, found[1] or found[2].lower())
        if head.kind == "Q":
            return []
        self._next()
        return [self._statement(head, Outcome.DONE, now)]

    def _failed(self, head: _Work | None, frame: Glance, now: float) -> list[Statement]:
        if head is None or head.has_ended:
            return []  # the server ends the session, or says so in between
        fields = error_fields(frame.body)
        head.sqlstate, head.error = fields.get("C", ""), fields.get("M", "")
        if self._taking is head:
            self._stop_taking()
        if head.kind in ("Q", "F"):
            head.has_ended = True
            return []
        failed = [self._statement(head, Outcome.FAILED, now)]
        if head.kind != "S":
            # The server passes over all that follows, until the next Sync, which may not have been sent yet; that is not
            # even parsed there. Or so it says: what it was sent is told all the same.
            self._next()
            while self._pending and self._pending[0].kind != "S":
                failed += self._passed_over(self._next(), now)
            self._is_skipping = not self._pending
        return failed

    def _passed_over(self, work: _Work, now: float) -> list[Statement]:
        if work.kind not in ("Q", "E", "F"):
            return []
        return [self._statement(work, Outcome.SKIPPED, now)]

    def _ready(self, head: _Work | None, frame: Glance, now: float) -> list[Statement]:
        self.transaction = frame.body.decode("latin-1")
        self._is_skipping = False
        if head is None or not (head.kind == "S" or head.has_ended or (head.kind == "Q" and head.results)):
            return []  # of a Sync that was thought to have been passed over: see _stop_taking
        self._next()
        if self.transaction == "I":
            for name in list(self._portals):
                self._forget(self._portals, name)
        if head.kind == "S":
            return []
        if head.kind == "Q":
            self._forget(self._prepared, "")
        return [self._statement(head, _outcome(head), now)]

    def _stop_taking(self) -> None:
        """While a server takes COPY data it passes over Sync, which libpq sends before it knows that there will be data to
        send. So those up to the end of the data are nothing to wait for; if the server failed before the data ended, those
        that are there. Had it failed before it read them, ReadyForQuery comes once more than is thought."""
        assert self._taking is not None
        head = self._pending.popleft()
        while self._pending and self._pending[0].kind == "S":
            self._next()
        if self._pending and self._pending[0].kind in ("c", "f"):
            self._next()
        self._pending.appendleft(head)
        self._taking = None

    # ── what it stands for ────────────────────────────────────────────────────────────────────────────────────────

    def _add_result(self, work: _Work, result: Result) -> None:
        work.rows += result.rows
        if len(work.results) < RESULTS_MAX:
            work.results.append(result)
            work.held_bytes += _RESULT_BYTES + len(result.tag)
            self._pending_bytes += _RESULT_BYTES + len(result.tag)
        else:
            work.results_left_out += 1

    def _prepare(self, work: _Work) -> None:
        self._keep(self._prepared, work.name, work.text)

    def _bind(self, work: _Work) -> None:
        self._keep(self._portals, work.name, self._prepared.get(work.source, _NO_TEXT))

    def _keep(self, names: dict[str, _Text], name: str, text: _Text) -> None:
        self._forget(names, name)
        names[name] = text
        self._names_bytes += _cost(name, text)
        if self._names_bytes > NAMES_BYTES_MAX:
            raise ProtocolViolationError("too many prepared statements")

    def _forget(self, names: dict[str, _Text], name: str) -> None:
        if (text := names.pop(name, None)) is not None:
            self._names_bytes -= _cost(name, text)

    def _text_of(self, work: _Work) -> _Text:
        match work.kind:
            case "B":
                return self._prepared.get(work.source, _NO_TEXT)
            case "E":
                return self._portals.get(work.name, _NO_TEXT)
            case "D" | "C":
                return (self._portals if work.of_portal else self._prepared).get(work.name, _NO_TEXT)
            case _:
                return work.text

    def _statement(self, work: _Work, outcome: Outcome, now: float) -> Statement:
        # An execution that was skipped may mean a portal that would have been made by what was skipped before it.
        text = work.text if outcome is Outcome.SKIPPED else self._text_of(work)
        return Statement(
            number=work.number,
            kind=_KINDS.get(work.kind, Kind.EXTENDED),
            text=_decoded(text.start),
            name=work.source if work.kind == "B" else work.name,
            text_bytes=text.length,
            digest=text.digest,
            outcome=outcome,
            results=tuple(work.results),
            results_left_out=work.results_left_out,
            rows=work.rows,
            rows_sent=work.rows_sent,
            bytes_sent=work.bytes_sent,
            bytes_taken=work.bytes_taken,
            sqlstate=work.sqlstate,
            error=work.error,
            began=work.began,
            ended=now,
        )


_KINDS: Final = {"Q": Kind.SIMPLE, "F": Kind.FUNCTION}

_ENTRY_BYTES: Final = 200
# Of a name that is kept, beside what it holds: the dictionary, the string, the text's own object.
_WORK_BYTES: Final = 512
# Of a message that waits for its reply, beside its text; names are cut to _SERVER_NAME_BYTES.
_RESULT_BYTES: Final = 120
# As measured, all three (CPython 3.11).


def _as_asked(work: _Work) -> Asked:
    return Asked(
        number=work.number,
        kind=_KINDS.get(work.kind, Kind.EXTENDED),
        is_preparation=work.kind == "P",
        is_binding=work.kind == "B",
        text=_decoded(work.text.start),
        name=work.name,
        source=work.source,
        text_bytes=work.text.length,
        digest=work.text.digest,
    )


def _cost(name: str, text: _Text) -> int:
    return _ENTRY_BYTES + len(name) + len(text.start)


def _outcome(work: _Work) -> Outcome:
    return Outcome.FAILED if work.sqlstate or work.error else Outcome.DONE


def _name(body: bytes, start: int) -> tuple[str, int]:
    """A name and where what follows begins."""
    end = body.find(b"\0", start)
    if end < 0 or end - start > NAME_BYTES_MAX:
        raise ProtocolViolationError("a name does not end")
    return body[start:end][:_SERVER_NAME_BYTES].decode("latin-1"), end + 1


def _text(frame: Glance, start: int) -> _Text:
    end = frame.body.find(b"\0", start)
    if end >= 0 and end - start <= TEXT_BYTES_MAX:
        return _Text(frame.body[start:end], end - start)
    if end < 0 and not frame.digest:
        raise ProtocolViolationError("a text does not end")
    whole = frame.digest or hashlib.sha256(frame.body).digest()
    return _Text(frame.body[start : start + TEXT_BYTES_MAX], frame.length - start - 1, whole)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")
