"""Findings as people work on them: read, acknowledged, resolved, and tested. What the API's process does with them; the
sentinel's own side is `store.py`."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError
from cloister.trust.access.principals import Calling
from cloister.trust.audit import Action, Event, record
from cloister.trust.sentinel import scenarios

LIMIT_MAX: Final = 500
# Some 500 kB.


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
    alerts: tuple[dict[str, Any], ...] = ()
    """Whom it was told to, and how that went. Only where one finding is asked for."""


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

    async def find(self, *, state: str | None, run: str | None, limit: int) -> list[Finding]:
        """Newest first. `state` None: what is not resolved. Tests are shown only for their `run`."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT *, subject::text AS about FROM finding
                    WHERE CASE WHEN $2::text IS NOT NULL THEN run = $2
                               WHEN $1::text IS NULL THEN state <> 'resolved' AND NOT is_test
                               ELSE state = $1 AND NOT is_test END
                    ORDER BY raised_at DESC, id LIMIT $3""",
                state,
                run,
                max(1, min(limit, LIMIT_MAX)),
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
                "UPDATE finding SET state = $2, changed_by = $3, note = $4 WHERE id = $1 AND state <> 'resolved'",
                finding_id,
                state,
                caller.principal.actor,
                note,
            )
            found = await get(tx, finding_id)
            if not changed:
                raise ConflictError(public=f"finding {finding_id} is resolved")
            await record(tx, event(action, caller, found, {"note": note} if note else {}))
        return found

    async def test(self, caller: Calling) -> tuple[str, list[str]]:
        """Put every story of the self-test into the log, as probes. The run's name, and the rules that must fire."""
        run = secrets.token_hex(6)
        probes = scenarios.probes(datetime.now(UTC), actor=caller.principal.actor, run=run)
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


async def get(tx: Transaction, finding_id: str) -> Finding:
    """Raises NotFoundError."""
    row = await tx.fetch_row("SELECT *, subject::text AS about FROM finding WHERE id = $1", finding_id)
    if row is None:
        raise NotFoundError(public="finding not found")
    alerts = await tx.fetch(
        """SELECT channel, kind, attempts, delivered_at, given_up_at, error,
                  extract(epoch FROM delivered_at - (SELECT raised_at FROM finding WHERE id = $1))::float8 AS after_s
             FROM alert_delivery WHERE finding_id = $1 ORDER BY id""",
        finding_id,
    )
    return _finding(row, tuple(dict(each) for each in alerts))


async def settled(tx: Transaction, rule: str, branch_ids: Sequence[str], *, actor: str, note: str) -> list[Event]:
    """What this rule found of these branches is over, by itself: the findings are resolved. The events that say so, for the caller
    to record."""
    rows = await tx.fetch(
        """UPDATE finding SET state = 'resolved', changed_by = $3, note = $4
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


def _finding(row: Any, alerts: tuple[dict[str, Any], ...] = ()) -> Finding:
    given = {name: row[name] for name in Finding.__dataclass_fields__ if name not in ("subject", "alerts")}
    return Finding(**given, subject=msgspec.json.decode(row["about"]), alerts=alerts)
