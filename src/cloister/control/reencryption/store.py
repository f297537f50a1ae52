"""Rows of `reencryption`, in and out."""

from datetime import datetime
from typing import Any

from cloister.base.database import Transaction
from cloister.base.ids import ProjectId
from cloister.control.reencryption.model import Reencryption, State, Wish
from cloister.node.commands import CopyInfo


async def last(tx: Transaction, project_id: ProjectId) -> Reencryption | None:
    """The one under way, or the last there was."""
    row = await tx.fetch_row(
        "SELECT * FROM reencryption WHERE project_id = $1 ORDER BY finished_at DESC NULLS FIRST LIMIT 1", project_id
    )
    return None if row is None else _reencryption(row)


async def under_way(tx: Transaction) -> list[Reencryption]:
    """Of projects that are there, the oldest first."""
    rows = await tx.fetch(
        """SELECT it.* FROM reencryption AS it JOIN project ON project.id = project_id AND deleted_at IS NULL
            WHERE it.state IN ('copying', 'paused', 'cancelling') ORDER BY begun_at, project_id"""
    )
    return [_reencryption(row) for row in rows]


async def begin(tx: Transaction, new: Reencryption) -> Reencryption:
    """One that was cancelled begins again, where its key could not be destroyed."""
    row = await tx.fetch_row(
        """INSERT INTO reencryption (project_id, old_material, material, state, bytes_per_s, is_urgent, asked_by, begun_at)
           VALUES ($1, $2, $3, 'copying', $4, $5, $6, $7)
           ON CONFLICT (project_id, material) DO UPDATE
              SET state = 'copying', bytes_per_s = excluded.bytes_per_s, is_urgent = excluded.is_urgent,
                  old_material = excluded.old_material, asked_by = excluded.asked_by, begun_at = excluded.begun_at, ready_at = NULL, problem = ''
           RETURNING *""",
        new.project_id,
        new.old_material,
        new.material,
        new.wish.bytes_per_s,
        new.wish.is_urgent,
        new.asked_by,
        new.begun_at,
    )
    return _reencryption(row)


async def change(tx: Transaction, it: Reencryption, state: State, wish: Wish) -> Reencryption:
    row = await tx.fetch_row(
        """UPDATE reencryption SET state = $3, bytes_per_s = $4, is_urgent = $5, problem = '',
                  ready_at = CASE WHEN state = $3 THEN ready_at END
            WHERE project_id = $1 AND material = $2 RETURNING *""",
        it.project_id,
        it.material,
        state.value,
        wish.bytes_per_s,
        wish.is_urgent,
    )
    return _reencryption(row)


async def note(tx: Transaction, it: Reencryption, info: CopyInfo, ready_at: datetime | None, problem: str) -> None:
    await tx.execute(
        """UPDATE reencryption SET passed_bytes = $3, used_bytes = $4, ready_at = $5, problem = $6
            WHERE project_id = $1 AND material = $2 AND state IN ('copying', 'paused', 'cancelling')""",
        it.project_id,
        it.material,
        info.passed_bytes,
        info.used_bytes,
        ready_at,
        problem,
    )


async def finish(tx: Transaction, it: Reencryption, state: State, paused_s: float | None) -> bool:
    """False if somebody was quicker."""
    return bool(
        await tx.fetch_value(
            """UPDATE reencryption SET state = $3, paused_s = $4, problem = ''
                WHERE project_id = $1 AND material = $2 AND state IN ('copying', 'paused', 'cancelling') RETURNING true""",
            it.project_id,
            it.material,
            state.value,
            paused_s,
        )
    )


async def overdue(tx: Transaction, now: datetime, limit: int) -> list[ProjectId]:
    """Projects whose organization's policy says that their data has been under one key for long enough."""
    rows = await tx.fetch(
        """SELECT project.id FROM project JOIN key_policy USING (org_id) JOIN volume ON volume.project_id = project.id
            WHERE deleted_at IS NULL AND reencrypt_days IS NOT NULL AND volume.state = 'taken'
              AND coalesce((SELECT max(finished_at) FROM reencryption AS it
                             WHERE it.project_id = project.id AND it.state = 'done'), project.created_at)
                  + make_interval(days => reencrypt_days) <= $1
              AND NOT EXISTS (SELECT FROM reencryption AS it
                               WHERE it.project_id = project.id AND it.state IN ('copying', 'paused', 'cancelling'))
            ORDER BY project.created_at, project.id LIMIT $2""",
        now,
        limit,
    )
    return [ProjectId(row["id"]) for row in rows]


async def organization(tx: Transaction, project_id: ProjectId) -> str:
    found: str | None = await tx.fetch_value("SELECT org_id FROM project WHERE id = $1", project_id)
    return found or ""


def _reencryption(row: Any) -> Reencryption:
    return Reencryption(
        project_id=ProjectId(row["project_id"]),
        material=row["material"],
        old_material=row["old_material"],
        state=State(row["state"]),
        wish=Wish(row["bytes_per_s"], row["is_urgent"]),
        asked_by=row["asked_by"],
        begun_at=row["begun_at"],
        ready_at=row["ready_at"],
        finished_at=row["finished_at"],
        passed_bytes=row["passed_bytes"],
        used_bytes=row["used_bytes"],
        paused_s=row["paused_s"],
        problem=row["problem"],
    )
