"""Taking hold of a project or an endpoint before changing it.

Every verb that changes something starts here, in its own transaction, and so all of them lock in one order: the project's
row first, the audit log's head last. The lock makes the look at running operations and the submission of a new one a
single act; what the database's unique index would refuse a moment later is refused here with Neon's words.
"""

from cloister.base.database import Transaction
from cloister.base.errors import BusyError, NotFoundError
from cloister.base.ids import BranchId, EndpointId, ProjectId

_BEGINNINGS = frozenset({"create_project", "create_branch", "anonymize_branch", "first_start", "start_compute"})
"""Machines that end with the compute awake."""
_UPHEAVALS = frozenset({"restore_branch", "delete_branch", "purge_branch", "finalize_restore"})
"""Machines that take away or replace what others may be copying."""


async def hold_project(tx: Transaction, project_id: ProjectId) -> None:
    """Lock a live project's row until the transaction ends. Raises NotFoundError."""
    row = await tx.fetch_row(
        "SELECT id FROM project WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", project_id
    )
    if row is None:
        raise NotFoundError(f"no project {project_id}", public="project not found")


async def claim_project(tx: Transaction, project_id: ProjectId, *, is_deleted: bool = False) -> None:
    """Hold a project that nothing else is working on: a live one, or one that was deleted. Raises NotFoundError, BusyError."""
    if is_deleted:
        await tx.execute("SELECT FROM project WHERE id = $1 FOR NO KEY UPDATE", project_id)
    else:
        await hold_project(tx, project_id)
    if await tx.fetch_value(
        """SELECT EXISTS (SELECT FROM operation
                           WHERE project_id = $1 AND status IN ('scheduling', 'running', 'cancelling'))""",
        project_id,
    ):
        raise BusyError(f"operations of {project_id} are under way")


async def claim_endpoint(
    tx: Transaction, project_id: ProjectId, endpoint_id: EndpointId, *, beside_a_start: bool = False
) -> None:
    """Hold a project in which nothing else works on this endpoint. Raises NotFoundError, BusyError.

    Who takes another branch's place is given its endpoints: what is begun there on the data of the one would be done to that of the
    other.

    `beside_a_start`: for what needs the compute awake anyway and joins a start under way, such as a change of roles. So a
    client that creates a project and at once a role is not told to come back later.
    """
    await hold_project(tx, project_id)
    running = await tx.fetch(
        """SELECT machine FROM operation
            WHERE project_id = $1 AND status IN ('scheduling', 'running', 'cancelling')
              AND (endpoint_id = $2 OR (endpoint_id IS NULL AND (branch_id IS NULL OR
                                        (SELECT branch_id FROM endpoint WHERE id = $2) IN (branch_id, input ->> 'replaced_id'))))""",
        project_id,
        endpoint_id,
    )
    allowed = _BEGINNINGS if beside_a_start else frozenset[str]()
    if any(row["machine"] not in allowed for row in running):
        raise BusyError(f"operations of {endpoint_id} are under way")


async def claim_branch(tx: Transaction, project_id: ProjectId, *branch_ids: BranchId) -> None:
    """Hold a project in which nothing else works on these branches, on their endpoints, or copies their data. One that is to keep
    what another was (`preserved_id`) shows the other's data until then, and is the other's restore's. Raises NotFoundError,
    BusyError."""
    await hold_project(tx, project_id)
    if await tx.fetch_value(
        """SELECT EXISTS (SELECT FROM operation
                           WHERE project_id = $1 AND status IN ('scheduling', 'running', 'cancelling')
                             AND (branch_id IS NULL OR branch_id = ANY ($2::text[])
                                  OR input ->> 'source_branch_id' = ANY ($2::text[])
                                  OR input ->> 'preserved_id' = ANY ($2::text[])))""",
        project_id,
        list(branch_ids),
    ):
        raise BusyError(f"operations of {', '.join(branch_ids)} are under way")


async def claim_source(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> None:
    """Hold a project in which nothing takes this branch away or replaces it: its data is about to be copied. Others may be
    copying it too, and it may still be in the making. Raises NotFoundError, BusyError."""
    await hold_project(tx, project_id)
    if await tx.fetch_value(
        """SELECT EXISTS (SELECT FROM operation
                           WHERE project_id = $1 AND $2 IN (branch_id, input ->> 'preserved_id') AND machine = ANY ($3::text[])
                             AND status IN ('scheduling', 'running', 'cancelling'))""",
        project_id,
        branch_id,
        list(_UPHEAVALS),
    ):
        raise BusyError(f"operations of {branch_id} are under way")
