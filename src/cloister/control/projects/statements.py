"""What of a project's statements is recorded: its level, and the record."""

from collections.abc import Callable

from cloister.base import versions
from cloister.base.audit_levels import AuditLevel
from cloister.base.database import Database
from cloister.base.errors import NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.control.computes.gateways import Gateways
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action, record
from cloister.trust.audit.statements import Segment, StatementLog


def version_of(project_id: ProjectId, level: AuditLevel) -> str:
    return versions.version("audit_level", project_id, level)


class StatementService:
    def __init__(self, database: Database, *, gateways: Gateways, log: StatementLog, poke: Callable[[], None]) -> None:
        self._database = database
        self._gateways = gateways
        self._log = log
        self._poke = poke

    async def level(self, project_id: ProjectId) -> AuditLevel:
        async with self._database.reading() as tx:
            level = await tx.fetch_value(
                "SELECT audit_level FROM project WHERE id = $1 AND deleted_at IS NULL", project_id
            )
        if level is None:
            raise NotFoundError(f"no project {project_id}", public="project not found")
        return AuditLevel(level)

    async def set_level(self, caller: Caller, project_id: ProjectId, level: AuditLevel) -> AuditLevel:
        """Sessions of another level are ended by their gateways at once; the next ones have this one. Servers that run are told
        with the next look at them, which is made at once, read-only ones after seconds. Raises ForbiddenError where it is lower than before and the caller may not lower it."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            row = await tx.fetch_row(
                "SELECT audit_level, org_id FROM project WHERE id = $1 AND deleted_at IS NULL", project_id
            )
            if row is None:
                raise NotFoundError(f"no project {project_id}", public="project not found")
            before = AuditLevel(row["audit_level"])
            caller.require_version(version_of(project_id, before))
            if level.is_lower_than(before):
                caller.require(Permission.AUDIT_LEVEL_LOWER)
            await tx.execute("UPDATE project SET audit_level = $2 WHERE id = $1", project_id, level.value)
            details = {"level": level.value, "before": before.value, "is_lowered": level.is_lower_than(before)}
            event = caller.event(Action.AUDIT_LEVEL_SET, org_id=row["org_id"], project_id=project_id, details=details)
            await record(tx, event)
        self._gateways.invalidate(project_id=project_id)
        self._poke()
        return level

    async def segments(self, caller: Caller, project_id: ProjectId, *, before: int | None, limit: int) -> list[Segment]:
        """A page, newest first: `limit` at most, and one at least if there is one. Raises ConflictError where the record was
        changed."""
        return await self._log.read(project_id, before=before, limit=limit, by=caller.on_behalf)
