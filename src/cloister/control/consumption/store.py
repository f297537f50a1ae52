"""Rows of `consumption`, in and out, and what it is counted from."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from cloister.base.database import Transaction
from cloister.base.ids import BranchId, OrgId, ProjectId
from cloister.control.consumption.accounting import Account, Amounts, Held, Run, Whose, Written
from cloister.control.consumption.frames import Span

# ── what is counted ──


async def take_turn(tx: Transaction, now: datetime) -> datetime | None:
    """When it was last counted, with the right to count until the transaction ends; None: never."""
    await tx.execute("INSERT INTO consumption_counted (until) VALUES ($1) ON CONFLICT DO NOTHING", None)
    until: datetime | None = await tx.fetch_value("SELECT until FROM consumption_counted FOR UPDATE")
    if until is None or until < now:
        await tx.execute("UPDATE consumption_counted SET until = $1", now)
    return until


async def runs(tx: Transaction, since: datetime) -> list[Run]:
    """Of computes that ran since: writers by their own times, readers and those at a point in the past if they run now."""
    rows = await tx.fetch(
        """SELECT p.org_id, e.project_id, e.branch_id, e.max_cu, e.started_at AS began_at, e.last_active_at,
                  CASE WHEN e.socket_dir IS NULL THEN e.suspended_at END AS ended_at
             FROM endpoint e JOIN project p ON p.id = e.project_id
            WHERE e.started_at IS NOT NULL AND (e.socket_dir IS NOT NULL OR e.suspended_at > $1)
           UNION ALL
           SELECT p.org_id, s.project_id, s.branch_id, e.max_cu, greatest(s.created_at, $1), s.last_active_at, NULL
             FROM standby s JOIN project p ON p.id = s.project_id
                  JOIN endpoint e ON e.id = coalesce(s.endpoint_id,
                      (SELECT w.id FROM endpoint w WHERE w.branch_id = s.branch_id AND w.type = 'read_write'
                        ORDER BY w.deleted_at DESC NULLS FIRST LIMIT 1))
            WHERE s.socket_dir IS NOT NULL""",
        since,
    )
    return [Run(_whose(row), row["max_cu"], row["began_at"], row["ended_at"], row["last_active_at"]) for row in rows]


async def held(tx: Transaction) -> list[Held]:
    """Of every branch whose data is there and was measured."""
    rows = await tx.fetch(
        """SELECT p.org_id, b.project_id, b.id AS branch_id, b.parent_id IS NULL AS is_root, b.created_at, t.logical_bytes,
                  greatest(t.unique_bytes - t.history_bytes, 0) AS own_bytes,
                  (t.history_bytes + coalesce((SELECT sum(o.history_bytes + o.unique_bytes) FROM timeline o
                                       WHERE o.branch_id = b.id AND o.id <> t.id AND o.state = 'ready'), 0))::bigint
                  AS history_bytes
             FROM branch b JOIN timeline t ON t.id = b.timeline_id JOIN project p ON p.id = b.project_id
                  JOIN volume v ON v.project_id = p.id AND v.state = 'taken'
            WHERE b.purged_at IS NULL AND t.measured_at IS NOT NULL"""
    )
    return [
        Held(
            _whose(row),
            row["is_root"],
            row["created_at"],
            row["logical_bytes"],
            row["own_bytes"],
            row["history_bytes"],
        )
        for row in rows
    ]


async def written(tx: Transaction) -> list[Written]:
    """WAL of branches since it was last counted, which it is with this. The first place that is known of a timeline is where
    counting begins: what is before it was its parent's, or made by us."""
    rows = await tx.fetch(
        """WITH moved AS (SELECT id, branch_id, project_id, end_lsn, counted_lsn FROM timeline
                           WHERE end_lsn IS DISTINCT FROM counted_lsn AND branch_id IS NOT NULL FOR UPDATE),
                counted AS (UPDATE timeline t SET counted_lsn = m.end_lsn FROM moved m WHERE t.id = m.id)
           SELECT p.org_id, m.project_id, m.branch_id, (m.end_lsn - m.counted_lsn)::double precision AS bytes
             FROM moved m JOIN project p ON p.id = m.project_id
            WHERE m.end_lsn > m.counted_lsn"""
    )
    return [Written(_whose(row), row["bytes"]) for row in rows]


async def add(tx: Transaction, account: Account) -> None:
    columns = list(zip(*(astuple(it) for it in account.values()), strict=True))
    await tx.execute(
        """INSERT INTO consumption (org_id, project_id, branch_id, hour, active_s, cu_s, written_bytes, seen_s,
                                    logical_byte_s, root_byte_s, child_byte_s, history_byte_s)
           SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::float8[], $6::float8[],
                                $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::float8[], $12::float8[])
           ON CONFLICT (project_id, branch_id, hour, org_id) DO UPDATE
              SET active_s = consumption.active_s + EXCLUDED.active_s,
                  cu_s = consumption.cu_s + EXCLUDED.cu_s,
                  written_bytes = consumption.written_bytes + EXCLUDED.written_bytes,
                  seen_s = consumption.seen_s + EXCLUDED.seen_s,
                  logical_byte_s = consumption.logical_byte_s + EXCLUDED.logical_byte_s,
                  root_byte_s = consumption.root_byte_s + EXCLUDED.root_byte_s,
                  child_byte_s = consumption.child_byte_s + EXCLUDED.child_byte_s,
                  history_byte_s = consumption.history_byte_s + EXCLUDED.history_byte_s""",
        [whose.org_id for whose, _ in account],
        [whose.project_id for whose, _ in account],
        [whose.branch_id for whose, _ in account],
        [hour for _, hour in account],
        *(list(column) for column in columns),
    )


async def fold(tx: Transaction, *, hours_before: datetime, days_before: datetime) -> None:
    """Hours that are asked for by the day only become days; days that nobody asks for any more go."""
    await tx.execute("DELETE FROM consumption WHERE hour < $1", days_before)
    await tx.execute(
        """WITH old AS (DELETE FROM consumption WHERE hour < $1 AND hour <> date_trunc('day', hour, 'UTC') RETURNING *)
           INSERT INTO consumption (org_id, project_id, branch_id, hour, active_s, cu_s, written_bytes, seen_s,
                                    logical_byte_s, root_byte_s, child_byte_s, history_byte_s)
           SELECT org_id, project_id, branch_id, date_trunc('day', hour, 'UTC'), sum(active_s), sum(cu_s),
                  sum(written_bytes), sum(seen_s), sum(logical_byte_s), sum(root_byte_s), sum(child_byte_s),
                  sum(history_byte_s)
             FROM old GROUP BY 1, 2, 3, 4
           ON CONFLICT (project_id, branch_id, hour, org_id) DO UPDATE
              SET active_s = consumption.active_s + EXCLUDED.active_s,
                  cu_s = consumption.cu_s + EXCLUDED.cu_s,
                  written_bytes = consumption.written_bytes + EXCLUDED.written_bytes,
                  seen_s = consumption.seen_s + EXCLUDED.seen_s,
                  logical_byte_s = consumption.logical_byte_s + EXCLUDED.logical_byte_s,
                  root_byte_s = consumption.root_byte_s + EXCLUDED.root_byte_s,
                  child_byte_s = consumption.child_byte_s + EXCLUDED.child_byte_s,
                  history_byte_s = consumption.history_byte_s + EXCLUDED.history_byte_s""",
        hours_before,
    )


# ── what is asked ──


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose consumption, and when."""

    org_ids: Sequence[OrgId]
    granted: Sequence[ProjectId]
    """Projects of other organizations, which they are now of."""
    span: Span
    project_ids: Sequence[ProjectId] | None = None
    """Only these, of those."""
    branch_ids: Sequence[BranchId] | None = None


_ASKED = """c.hour >= $1 AND c.hour < $2
            AND (c.org_id = ANY ($3::text[]) OR (c.project_id = ANY ($4::text[]) AND c.org_id = p.org_id))
            AND ($5::text[] IS NULL OR c.project_id = ANY ($5::text[]))
            AND ($6::text[] IS NULL OR c.branch_id = ANY ($6::text[]))"""


def _arguments(asked: Asked) -> list[Any]:
    return [
        asked.span.begin,
        asked.span.end,
        list(asked.org_ids),
        list(asked.granted),
        None if asked.project_ids is None else list(asked.project_ids),
        None if asked.branch_ids is None else list(asked.branch_ids),
    ]


async def projects(tx: Transaction, asked: Asked, after: ProjectId | None, limit: int) -> list[ProjectId]:
    """Those that took something, deleted ones among them; the last created first. After what is none of them there is nothing, or
    it would tell whether somebody else has such a project, and since when."""
    rows = await tx.fetch(
        f"""WITH theirs AS (SELECT p.* FROM project p
                             WHERE EXISTS (SELECT FROM consumption c WHERE c.project_id = p.id AND {_ASKED}))
            SELECT p.id FROM theirs p LEFT JOIN theirs last ON last.id = $7
             WHERE ($7::text IS NULL OR p.created_at < last.created_at OR (p.created_at = last.created_at AND p.id > last.id))
             ORDER BY p.created_at DESC, p.id LIMIT $8""",  # noqa: S608 - literals
        *_arguments(asked),
        after,
        limit,
    )
    return [ProjectId(row["id"]) for row in rows]


async def branches(
    tx: Transaction, asked: Asked, after: tuple[ProjectId, BranchId] | None, limit: int
) -> list[tuple[ProjectId, BranchId]]:
    rows = await tx.fetch(
        f"""SELECT DISTINCT c.project_id, c.branch_id
              FROM consumption c JOIN project p ON p.id = c.project_id
             WHERE {_ASKED} AND ($7::text IS NULL OR (c.project_id, c.branch_id) > ($7, $8::text))
             ORDER BY c.project_id, c.branch_id LIMIT $9""",  # noqa: S608 - literals
        *_arguments(asked),
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [(ProjectId(row["project_id"]), BranchId(row["branch_id"])) for row in rows]


async def amounts(
    tx: Transaction, asked: Asked, *, by_branch: bool
) -> list[tuple[ProjectId, BranchId, datetime, Amounts]]:
    """By project (then the branch is empty) or branch, and by the beginning of the frame. A project was seen as long as any of
    its branches was."""
    unit = {"hourly": "hour", "daily": "day", "monthly": "month"}[asked.span.granularity]
    rows = await tx.fetch(
        f"""SELECT project_id, branch_id, date_trunc($8, hour, 'UTC') AS frame, sum(active_s) AS active_s, sum(cu_s) AS cu_s,
                   sum(written_bytes) AS written_bytes, sum(seen_s) AS seen_s, sum(logical_byte_s) AS logical_byte_s,
                   sum(root_byte_s) AS root_byte_s, sum(child_byte_s) AS child_byte_s, sum(history_byte_s) AS history_byte_s
              FROM (SELECT c.project_id, CASE WHEN $7 THEN c.branch_id ELSE '' END AS branch_id, c.hour,
                           sum(c.active_s) AS active_s, sum(c.cu_s) AS cu_s, sum(c.written_bytes) AS written_bytes,
                           max(c.seen_s) AS seen_s, sum(c.logical_byte_s) AS logical_byte_s,
                           sum(c.root_byte_s) AS root_byte_s, sum(c.child_byte_s) AS child_byte_s,
                           sum(c.history_byte_s) AS history_byte_s
                      FROM consumption c JOIN project p ON p.id = c.project_id
                     WHERE {_ASKED} GROUP BY 1, 2, 3) hours
             GROUP BY 1, 2, 3 ORDER BY 3""",  # noqa: S608 - literals
        *_arguments(asked),
        by_branch,
        unit,
    )
    return [
        (
            ProjectId(row["project_id"]),
            BranchId(row["branch_id"]),
            row["frame"],
            Amounts(
                active_s=row["active_s"],
                cu_s=row["cu_s"],
                written_bytes=row["written_bytes"],
                seen_s=row["seen_s"],
                logical_byte_s=row["logical_byte_s"],
                root_byte_s=row["root_byte_s"],
                child_byte_s=row["child_byte_s"],
                history_byte_s=row["history_byte_s"],
            ),
        )
        for row in rows
    ]


def _whose(row: Any) -> Whose:
    return Whose(OrgId(row["org_id"]), ProjectId(row["project_id"]), BranchId(row["branch_id"]))
