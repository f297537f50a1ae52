"""Rows of `branch`, in and out. Those of the timelines that hold a branch's data are in `timelines.py`."""

from datetime import datetime
from typing import Any

from cloister.base.database import Transaction
from cloister.base.errors import BusyError, ConflictError, NotFoundError
from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.control.branches.model import Branch
from cloister.control.calling import Page
from cloister.control.computes.sessions import Running


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


async def count(tx: Transaction, project_id: ProjectId, search: str | None) -> int:
    return int(
        await tx.fetch_value(
            """SELECT count(*) FROM branch
                WHERE project_id = $1 AND deleted_at IS NULL
                  AND ($2::text IS NULL OR position(lower($2) IN lower(name)) > 0 OR position($2 IN id) > 0)""",
            project_id,
            search,
        )
    )


async def get(tx: Transaction, project_id: ProjectId, branch_id: BranchId, *, and_deleted: bool = False) -> Branch:
    """`and_deleted`: also one that can still be recovered. Raises NotFoundError."""
    row = await tx.fetch_row(
        """SELECT * FROM branch
            WHERE id = $1 AND project_id = $2 AND (deleted_at IS NULL OR ($3 AND purged_at IS NULL))""",
        branch_id,
        project_id,
        and_deleted,
    )
    if row is None:
        raise NotFoundError(f"no branch {branch_id} in {project_id}", public="branch not found")
    return branch_of(row)


async def hold(tx: Transaction, branch_id: BranchId) -> None:
    """Nobody changes the row before the transaction ends; operations do so without holding the project."""
    await tx.execute("SELECT FROM branch WHERE id = $1 FOR NO KEY UPDATE", branch_id)


async def load(tx: Transaction, branch_id: str) -> Branch:
    """Whatever became of it. For machines, whose branch was there when they were submitted."""
    row = await tx.fetch_row("SELECT * FROM branch WHERE id = $1", branch_id)
    if row is None:
        raise NotFoundError(f"no branch {branch_id}", public="branch not found")
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


async def add(tx: Transaction, branch: Branch, *, created_by: object, replaces_id: BranchId | None = None) -> Branch:
    """Raises ConflictError for a name that is taken."""
    await require_free_name(tx, branch.project_id, branch.name)
    row = await tx.fetch_row(
        """INSERT INTO branch (id, project_id, parent_id, parent_lsn, parent_timestamp, init_source, timeline_id, name,
                               is_default, is_protected, state, expires_at, ttl_interval_seconds, created_by, replaces_id, tags)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false, $9, $10, $11, $12, $13, $14, $15) RETURNING *""",
        branch.id,
        branch.project_id,
        branch.parent_id,
        branch.parent_lsn,
        branch.parent_timestamp,
        branch.init_source,
        branch.timeline_id,
        branch.name,
        branch.is_protected,
        branch.state,
        branch.expires_at,
        branch.ttl_interval_seconds,
        created_by,
        replaces_id,
        sorted(branch.tags),
    )
    assert row is not None
    return branch_of(row)


async def require_free_name(tx: Transaction, project_id: ProjectId, name: str) -> None:
    """The caller holds the project, so nobody takes it in between. Raises ConflictError."""
    if await tx.fetch_value(
        "SELECT EXISTS (SELECT FROM branch WHERE project_id = $1 AND name = $2 AND deleted_at IS NULL)",
        project_id,
        name,
    ):
        raise ConflictError(
            f"{project_id} has a branch {name!r}", public=f'branch already exists; branch_name:"{name}"'
        )


async def change(tx: Transaction, branch: Branch) -> Branch:
    """Name, protection, expiry."""
    row = await tx.fetch_row(
        """UPDATE branch SET name = $2, is_protected = $3, expires_at = $4, ttl_interval_seconds = $5, updated_at = now()
            WHERE id = $1 RETURNING *""",
        branch.id,
        branch.name,
        branch.is_protected,
        branch.expires_at,
        branch.ttl_interval_seconds,
    )
    assert row is not None
    return branch_of(row)


async def set_default(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> Branch:
    await tx.execute(
        """UPDATE branch SET is_default = false, updated_at = now()
            WHERE project_id = $1 AND is_default AND deleted_at IS NULL AND id <> $2""",
        project_id,
        branch_id,
    )
    row = await tx.fetch_row(
        "UPDATE branch SET is_default = true, updated_at = now() WHERE id = $1 RETURNING *", branch_id
    )
    assert row is not None
    return branch_of(row)


async def left_parent(tx: Transaction, branch_id: str, lsn: str, at: datetime | None) -> None:
    """Where it left its parent, now that this is known."""
    await tx.execute(
        """UPDATE branch SET parent_lsn = $2, parent_timestamp = coalesce($3, parent_timestamp), updated_at = now()
            WHERE id = $1""",
        branch_id,
        lsn,
        at,
    )


async def is_ready(tx: Transaction, branch_id: BranchId) -> None:
    await tx.execute("UPDATE branch SET state = 'ready', updated_at = now() WHERE id = $1", branch_id)
    await tx.execute("UPDATE timeline SET state = 'ready' WHERE branch_id = $1 AND state = 'making'", branch_id)


async def is_being_made(tx: Transaction, branch_id: BranchId) -> bool:
    """By its own creation, its project's, or the first start that gives it its names."""
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM operation
                               WHERE branch_id = $1 AND status IN ('scheduling', 'running', 'cancelling')
                                 AND machine IN ('create_project', 'create_branch', 'anonymize_branch', 'first_start'))""",
            branch_id,
        )
    )


async def is_settled(tx: Transaction, branch_id: BranchId) -> bool:
    """Its running server has what was asked for when it was made."""
    return not await tx.fetch_value(
        "SELECT EXISTS (SELECT FROM endpoint WHERE branch_id = $1 AND state = 'init' AND deleted_at IS NULL)", branch_id
    )


async def has_protected_parent(tx: Transaction, branch_id: BranchId) -> bool:
    return bool(
        await tx.fetch_value(
            "SELECT p.is_protected FROM branch b JOIN branch p ON p.id = b.parent_id WHERE b.id = $1", branch_id
        )
    )


async def children_of(tx: Transaction, branch_id: BranchId) -> list[str]:
    """Names of those that are there."""
    rows = await tx.fetch(
        "SELECT name FROM branch WHERE parent_id = $1 AND deleted_at IS NULL ORDER BY created_at", branch_id
    )
    return [row["name"] for row in rows]


async def protected_of(tx: Transaction, project_id: ProjectId) -> list[str]:
    """Names of the project's protected branches."""
    rows = await tx.fetch(
        "SELECT name FROM branch WHERE project_id = $1 AND is_protected AND deleted_at IS NULL ORDER BY name",
        project_id,
    )
    return [row["name"] for row in rows]


async def delete_all(tx: Transaction, project_id: ProjectId) -> None:
    await tx.execute("UPDATE branch SET deleted_at = now() WHERE project_id = $1 AND deleted_at IS NULL", project_id)


# ── restore ──


async def restored(
    tx: Transaction, branch_id: BranchId, parent_id: str | None, lsn: str | None, at: str | None
) -> None:
    """It begins anew: from where it left its (perhaps new) parent, and with all of its time to live."""
    await tx.execute(
        """UPDATE branch SET parent_id = $2, parent_lsn = $3, parent_timestamp = coalesce($4::text::timestamptz, now()),
                  init_source = CASE WHEN $2::text IS NULL THEN init_source ELSE 'parent-data' END,
                  expires_at = CASE WHEN ttl_interval_seconds IS NULL THEN expires_at
                                    ELSE now() + ttl_interval_seconds * interval '1 second' END,
                  updated_at = now()
            WHERE id = $1""",
        branch_id,
        parent_id,
        lsn,
        at,
    )


async def forget(tx: Transaction, branch_id: str) -> None:
    """A row that nothing ever came to lie behind."""
    await tx.execute(
        "UPDATE branch SET deleted_at = now(), purged_at = now() WHERE id = $1 AND state = 'init'", branch_id
    )


async def replaced_by(tx: Transaction, branch_id: BranchId) -> BranchId | None:
    """Whose place it is to take."""
    found = await tx.fetch_value("SELECT replaces_id FROM branch WHERE id = $1", branch_id)
    return None if found is None else BranchId(found)


async def take_place(tx: Transaction, branch_id: BranchId, replaced_id: BranchId, *, name: str, old_name: str) -> None:
    """Name, rank and endpoints of the one go to the other. Endpoints of the other's own end: a host stands for one branch.
    Raises BusyError while a compute of either is there."""
    await tx.execute("SELECT FROM branch WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE", [branch_id, replaced_id])
    if await tx.fetch_value(
        "SELECT EXISTS (SELECT FROM endpoint WHERE branch_id = ANY ($1::text[]) AND socket_dir IS NOT NULL)",
        [branch_id, replaced_id],
    ):
        raise BusyError(f"a compute of {branch_id} or {replaced_id} was started meanwhile")
    moving = await tx.fetch_value(
        "SELECT count(*) FROM endpoint WHERE branch_id = $1 AND deleted_at IS NULL AND type = 'read_write'", replaced_id
    )
    if moving:
        await tx.execute(
            """UPDATE endpoint SET deleted_at = now(), desired = 'idle' WHERE branch_id = $1 AND deleted_at IS NULL
                  AND type = 'read_write'""",
            branch_id,
        )
    await tx.execute(
        """UPDATE endpoint SET branch_id = $2, state = CASE type WHEN 'read_write' THEN 'init' ELSE state END,
                  is_clean = true, updated_at = now()
            WHERE branch_id = $1 AND deleted_at IS NULL""",
        replaced_id,
        branch_id,
    )
    was_default = await tx.fetch_value("SELECT is_default FROM branch WHERE id = $1", replaced_id)
    await tx.execute(
        "UPDATE branch SET name = $2, is_default = false, updated_at = now() WHERE id = $1", replaced_id, old_name
    )
    await tx.execute(
        """UPDATE branch SET name = $2, is_default = $3, replaces_id = NULL, expires_at = NULL,
                  ttl_interval_seconds = NULL, updated_at = now() WHERE id = $1""",
        branch_id,
        name,
        was_default,
    )


# ── who works on its data ──


async def writer_at_work(tx: Transaction, branch_id: str) -> Running | None:
    """The compute that may be writing a branch's data, also that of an endpoint deleted since."""
    row = await tx.fetch_row(
        """SELECT e.id, e.generation, e.socket_dir, v.pg_version
             FROM endpoint e JOIN volume v ON v.project_id = e.project_id
            WHERE e.branch_id = $1 AND e.socket_dir IS NOT NULL AND e.type = 'read_write'
            ORDER BY e.started_at DESC LIMIT 1""",
        branch_id,
    )
    if row is None:
        return None
    return Running(EndpointId(row["id"]), row["generation"], row["socket_dir"], row["pg_version"])


async def endpoints_of(tx: Transaction, branch_id: str) -> list[EndpointId]:
    """Deleted ones included: a compute of theirs may still run."""
    rows = await tx.fetch("SELECT id FROM endpoint WHERE branch_id = $1 ORDER BY id", branch_id)
    return [EndpointId(row["id"]) for row in rows]


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
        tags=frozenset(row["tags"]),
    )
