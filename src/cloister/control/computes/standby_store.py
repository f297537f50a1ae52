"""Rows of `standby`, in and out: branches as they were at a point, while somebody looks at them, and what serves read-only
endpoints while they are awake.

A standby is being made while it has no socket, runs while it has one, and is ending once it was decided that it goes.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloister.base.database import Transaction
from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.base.past import Past, joined, parse
from cloister.control.computes.sessions import Running


@dataclass(frozen=True, slots=True)
class Standby:
    id: EndpointId
    """Its compute's: that of the read-only endpoint it serves. No endpoint has the id of one at a point."""
    project_id: ProjectId
    branch_id: BranchId
    past: Past | None
    """None: it serves a read-only endpoint, and follows its branch."""
    timeline_id: TimelineId
    is_ending: bool
    generation: int
    socket_dir: str | None
    last_active_at: datetime
    pg_version: int
    is_orphan: bool
    """What it shows is gone: its branch, its project or its endpoint, or the branch was given other data; or it is held."""
    follows_id: TimelineId | None = None
    suspend_timeout_seconds: int = 0
    """As an endpoint's."""

    @property
    def place(self) -> str:
        """What the gateways call it."""
        if self.past is None:
            return self.id
        return joined(self.branch_id, self.past)

    @property
    def running(self) -> Running | None:
        if self.socket_dir is None:
            return None
        return Running(self.id, self.generation, self.socket_dir, self.pg_version)


_STANDBY = """
SELECT s.*, v.pg_version, coalesce(e.suspend_timeout_seconds, 0) AS suspend_timeout_seconds, t.source_id,
       b.deleted_at IS NOT NULL OR p.deleted_at IS NOT NULL
       OR EXISTS (SELECT FROM hold h WHERE h.project_id = s.project_id AND h.endpoint_id IN ('', s.endpoint_id) AND h.role = '')
       OR (e.id IS NOT NULL AND (e.deleted_at IS NOT NULL OR e.is_disabled OR e.branch_id <> b.id
                                 OR t.source_id <> b.timeline_id)) AS is_orphan
  FROM standby s JOIN branch b ON b.id = s.branch_id JOIN project p ON p.id = s.project_id
       JOIN volume v ON v.project_id = s.project_id JOIN timeline t ON t.id = s.timeline_id
       LEFT JOIN endpoint e ON e.id = s.endpoint_id
"""


async def find(tx: Transaction, branch_id: str, past: Past) -> Standby | None:
    row = await tx.fetch_row(f"{_STANDBY} WHERE s.branch_id = $1 AND s.point = $2", branch_id, str(past))
    return None if row is None else _standby_of(row)


async def of_endpoint(tx: Transaction, endpoint_id: EndpointId) -> Standby | None:
    row = await tx.fetch_row(f"{_STANDBY} WHERE s.endpoint_id = $1", endpoint_id)
    return None if row is None else _standby_of(row)


async def all_of_them(tx: Transaction) -> list[Standby]:
    return [_standby_of(row) for row in await tx.fetch(f"{_STANDBY} ORDER BY s.id")]


async def ids(tx: Transaction) -> set[str]:
    """Of the computes that are standbys'."""
    return {row["id"] for row in await tx.fetch("SELECT id FROM standby")}


async def count(tx: Transaction, project_id: ProjectId) -> int:
    """Of those at a point."""
    return int(
        await tx.fetch_value("SELECT count(*) FROM standby WHERE project_id = $1 AND point IS NOT NULL", project_id)
    )


async def add(
    tx: Transaction,
    standby_id: EndpointId,
    timeline_id: TimelineId,
    *,
    project_id: ProjectId,
    branch_id: BranchId,
    past: Past | None,
    now: datetime,
) -> None:
    """One that is to be made; without a point, for the read-only endpoint of this id."""
    await tx.execute(
        """INSERT INTO standby (id, project_id, branch_id, point, endpoint_id, timeline_id, last_active_at)
           VALUES ($1, $2, $3, $4, CASE WHEN $4::text IS NULL THEN $1 END, $5, $6)""",
        standby_id,
        project_id,
        branch_id,
        None if past is None else str(past),
        timeline_id,
        now,
    )


async def started(tx: Transaction, standby_id: EndpointId, generation: int, socket_dir: str, now: datetime) -> None:
    await tx.execute(
        "UPDATE standby SET generation = $2, socket_dir = $3, last_active_at = $4 WHERE id = $1",
        standby_id,
        generation,
        socket_dir,
        now,
    )
    # So that who asks for the endpoint is told. Of one that has been deleted since, nobody asks.
    await tx.execute(
        """UPDATE endpoint SET state = 'active', desired = 'active', generation = $2, started_at = $3, last_active_at = $3,
                  updated_at = now() WHERE id = $1""",
        standby_id,
        generation,
        now,
    )


async def was_active(tx: Transaction, standby_id: EndpointId, at: datetime) -> None:
    await tx.execute("UPDATE standby SET last_active_at = $2 WHERE id = $1", standby_id, at)
    await tx.execute("UPDATE endpoint SET last_active_at = $2 WHERE id = $1", standby_id, at)


async def is_ending(tx: Transaction, standby_id: EndpointId) -> None:
    """Nobody is led to it any more."""
    await tx.execute("UPDATE standby SET is_ending = true, socket_dir = NULL WHERE id = $1", standby_id)


async def forget(tx: Transaction, standby_id: EndpointId, now: datetime) -> None:
    await tx.execute(
        "UPDATE endpoint SET state = 'idle', desired = 'idle', suspended_at = $2, updated_at = now() WHERE id = $1",
        standby_id,
        now,
    )
    await tx.execute("DELETE FROM standby WHERE id = $1", standby_id)


def _standby_of(row: Any) -> Standby:
    return Standby(
        id=EndpointId(row["id"]),
        project_id=ProjectId(row["project_id"]),
        branch_id=BranchId(row["branch_id"]),
        past=None if row["point"] is None else parse(row["point"]),
        timeline_id=TimelineId(row["timeline_id"]),
        is_ending=row["is_ending"],
        generation=row["generation"],
        socket_dir=row["socket_dir"],
        last_active_at=row["last_active_at"],
        pg_version=row["pg_version"],
        is_orphan=row["is_orphan"],
        follows_id=None if row["point"] is not None else TimelineId(row["source_id"]),
        suspend_timeout_seconds=row["suspend_timeout_seconds"],
    )
