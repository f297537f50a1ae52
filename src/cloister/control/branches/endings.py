"""The end of a branch, in rows: deleted, when it can still be recovered; purged, when its data is gone. The row stays."""

from datetime import datetime

from cloister.base.database import Transaction
from cloister.base.ids import BranchId, ProjectId
from cloister.control.branches.model import Branch
from cloister.control.branches.store import branch_of


async def delete(tx: Transaction, branch_id: BranchId) -> Branch:
    """Nobody finds or wakes it any more. Its endpoints get the same `deleted_at`, by which `recover` knows them."""
    row = await tx.fetch_row(
        "UPDATE branch SET deleted_at = now(), updated_at = now() WHERE id = $1 RETURNING *", branch_id
    )
    assert row is not None
    await tx.execute(
        """UPDATE endpoint SET deleted_at = now(), desired = 'idle', updated_at = now()
            WHERE branch_id = $1 AND deleted_at IS NULL""",
        branch_id,
    )
    return branch_of(row)


async def recover(tx: Transaction, branch: Branch, parent_id: BranchId | None) -> Branch:
    """As it was, under `parent_id`; without an expiry that has passed."""
    await tx.execute(
        "UPDATE endpoint SET deleted_at = NULL, updated_at = now() WHERE branch_id = $1 AND deleted_at = $2",
        branch.id,
        branch.deleted_at,
    )
    row = await tx.fetch_row(
        """UPDATE branch SET deleted_at = NULL, parent_id = $2, updated_at = now(),
                  expires_at = NULL, ttl_interval_seconds = NULL
            WHERE id = $1 RETURNING *""",
        branch.id,
        parent_id,
    )
    assert row is not None
    return branch_of(row)


async def living_ancestor(tx: Transaction, branch_id: BranchId) -> BranchId | None:
    """The nearest one above it that is there, and stays: one that expires has no children, or it never could."""
    found = await tx.fetch_value(
        """WITH RECURSIVE above AS (
               SELECT p.id, p.parent_id, p.deleted_at IS NULL AND p.expires_at IS NULL AS stays, 1 AS distance
                 FROM branch b JOIN branch p ON p.id = b.parent_id WHERE b.id = $1
               UNION ALL
               SELECT p.id, p.parent_id, p.deleted_at IS NULL AND p.expires_at IS NULL, distance + 1
                 FROM above JOIN branch p ON p.id = above.parent_id WHERE NOT above.stays
           ) SELECT id FROM above WHERE stays ORDER BY distance LIMIT 1""",
        branch_id,
    )
    return None if found is None else BranchId(found)


async def purged(tx: Transaction, branch_id: str) -> None:
    """Its data is gone; the row stays for what refers to it."""
    await tx.execute(
        """UPDATE branch SET purged_at = now(), deleted_at = coalesce(deleted_at, now()), updated_at = now()
            WHERE id = $1""",
        branch_id,
    )
    await tx.execute(
        "UPDATE endpoint SET deleted_at = now(), desired = 'idle' WHERE branch_id = $1 AND deleted_at IS NULL",
        branch_id,
    )


async def deleted_of(tx: Transaction, project_id: ProjectId, since: datetime) -> list[Branch]:
    rows = await tx.fetch(
        """SELECT * FROM branch WHERE project_id = $1 AND deleted_at > $2 AND purged_at IS NULL
            ORDER BY deleted_at DESC, id""",
        project_id,
        since,
    )
    return [branch_of(row) for row in rows]


_NOBODY_AT_IT = """AND NOT EXISTS (SELECT FROM operation o WHERE o.branch_id = b.id
                                    AND o.status IN ('scheduling', 'running', 'cancelling'))"""


async def past_recovery(tx: Transaction, before: datetime) -> list[Branch]:
    """Deleted before that moment, and still there."""
    rows = await tx.fetch(
        f"""SELECT b.* FROM branch b JOIN project p ON p.id = b.project_id
             WHERE b.deleted_at <= $1 AND b.purged_at IS NULL AND p.deleted_at IS NULL {_NOBODY_AT_IT}
             ORDER BY b.deleted_at""",  # noqa: S608 - literals
        before,
    )
    return [branch_of(row) for row in rows]


async def expired(tx: Transaction, now: datetime) -> list[Branch]:
    rows = await tx.fetch(
        f"""SELECT b.* FROM branch b JOIN project p ON p.id = b.project_id
             WHERE b.expires_at <= $1 AND b.deleted_at IS NULL AND p.deleted_at IS NULL {_NOBODY_AT_IT}
             ORDER BY b.expires_at""",  # noqa: S608 - literals
        now,
    )
    return [branch_of(row) for row in rows]
