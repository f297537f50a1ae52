"""Rows of `branch`, in and out."""

from typing import Any

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId, TimelineId
from cloister.control.branches.model import Branch
from cloister.control.calling import Page


async def find(tx: Transaction, project_id: ProjectId, page: Page, search: str | None) -> list[Branch]:
    """Newest first; `search` is a part of a name or an id. After an unknown cursor there is nothing."""
    rows = await tx.fetch(
        """SELECT b.* FROM branch b LEFT JOIN branch c ON c.id = $3 AND c.project_id = $1
            WHERE b.project_id = $1 AND b.deleted_at IS NULL
              AND ($2::text IS NULL OR position(lower($2) IN lower(b.name)) > 0 OR position($2 IN b.id) > 0)
              AND ($3::text IS NULL OR b.created_at < c.created_at OR (b.created_at = c.created_at AND b.id > c.id))
            ORDER BY b.created_at DESC, b.id
            LIMIT $4""",
        project_id,
        search,
        page.cursor,
        page.limit,
    )
    return [branch_of(row) for row in rows]


async def get(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> Branch:
    row = await tx.fetch_row(
        "SELECT * FROM branch WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL", branch_id, project_id
    )
    if row is None:
        raise NotFoundError(f"no branch {branch_id} in {project_id}", public="branch not found")
    return branch_of(row)


async def default(tx: Transaction, project_id: ProjectId) -> Branch:
    row = await tx.fetch_row(
        "SELECT * FROM branch WHERE project_id = $1 AND is_default AND deleted_at IS NULL", project_id
    )
    if row is None:
        raise NotFoundError(f"no default branch in {project_id}", public="branch not found")
    return branch_of(row)


async def add_root(
    tx: Transaction, project_id: ProjectId, branch_id: BranchId, timeline_id: TimelineId, name: str
) -> Branch:
    row = await tx.fetch_row(
        """INSERT INTO branch (id, project_id, timeline_id, name, is_default, state)
           VALUES ($1, $2, $3, $4, true, 'init') RETURNING *""",
        branch_id,
        project_id,
        timeline_id,
        name,
    )
    assert row is not None
    await tx.execute(
        "INSERT INTO timeline (id, project_id, branch_id, state) VALUES ($1, $2, $3, 'making')",
        timeline_id,
        project_id,
        branch_id,
    )
    return branch_of(row)


async def is_ready(tx: Transaction, branch_id: BranchId) -> None:
    await tx.execute("UPDATE branch SET state = 'ready', updated_at = now() WHERE id = $1", branch_id)
    await tx.execute("UPDATE timeline SET state = 'ready' WHERE branch_id = $1 AND state = 'making'", branch_id)


async def protected_of(tx: Transaction, project_id: ProjectId) -> list[str]:
    """Names of the project's protected branches."""
    rows = await tx.fetch(
        "SELECT name FROM branch WHERE project_id = $1 AND is_protected AND deleted_at IS NULL ORDER BY name",
        project_id,
    )
    return [row["name"] for row in rows]


async def delete_all(tx: Transaction, project_id: ProjectId) -> None:
    await tx.execute("UPDATE branch SET deleted_at = now() WHERE project_id = $1 AND deleted_at IS NULL", project_id)


def branch_of(row: Any) -> Branch:
    return Branch(
        id=BranchId(row["id"]),
        project_id=ProjectId(row["project_id"]),
        parent_id=None if row["parent_id"] is None else BranchId(row["parent_id"]),
        parent_lsn=row["parent_lsn"],
        parent_timestamp=row["parent_timestamp"],
        init_source=row["init_source"],
        timeline_id=TimelineId(row["timeline_id"]),
        name=row["name"],
        is_default=row["is_default"],
        is_protected=row["is_protected"],
        state=row["state"],
        expires_at=row["expires_at"],
        ttl_interval_seconds=row["ttl_interval_seconds"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )
