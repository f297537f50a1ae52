"""Findings as people work on them: read, given to somebody, noted about, acknowledged, resolved, measured, and tested. What the
API's process does with them; the sentinel's own side is `store.py`."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError, UnprocessableError
from cloister.trust.access.principals import Calling
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import parse, timestamp
from cloister.trust.audit.reader import Recorded
from cloister.trust.sentinel import clocks, scenarios
from cloister.trust.sentinel.clocks import CLOCKS, Course, Measured

LIMIT_MAX: Final = 500
# Some 500 kB.

AROUND: Final = timedelta(hours=1)
# What led to a finding and what came of it; further back, `cloister audit subject` reads.

AROUND_EVENTS_MAX: Final = 50
# The nearest ones: what a person reads.

REACH_EVENTS: Final = 20_000
# Of the log on either side, looked through for them: 0.3 s on two busy cores.

HANDLED_EVENTS_MAX: Final = 200
# What was done about one finding.

NOTES_MAX: Final = 200
# Of one finding: an answer of a hundred kilobytes.

MEASURED_MAX: Final = 20_000
# Findings; some megabytes. The newest of more.


@dataclass(frozen=True, slots=True)
class Finding:
    id: str
    rule: str
    level: str
    title: str
    summary: str
    response: str
    subject: dict[str, str]
    state: str
    is_test: bool
    alarms: int
    first_seq: int
    last_seq: int
    first_at: str
    last_at: str
    raised_at: datetime
    changed_by: str
    note: str
    assignee: str = ""
    """The e-mail address of who works on it."""
    acknowledged_at: datetime | None = None
    resolved_at: datetime | None = None
    alerts: tuple[dict[str, Any], ...] = ()
    """Whom it was told to, and how that went. Only where one finding is asked for."""
    notes: tuple[dict[str, Any], ...] = ()
    """What people wrote down, and when; as with `alerts`."""

    @property
    def due_at(self) -> datetime | None:
        """When the clock that runs now ends."""
        return clocks.due(self.level, self.state, self.raised_at)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the sentinel is."""

    beat_at: datetime | None
    """None: it never ran."""
    behind: int
    """Events it has not looked at."""
    waiting: int
    """Alerts that were not taken yet."""
    open: int


class Desk:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, *, state: str | None, run: str | None, limit: int, assignee_id: UUID | None = None, overdue: bool = False
    ) -> list[Finding]:
        """Newest first. `state` None: what is not resolved. Tests are shown only for their `run`. `overdue`: those only whose clock
        has ended."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT finding.*, finding.subject::text AS about, coalesce(account.email, '') AS assignee
                     FROM finding LEFT JOIN account ON account.id = finding.assignee_id
                     JOIN unnest($5::text[], $6::interval[], $7::interval[]) AS clock (level, acknowledge, resolve) USING (level)
                    WHERE CASE WHEN $2::text IS NOT NULL THEN run = $2
                               WHEN $1::text IS NULL THEN state <> 'resolved' AND NOT is_test
                               ELSE state = $1 AND NOT is_test END
                      AND ($4::uuid IS NULL OR assignee_id = $4)
                      AND (NOT $8 OR raised_at < now() - CASE state WHEN 'open' THEN acknowledge
                                                                    WHEN 'acknowledged' THEN resolve END)
                    ORDER BY raised_at DESC, finding.id LIMIT $3""",
                state,
                run,
                max(1, min(limit, LIMIT_MAX)),
                assignee_id,
                list(CLOCKS),
                [clock.acknowledge for clock in CLOCKS.values()],
                [clock.resolve for clock in CLOCKS.values()],
                overdue,
            )
        return [_finding(row) for row in rows]

    async def get(self, finding_id: str) -> Finding:
        async with self._database.reading() as tx:
            return await get(tx, finding_id)

    async def move(self, caller: Calling, finding_id: str, state: str, note: str) -> Finding:
        """To `acknowledged` (no more escalation) or `resolved` (the next alarm is a new finding). Raises NotFoundError;
        ConflictError for one that is resolved."""
        action = Action.FINDING_ACKNOWLEDGE if state == "acknowledged" else Action.FINDING_RESOLVE
        async with self._database.transaction() as tx:
            changed = await tx.execute(
                """UPDATE finding SET state = $2, changed_by = $3, note = $4,
                          acknowledged_at = coalesce(acknowledged_at, clock_timestamp()),
                          resolved_at = CASE WHEN $2 = 'resolved' THEN clock_timestamp() END
                    WHERE id = $1 AND state <> 'resolved'""",
                finding_id,
                state,
                caller.principal.actor,
                note,
            )
            if changed and note:
                await _write_down(tx, caller, finding_id, note)
            found = await get(tx, finding_id)
            if not changed:
                raise ConflictError(public=f"finding {finding_id} is resolved")
            await record(tx, event(action, caller, found, {"note": note} if note else {}))
        return found

    async def note(self, caller: Calling, finding_id: str, text: str) -> Finding:
        """One more; of a resolved one, too: what is learned later belongs to it."""
        async with self._database.transaction() as tx:
            await get(tx, finding_id)
            await _write_down(tx, caller, finding_id, text)
            found = await get(tx, finding_id)
            await record(tx, event(Action.FINDING_NOTE, caller, found, {"note": text}))
        return found

    async def assign(self, caller: Calling, finding_id: str, email: str) -> Finding:
        """To an operator; empty: to nobody. Raises NotFoundError, UnprocessableError for anybody else."""
        async with self._database.transaction() as tx:
            was = await get(tx, finding_id)
            # Who may work on findings: by name, or by the groups of their last login.
            account_id = await tx.fetch_value(
                """SELECT id FROM account
                    WHERE lower(email) = lower($1) AND disabled_at IS NULL AND (is_operator OR EXISTS (
                          SELECT FROM identity i WHERE i.account_id = account.id AND i.is_operator))""",
                email,
            )
            if email and account_id is None:
                raise UnprocessableError(public=f"no operator has the address {email}")
            await tx.execute("UPDATE finding SET assignee_id = $2 WHERE id = $1", finding_id, account_id)
            found = await get(tx, finding_id)
            await record(
                tx, event(Action.FINDING_ASSIGN, caller, found, {"owner": found.assignee, "was_owner": was.assignee})
            )
        return found

    async def timeline(self, finding_id: str) -> list[Recorded]:
        """Oldest first: what its role, address and account did around its newest alarm, and what was done about it. Raises
        NotFoundError."""
        async with self._database.reading() as tx:
            found = await get(tx, finding_id)
            about = found.subject
            try:
                at = datetime.fromisoformat(found.last_at)
            except ValueError:
                at = found.raised_at
            rows = await tx.fetch(
                """(SELECT seq, body, personal, hash FROM audit_event
                     WHERE seq BETWEEN $1::bigint - $2 AND $1::bigint + $2 AND at BETWEEN $3 AND $4
                       AND (seq IN ($1, $5)
                            OR (actor = $6 OR personal::jsonb ->> 'actor' = $6) AND ($7::text IS NULL OR project_id = $7)
                            OR actor = $8 AND action <> 'sentinel.probe'
                            OR coalesce(personal, body)::jsonb ->> 'address' = $9)
                     ORDER BY abs(seq - $1) LIMIT $10)
                   UNION
                   (SELECT seq, body, personal, hash FROM audit_event
                     WHERE action = ANY ($11) AND body::jsonb ->> 'resource' = $12 ORDER BY seq DESC LIMIT $13)
                   ORDER BY seq""",
                found.last_seq,
                REACH_EVENTS,
                timestamp(at - AROUND),
                timestamp(at + AROUND),
                found.first_seq,
                f"role:{about['role']}" if about.get("role") else None,
                about.get("project_id"),
                about.get("account"),
                about.get("address"),
                AROUND_EVENTS_MAX,
                list(_HANDLED),
                finding_id,
                HANDLED_EVENTS_MAX,
            )
        return [Recorded(row["seq"], parse(row["body"], row["personal"]), row["hash"]) for row in rows]

    async def measure(self, days: int) -> list[Measured]:
        """How long findings of these days waited, and how many wait too long now."""
        now = datetime.now(UTC)
        since = now - timedelta(days=days)
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT level, first_at, raised_at, acknowledged_at, resolved_at, state FROM finding
                    WHERE NOT is_test AND (raised_at >= $1 OR state <> 'resolved')
                    ORDER BY raised_at DESC LIMIT $2""",
                since,
                MEASURED_MAX,
            )
        return clocks.measure([Course(**dict(row)) for row in rows], since, now)

    async def test(self, caller: Calling) -> tuple[str, list[str]]:
        """Put every story of the self-test into the log, as probes. The run's name, and the rules that must fire."""
        run = secrets.token_hex(6)
        stories = scenarios.probes(datetime.now(UTC), actor=caller.principal.actor, run=run)
        # Without the address: else every test would stand in the timeline of a finding about it.
        probes = [msgspec.structs.replace(each, request_id=caller.request_id) for each in stories]
        async with self._database.transaction() as tx:
            await record(tx, *probes)
        return run, [probe.details["rule"] for probe in probes]

    async def pulse(self) -> Pulse:
        async with self._database.reading() as tx:
            row = await tx.fetch_row(
                """SELECT s.beat_at, (SELECT seq FROM audit_head) - coalesce(s.beat_seq, 0) AS behind,
                          (SELECT count(*) FROM alert_delivery WHERE delivered_at IS NULL AND given_up_at IS NULL) AS waiting,
                          (SELECT count(*) FROM finding WHERE state = 'open' AND NOT is_test) AS open
                     FROM (SELECT true) one LEFT JOIN sentinel s ON true"""
            )
        assert row is not None
        return Pulse(row["beat_at"], row["behind"], row["waiting"], row["open"])


_HANDLED: Final = (
    Action.FINDING_ACKNOWLEDGE, Action.FINDING_ASSIGN, Action.FINDING_NOTE, Action.FINDING_RELEASE, Action.FINDING_RESOLVE,
    Action.FINDING_RESPOND,
)  # fmt: skip


async def get(tx: Transaction, finding_id: str) -> Finding:
    """Raises NotFoundError."""
    row = await tx.fetch_row(
        """SELECT finding.*, finding.subject::text AS about, coalesce(account.email, '') AS assignee
             FROM finding LEFT JOIN account ON account.id = finding.assignee_id WHERE finding.id = $1""",
        finding_id,
    )
    if row is None:
        raise NotFoundError(public="finding not found")
    alerts = await tx.fetch(
        """SELECT channel, kind, attempts, delivered_at, given_up_at, error,
                  extract(epoch FROM delivered_at - (SELECT raised_at FROM finding WHERE id = $1))::float8 AS after_s
             FROM alert_delivery WHERE finding_id = $1 ORDER BY id""",
        finding_id,
    )
    notes = await tx.fetch(
        "SELECT noted_at, noted_by, text FROM finding_note WHERE finding_id = $1 ORDER BY id", finding_id
    )
    return _finding(row, tuple(dict(each) for each in alerts), tuple(dict(each) for each in notes))


async def _write_down(tx: Transaction, caller: Calling, finding_id: str, text: str) -> None:
    kept = await tx.fetch_value("SELECT count(*) FROM finding_note WHERE finding_id = $1", finding_id)
    if kept >= NOTES_MAX:
        raise ConflictError(public=f"finding {finding_id} has {kept} notes, which is all that is kept")
    await tx.execute(
        "INSERT INTO finding_note (finding_id, noted_by, text) VALUES ($1, $2, $3)",
        finding_id,
        caller.principal.actor,
        text,
    )


async def settled(tx: Transaction, rule: str, branch_ids: Sequence[str], *, actor: str, note: str) -> list[Event]:
    """What this rule found of these branches is over, by itself: the findings are resolved. The events that say so, for the caller
    to record."""
    rows = await tx.fetch(
        """UPDATE finding SET state = 'resolved', changed_by = $3, note = $4, resolved_at = clock_timestamp()
            WHERE rule = $1 AND subject ->> 'branch_id' = ANY ($2) AND state <> 'resolved' AND NOT is_test
        RETURNING id, rule, subject ->> 'project_id' AS project_id, subject ->> 'branch_id' AS branch_id""",
        rule,
        list(branch_ids),
        actor,
        note,
    )
    return [
        Event(
            action=Action.FINDING_RESOLVE,
            actor=actor,
            project_id=row["project_id"] or "",
            branch_id=row["branch_id"],
            resource=row["id"],
            details={"rule": row["rule"], "note": note},
        )
        for row in rows
    ]


def event(action: Action, caller: Calling, finding: Finding, details: dict[str, Any]) -> Event:
    """That somebody did this about the finding."""
    return Event(
        action=action,
        actor=caller.principal.actor,
        org_id=finding.subject.get("org_id", ""),
        project_id=finding.subject.get("project_id", ""),
        resource=finding.id,
        address=caller.address,
        request_id=caller.request_id,
        details={"rule": finding.rule, **details},
    )


def _finding(row: Any, alerts: tuple[dict[str, Any], ...] = (), notes: tuple[dict[str, Any], ...] = ()) -> Finding:
    given = {name: row[name] for name in Finding.__dataclass_fields__ if name not in ("subject", "alerts", "notes")}
    return Finding(**given, subject=msgspec.json.decode(row["about"]), alerts=alerts, notes=notes)
