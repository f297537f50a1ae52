"""What the operator holds: a project, one of its endpoints, or a role, so that nobody is let in and nothing is started.

A hold is no setting of the tenant's, so no tenant's call undoes it: not a password, not an allow list, not `ALTER ROLE` in
a running server. Who asks: the directory, with every look-up (its query has a part on holds); the runner, before a start.
"""

from cloister.base.database import Transaction
from cloister.base.ids import EndpointId, ProjectId


async def put(
    tx: Transaction, project_id: ProjectId, *, endpoint_id: str = "", role: str = "", finding_id: str, held_by: str
) -> bool:
    """Whether it was not held because of this finding before."""
    return bool(
        await tx.execute(
            """INSERT INTO hold (project_id, endpoint_id, role, finding_id, held_by) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT DO NOTHING""",
            project_id,
            endpoint_id,
            role,
            finding_id,
            held_by,
        )
    )


async def release(tx: Transaction, finding_id: str) -> list[str]:
    """Everything that is held because of this finding. A sentence each, which says what others hold still."""
    rows = await tx.fetch(
        """WITH gone AS (DELETE FROM hold WHERE finding_id = $1 RETURNING *)
           SELECT project_id, endpoint_id, role,
                  (SELECT coalesce(string_agg(h.finding_id, ', ' ORDER BY h.finding_id), '') FROM hold h
                    WHERE (h.project_id, h.endpoint_id, h.role) = (gone.project_id, gone.endpoint_id, gone.role)
                      AND h.finding_id <> $1) AS others
             FROM gone""",
        finding_id,
    )
    return [
        _said(row["project_id"], row["endpoint_id"], row["role"])
        + (f", which is still held because of {row['others']}" if row["others"] else "")
        for row in rows
    ]


async def keeps_down(tx: Transaction, project_id: ProjectId, endpoint_id: EndpointId) -> bool:
    """Whether this endpoint may not be started."""
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM hold WHERE project_id = $1 AND endpoint_id IN ('', $2) AND role = '')""",
            project_id,
            endpoint_id,
        )
    )


def _said(project_id: str, endpoint_id: str, role: str) -> str:
    what = f"endpoint {endpoint_id}" if endpoint_id else f"role {role}" if role else "everything"
    return f"{what} of project {project_id}"
