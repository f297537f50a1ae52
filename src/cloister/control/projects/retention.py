"""For how long what is recorded is kept: a class of it at a time, as its organization says; and its end, when that is over.

To keep something for longer takes one person and holds at once. For shorter it takes two, and a week in which somebody else can
say otherwise: whatever is set meanwhile for longer comes before it. What is erased is keys, as when two people erase
(`erasures.py`): what was sealed stays, unreadable, and every proof with it. All of this the database holds as well (migration
0025): it lets no key end that is not old enough, whoever asks.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, CloisterError, NotFoundError
from cloister.base.ids import OrgId
from cloister.control.agreeing import require_a_person, require_another, require_in_time
from cloister.control.calling import Caller
from cloister.control.projects.erasures import Seals
from cloister.control.repeating import repeat
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.audit.minimum import DAYS_MIN as EVENTS_DAYS_MIN
from cloister.trust.keys.commands import OnBehalf

_log = logging.getLogger(__name__)

DAYS_MIN: Final = 365
"""Whoever did something hopes that it is forgotten before somebody looks: a year is what auditors ask for."""

DAYS_MAX: Final = 36_500

EVENTS_MAX: Final = 100_000
# That a preview looks at.

SHORTER_AFTER: Final = timedelta(days=7)
"""Between the word of the second person and a shorter retention."""

LISTED_MAX: Final = 100

PRUNE_EVERY_S: Final = 3600.0
# What was kept for a year does not wait for longer than that. Where nothing is old enough, a pass is two look-ups in indexes.

_BY: Final = OnBehalf(actor="platform:api")


class Class(StrEnum):
    """A kind of record, whose key can end by itself."""

    STATEMENTS = "statements"
    """What clients executed, a month at a time."""
    RECORDINGS = "recordings"
    """Of approved access, a session at a time."""
    EVENTS = "events"
    """The audit log's own, which no organization says: two operators do. They go in tiles (`trust/audit/pruning.py`), and no key ends."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What somebody said about a class. `days` None: without end."""

    id: UUID
    org_id: str | None
    """None: the platform's."""
    what: Class
    days: int | None
    reason: str
    asked_by: str
    """An e-mail address, as the next."""
    asked_at: datetime
    agreed_by: str | None
    holds_from: datetime | None
    """None: it is shorter, and nobody else has agreed."""
    state: str
    """`holds`; `asked` and `agreed`, while it may come to hold; `over`, since something was set after it."""


@dataclass(frozen=True, slots=True)
class Old:
    """What of one project has been kept for long enough."""

    what: Class
    project_id: str
    resource: str
    """As its event names it."""
    statements: int
    first_at: datetime
    last_at: datetime
    is_held: bool
    """By a legal hold: it stays."""


@dataclass(frozen=True, slots=True)
class Prunable:
    """What of the log's own events went, and what would."""

    pruned: int
    """The last event that went; 0: every event is there."""
    up_to: int
    """The last that would go."""
    kept_by: str
    """What keeps the next: `age`, `hold`, `statements`, `recording`, `sentinel`, `export` (migration 0029)."""
    announced: int | None
    """Up to which the log says that they go, and they are still there."""


class RetentionService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, org_id: OrgId | None) -> list[Retention]:
        """What holds and what was asked for, newest first. Without an organization: of the log's own events."""
        async with self._database.reading() as tx:
            return [_retention(row) for row in await tx.fetch(_RETENTIONS, org_id, None, LISTED_MAX)]

    async def preview(self, org_id: OrgId, what: Class, days: int | None) -> list[Old]:
        """What would go today if `days` held, or does if nothing is said. Nothing does by asking."""
        _check(what, days)
        async with self._database.reading() as tx:
            return await _old(tx, org_id=org_id, what=what, days=days)

    async def preview_events(self, days: int | None) -> Prunable:
        """As `preview`, of the log's own events."""
        _check(Class.EVENTS, days)
        async with self._database.reading() as tx:
            held = days if days is not None else await tx.fetch_value("SELECT retention_of(NULL, 'events')")
            row = await tx.fetch_row("SELECT up_to, kept_by FROM audit_prunable($1, $2)", held, EVENTS_MAX)
            assert row is not None
            return Prunable(
                pruned=await tx.fetch_value(
                    "SELECT coalesce(max(seq), 0) FROM audit_minimum WHERE reached_at IS NOT NULL"
                ),
                up_to=row["up_to"],
                kept_by=row["kept_by"],
                announced=await tx.fetch_value("SELECT seq FROM audit_minimum WHERE reached_at IS NULL"),
            )

    async def set(self, caller: Caller, org_id: OrgId | None, what: Class, days: int | None, reason: str) -> Retention:
        """If it is no shorter than what holds, it holds at once; otherwise somebody else has to agree. Raises ForbiddenError."""
        require_a_person(caller)
        _check(what, days)
        if (org_id is None) is not (what is Class.EVENTS):
            raise BadRequestError(
                public="the log's own events are kept as the platform says, everything else as its organization does"
            )
        retention_id = uuid4()
        async with self._database.transaction() as tx:
            await tx.execute("SELECT FROM organization WHERE id = $1 FOR NO KEY UPDATE", org_id)
            before = await tx.fetch_value("SELECT retention_of($1, $2)", org_id, what.value)
            await tx.execute(
                """INSERT INTO audit_retention (id, org_id, class, days, reason, asked_by) VALUES ($1, $2, $3, $4, $5, $6)""",
                retention_id,
                org_id,
                what.value,
                days,
                reason,
                caller.principal.account_id,
            )
            it = await _get(tx, org_id, retention_id)
            action = Action.AUDIT_RETENTION_ASK if it.holds_from is None else Action.AUDIT_RETENTION_SET
            details = _details(it, before) | ({} if it.holds_from is None else {"is_shorter": False})
            resource = f"retention/{retention_id}"
            await record(
                tx, caller.event(action, org_id=org_id or "", resource=resource, reason=reason, details=details)
            )
        return it

    async def agree(self, caller: Caller, org_id: OrgId | None, retention_id: UUID) -> Retention:
        """Raises NotFoundError, ForbiddenError, ConflictError; UnprocessableError if something else was set since.

        1. Whoever agrees is a person, and another than who asked, not long ago.
        2. It holds in a week. The log says so now, and the sentinel tells people: who minds says `set` again.
        """
        require_a_person(caller)  # 1.
        async with self._database.transaction() as tx:
            await tx.execute("SELECT FROM organization WHERE id = $1 FOR NO KEY UPDATE", org_id)
            row = await tx.fetch_row(
                "SELECT * FROM audit_retention WHERE org_id IS NOT DISTINCT FROM $1 AND id = $2", org_id, retention_id
            )
            if row is None:
                raise NotFoundError(public="retention not found")
            if row["holds_from"] is None:
                require_another(caller, row["asked_by"])
                require_in_time(row["asked_at"], self._clock.now())
                await self._shorten(tx, caller, row)  # 2.
            return await _get(tx, org_id, retention_id)

    async def _shorten(self, tx: Transaction, caller: Caller, row: Any) -> None:
        before = await tx.fetch_value("SELECT retention_of($1, $2)", row["org_id"], row["class"])
        await tx.execute(
            "UPDATE audit_retention SET agreed_by = $2 WHERE id = $1", row["id"], caller.principal.account_id
        )
        it = await _get(tx, row["org_id"], row["id"])
        assert it.holds_from is not None
        details = _details(it, before) | {
            "is_shorter": True,
            "holds_from": timestamp(it.holds_from),
            "asked_by": f"user:{row['asked_by']}",
        }
        event = caller.event(
            Action.AUDIT_RETENTION_SET,
            org_id=it.org_id or "",
            resource=f"retention/{it.id}",
            reason=it.reason,
            details=details,
        )
        await record(tx, event)


class RetentionKeeper:
    """Ends what was kept for long enough. Holds no state; each pass is safe to repeat, and may be cut anywhere."""

    def __init__(self, database: Database, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.pass_once, PRUNE_EVERY_S, _log, "ending what was kept for long enough")

    async def pass_once(self) -> None:
        """A project at a time: what one meets holds up no other."""
        async with self._database.reading() as tx:
            old = await _old(tx)
        for project_id in sorted({each.project_id for each in old if not each.is_held}):
            try:
                await self._prune(project_id)
            except CloisterError as error:  # a hold was placed just now, or the broker is away
                _log.warning("what is old of %s stays for now: %s", project_id, error)

    async def _prune(self, project_id: str) -> None:
        """1. The keys end, and the log says so for each: of what, how much, from when to when, and the head of the log before.
        2. The broker takes the seals of months that are over. If it is away, or we die here, it does so when it next looks.
        """
        async with self._database.transaction() as tx:  # 1.
            await tx.execute("SELECT FROM project WHERE id = $1 FOR NO KEY UPDATE", project_id)
            old = await _old(tx, project_id=project_id)
            for each in old:
                await tx.execute(_END[each.what], project_id, each.resource.partition("/")[2])
            head = await tx.fetch_row("SELECT seq, hash FROM audit_head")
            assert head is not None
            await record(tx, *(_pruned(each, f"{head['seq']}:{head['hash'].hex()}") for each in old))
        await self._seals.erase_statements(project_id, _BY)  # 2.


def _pruned(old: Old, head: str) -> Event:
    return Event(
        action=Action.AUDIT_PRUNE,
        actor=_BY.actor,
        project_id=old.project_id,
        resource=old.resource,
        reason="retention",
        details={
            "class": old.what.value,
            "statements": old.statements,
            "first_at": timestamp(old.first_at),
            "last_at": timestamp(old.last_at),
            "head": head,
        },
    )


def _check(what: Class, days: int | None) -> None:
    least = EVENTS_DAYS_MIN if what is Class.EVENTS else DAYS_MIN
    if days is not None and not least <= days <= DAYS_MAX:
        raise BadRequestError(public=f"these are kept for {least} to {DAYS_MAX} days, or without end")


def _details(it: Retention, before: int | None) -> dict[str, object]:
    """Days, or `forever`."""
    return {"class": it.what.value, "days": it.days or "forever", "before": before or "forever"}


_END: Final = {
    Class.STATEMENTS: "UPDATE statement_key SET wrapped = NULL WHERE project_id = $1 AND generation = $2::text::integer",
    Class.RECORDINGS: "UPDATE recording SET wrapped_key = NULL WHERE project_id = $1 AND id = $2::text::uuid",
}

# Of months that began too late for that, or that are kept without end, nothing is added up: there may be millions of segments.
_OLD: Final = """
    SELECT it.*, EXISTS (SELECT FROM audit_hold h WHERE h.project_id = it.project_id AND h.lifted_at IS NULL) AS is_held
      FROM (SELECT 'statements' AS class, k.project_id, format('statement_key/%s', k.generation) AS resource,
                   coalesce(sum(s.statements), 0)::bigint AS statements, k.began_at AS first_at,
                   greatest(k.began_at, max(s.sealed_at)) AS last_at
              FROM statement_key k
              LEFT JOIN statement_segment s ON s.project_id = k.project_id AND s.generation = k.generation
             WHERE k.wrapped IS NOT NULL AND k.began_at < now() - interval '365 days'
               AND ($2::text IS NULL OR k.project_id = $2)
               AND ($4::integer IS NOT NULL OR is_outlived(k.project_id, 'statements', k.began_at))
             GROUP BY k.project_id, k.generation
             UNION ALL
            SELECT 'recordings', c.project_id, format('recording/%s', c.id), c.statements, c.began_at, c.written_at
              FROM recording c
             WHERE c.wrapped_key IS NOT NULL AND c.ended_at IS NOT NULL AND c.written_at < now() - interval '365 days'
               AND ($2::text IS NULL OR c.project_id = $2)) it
      JOIN project p ON p.id = it.project_id
     WHERE ($1::text IS NULL OR p.org_id = $1) AND ($3::text IS NULL OR it.class = $3)
       AND CASE WHEN $4::integer IS NULL THEN is_outlived(it.project_id, it.class, it.last_at)
                ELSE it.last_at < now() - make_interval(days => $4) END
     ORDER BY it.last_at, it.resource"""


async def _old(
    tx: Transaction,
    *,
    org_id: str | None = None,
    project_id: str | None = None,
    what: Class | None = None,
    days: int | None = None,
) -> list[Old]:
    """By what holds; by `days`, if that is asked for. Oldest first."""
    rows = await tx.fetch(_OLD, org_id, project_id, None if what is None else what.value, days)
    return [
        Old(
            Class(row["class"]),
            row["project_id"],
            row["resource"],
            row["statements"],
            row["first_at"],
            row["last_at"],
            row["is_held"],
        )
        for row in rows
    ]


_RETENTIONS: Final = """
    SELECT r.*, asker.email AS asker, agreer.email AS agreer,
           CASE WHEN r.number < held.number THEN 'over' WHEN r.number = held.number THEN 'holds'
                WHEN r.agreed_by IS NULL THEN 'asked' ELSE 'agreed' END AS state
      FROM audit_retention r
      CROSS JOIN LATERAL (SELECT max(number) AS number FROM audit_retention f
                           WHERE f.org_id IS NOT DISTINCT FROM r.org_id AND f.class = r.class AND f.holds_from <= clock_timestamp()) held
      JOIN account asker ON asker.id = r.asked_by
      LEFT JOIN account agreer ON agreer.id = r.agreed_by
     WHERE r.org_id IS NOT DISTINCT FROM $1 AND ($2::uuid IS NULL OR r.id = $2)
     ORDER BY r.asked_at DESC LIMIT $3"""


async def _get(tx: Transaction, org_id: str | None, retention_id: UUID) -> Retention:
    row = await tx.fetch_row(_RETENTIONS, org_id, retention_id, 1)
    if row is None:
        raise NotFoundError(public="retention not found")
    return _retention(row)


def _retention(row: Any) -> Retention:
    return Retention(
        id=row["id"],
        org_id=row["org_id"],
        what=Class(row["class"]),
        days=row["days"],
        reason=row["reason"],
        asked_by=row["asker"],
        asked_at=row["asked_at"],
        agreed_by=row["agreer"],
        holds_from=row["holds_from"],
        state=row["state"],
    )
