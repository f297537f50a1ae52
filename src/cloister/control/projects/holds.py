"""Legal holds: while one stands, nothing of what was recorded of a project is erased, whoever agrees on it.

One person places it and says why; two lift it, as two erase. What a hold refuses, the control database refuses (migration 0023):
the erasing of statements, the destruction of the keys above them, the deletion of the project, and its transfer to people who
could lift the hold. So there is no look at holds anywhere else, and no way past them that somebody could forget.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.agreeing import require_a_person, require_another, require_in_time
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.trust.audit import Action, record

STANDING_MAX: Final = 16
"""Of one project: as many matters as may need its record at once. Each is lifted by itself."""

LISTED_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Hold:
    id: UUID
    project_id: str
    reason: str
    placed_by: str
    """An e-mail address, as the next two."""
    placed_at: datetime
    lift_reason: str | None
    lift_asked_by: str | None
    lift_asked_at: datetime | None
    lifted_by: str | None
    lifted_at: datetime | None
    """None: it stands."""


class HoldService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, project_id: ProjectId) -> list[Hold]:
        """Those that stand first, then newest first."""
        async with self._database.reading() as tx:
            return [_hold(row) for row in await tx.fetch(_HOLDS, project_id, None, LISTED_MAX)]

    async def place(self, caller: Caller, project_id: ProjectId, reason: str) -> Hold:
        """Raises NotFoundError, ForbiddenError, ConflictError."""
        require_a_person(caller)
        hold_id = uuid4()
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            standing = "SELECT count(*) FROM audit_hold WHERE project_id = $1 AND lifted_at IS NULL"
            if await tx.fetch_value(standing, project_id) >= STANDING_MAX:
                raise ConflictError(public=f"{STANDING_MAX} holds stand on this project already")
            await tx.execute(
                "INSERT INTO audit_hold (id, project_id, reason, placed_by) VALUES ($1, $2, $3, $4)",
                hold_id,
                project_id,
                reason,
                caller.principal.account_id,
            )
            event = caller.event(Action.AUDIT_HOLD, project_id=project_id, resource=f"hold/{hold_id}", reason=reason)
            await record(tx, event)
            return await _get(tx, project_id, hold_id)

    async def ask_to_lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID, reason: str) -> Hold:
        """It lifts nothing. Who asks last is who asked. Raises NotFoundError, ForbiddenError, ConflictError."""
        require_a_person(caller)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await _standing(tx, project_id, hold_id)
            await tx.execute(
                "UPDATE audit_hold SET lift_reason = $2, lift_asked_by = $3 WHERE id = $1",
                hold_id,
                reason,
                caller.principal.account_id,
            )
            resource = f"hold/{hold_id}"
            event = caller.event(Action.AUDIT_HOLD_LIFT_ASK, project_id=project_id, resource=resource, reason=reason)
            await record(tx, event)
            return await _get(tx, project_id, hold_id)

    async def lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID) -> Hold:
        """Raises NotFoundError, ForbiddenError, ConflictError.

        1. Whoever agrees is a person: who made a key could be who asked.
        2. The hold stands, and somebody asked for its end, not long ago.
        3. That was somebody else.
        """
        require_a_person(caller)  # 1.
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            asked = await _standing(tx, project_id, hold_id)  # 2.
            if asked["lift_asked_by"] is None:
                raise ConflictError(public="nobody asked for this hold to be lifted")
            require_in_time(asked["lift_asked_at"], self._clock.now())
            require_another(caller, asked["lift_asked_by"])  # 3.
            await tx.execute("UPDATE audit_hold SET lifted_by = $2 WHERE id = $1", hold_id, caller.principal.account_id)
            event = caller.event(
                Action.AUDIT_HOLD_LIFT,
                project_id=project_id,
                resource=f"hold/{hold_id}",
                reason=asked["lift_reason"],
                details={"asked_by": f"user:{asked['lift_asked_by']}"},
            )
            await record(tx, event)
            return await _get(tx, project_id, hold_id)


_HOLDS: Final = """
    SELECT h.*, placer.email AS placer, asker.email AS asker, lifter.email AS lifter
      FROM audit_hold h
      JOIN account placer ON placer.id = h.placed_by
      LEFT JOIN account asker ON asker.id = h.lift_asked_by
      LEFT JOIN account lifter ON lifter.id = h.lifted_by
     WHERE h.project_id = $1 AND ($2::uuid IS NULL OR h.id = $2)
     ORDER BY h.lifted_at IS NOT NULL, h.placed_at DESC LIMIT $3"""


async def _get(tx: Transaction, project_id: str, hold_id: UUID) -> Hold:
    row = await tx.fetch_row(_HOLDS, project_id, hold_id, 1)
    if row is None:
        raise NotFoundError(public="hold not found")
    return _hold(row)


async def _standing(tx: Transaction, project_id: str, hold_id: UUID) -> Any:
    row = await tx.fetch_row("SELECT * FROM audit_hold WHERE project_id = $1 AND id = $2", project_id, hold_id)
    if row is None:
        raise NotFoundError(public="hold not found")
    if row["lifted_at"] is not None:
        raise ConflictError(public="this hold was lifted already")
    return row


def _hold(row: Any) -> Hold:
    return Hold(
        id=row["id"],
        project_id=row["project_id"],
        reason=row["reason"],
        placed_by=row["placer"],
        placed_at=row["placed_at"],
        lift_reason=row["lift_reason"],
        lift_asked_by=row["asker"],
        lift_asked_at=row["lift_asked_at"],
        lifted_by=row["lifter"],
        lifted_at=row["lifted_at"],
    )
