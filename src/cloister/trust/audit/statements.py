"""The statement log: what a project's clients executed, in sealed segments that the audit log vouches for.

A segment is some seconds of one project's statements, compressed and encrypted for the project's key of the month
(`segments.py`). In the transaction that writes it an event `statements.seal` is appended, with the segment's SHA-256: so the
log's chain, tree and checkpoints cover every statement, at one event for up to a thousand. Reading holds each segment to its
event, and asks the key broker, who records it, for the keys of those that are read.

What it finds: a segment that was edited, or that another was put in place of (the digest is another), one that was taken
away (its event is there). Who may change both has to get past `cloister audit verify`.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from cloister.base.database import Database, Transaction
from cloister.base.directory import StatementRecord
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError
from cloister.trust.audit import segments
from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event
from cloister.trust.audit.log import record

if TYPE_CHECKING:
    from cloister.trust.keys.commands import OnBehalf

SEGMENTS_MAX: Final = 64
PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
# Read at once, of segments and of what is in them: nobody can search what is encrypted, so all of it is opened. A page has one
# segment at least, and may have fewer than were asked for.


class Broker(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def make_statement_key(self, project_id: str, generation: int) -> tuple[bytes, bytes]: ...

    async def open_statement_keys(
        self, project_id: str, generation: int, wrapped: bytes, shares: Sequence[bytes], by: "OnBehalf"
    ) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class _Key:
    generation: int
    public: bytes


class StatementLog:
    """Writes segments, and opens them. `former` opens those from before keys were the broker's."""

    def __init__(self, database: Database, broker: Broker, former: segments.Former) -> None:
        self._database = database
        self._broker = broker
        self._former = former

    async def keep(
        self, statements: Mapping[str, Sequence[StatementRecord]], gaps: Sequence[Event] = (), *, source: str
    ) -> None:
        """One segment for each project, and their events, and those of what had to be given up. Projects must exist. `source`
        is whose word it is: a gateway's, or a compute's guard's. Raises UnavailableError: nothing was kept, say it again.

        1. Whose key is of this month? For who has none, the broker makes one; while it is away, nobody's statements are
           kept, and they wait.
        2. Where it refuses to, because the project's keys are disabled, the last month's goes on: what runs is recorded.
           Without that either, nothing can be sealed, and the log says how much was not.
        3. Segments and events, in one transaction.
        """
        refused: set[str] = set()
        while True:
            async with self._database.transaction() as tx:
                keys = await _keys(tx, statements, of_any_month=refused)
                if not (missing := statements.keys() - keys.keys() - refused):
                    unsealed = [
                        gap(source, each, len(statements[each]), reason="no_key") for each in refused - keys.keys()
                    ]
                    await _append(tx, keys, statements, [*gaps, *unsealed], source)
                    return
            refused |= {each for each in missing if not await self._make_key(each)}

    async def _make_key(self, project_id: str) -> bool:
        """False if its keys may not be used. Of two who make one, one was first."""
        async with self._database.reading() as tx:
            generation: int = await tx.fetch_value(
                "SELECT coalesce(max(generation), 0) + 1 FROM statement_key WHERE project_id = $1", project_id
            )
        try:
            public, wrapped = await self._broker.make_statement_key(project_id, generation)
        except (PreconditionError, ConflictError, NotFoundError):
            return False
        async with self._database.transaction() as tx:
            await tx.execute(
                """INSERT INTO statement_key (project_id, generation, public, wrapped) VALUES ($1, $2, $3, $4)
                   ON CONFLICT DO NOTHING""",
                project_id,
                generation,
                public,
                wrapped,
            )
        return True

    async def read(self, project_id: str, *, before: int | None, limit: int, by: "OnBehalf") -> "list[Segment]":
        """A page, newest first: `limit` at most, and one at least if there is one; of those that were erased, how much it was.
        Raises ConflictError for the first that is not what was sealed, or that was taken away; PreconditionError where the
        project's keys may not be used."""
        async with self._database.reading() as tx:
            page = await _page(tx, project_id, before=before, limit=limit)
        await asyncio.to_thread(_hold, page)
        by_envelope: defaultdict[tuple[int, bytes], list[Sealed]] = defaultdict(list)
        for each in page:
            if each.generation is not None and each.wrapped is not None:
                by_envelope[each.generation, each.wrapped].append(each)
        keys: dict[int, bytes] = {}
        for (generation, wrapped), some in by_envelope.items():
            shares = [(each.body or b"")[: segments.SHARE_BYTES] for each in some]
            found = await self._broker.open_statement_keys(project_id, generation, wrapped, shares, by)
            keys |= {each.id: key for each, key in zip(some, found, strict=True)}
        return await asyncio.to_thread(self._opened, project_id, page, keys)

    def _opened(self, project_id: str, page: "Sequence[Sealed]", keys: Mapping[int, bytes]) -> "list[Segment]":
        """As many of them, from the newest on, as an answer has. It computes for some ten milliseconds: for a thread."""
        found: list[Segment] = []
        size = 0
        for each in page:
            if size >= PAGE_BYTES_MAX:
                break
            body = each.body or b""
            if each.erased_at is not None:
                found.append(Segment(each.id, [], each.count, each.erased_at))
                continue
            if each.id in keys:
                statements, length = segments.open_sized(keys[each.id], body)
            else:
                statements, length = self._former.open_sized(project_id, body)
            found.append(Segment(each.id, statements, len(statements)))
            size += length
        return found


async def _keys(tx: Transaction, project_ids: Collection[str], *, of_any_month: Collection[str]) -> dict[str, _Key]:
    """None of them ends before the transaction does: what is sealed for a key that was just erased nobody reads, and nobody was told."""
    rows = await tx.fetch(
        """SELECT project_id, generation, public FROM statement_key k
            WHERE project_id = ANY ($1)
              AND wrapped IS NOT NULL
              AND (began_at >= date_trunc('month', now(), 'UTC') OR project_id = ANY ($2))
              AND NOT EXISTS (SELECT FROM statement_key newer
                               WHERE newer.project_id = k.project_id AND newer.generation > k.generation
                                 AND newer.wrapped IS NOT NULL)
            ORDER BY project_id FOR SHARE OF k""",
        list(project_ids),
        list(of_any_month),
    )
    return {row["project_id"]: _Key(row["generation"], row["public"]) for row in rows}


async def _append(
    tx: Transaction,
    keys: Mapping[str, _Key],
    statements: Mapping[str, Sequence[StatementRecord]],
    gaps: Sequence[Event],
    source: str,
) -> None:
    events = [*gaps]
    for project_id, key in keys.items():
        some = statements[project_id]
        body = segments.seal(key.public, project_id, key.generation, some)
        number = await tx.fetch_value(
            "INSERT INTO statement_segment (project_id, statements, body, generation) VALUES ($1, $2, $3, $4) RETURNING id",
            project_id,
            len(some),
            body,
            key.generation,
        )
        details = {
            "statements": len(some),
            "first_at": min(each.at for each in some),
            "last_at": max(each.at for each in some),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        events.append(
            Event(
                action=Action.STATEMENTS_SEAL,
                actor=source,
                project_id=project_id,
                resource=f"segment/{number}",
                details=details,
            )
        )
    await record(tx, *events)


def gap(source: str, project_id: str, count: int | None, *, endpoint_id: str = "", reason: str = "no_room") -> Event:
    """So many statements were not kept; None: nobody knows how many."""
    return Event(
        action=Action.STATEMENTS_GAP,
        actor=source,
        outcome="failed",
        project_id=project_id,
        endpoint_id=endpoint_id,
        reason=reason,
        details={} if count is None else {"statements": count},
    )


@dataclass(frozen=True, slots=True)
class Held:
    """What became of all segments there ever were."""

    segments: int
    erased: int
    """Of these, so many nobody can read any more, and the log says who wanted that."""
    wrong: str | None
    """What is wrong with the first that is not as its event says."""


async def verify_segments(database: Database) -> Held:
    """Hold every segment of every project to its event, and every erasure, of a recording too, to its own; what ended by its age
    had been kept for a year at least. The events are what `verify` is for.

    Any role that may read both can do this: no key is needed, also of what was erased."""
    async with database.transaction() as tx:
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        counts = await tx.fetch_row(
            """SELECT count(*) AS segments, count(k.erased_at) AS erased
                 FROM statement_segment s LEFT JOIN statement_key k USING (project_id, generation)"""
        )
        assert counts is not None
        wrong: str | None = await tx.fetch_value(_FIRST_WRONG_SEGMENT, Action.STATEMENTS_SEAL.value)
        if wrong is None:
            wrong = await tx.fetch_value(
                _FIRST_SILENT_ERASURE,
                Action.AUDIT_ERASE.value,
                Action.AUDIT_PRUNE.value,
                Action.RECORDING_START.value,
                Action.RECORDING_END.value,
            )
        if wrong is None:
            wrong = await tx.fetch_value(
                _FIRST_EARLY_END,
                Action.AUDIT_PRUNE.value,
                Action.STATEMENTS_SEAL.value,
                Action.RECORDING_START.value,
                Action.RECORDING_END.value,
            )
    return Held(counts["segments"], counts["erased"], wrong)


_FIRST_WRONG_SEGMENT: Final = """
    SELECT CASE WHEN s.id IS NULL THEN format('segment %s of %s was sealed, and is gone', e.id, e.project_id)
                WHEN e.id IS NULL THEN format('segment %s of %s was never sealed', s.id, s.project_id)
                ELSE format('segment %s of %s is not what was sealed', s.id, s.project_id) END
      FROM (SELECT substr(body::jsonb ->> 'resource', 9)::bigint AS id, project_id,
                   body::jsonb -> 'details' ->> 'sha256' AS sha256
              FROM audit_event
             WHERE action = $1 AND body::jsonb ->> 'resource' ~ '^segment/[0-9]{1,18}$') e
      FULL JOIN statement_segment s ON s.id = e.id AND s.project_id = e.project_id
     WHERE s.id IS NULL OR e.id IS NULL OR encode(sha256(s.body), 'hex') IS DISTINCT FROM e.sha256
     ORDER BY coalesce(s.id, e.id) LIMIT 1"""

_FIRST_SILENT_ERASURE: Final = """
    SELECT format('statement_key/%s of %s was erased, and no event says so', k.generation, k.project_id)
      FROM statement_key k
     WHERE k.erased_at IS NOT NULL AND NOT EXISTS (
           SELECT FROM audit_event e
            WHERE e.action IN ($1, $2) AND e.project_id = k.project_id
              AND e.body::jsonb ->> 'resource' = format('statement_key/%s', k.generation))
       AND (NOT EXISTS (SELECT FROM audit_minimum WHERE reached_at IS NOT NULL)
            OR EXISTS (SELECT FROM statement_segment s WHERE s.project_id = k.project_id AND s.generation = k.generation))
     UNION ALL
    SELECT format('recording/%s of %s was erased, and no event says so', c.id, c.project_id)
      FROM recording c
     WHERE c.erased_at IS NOT NULL AND NOT EXISTS (
           SELECT FROM audit_event e
            WHERE e.action = $2 AND e.project_id = c.project_id
              AND e.body::jsonb ->> 'resource' = format('recording/%s', c.id))
       AND (NOT EXISTS (SELECT FROM audit_minimum WHERE reached_at IS NOT NULL)
            OR EXISTS (SELECT FROM audit_event e WHERE e.action IN ($3, $4) AND e.body::jsonb ->> 'resource' = c.id::text))
     LIMIT 1"""
# Where the log's own events were pruned, the event of an erasure goes after those of what was erased, and with the last of these nothing
# is left that it tells of.

_FIRST_EARLY_END: Final = """
    SELECT format('%s of %s was erased by its age, and was younger than a year', a.body::jsonb ->> 'resource', a.project_id)
      FROM audit_event a
      JOIN (SELECT s.project_id, format('statement_key/%s', s.generation) AS resource, e.at
              FROM statement_segment s
              JOIN audit_event e ON e.action = $2 AND e.project_id = s.project_id
                                AND e.body::jsonb ->> 'resource' = format('segment/%s', s.id)
             WHERE EXISTS (SELECT FROM statement_key k
                            WHERE k.project_id = s.project_id AND k.generation = s.generation AND k.erased_at IS NOT NULL)
             UNION ALL
            SELECT project_id, format('recording/%s', body::jsonb ->> 'resource'), at
              FROM audit_event WHERE action IN ($3, $4)) e
           ON e.project_id = a.project_id AND e.resource = a.body::jsonb ->> 'resource'
     WHERE a.action = $1
       AND CASE WHEN pg_input_is_valid(a.at, 'timestamptz')
                THEN e.at > to_char(a.at::timestamptz AT TIME ZONE 'UTC' - interval '365 days', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                ELSE true END
     ORDER BY a.seq LIMIT 1"""
# The log says when something was recorded; the tables say what whoever rules the control database wants.


@dataclass(frozen=True, slots=True)
class Segment:
    id: int
    statements: list[StatementRecord]
    count: int
    erased_at: datetime | None = None
    """Since then its statements are gone; `count` says how many there were."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment as it lies in the table, and what its event says of it; None for what is not there."""

    id: int
    body: bytes | None
    sha256: str | None
    generation: int | None
    """None: from before there were such keys."""
    wrapped: bytes | None
    erased_at: datetime | None
    """Its key's end: then nobody opens it any more."""
    count: int


async def _page(tx: Transaction, project_id: str, *, before: int | None, limit: int) -> list[Sealed]:
    """Segments, newest first, and events whose segment is gone."""
    rows = await tx.fetch(
        """SELECT id, body, sha256, page.generation, page.statements, k.wrapped, k.erased_at
             FROM (SELECT coalesce(s.id, e.id) AS id, s.body, s.generation, s.statements, e.sha256,
                          sum(octet_length(s.body)) OVER newer - octet_length(s.body) AS bytes_before
                     FROM (SELECT substr(body::jsonb ->> 'resource', 9)::bigint AS id,
                                  body::jsonb -> 'details' ->> 'sha256' AS sha256
                             FROM audit_event
                            WHERE project_id = $1 AND action = $2
                              AND body::jsonb ->> 'resource' ~ '^segment/[0-9]{1,18}$') e
                     FULL JOIN (SELECT id, body, generation, statements FROM statement_segment WHERE project_id = $1) s ON s.id = e.id
                    WHERE $3::bigint IS NULL OR coalesce(s.id, e.id) < $3
                   WINDOW newer AS (ORDER BY coalesce(s.id, e.id) DESC)) page
             LEFT JOIN statement_key k ON k.project_id = $1 AND k.generation = page.generation
            WHERE coalesce(bytes_before, 0) < $5
            ORDER BY id DESC LIMIT $4""",
        project_id,
        Action.STATEMENTS_SEAL.value,
        before,
        max(1, min(limit, SEGMENTS_MAX)),
        PAGE_BYTES_MAX,
    )
    return [
        Sealed(
            row["id"],
            row["body"],
            row["sha256"],
            row["generation"],
            row["wrapped"],
            row["erased_at"],
            row["statements"] or 0,
        )
        for row in rows
    ]


def _hold(page: Sequence[Sealed]) -> None:
    """Each to its event in the audit log. Raises ConflictError."""
    for each in page:
        if each.body is None:
            raise ConflictError(public=f"segment {each.id} of the statement log was sealed, and is gone")
        if each.sha256 != hashlib.sha256(each.body).hexdigest():
            raise ConflictError(public=f"segment {each.id} of the statement log is not what was sealed")
