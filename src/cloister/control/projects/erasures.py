"""Erasing what a project's clients executed, a month at a time: one person asks, another agrees, and then it is gone.

What is erased is a key (`trust/keys/statements.py`). The segments stay, unreadable, with the events that hold their digests: so
`cloister audit verify` and every checkpoint hold as before, and the log says who erased what, and why. That two people are
needed, the database holds, too (migration 0019).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.agreeing import require_a_person, require_another, require_in_time
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.trust.audit import Action, record
from cloister.trust.keys.commands import OnBehalf

LISTED_MAX: Final = 100


class Seals(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def erase_statements(self, project_id: str, by: OnBehalf) -> int: ...


@dataclass(frozen=True, slots=True)
class Erasure:
    id: UUID
    project_id: str
    up_to: datetime | None
    """Months of which nothing was recorded then or later; None: all there are."""
    reason: str
    asked_by: str
    """An e-mail address, as the next."""
    asked_at: datetime
    agreed_by: str | None
    agreed_at: datetime | None
    segments: int
    """That it erased; with the next, 0 until then."""
    statements: int
    remaining: int
    """Segments from before there were keys to erase: nothing erases them but the retention of the log."""


class ErasureService:
    def __init__(self, database: Database, seals: Seals, clock: Clock) -> None:
        self._database = database
        self._seals = seals
        self._clock = clock

    async def find(self, project_id: ProjectId) -> list[Erasure]:
        """Newest first."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(_ERASURES, project_id, None, LISTED_MAX)
        return [_erasure(row) for row in rows]

    async def ask(self, caller: Caller, project_id: ProjectId, reason: str, up_to: datetime | None) -> Erasure:
        """It erases nothing. Raises NotFoundError, ForbiddenError."""
        require_a_person(caller)
        erasure_id = uuid4()
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await tx.execute(
                """INSERT INTO statement_erasure (id, project_id, up_to, reason, asked_by) VALUES ($1, $2, $3, $4, $5)""",
                erasure_id,
                project_id,
                up_to,
                reason,
                caller.principal.account_id,
            )
            details = {"erasure": str(erasure_id)} | ({"up_to": up_to.isoformat()} if up_to else {})
            event = caller.event(Action.AUDIT_ERASE_ASK, project_id=project_id, reason=reason, details=details)
            await record(tx, event)
            return await _get(tx, project_id, erasure_id)

    async def agree(self, caller: Caller, project_id: ProjectId, erasure_id: UUID) -> Erasure:
        """Raises NotFoundError, ForbiddenError, ConflictError.

        1. Somebody else asked for it, not long ago. Whoever agrees is a person: who made a key could be the same.
        2. The months' keys end, and the log says so for each, in the transaction that says who agreed.
        3. The broker takes their seals, without which no copy of these keys opens. If it is away, or we die here, it does so
           when it next looks (`Rings.complete_erasures`); to agree again is to wait for it.
        """
        require_a_person(caller)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            asked = await tx.fetch_row(
                "SELECT * FROM statement_erasure WHERE project_id = $1 AND id = $2", project_id, erasure_id
            )
            if asked is None:
                raise NotFoundError(public="erasure not found")
            if asked["agreed_by"] is None:
                self._refuse(caller, asked)  # 1.
                await self._end_keys(tx, caller, asked)  # 2.
        await self._seals.erase_statements(project_id, caller.on_behalf)  # 3.
        async with self._database.reading() as tx:
            return await _get(tx, project_id, erasure_id)

    def _refuse(self, caller: Caller, asked: Any) -> None:
        require_another(caller, asked["asked_by"])
        require_in_time(asked["asked_at"], self._clock.now())

    async def _end_keys(self, tx: Transaction, caller: Caller, asked: Any) -> None:
        project_id = asked["project_id"]
        # Whoever seals something for one of them just now is done first, so that what is told and looked at below has that, too.
        await tx.fetch(
            "SELECT FROM statement_key WHERE project_id = $1 AND wrapped IS NOT NULL ORDER BY generation FOR NO KEY UPDATE",
            project_id,
        )
        await tx.execute(
            "UPDATE statement_erasure SET agreed_by = $2 WHERE id = $1", asked["id"], caller.principal.account_id
        )
        ended = await tx.fetch(
            """UPDATE statement_key k SET wrapped = NULL
                WHERE project_id = $1 AND wrapped IS NOT NULL
                  AND ($2::timestamptz IS NULL OR NOT EXISTS (
                       SELECT FROM statement_segment s
                        WHERE s.project_id = k.project_id AND s.generation = k.generation AND s.sealed_at >= $2))
              RETURNING generation,
                        (SELECT count(*) FROM statement_segment s
                          WHERE s.project_id = k.project_id AND s.generation = k.generation) AS segments,
                        (SELECT coalesce(sum(statements), 0) FROM statement_segment s
                          WHERE s.project_id = k.project_id AND s.generation = k.generation) AS statements""",
            project_id,
            asked["up_to"],
        )
        if not ended:
            raise ConflictError(public="there is nothing that this would erase")
        events = [
            caller.event(
                Action.AUDIT_ERASE,
                project_id=project_id,
                resource=f"statement_key/{row['generation']}",
                reason=asked["reason"],
                details={
                    "erasure": str(asked["id"]),
                    "asked_by": f"user:{asked['asked_by']}",
                    "segments": row["segments"],
                    "statements": row["statements"],
                },
            )
            for row in sorted(ended, key=lambda row: row["generation"])
        ]
        await record(tx, *events)


_ERASURES: Final = """
    SELECT e.*, asker.email AS asker, agreer.email AS agreer, it.segments, it.statements,
           (SELECT count(*) FROM statement_segment s WHERE s.project_id = e.project_id AND s.generation IS NULL
               AND (e.up_to IS NULL OR s.sealed_at < e.up_to)) AS remaining
      FROM statement_erasure e
      JOIN account asker ON asker.id = e.asked_by
      LEFT JOIN account agreer ON agreer.id = e.agreed_by
      CROSS JOIN LATERAL (SELECT count(*) AS segments, coalesce(sum(s.statements), 0) AS statements
                            FROM statement_segment s JOIN statement_key k USING (project_id, generation)
                           WHERE k.project_id = e.project_id AND k.erased_at = e.agreed_at) it
     WHERE e.project_id = $1 AND ($2::uuid IS NULL OR e.id = $2)
     ORDER BY e.asked_at DESC LIMIT $3"""


async def _get(tx: Transaction, project_id: str, erasure_id: UUID) -> Erasure:
    row = await tx.fetch_row(_ERASURES, project_id, erasure_id, 1)
    if row is None:
        raise NotFoundError(public="erasure not found")
    return _erasure(row)


def _erasure(row: Any) -> Erasure:
    return Erasure(
        id=row["id"],
        project_id=row["project_id"],
        up_to=row["up_to"],
        reason=row["reason"],
        asked_by=row["asker"],
        asked_at=row["asked_at"],
        agreed_by=row["agreer"],
        agreed_at=row["agreed_at"],
        segments=row["segments"],
        statements=row["statements"],
        remaining=row["remaining"],
    )
