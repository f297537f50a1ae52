"""Rows of `backup_base`, `backup_progress` and `backup_exception`, in and out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from cloister.base.database import Transaction
from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.control.backups.model import Base, BranchBackups, Kept, LeftOut, Progress
from cloister.control.computes.sessions import Running

BASES_MAX: Final = 400
# Of a project that are listed: more than a year's of one branch.

# ── what is to be in the store ──

_BASE: Final = """o.timeline_id, o.name, o.is_protected, o.start_lsn::text AS start_lsn, o.stop_lsn::text AS stop_lsn, o.moment, o.bytes,
    o.new_bytes, o.chunks, o.sent_at, o.locked_until, o.seen_at, o.seen_chunks, o.damaged"""

_KEPT: Final = f"""
    SELECT t.id AS kept_id, t.project_id AS kept_project_id, b.id AS branch_id, b.name AS branch_name, v.pg_version, v.uid,
           e.id AS endpoint_id, e.generation, e.socket_dir, e.state AS endpoint_state,
           (SELECT max(w.suspended_at) FROM endpoint w WHERE w.branch_id = b.id AND w.type = 'read_write') AS ended_at,
           s.since, s.end_lsn::text AS end_lsn, s.moment AS sent_moment, s.looked_at, s.locked_until AS wal_locked_until, s.is_broken,
           s.wanted_at, s.check_wanted_at, s.try_wanted_at, s.tried_at, s.tried, s.failing, s.failures, s.failing_since, s.problem, s.late_told_at,
           {_BASE}
      FROM timeline t
      JOIN branch b ON b.timeline_id = t.id AND b.deleted_at IS NULL AND b.state = 'ready'
      JOIN project p ON p.id = t.project_id AND p.deleted_at IS NULL
      JOIN volume v ON v.project_id = t.project_id AND v.state = 'taken'
      LEFT JOIN endpoint e ON e.branch_id = b.id AND e.type = 'read_write' AND e.socket_dir IS NOT NULL
      LEFT JOIN backup_progress s ON s.timeline_id = t.id
      LEFT JOIN LATERAL (SELECT * FROM backup_base n WHERE n.timeline_id = t.id ORDER BY n.stop_lsn DESC LIMIT 1) o ON true
     WHERE t.state = 'ready' AND NOT EXISTS (SELECT FROM backup_exception x WHERE x.project_id = p.id)
     ORDER BY s.looked_at NULLS FIRST, t.id"""  # noqa: S608 - literals


async def to_keep(tx: Transaction) -> list[Kept]:
    """Every timeline that a branch lives on, of projects that are not left out; who has waited longest comes first."""
    return [_kept(row) for row in await tx.fetch(_KEPT)]


async def is_anything_kept(tx: Transaction) -> bool:
    return bool(await tx.fetch_value("SELECT EXISTS (SELECT FROM backup_progress)"))


async def is_ended(tx: Transaction) -> None:
    """There is no store any more: nothing waits to be sent. What lies in one stays in its rows."""
    await tx.execute("DELETE FROM backup_progress")


async def begin(tx: Transaction, timeline_ids: Sequence[str], now: datetime) -> None:
    """From here on they are looked after, and their history waits to be sent (`kept_history`)."""
    await tx.execute(
        "INSERT INTO backup_progress (timeline_id, since) SELECT unnest($1::text[]), $2 ON CONFLICT DO NOTHING",
        list(timeline_ids),
        now,
    )


# ── what was done ──


async def sent_base(tx: Transaction, base: Base) -> None:
    """The same place sent again is the same base, locked for longer. What was missing before it is of no matter any more."""
    await tx.execute(
        """INSERT INTO backup_base (timeline_id, name, project_id, is_protected, start_lsn, stop_lsn, moment, bytes, new_bytes, chunks,
                                    sent_at, locked_until)
           VALUES ($1, $2, '', false, $3::text::pg_lsn, $4::text::pg_lsn, $5, $6, $7, $8, $9, $10)
           ON CONFLICT (timeline_id, name) DO UPDATE
              SET bytes = excluded.bytes, new_bytes = excluded.new_bytes, chunks = excluded.chunks, sent_at = excluded.sent_at,
                  locked_until = greatest(backup_base.locked_until, excluded.locked_until)""",
        base.timeline_id,
        base.name,
        base.start_lsn,
        base.stop_lsn,
        base.moment,
        base.bytes,
        base.new_bytes,
        base.chunks,
        base.sent_at,
        base.locked_until,
    )
    await tx.execute("UPDATE backup_progress SET is_broken = false WHERE timeline_id = $1", base.timeline_id)


async def sent_wal(
    tx: Transaction,
    timeline_id: str,
    *,
    end_lsn: str,
    moment: datetime,
    looked_at: datetime,
    locked_until: datetime,
    is_broken: bool,
) -> None:
    await tx.execute(
        """UPDATE backup_progress SET end_lsn = $2::text::pg_lsn, moment = $3, looked_at = $4, locked_until = $5, is_broken = $6
            WHERE timeline_id = $1""",
        timeline_id,
        end_lsn,
        moment,
        looked_at,
        locked_until,
        is_broken,
    )


async def seen(tx: Transaction, base: Base, *, at: datetime, chunks: int, damaged: int) -> None:
    await tx.execute(
        """UPDATE backup_base SET seen_at = $3, seen_chunks = $4, damaged = $5 WHERE timeline_id = $1 AND name = $2""",
        base.timeline_id,
        base.name,
        at,
        chunks,
        damaged,
    )


async def tried(tx: Transaction, timeline_id: str, at: datetime, outcome: str) -> None:
    await tx.execute(
        "UPDATE backup_progress SET tried_at = $2, tried = $3 WHERE timeline_id = $1", timeline_id, at, outcome
    )


async def failed(tx: Transaction, timeline_id: str, what: str, problem: str, now: datetime) -> None:
    await tx.execute(
        """UPDATE backup_progress SET failing = $2, problem = $3, failures = failures + 1, failing_since = coalesce(failing_since, $4)
            WHERE timeline_id = $1""",
        timeline_id,
        what,
        problem,
        now,
    )


async def works(tx: Transaction, timeline_id: str, what: str) -> None:
    """Another thing of the same timeline may still fail."""
    await tx.execute(
        """UPDATE backup_progress SET failing = '', failures = 0, failing_since = NULL, problem = ''
            WHERE timeline_id = $1 AND failing = $2""",
        timeline_id,
        what,
    )


async def is_back(tx: Transaction, branch_ids: Sequence[str]) -> None:
    """They have their data again: what failed while they had none is over."""
    await tx.execute(
        """UPDATE backup_progress SET failing = '', failures = 0, failing_since = NULL, problem = ''
            WHERE timeline_id IN (SELECT timeline_id FROM branch WHERE id = ANY ($1::text[]))""",
        list(branch_ids),
    )


async def told_late(tx: Transaction, timeline_id: str, now: datetime | None) -> None:
    await tx.execute("UPDATE backup_progress SET late_told_at = $2 WHERE timeline_id = $1", timeline_id, now)


async def forget_what_ended(tx: Transaction, now: datetime) -> None:
    """Rows of timelines that are no more, and of bases that newer ones have replaced, when nothing of theirs is locked. What the bucket's
    lifecycle rule does with the objects is the bucket's matter."""
    await tx.execute(
        """DELETE FROM backup_base o
            WHERE o.locked_until <= $1 AND (
                EXISTS (SELECT FROM timeline t WHERE t.id = o.timeline_id AND t.state = 'deleted')
                OR EXISTS (SELECT FROM backup_base n WHERE n.timeline_id = o.timeline_id AND n.stop_lsn > o.stop_lsn))""",
        now,
    )
    await tx.execute(
        """DELETE FROM backup_progress s USING timeline t
            WHERE t.id = s.timeline_id AND t.state = 'deleted' AND coalesce(s.locked_until, s.since) <= $1
              AND NOT EXISTS (SELECT FROM backup_base o WHERE o.timeline_id = s.timeline_id)""",
        now,
    )


# ── what somebody wants ──


async def want(tx: Transaction, timeline_ids: Sequence[str], now: datetime) -> None:
    await begin(tx, timeline_ids, now)
    await tx.execute(
        "UPDATE backup_progress SET wanted_at = $2 WHERE timeline_id = ANY ($1::text[])", list(timeline_ids), now
    )


async def want_check(tx: Transaction, timeline_ids: Sequence[str], now: datetime) -> None:
    await tx.execute(
        "UPDATE backup_progress SET check_wanted_at = $2 WHERE timeline_id = ANY ($1::text[])", list(timeline_ids), now
    )


async def want_drill(tx: Transaction, timeline_ids: Sequence[str], now: datetime) -> None:
    await tx.execute(
        "UPDATE backup_progress SET try_wanted_at = $2 WHERE timeline_id = ANY ($1::text[])", list(timeline_ids), now
    )


async def left_out(tx: Transaction, project_id: str) -> LeftOut | None:
    row = await tx.fetch_row("SELECT * FROM backup_exception WHERE project_id = $1", project_id)
    return None if row is None else LeftOut(reason=row["reason"], asked_by=row["asked_by"], asked_at=row["asked_at"])


async def leave_out(tx: Transaction, project_id: str, reason: str, asked_by: str) -> None:
    """Who says so last is who said so."""
    await take_in(tx, project_id)
    await tx.execute(
        "INSERT INTO backup_exception (project_id, reason, asked_by) VALUES ($1, $2, $3)", project_id, reason, asked_by
    )


async def take_in(tx: Transaction, project_id: str) -> bool:
    """Whether it was left out."""
    return bool(await tx.fetch_value("DELETE FROM backup_exception WHERE project_id = $1 RETURNING true", project_id))


# ── what there is ──


async def bases_of(tx: Transaction, branch_id: str) -> list[Base]:
    """Of all timelines that were the branch's: those of its last one first, and of each the newest."""
    rows = await tx.fetch(
        f"""SELECT {_BASE} FROM backup_base o JOIN timeline t ON t.id = o.timeline_id
             WHERE t.branch_id = $1 ORDER BY t.began_at DESC, o.stop_lsn DESC LIMIT $2""",  # noqa: S608 - literals
        branch_id,
        BASES_MAX,
    )
    return [_base(row) for row in rows]


async def timeline_at(tx: Transaction, branch_id: str, moment: datetime) -> TimelineId | None:
    """The one that was the branch's then, whatever became of it since."""
    found = await tx.fetch_value(
        """SELECT id FROM timeline
            WHERE branch_id = $1 AND began_at <= $2 AND (ended_at IS NULL OR ended_at > $2 OR id = $3)
            ORDER BY began_at DESC LIMIT 1""",
        branch_id,
        moment,
        await tx.fetch_value("SELECT timeline_id FROM branch WHERE id = $1", branch_id),
    )
    return None if found is None else TimelineId(found)


async def of_project(tx: Transaction, project_id: str) -> list[BranchBackups]:
    """Branches that are there, and those that are not any more and have something in the store."""
    branches = await tx.fetch(
        """SELECT b.id, b.name, b.deleted_at, b.is_protected, b.timeline_id, s.since, s.end_lsn::text AS end_lsn, s.moment, s.looked_at,
                  s.locked_until, s.is_broken, s.wanted_at, s.check_wanted_at, s.try_wanted_at, s.tried_at, s.tried, s.failing, s.failures, s.failing_since, s.problem,
                  s.late_told_at
             FROM branch b LEFT JOIN backup_progress s ON s.timeline_id = b.timeline_id
            WHERE b.project_id = $1
              AND (b.deleted_at IS NULL OR EXISTS (SELECT FROM backup_base o JOIN timeline t ON t.id = o.timeline_id
                                                    WHERE t.branch_id = b.id))
            ORDER BY b.deleted_at NULLS FIRST, b.created_at, b.id""",
        project_id,
    )
    found = []
    for row in branches:
        timeline_id = TimelineId(row["timeline_id"])
        found.append(
            BranchBackups(
                branch_id=BranchId(row["id"]),
                name=row["name"],
                timeline_id=timeline_id,
                deleted_at=row["deleted_at"],
                is_protected=row["is_protected"],
                progress=None if row["since"] is None else _progress(row, timeline_id, row["moment"]),
                bases=await bases_of(tx, row["id"]),
            )
        )
    return found


async def locked(tx: Transaction, project_id: str, now: datetime) -> tuple[int, datetime | None]:
    """How many bases of a project lie in the store still, and until when anything of it is locked there."""
    row = await tx.fetch_row(
        """SELECT (SELECT count(*) FROM backup_base WHERE project_id = $1) AS bases,
                  greatest((SELECT max(locked_until) FROM backup_base WHERE project_id = $1),
                           (SELECT max(s.locked_until) FROM backup_progress s JOIN timeline t ON t.id = s.timeline_id
                             WHERE t.project_id = $1)) AS until""",
        project_id,
    )
    assert row is not None
    return row["bases"], row["until"] if row["until"] is not None and row["until"] > now else None


def _kept(row: Any) -> Kept:
    timeline_id = TimelineId(row["kept_id"])
    is_running = row["endpoint_id"] is not None
    may_be_asked = is_running and row["endpoint_state"] == "active"
    return Kept(
        project_id=ProjectId(row["kept_project_id"]),
        branch_id=BranchId(row["branch_id"]),
        branch_name=row["branch_name"],
        timeline_id=timeline_id,
        pg_version=row["pg_version"],
        uid=row["uid"],
        server=Running(EndpointId(row["endpoint_id"]), row["generation"], row["socket_dir"], row["pg_version"])
        if may_be_asked
        else None,
        endpoint_id=EndpointId(row["endpoint_id"]) if is_running else None,
        is_running=is_running,
        ended_at=row["ended_at"],
        progress=None if row["since"] is None else _progress(row, timeline_id, row["sent_moment"], "wal_locked_until"),
        base=None if row["name"] is None else _base(row),
    )


def _progress(
    row: Any, timeline_id: TimelineId, moment: datetime | None, locked_until: str = "locked_until"
) -> Progress:
    return Progress(
        timeline_id=timeline_id,
        since=row["since"],
        end_lsn=row["end_lsn"],
        moment=moment,
        looked_at=row["looked_at"],
        locked_until=row[locked_until],
        is_broken=row["is_broken"],
        wanted_at=row["wanted_at"],
        check_wanted_at=row["check_wanted_at"],
        try_wanted_at=row["try_wanted_at"],
        tried_at=row["tried_at"],
        tried=row["tried"],
        failing=row["failing"],
        failures=row["failures"],
        failing_since=row["failing_since"],
        problem=row["problem"],
        late_told_at=row["late_told_at"],
    )


def _base(row: Any) -> Base:
    return Base(
        timeline_id=TimelineId(row["timeline_id"]),
        name=row["name"],
        is_protected=row["is_protected"],
        start_lsn=row["start_lsn"],
        stop_lsn=row["stop_lsn"],
        moment=row["moment"],
        bytes=row["bytes"],
        new_bytes=row["new_bytes"],
        chunks=row["chunks"],
        sent_at=row["sent_at"],
        locked_until=row["locked_until"],
        seen_at=row["seen_at"],
        seen_chunks=row["seen_chunks"],
        damaged=row["damaged"],
    )
