"""Rows of `access_request`, `access_approval`, `on_call`, `recording` and `recording_chunk`, in and out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, EndpointId, OrgId, ProjectId
from cloister.control.access.model import Recording, Request, Shift, State

_REQUEST: Final = """
SELECT r.*, a.email,
       (SELECT coalesce(array_agg(by.email ORDER BY p.approved_at), '{}')
          FROM access_approval p JOIN account by ON by.id = p.approved_by WHERE p.request_id = r.id) AS approved_by
  FROM access_request r JOIN account a ON a.id = r.account_id
"""
_RECORDING: Final = "SELECT c.*, a.email FROM recording c JOIN account a ON a.id = c.account_id"


# ── requests ──


async def add(tx: Transaction, request: Request) -> None:
    await tx.execute(
        """INSERT INTO access_request (id, org_id, project_id, branch_id, account_id, reason, duration_s, may_write,
                                       is_break_glass, requested_at, answer_by, role)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
        request.id,
        request.org_id,
        request.project_id,
        request.branch_id,
        request.account_id,
        request.reason,
        int(request.duration.total_seconds()),
        request.may_write,
        request.is_break_glass,
        request.requested_at,
        request.answer_by,
        request.role,
    )


async def find(tx: Transaction, project_id: ProjectId, limit: int) -> list[Request]:
    """Newest first."""
    rows = await tx.fetch(
        f"{_REQUEST} WHERE r.project_id = $1 ORDER BY r.requested_at DESC, r.id LIMIT $2", project_id, limit
    )
    return [_request(row) for row in rows]


async def get(tx: Transaction, project_id: ProjectId, request_id: UUID) -> Request:
    row = await tx.fetch_row(f"{_REQUEST} WHERE r.project_id = $1 AND r.id = $2", project_id, request_id)
    if row is None:
        raise NotFoundError(public="access request not found")
    return _request(row)


async def held(tx: Transaction, project_id: ProjectId, request_id: UUID) -> Request:
    """Locked until the transaction ends."""
    await tx.execute("SELECT FROM access_request WHERE id = $1 FOR UPDATE", request_id)
    return await get(tx, project_id, request_id)


async def by_role(tx: Transaction, role: str) -> Request | None:
    row = await tx.fetch_row(f"{_REQUEST} WHERE r.role = $1", role)
    return None if row is None else _request(row)


async def count_open(tx: Transaction, project_id: ProjectId, account_id: UUID) -> int:
    count: int = await tx.fetch_value(
        """SELECT count(*) FROM access_request
            WHERE project_id = $1 AND account_id = $2 AND state IN ('pending', 'active')""",
        project_id,
        account_id,
    )
    return count


async def approve(tx: Transaction, request: Request, by: UUID, now: datetime) -> None:
    """Raises through the database's own rule if it is by oneself; twice by one person is once."""
    await tx.execute(
        """INSERT INTO access_approval (request_id, account_id, approved_by, approved_at) VALUES ($1, $2, $3, $4)
           ON CONFLICT (request_id, approved_by) DO NOTHING""",
        request.id,
        request.account_id,
        by,
        now,
    )


async def over_at(tx: Transaction, request_id: UUID) -> datetime:
    """When the access was over, or will be; the row is held against being closed meanwhile. Of one that was active once."""
    row = await tx.fetch_row(
        "SELECT least(closed_at, ends_at) AS over_at FROM access_request WHERE id = $1 FOR SHARE", request_id
    )
    assert row is not None
    over_at: datetime = row["over_at"]
    return over_at


async def activate(tx: Transaction, request_id: UUID, ends_at: datetime) -> None:
    await tx.execute("UPDATE access_request SET state = 'active', ends_at = $2 WHERE id = $1", request_id, ends_at)


async def close(tx: Transaction, request_id: UUID, state: State, now: datetime) -> None:
    await tx.execute(
        "UPDATE access_request SET state = $2, closed_at = $3, verifier = NULL WHERE id = $1", request_id, state, now
    )


async def set_verifier(tx: Transaction, request_id: UUID, verifier: str) -> None:
    await tx.execute("UPDATE access_request SET verifier = $2 WHERE id = $1", request_id, verifier)


async def verifier_of(tx: Transaction, request_id: UUID) -> str | None:
    verifier: str | None = await tx.fetch_value("SELECT verifier FROM access_request WHERE id = $1", request_id)
    return verifier


async def overdue(tx: Transaction, now: datetime) -> list[Request]:
    rows = await tx.fetch(
        f"""{_REQUEST} WHERE (r.state = 'pending' AND r.answer_by <= $1) OR (r.state = 'active' AND r.ends_at <= $1)
             ORDER BY r.requested_at FOR UPDATE OF r""",
        now,
    )
    return [_request(row) for row in rows]


async def of_people_who_left(tx: Transaction, now: datetime) -> list[Request]:
    """Those that wait or are active, of people who are not of the project's organization any more, or were disabled or deactivated; and of who is
    of it by an issuer's groups, once no session of theirs is open: what groups give holds in sessions and for nothing else."""
    rows = await tx.fetch(
        f"""{_REQUEST} WHERE r.state IN ('pending', 'active')
               AND NOT EXISTS (SELECT FROM project p JOIN membership m ON m.org_id = p.org_id
                                 JOIN account a ON a.id = m.account_id
                                 LEFT JOIN api_key k ON k.issuer_id = m.issuer_id AND k.account_id = m.account_id
                                                    AND k.revoked_at IS NULL AND k.expires_at > $1
                                WHERE p.id = r.project_id AND m.account_id = r.account_id AND a.disabled_at IS NULL AND m.suspended_at IS NULL
                                  AND (m.issuer_id IS NULL OR k.id IS NOT NULL))
             ORDER BY r.requested_at FOR UPDATE OF r""",
        now,
    )
    return [_request(row) for row in rows]


# ── the role in the branch ──


async def role_will_be_made(tx: Transaction, request_id: UUID, now: datetime) -> None:
    await tx.execute(
        "UPDATE access_request SET role_made_at = $2, role_dropped_at = NULL WHERE id = $1", request_id, now
    )


async def role_dropped(tx: Transaction, request_id: UUID, now: datetime) -> None:
    await tx.execute("UPDATE access_request SET role_dropped_at = $2 WHERE id = $1", request_id, now)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A role of an access that is over, in a compute that runs."""

    request_id: UUID
    role: str
    endpoint_id: EndpointId
    generation: int
    socket_dir: str
    pg_version: int


async def leftovers(tx: Transaction) -> list[Leftover]:
    rows = await tx.fetch(
        """SELECT r.id AS request_id, r.role, e.id AS endpoint_id, e.generation, e.socket_dir, v.pg_version
             FROM access_request r
             JOIN endpoint e ON e.branch_id = r.branch_id AND e.type = 'read_write' AND e.deleted_at IS NULL
              AND e.socket_dir IS NOT NULL AND e.state <> 'init'
             JOIN volume v ON v.project_id = r.project_id
            WHERE r.role_made_at IS NOT NULL AND r.role_dropped_at IS NULL AND r.state <> 'active'
            ORDER BY r.closed_at"""
    )
    return [Leftover(**row) for row in rows]


# ── who is on call ──


async def add_shift(tx: Transaction, shift: Shift) -> None:
    await tx.execute(
        "INSERT INTO on_call (id, org_id, account_id, starts_at, ends_at) VALUES ($1, $2, $3, $4, $5)",
        shift.id,
        shift.org_id,
        shift.account_id,
        shift.starts_at,
        shift.ends_at,
    )


async def shifts(tx: Transaction, org_id: OrgId, now: datetime) -> list[Shift]:
    """Those that are not over, the next first."""
    rows = await tx.fetch(
        """SELECT o.*, a.email FROM on_call o JOIN account a ON a.id = o.account_id
            WHERE o.org_id = $1 AND o.ends_at > $2 ORDER BY o.starts_at, o.id""",
        org_id,
        now,
    )
    return [_shift(row) for row in rows]


async def remove_shift(tx: Transaction, org_id: OrgId, shift_id: UUID) -> Shift:
    row = await tx.fetch_row(
        """WITH gone AS (DELETE FROM on_call WHERE org_id = $1 AND id = $2 RETURNING *)
           SELECT gone.*, a.email FROM gone JOIN account a ON a.id = gone.account_id""",
        org_id,
        shift_id,
    )
    if row is None:
        raise NotFoundError(public="shift not found")
    return _shift(row)


# ── recordings ──


async def add_recording(tx: Transaction, recording: Recording, session_id: str) -> None:
    await tx.execute(
        """INSERT INTO recording (id, request_id, project_id, account_id, wrapped_key, address, database, application,
                                  session_id, began_at, head, seal)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
        recording.id,
        recording.request_id,
        recording.project_id,
        recording.account_id,
        recording.wrapped_key,
        recording.address,
        recording.database,
        recording.application,
        session_id,
        recording.began_at,
        recording.head,
        recording.seal,
    )


async def held_recording(tx: Transaction, recording_id: UUID) -> Recording:
    row = await tx.fetch_row(f"{_RECORDING} WHERE c.id = $1 FOR UPDATE OF c", recording_id)
    if row is None:
        raise NotFoundError(public="recording not found")
    return _recording(row)


async def recording(tx: Transaction, project_id: ProjectId, recording_id: UUID) -> Recording:
    row = await tx.fetch_row(f"{_RECORDING} WHERE c.project_id = $1 AND c.id = $2", project_id, recording_id)
    if row is None:
        raise NotFoundError(public="recording not found")
    return _recording(row)


async def recordings(tx: Transaction, project_id: ProjectId, request_id: UUID | None, limit: int) -> list[Recording]:
    """Newest first."""
    rows = await tx.fetch(
        f"""{_RECORDING} WHERE c.project_id = $1 AND ($2::uuid IS NULL OR c.request_id = $2)
             ORDER BY c.began_at DESC, c.id LIMIT $3""",
        project_id,
        request_id,
        limit,
    )
    return [_recording(row) for row in rows]


async def append(tx: Transaction, recording: Recording, sealed: bytes, head: bytes, statements: int) -> None:
    await tx.execute(
        "INSERT INTO recording_chunk (recording_id, index, sealed) VALUES ($1, $2, $3)",
        recording.id,
        recording.chunks,
        sealed,
    )
    await tx.execute(
        "UPDATE recording SET chunks = chunks + 1, statements = statements + $2, head = $3 WHERE id = $1",
        recording.id,
        statements,
        head,
    )


async def end_recording(tx: Transaction, recording_id: UUID, reason: str, now: datetime) -> None:
    await tx.execute("UPDATE recording SET ended_at = $2, reason = $3 WHERE id = $1", recording_id, now, reason)


async def left_open(tx: Transaction, closed_before: datetime) -> list[Recording]:
    """Recordings whose access is over since then, and whose gateway never said that the session ended."""
    rows = await tx.fetch(
        f"""{_RECORDING} JOIN access_request r ON r.id = c.request_id
             WHERE c.ended_at IS NULL AND r.closed_at <= $1 FOR UPDATE OF c""",
        closed_before,
    )
    return [_recording(row) for row in rows]


async def chunks(tx: Transaction, recording_id: UUID) -> list[tuple[int, bytes]]:
    rows = await tx.fetch(
        "SELECT index, sealed FROM recording_chunk WHERE recording_id = $1 ORDER BY index", recording_id
    )
    return [(row["index"], row["sealed"]) for row in rows]


def _request(row: Any) -> Request:
    return Request(
        id=row["id"],
        org_id=OrgId(row["org_id"]),
        project_id=ProjectId(row["project_id"]),
        branch_id=BranchId(row["branch_id"]),
        account_id=row["account_id"],
        email=row["email"],
        reason=row["reason"],
        duration=timedelta(seconds=row["duration_s"]),
        may_write=row["may_write"],
        is_break_glass=row["is_break_glass"],
        state=State(row["state"]),
        requested_at=row["requested_at"],
        answer_by=row["answer_by"],
        ends_at=row["ends_at"],
        closed_at=row["closed_at"],
        role=row["role"],
        approved_by=tuple(row["approved_by"]),
    )


def _shift(row: Any) -> Shift:
    return Shift(
        id=row["id"],
        org_id=OrgId(row["org_id"]),
        account_id=row["account_id"],
        email=row["email"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
    )


def _recording(row: Any) -> Recording:
    return Recording(
        id=row["id"],
        request_id=row["request_id"],
        project_id=ProjectId(row["project_id"]),
        account_id=row["account_id"],
        email=row["email"],
        address=row["address"],
        database=row["database"],
        application=row["application"],
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        chunks=row["chunks"],
        statements=row["statements"],
        head=row["head"],
        wrapped_key=row["wrapped_key"],
        seal=row["seal"],
        erased_at=row["erased_at"],
    )
