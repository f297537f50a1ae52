"""The rows of `operation`: who may run, who holds the lease, what comes next.

Three rules stand here, because only the database can hold them:

1. One at a time. Of the operations that want a resource, the oldest holds it (`holds_resource`, a unique index) and
   only that one runs. Ending one hands its resource to the next in the same transaction.
2. In order. An operation that follows another has `run_at = infinity` until that one has finished. If it did not
   finish, its followers are skipped.
3. Fencing. Every claim and every commit takes the next lease number, and a commit names the number it knows. Whoever
   was overtaken changes nothing.

Waiting cannot form a circle: an operation waits only for older ones.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import msgspec

from cloister.base.database import Transaction, jsonb
from cloister.base.errors import BusyError, ConflictError, NotFoundError
from cloister.base.ids import OperationId, new_operation_id, parse_operation_id
from cloister.control.calling import Page
from cloister.control.operations.decisions import Move
from cloister.control.operations.machine import Machine
from cloister.control.operations.model import Operation, Status

CHANNEL: Final = "cloister_operation"
"""NOTIFY with an operation's id: it has been signalled."""

LIST_MAX: Final = 1000
# Neon's limit of a page of operations.


async def insert(
    tx: Transaction,
    machine: Machine[Any],
    *,
    project_id: str,
    branch_id: str | None,
    endpoint_id: str | None,
    resource: str,
    action: str,
    work: dict[str, Any],
    now: datetime,
) -> Operation:
    """A new operation that may run at once. Raises BusyError, leaving the transaction usable, if another operation
    holds the resource."""
    row = await tx.fetch_row(
        """
        INSERT INTO operation (id, project_id, branch_id, endpoint_id, action, machine, status, step, input, resource,
                               holds_resource, run_at, deadline_at, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, 'scheduling', $7, $8, $9, true, $10, $11, $10, $10)
        ON CONFLICT (resource) WHERE holds_resource DO NOTHING
        RETURNING *
        """,
        *(new_operation_id(), project_id, branch_id, endpoint_id, action, machine.name, machine.steps[0].name),
        *(jsonb(work), resource, now, now + machine.deadline),
    )
    if row is None:
        raise BusyError(f"{resource} is held by another operation")
    return _operation(row)


async def insert_after(
    tx: Transaction,
    machine: Machine[Any],
    *,
    after: OperationId,
    project_id: str,
    branch_id: str | None,
    endpoint_id: str | None,
    resource: str,
    action: str,
    work: dict[str, Any],
    now: datetime,
) -> Operation:
    """A new operation that runs when `after` has finished. It takes its resource now if nobody wants it, and queues
    for it otherwise. Raises NotFoundError if there is no `after`, ConflictError if that
    one did not finish."""
    # The lock makes the end of `after` wait for us, so that it finds its follower, or us for it, so that we see it.
    before = await tx.fetch_row("SELECT status FROM operation WHERE id = $1 FOR NO KEY UPDATE", after)
    if before is None:
        raise NotFoundError(f"operation {after} to follow", public="operation not found")
    status = Status(before["status"])
    if status.has_ended and status is not Status.FINISHED:
        raise ConflictError(f"operation {after} to follow is {status}", public="the operation before it did not finish")
    row = await tx.fetch_row(
        """
        INSERT INTO operation (id, project_id, branch_id, endpoint_id, action, machine, status, step, input, resource,
                               after_id, run_at, deadline_at, created_at, updated_at, holds_resource)
        VALUES ($1, $2, $3, $4, $5, $6, 'scheduling', $7, $8, $9, $10,
                CASE WHEN $11::boolean THEN $12::timestamptz ELSE 'infinity' END, $13, $12, $12,
                NOT EXISTS (SELECT FROM operation WHERE resource = $9 AND holds_resource)
                AND NOT EXISTS (SELECT FROM operation
                                 WHERE resource = $9 AND status = 'scheduling' AND NOT holds_resource))
        ON CONFLICT (resource) WHERE holds_resource DO NOTHING
        RETURNING *
        """,
        *(new_operation_id(), project_id, branch_id, endpoint_id, action, machine.name, machine.steps[0].name),
        *(jsonb(work), resource, after, status.has_ended, now, now + machine.deadline),
    )
    if row is None:
        raise BusyError(f"{resource} was taken a moment ago")
    return _operation(row)


# The deadline counts from the first claim, not from the time in a queue.
_LEASE: Final[LiteralString] = """
    status = 'running', lease = lease + 1, leased_until = $3, worker = $4, updated_at = $2,
    deadline_at = CASE WHEN status = 'scheduling' THEN $2 + (deadline_at - created_at) ELSE deadline_at END"""

_CLAIMABLE: Final[LiteralString] = """
    holds_resource AND status IN ('scheduling', 'running') AND machine = ANY ($1)
    AND run_at <= $2 AND leased_until <= $2"""

# A claim that is lost when the database's host dies did no harm: nothing was committed under it, and a commit under it
# takes the next lease number. So it need not wait for the disk.
_WITHOUT_SYNC: Final[LiteralString] = "set_config('synchronous_commit', 'off', true)"


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks for work: the machines it has, and until when it will hold what it gets."""

    machines: list[str]
    worker: str
    now: datetime
    until: datetime


async def claim(tx: Transaction, operation_id: OperationId, by: Claimant) -> Operation | None:
    """Lease this operation if it is due and nobody has it."""
    row = await tx.fetch_row(
        f"UPDATE operation SET {_LEASE} WHERE id = $5 AND {_CLAIMABLE} RETURNING *, {_WITHOUT_SYNC}",  # noqa: S608 - literals
        *(by.machines, by.now, by.until, by.worker, operation_id),
    )
    return _operation(row) if row else None


async def claim_due(tx: Transaction, by: Claimant, limit: int) -> list[Operation]:
    """Lease those that have been due longest, passing by what other workers are just taking."""
    rows = await tx.fetch(
        f"""
        WITH due AS MATERIALIZED (
            SELECT id FROM operation WHERE {_CLAIMABLE} ORDER BY run_at LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE operation SET {_LEASE} FROM due WHERE operation.id = due.id
        RETURNING operation.*, {_WITHOUT_SYNC}
        """,  # noqa: S608 - literals
        *(by.machines, by.now, by.until, by.worker, limit),
    )
    return [_operation(row) for row in rows]


async def renew(tx: Transaction, held: Operation, until: datetime) -> bool:
    """Keep the lease while a long step runs. False: it was lost."""
    return bool(
        await tx.fetch_row(
            f"UPDATE operation SET leased_until = $3 WHERE id = $1 AND lease = $2 RETURNING {_WITHOUT_SYNC}",  # noqa: S608 - literals
            *(held.id, held.lease, until),
        )
    )


async def release_leases(tx: Transaction, worker: str) -> int:
    """Take over what the worker of this name held before it died."""
    return await tx.execute(
        "UPDATE operation SET leased_until = '-infinity' WHERE worker = $1 AND holds_resource", worker
    )


async def commit(
    tx: Transaction, held: Operation, move: Move, now: datetime, leased_until: datetime | None
) -> Operation | None:
    """Write the move down. `leased_until` keeps the lease for the next step; None gives it back. Returns the row as it
    is now, or None, having changed nothing, if the lease was lost."""
    row = await tx.fetch_row(
        """
        UPDATE operation
           SET status = $3, step = $4, is_undoing = $5, facts = $6, failures_count = $7, error = $8,
               run_at = CASE WHEN wakes = $9 THEN $10::timestamptz ELSE least($10, $11) END, -- a signal that came meanwhile counts
               deadline_at = $12, updated_at = $11, lease = lease + 1,
               leased_until = coalesce($13, '-infinity'::timestamptz),
               holds_resource = holds_resource AND NOT $14::boolean,
               finished_at = CASE WHEN $14 THEN $11::timestamptz END
         WHERE id = $1 AND lease = $2
        RETURNING *
        """,
        *(held.id, held.lease, move.status, move.step, move.is_undoing, jsonb(move.facts)),
        *(move.failures_count, move.error, held.wakes, move.run_at, now, move.deadline_at, leased_until),
        move.status.has_ended,
    )
    return _operation(row) if row else None


async def hand_over(tx: Transaction, ended: Operation, now: datetime) -> list[Operation]:
    """After the commit that ended an operation, in the same transaction: let its followers run, or skip them, and give
    what it held to the next who waits. Returns the operations that this changed."""
    skipped = [] if ended.status is Status.FINISHED else await _skip_followers(tx, ended, now)
    rows = await tx.fetch(
        """
        WITH heir AS (
            SELECT DISTINCT ON (resource) id FROM operation AS waiting
             WHERE resource = ANY ($1) AND status = 'scheduling' AND NOT holds_resource
               AND NOT EXISTS (SELECT FROM operation AS holder
                                WHERE holder.resource = waiting.resource AND holder.holds_resource)
             ORDER BY resource, number
        )
        UPDATE operation
           SET holds_resource = holds_resource OR id IN (SELECT id FROM heir),
               run_at = CASE WHEN after_id = $2 THEN $3::timestamptz ELSE run_at END,
               updated_at = $3
         WHERE status = 'scheduling' AND (after_id = $2 OR id IN (SELECT id FROM heir))
        RETURNING *
        """,
        *([ended.resource, *(operation.resource for operation in skipped)], ended.id, now),
    )
    return skipped + [_operation(row) for row in rows]


async def _skip_followers(tx: Transaction, ended: Operation, now: datetime) -> list[Operation]:
    rows = await tx.fetch(
        """
        WITH RECURSIVE follower AS (
            SELECT id FROM operation WHERE after_id = $1 AND status = 'scheduling'
            UNION
            SELECT next.id FROM operation AS next JOIN follower ON next.after_id = follower.id
             WHERE next.status = 'scheduling'
        )
        UPDATE operation
           SET status = 'skipped', holds_resource = false, error = 'the operation before it did not finish',
               updated_at = $2, finished_at = $2
         WHERE id IN (SELECT id FROM follower)
        RETURNING *
        """,
        *(ended.id, now),
    )
    return [_operation(row) for row in rows]


async def give_free_resources(tx: Transaction) -> int:
    """Give each resource that nobody holds to the oldest who waits for it.

    The safety net of `hand_over`, which cannot see a waiter that is being inserted at the same moment.
    """
    return await tx.execute(
        """
        UPDATE operation SET holds_resource = true
         WHERE id IN (SELECT DISTINCT ON (resource) id FROM operation AS waiting
                       WHERE status = 'scheduling' AND NOT holds_resource
                         AND NOT EXISTS (SELECT FROM operation AS holder
                                          WHERE holder.resource = waiting.resource AND holder.holds_resource)
                       ORDER BY resource, number)
        """
    )


async def signal(tx: Transaction, operation_id: OperationId, now: datetime) -> None:
    """Run a waiting step now; a step that is just running runs once more. Delivered when the transaction commits."""
    await tx.execute(
        """
        UPDATE operation SET wakes = wakes + 1, run_at = CASE WHEN run_at = 'infinity' THEN run_at ELSE least(run_at, $2) END
         WHERE id = $1 AND status IN ('scheduling', 'running')
        """,
        *(operation_id, now),
    )
    await tx.execute("SELECT pg_notify($1, $2)", CHANNEL, operation_id)


async def load(tx: Transaction, operation_id: OperationId) -> Operation:
    """Raises NotFoundError."""
    row = await tx.fetch_row("SELECT * FROM operation WHERE id = $1", operation_id)
    if row is None:
        raise NotFoundError(f"operation {operation_id}", public="operation not found")
    return _operation(row)


async def load_of_project(tx: Transaction, project_id: str, operation_id: OperationId) -> Operation:
    """Raises NotFoundError, also for an operation of another project."""
    row = await tx.fetch_row("SELECT * FROM operation WHERE id = $1 AND project_id = $2", operation_id, project_id)
    if row is None:
        raise NotFoundError(f"operation {operation_id} of {project_id}", public="operation not found")
    return _operation(row)


async def load_holder(tx: Transaction, resource: str) -> Operation | None:
    """The operation that works on this resource now."""
    row = await tx.fetch_row("SELECT * FROM operation WHERE resource = $1 AND holds_resource", resource)
    return _operation(row) if row else None


async def find(tx: Transaction, project_id: str, page: Page) -> list[Operation]:
    """Newest first. Raises BadRequestError for a cursor that is no id; after an unknown id there is nothing."""
    rows = await tx.fetch(
        """
        SELECT * FROM operation
         WHERE project_id = $1
           AND ($2::text IS NULL OR number < (SELECT number FROM operation WHERE id = $2 AND project_id = $1))
         ORDER BY number DESC LIMIT $3
        """,
        *(project_id, None if page.cursor is None else parse_operation_id(page.cursor), min(page.limit, LIST_MAX)),
    )
    return [_operation(row) for row in rows]


def _operation(row: Any) -> Operation:
    return Operation(
        id=OperationId(row["id"]),
        project_id=row["project_id"],
        branch_id=row["branch_id"],
        endpoint_id=row["endpoint_id"],
        action=row["action"],
        machine=row["machine"],
        status=Status(row["status"]),
        step=row["step"],
        is_undoing=row["is_undoing"],
        failures_count=row["failures_count"],
        run_at=row["run_at"],
        deadline_at=row["deadline_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        resource=row["resource"],
        after_id=row["after_id"],
        lease=row["lease"],
        wakes=row["wakes"],
        input=msgspec.json.decode(row["input"]),
        facts=msgspec.json.decode(row["facts"]),
    )
