"""Taking hold of a project or an endpoint before changing it.

Every verb that changes something starts here, in its own transaction, and so all of them lock in one order: the project's
row first, the audit log's head last. The lock makes the look at running operations and the submission of a new one a
single act; what the database's unique index would refuse a moment later is refused here with Neon's words.
"""

from cloister.base.database import Transaction
from cloister.base.errors import BusyError, NotFoundError
from cloister.base.ids import EndpointId, ProjectId

_BEGINNINGS = frozenset({"create_timeline", "start_compute"})


async def hold_project(tx: Transaction, project_id: ProjectId) -> None:
    """Lock a live project's row until the transaction ends. Raises NotFoundError."""
    row = await tx.fetch_row(
        "SELECT id FROM project WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", project_id
    )
    if row is None:
        raise NotFoundError(f"no project {project_id}", public="project not found")


async def claim_project(tx: Transaction, project_id: ProjectId) -> None:
    """Hold a project that nothing else is working on. Raises NotFoundError, BusyError."""
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

    `beside_a_start`: for what needs the compute awake anyway and joins a start under way, such as a change of roles. So a
    client that creates a project and at once a role is not told to come back later.
    """
    await hold_project(tx, project_id)
    running = await tx.fetch(
        """SELECT action FROM operation
            WHERE project_id = $1 AND (endpoint_id = $2 OR endpoint_id IS NULL)
              AND status IN ('scheduling', 'running', 'cancelling')""",
        project_id,
        endpoint_id,
    )
    allowed = _BEGINNINGS if beside_a_start else frozenset[str]()
    if any(row["action"] not in allowed for row in running):
        raise BusyError(f"operations of {endpoint_id} are under way")
