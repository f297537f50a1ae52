"""Rows of `snapshot`, in and out, and the schedule that a branch's row holds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cloister.base.database import Transaction, jsonb
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId, SnapshotId, TimelineId
from cloister.control.branches.model import ScheduleItem, Snapshot


async def find(tx: Transaction, project_id: ProjectId) -> list[Snapshot]:
    """Newest first."""
    rows = await tx.fetch(
        "SELECT * FROM snapshot WHERE project_id = $1 AND deleted_at IS NULL ORDER BY created_at DESC, id", project_id
    )
    return [_snapshot(row) for row in rows]


async def get(tx: Transaction, project_id: ProjectId, snapshot_id: SnapshotId) -> Snapshot:
    row = await tx.fetch_row(
        "SELECT * FROM snapshot WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL", snapshot_id, project_id
    )
    if row is None:
        raise NotFoundError(f"no snapshot {snapshot_id} in {project_id}", public="snapshot not found")
    return _snapshot(row)


async def add(tx: Transaction, snapshot: Snapshot, *, created_by: object) -> Snapshot:
    row = await tx.fetch_row(
        """INSERT INTO snapshot (id, project_id, branch_id, timeline_id, name, is_manual, taken_at, expires_at, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *""",
        snapshot.id,
        snapshot.project_id,
        snapshot.branch_id,
        snapshot.timeline_id,
        snapshot.name,
        snapshot.is_manual,
        snapshot.taken_at,
        snapshot.expires_at,
        created_by,
    )
    assert row is not None
    return _snapshot(row)


async def change(tx: Transaction, snapshot: Snapshot) -> Snapshot:
    row = await tx.fetch_row(
        "UPDATE snapshot SET name = $2, expires_at = $3, updated_at = now() WHERE id = $1 RETURNING *",
        snapshot.id,
        snapshot.name,
        snapshot.expires_at,
    )
    assert row is not None
    return _snapshot(row)


async def taken(tx: Transaction, snapshot_id: str, lsn: str) -> None:
    await tx.execute("UPDATE snapshot SET lsn = $2, updated_at = now() WHERE id = $1", snapshot_id, lsn)


async def delete(tx: Transaction, snapshot_id: str) -> None:
    """Nobody finds it any more. Its bytes are the machine's business."""
    await tx.execute("UPDATE snapshot SET deleted_at = now() WHERE id = $1 AND deleted_at IS NULL", snapshot_id)


async def is_in_use(tx: Transaction, snapshot: Snapshot) -> bool:
    """It is just being taken, or a branch is just being made of it."""
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM operation
                               WHERE project_id = $1 AND status IN ('scheduling', 'running', 'cancelling')
                                 AND (input -> 'recipe' ->> 'target_id' = $2 OR input -> 'recipe' -> 'sources' ? $2))""",
            snapshot.project_id,
            snapshot.timeline_id,
        )
    )


async def expired(tx: Transaction, now: datetime) -> list[Snapshot]:
    rows = await tx.fetch(
        """SELECT s.* FROM snapshot s JOIN project p ON p.id = s.project_id
            WHERE s.expires_at <= $1 AND s.deleted_at IS NULL AND p.deleted_at IS NULL ORDER BY s.expires_at""",
        now,
    )
    return [_snapshot(row) for row in rows]


# ── schedules ──


async def schedule_of(tx: Transaction, branch_id: BranchId) -> list[ScheduleItem]:
    stored = await tx.fetch_value("SELECT backup_schedule FROM branch WHERE id = $1", branch_id)
    return msgspec.json.decode(stored, type=list[ScheduleItem])


async def set_schedule(tx: Transaction, branch_id: BranchId, items: list[ScheduleItem], now: datetime) -> None:
    await tx.execute(
        "UPDATE branch SET backup_schedule = $2::jsonb, scheduled_at = $3, updated_at = now() WHERE id = $1",
        branch_id,
        jsonb(items),
        now,
    )


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A branch with a schedule."""

    project_id: ProjectId
    branch_id: BranchId
    items: list[ScheduleItem]
    since: datetime
    """When the schedule last took a snapshot, or was set."""


async def scheduled(tx: Transaction) -> list[Scheduled]:
    rows = await tx.fetch(
        """SELECT b.project_id, b.id, b.backup_schedule,
                  greatest(b.scheduled_at, (SELECT max(s.taken_at) FROM snapshot s
                                             WHERE s.branch_id = b.id AND NOT s.is_manual)) AS since
             FROM branch b JOIN project p ON p.id = b.project_id
            WHERE b.backup_schedule <> '[]' AND b.deleted_at IS NULL AND b.state = 'ready' AND p.deleted_at IS NULL
              AND NOT EXISTS (SELECT FROM operation o WHERE o.branch_id = b.id
                                 AND o.status IN ('scheduling', 'running', 'cancelling'))
            ORDER BY b.id"""
    )
    return [
        Scheduled(
            ProjectId(row["project_id"]),
            BranchId(row["id"]),
            msgspec.json.decode(row["backup_schedule"], type=list[ScheduleItem]),
            row["since"],
        )
        for row in rows
    ]


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(
        id=SnapshotId(row["id"]),
        project_id=ProjectId(row["project_id"]),
        branch_id=BranchId(row["branch_id"]),
        timeline_id=TimelineId(row["timeline_id"]),
        name=row["name"],
        is_manual=row["is_manual"],
        lsn=row["lsn"],
        taken_at=row["taken_at"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        tags=frozenset(row["tags"]),
    )
