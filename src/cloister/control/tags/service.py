"""Setting the tags of a project or a branch, and taking them off. One transaction: row and audit event.

Of the words, `base/tags.py`; of how they follow the data, the control database (migration 0028), which also holds that `pii` and
`prod` go with a recorded reason only.
"""

from collections.abc import Iterable
from typing import Final

from cloister.base import tags as words
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, NotFoundError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action, record
from cloister.trust.audit.events import written

LIFT_REASON: Final = "asked for without a reason"
"""A reason is welcome, and not made up by who has none."""


class TagService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId | None,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        reason: str = "",
    ) -> frozenset[str]:
        """Of the project itself, if `branch_id` is None. What it has then. Raises BadRequestError, NotFoundError, and ForbiddenError
        where a kept tag is to go and the caller may not lift it."""
        added, removed = words.checked(add), words.checked(remove)
        if both := added & removed:
            raise BadRequestError(public=f"{', '.join(sorted(both))}: to be set and taken off at once")
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            row = (
                await tx.fetch_row("SELECT name, tags FROM project WHERE id = $1", project_id)
                if branch_id is None
                else await tx.fetch_row(
                    """SELECT name, tags FROM branch WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL
                          FOR NO KEY UPDATE""",
                    branch_id,
                    project_id,
                )
            )
            if row is None:
                raise NotFoundError(f"no branch {branch_id} in {project_id}", public="branch not found")
            old = frozenset(row["tags"])
            lifted = sorted(old & removed & words.KEPT)
            if lifted:
                caller.require(Permission.TAG_LIFT)
            new = (old | added) - (removed - words.KEPT)
            words.require_room(new)
            if branch_id is None:
                await tx.execute(
                    "UPDATE project SET tags = $2, updated_at = now() WHERE id = $1", project_id, sorted(new)
                )
            else:
                await tx.execute(
                    "UPDATE branch SET tags = $2, updated_at = now() WHERE id = $1", branch_id, sorted(new)
                )
            if new != old or not lifted:
                details = {"added": ", ".join(sorted(new - old)), "removed": ", ".join(sorted(old - new))}
                await record(
                    tx,
                    caller.event(
                        Action.TAG_SET,
                        project_id=project_id,
                        branch_id=branch_id or "",
                        resource=row["name"],
                        details=details,
                    ),
                )
            if lifted:
                event = caller.event(
                    Action.TAG_LIFT,
                    project_id=project_id,
                    branch_id=branch_id or "",
                    resource=row["name"],
                    reason=reason or LIFT_REASON,
                    details={"lifted": ", ".join(lifted)},
                )
                await tx.execute("SELECT lift_tags($1, $2, $3, $4, $5)", project_id, branch_id, lifted, *written(event))
        return new - frozenset(lifted)
