"""Rows of `timeline`, in and out: where the data of branches and snapshots lies, now and in the past.

A timeline is `making` from the request that asked for it until the agent has made it, then `ready`, and `deleted` in the
end; its row outlives its bytes. One that belongs to a branch has `branch_id`; it is the branch's current one while
`ended_at` is NULL. What a restore is just making, and what a snapshot holds, belongs to no branch.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cloister.base.database import Transaction
from cloister.base.errors import BusyError
from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.control.branches.model import Usage, Window
from cloister.control.computes.sessions import Running
from cloister.node.commands import TimelineInfo


@dataclass(frozen=True, slots=True)
class Place:
    """What the agent must know of a project to make a timeline in its volume."""

    project_id: str
    pg_version: int
    uid: int


async def place_of(tx: Transaction, project_id: str) -> Place:
    row = await tx.fetch_row("SELECT pg_version, uid FROM volume WHERE project_id = $1", project_id)
    assert row is not None
    return Place(project_id, row["pg_version"], row["uid"])


async def add(
    tx: Transaction,
    timeline_id: TimelineId,
    project_id: ProjectId,
    *,
    branch_id: BranchId | None,
    source_id: TimelineId,
) -> None:
    """One that is to be made."""
    await tx.execute(
        "INSERT INTO timeline (id, project_id, branch_id, source_id, state) VALUES ($1, $2, $3, $4, 'making')",
        timeline_id,
        project_id,
        branch_id,
        source_id,
    )


async def state_of(tx: Transaction, timeline_id: str) -> str:
    return str(await tx.fetch_value("SELECT state FROM timeline WHERE id = $1", timeline_id))


async def is_made(tx: Transaction, timeline_id: str) -> None:
    """There is nothing to go back to before this moment."""
    await tx.execute(
        "UPDATE timeline SET state = 'ready', began_at = now() WHERE id = $1 AND state = 'making'", timeline_id
    )


async def is_going(tx: Transaction, timeline_id: str) -> None:
    await tx.execute("UPDATE timeline SET state = 'deleting' WHERE id = $1 AND state = 'ready'", timeline_id)


async def is_deleted(tx: Transaction, *timeline_ids: str) -> None:
    await tx.execute(
        "UPDATE timeline SET state = 'deleted', ended_at = coalesce(ended_at, now()) WHERE id = ANY ($1::text[])",
        list(timeline_ids),
    )


async def of_branch(tx: Transaction, branch_id: str) -> list[TimelineId]:
    """All that have bytes, the current one first."""
    rows = await tx.fetch(
        "SELECT id FROM timeline WHERE branch_id = $1 AND state <> 'deleted' ORDER BY began_at DESC", branch_id
    )
    return [TimelineId(row["id"]) for row in rows]


async def to_search(tx: Transaction, branch_id: BranchId) -> list[TimelineId]:
    """Where a place in the branch's history may be, the current one first."""
    rows = await tx.fetch(
        "SELECT id FROM timeline WHERE branch_id = $1 AND state = 'ready' ORDER BY began_at DESC", branch_id
    )
    return [TimelineId(row["id"]) for row in rows]


async def at(tx: Transaction, branch_id: BranchId, moment: datetime) -> TimelineId | None:
    """The one that was the branch's at that moment."""
    found = await tx.fetch_value(
        """SELECT id FROM timeline
            WHERE branch_id = $1 AND state = 'ready' AND began_at <= $2 AND (ended_at IS NULL OR ended_at > $2)
            ORDER BY began_at DESC LIMIT 1""",
        branch_id,
        moment,
    )
    return None if found is None else TimelineId(found)


async def window_of(tx: Transaction, branch_id: BranchId, project_id: ProjectId, now: datetime) -> Window:
    """By our own rows: the branch's timelines follow each other without a gap, and the agent keeps each for the project's
    retention."""
    row = await tx.fetch_row(
        """SELECT history_retention_seconds, (SELECT min(began_at) FROM timeline WHERE branch_id = $1 AND state = 'ready') AS began
             FROM project WHERE id = $2""",
        branch_id,
        project_id,
    )
    assert row is not None
    oldest = now - timedelta(seconds=row["history_retention_seconds"])
    return Window(since=min(now, max(oldest, row["began"] or now)), until=now)


async def succeed(
    tx: Transaction, branch_id: BranchId, old_id: TimelineId, new_id: TimelineId, heir_id: BranchId | None
) -> None:
    """The branch lives on another timeline from now on. The one it had ends, or goes with all the history before it to
    the branch `heir_id`. Raises BusyError while a compute of the branch is there.

    `Runner.start` reads the row the other way round, under a lock of this one: either it sees what is written here, or we
    see its compute.
    """
    await tx.execute("SELECT FROM branch WHERE id = $1 FOR UPDATE", branch_id)
    if await tx.fetch_value(
        "SELECT EXISTS (SELECT FROM endpoint WHERE branch_id = $1 AND socket_dir IS NOT NULL)", branch_id
    ):
        raise BusyError(f"a compute of {branch_id} was started meanwhile")
    if heir_id is None:
        await tx.execute("UPDATE timeline SET ended_at = now() WHERE id = $1", old_id)
    else:
        await tx.execute("UPDATE timeline SET branch_id = $2 WHERE branch_id = $1", branch_id, heir_id)
        await tx.execute(
            "UPDATE branch SET parent_id = $2, updated_at = now() WHERE parent_id = $1 AND deleted_at IS NULL AND id <> $2",
            branch_id,
            heir_id,
        )
    await tx.execute(
        "UPDATE timeline SET branch_id = $2, state = 'ready', began_at = now() WHERE id = $1", new_id, branch_id
    )
    await tx.execute("UPDATE branch SET timeline_id = $2, updated_at = now() WHERE id = $1", branch_id, new_id)


# ── bytes ──


async def measured(tx: Transaction, info: TimelineInfo, now: datetime) -> None:
    await tx.execute(
        """UPDATE timeline SET logical_bytes = $2, unique_bytes = $3, history_bytes = $4, measured_at = $5,
                  end_lsn = $6::text::pg_lsn
            WHERE id = $1""",
        info.timeline_id,
        info.logical_bytes,
        info.unique_bytes,
        info.history_bytes,
        now,
        info.end_lsn,
    )


async def usages_of(tx: Transaction, project_id: ProjectId) -> dict[BranchId, Usage]:
    """Of all branches that have bytes. The size is that of the current timeline; what a branch was before is history."""
    rows = await tx.fetch(
        """SELECT b.id, t.logical_bytes, t.unique_bytes, t.measured_at,
                  (t.history_bytes + coalesce((SELECT sum(o.history_bytes + o.unique_bytes) FROM timeline o
                                       WHERE o.branch_id = b.id AND o.id <> t.id AND o.state = 'ready'), 0))::bigint
                  AS history_bytes
             FROM branch b JOIN timeline t ON t.id = b.timeline_id
            WHERE b.project_id = $1 AND b.purged_at IS NULL""",
        project_id,
    )
    return {
        BranchId(row["id"]): Usage(row["logical_bytes"], row["unique_bytes"], row["history_bytes"], row["measured_at"])
        for row in rows
    }


# ── what the history loop looks for ──


@dataclass(frozen=True, slots=True)
class Lying:
    """A timeline of a branch, and for how long its history is kept."""

    timeline_id: TimelineId
    project_id: ProjectId
    branch_id: BranchId
    retention_s: int


@dataclass(frozen=True, slots=True)
class Working:
    """One that a compute works on."""

    lying: Lying
    server: Running
    uid: int


_LYING: Final = (
    "t.id, t.project_id, t.branch_id, kept_history(t.id, p.history_retention_seconds) AS history_retention_seconds"
)
# What was not sent to the store yet waits for that (migration 0039).


async def running(tx: Transaction) -> list[Working]:
    """Those whose computes have had their first configuration."""
    rows = await tx.fetch(
        f"""SELECT {_LYING}, v.uid, v.pg_version, e.id AS endpoint_id, e.generation, e.socket_dir
              FROM endpoint e JOIN branch b ON b.id = e.branch_id JOIN timeline t ON t.id = b.timeline_id
                   JOIN project p ON p.id = t.project_id JOIN volume v ON v.project_id = t.project_id
             WHERE e.socket_dir IS NOT NULL AND e.state = 'active' AND e.type = 'read_write' AND e.deleted_at IS NULL
               AND p.deleted_at IS NULL
             ORDER BY t.measured_at NULLS FIRST"""  # noqa: S608 - literals
    )
    return [
        Working(
            _lying(row),
            Running(EndpointId(row["endpoint_id"]), row["generation"], row["socket_dir"], row["pg_version"]),
            row["uid"],
        )
        for row in rows
    ]


async def due_for_pruning(tx: Transaction, not_measured_since: datetime) -> list[Lying]:
    """At rest, unmeasured for a while, and with something in it that may have left the window since: once the whole window
    lies after its compute's end, pruning it again would find nothing."""
    rows = await tx.fetch(
        f"""SELECT {_LYING}
              FROM timeline t JOIN branch b ON b.id = t.branch_id JOIN project p ON p.id = t.project_id
             WHERE t.state = 'ready' AND p.deleted_at IS NULL AND b.deleted_at IS NULL AND b.state = 'ready'
               AND (t.measured_at IS NULL OR t.measured_at <= $1)
               AND (t.id <> b.timeline_id OR NOT EXISTS (SELECT FROM endpoint e WHERE e.branch_id = b.id
                                                            AND (e.socket_dir IS NOT NULL OR e.state = 'init')))
               AND (t.measured_at IS NULL OR t.measured_at < p.history_retention_seconds * interval '1 second'
                    + greatest(t.began_at, t.ended_at,
                               (SELECT max(e.suspended_at) FROM endpoint e WHERE e.branch_id = b.id)))
             ORDER BY t.measured_at NULLS FIRST""",  # noqa: S608 - literals
        not_measured_since,
    )
    return [_lying(row) for row in rows]


async def out_of_window(tx: Transaction, now: datetime) -> list[Lying]:
    """Those that branches were before, which nobody can ask for any more."""
    rows = await tx.fetch(
        f"""SELECT {_LYING}
              FROM timeline t JOIN branch b ON b.id = t.branch_id JOIN project p ON p.id = t.project_id
             WHERE t.state = 'ready' AND t.id <> b.timeline_id AND p.deleted_at IS NULL AND b.purged_at IS NULL
               AND t.ended_at <= $1::timestamptz - p.history_retention_seconds * interval '1 second'
               AND NOT EXISTS (SELECT FROM operation o WHERE o.project_id = t.project_id
                                  AND o.status IN ('scheduling', 'running', 'cancelling'))
             ORDER BY t.ended_at""",  # noqa: S608 - literals
        now,
    )
    return [_lying(row) for row in rows]


async def left_lying(tx: Transaction, before: datetime) -> list[Lying]:
    """Those that were to be deleted, of branches and of snapshots, and nobody is at it any more since that moment."""
    rows = await tx.fetch(
        """SELECT t.id, t.project_id, coalesce(t.branch_id, s.branch_id) AS branch_id, p.history_retention_seconds
             FROM timeline t JOIN project p ON p.id = t.project_id LEFT JOIN snapshot s ON s.timeline_id = t.id
            WHERE (t.state = 'deleting' OR (t.state = 'ready' AND s.deleted_at IS NOT NULL)) AND p.deleted_at IS NULL
              AND NOT EXISTS (SELECT FROM operation o WHERE o.project_id = t.project_id AND o.resource = 'timeline:' || t.id
                                 AND (o.status IN ('scheduling', 'running', 'cancelling') OR o.finished_at > $1))
            ORDER BY t.id""",
        before,
    )
    return [_lying(row) for row in rows]


def _lying(row: Any) -> Lying:
    return Lying(
        TimelineId(row["id"]),
        ProjectId(row["project_id"]),
        BranchId(row["branch_id"]),
        row["history_retention_seconds"],
    )
