"""Erasing one person in the audit log's own events: one person asks, another agrees, and then it is gone.

What is personal in an event stands beside its body (`trust/audit/events.py`), and only that goes: the body, its hash and every proof
stay, and so does what was done, and when. Whom it is about is a role of a project, an address, or an account; where is one project,
or the whole log. That it takes two, that a legal hold comes before them, which events it is and what the log says of it, the database
decides (migration 0027): this asks.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, NotFoundError
from cloister.base.ids import ProjectId, is_uuid
from cloister.base.ipallow import parse_address
from cloister.control.agreeing import require_a_person, require_another, require_in_time
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.trust.audit import Action, people, record
from cloister.trust.audit.events import written

LISTED_MAX: Final = 100


class SubjectKind(StrEnum):
    """By what somebody is found in events."""

    ROLE = "role"
    """The name of a database role, in its project."""
    ADDRESS = "address"
    ACCOUNT = "account"
    """Itself, its keys, the roles of its approved access; and where others did something to it."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    id: UUID
    project_id: str | None
    """In its events alone; None: in all."""
    kind: SubjectKind
    subject: str | None
    """None once it is forgotten: here, too."""
    reason: str
    asked_by: str
    """An e-mail address, as the next."""
    asked_at: datetime
    agreed_by: str | None
    agreed_at: datetime | None
    up_to: int
    """The last event that it is about: the log's last when it was asked for."""
    events: int
    """That are about the subject; once it was agreed to, that were erased."""
    remaining: int
    """That are about it, too, and stay: from before what is personal stood apart."""


class ForgettingService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, project_id: ProjectId | None) -> list[Forgetting]:
        """Newest first."""
        async with self._database.reading() as tx:
            return [_forgetting(row) for row in await tx.fetch(_FORGETTINGS, project_id, None, LISTED_MAX)]

    async def ask(
        self, caller: Caller, project_id: ProjectId | None, kind: SubjectKind, subject: str, reason: str
    ) -> Forgetting:
        """It erases nothing. Raises NotFoundError, BadRequestError, ForbiddenError; UnprocessableError if there is nothing to erase,
        or a legal hold stands on the project."""
        require_a_person(caller)
        forgetting_id = uuid4()
        async with self._database.transaction() as tx:
            if project_id is not None:
                await hold_project(tx, project_id)
            await tx.execute(
                """INSERT INTO audit_forgetting (id, project_id, kind, subject, reason, asked_by) VALUES ($1, $2, $3, $4, $5, $6)""",
                forgetting_id,
                project_id,
                kind.value,
                await _subject(tx, project_id, kind, subject),
                reason,
                caller.principal.account_id,
            )
            it = await _get(tx, project_id, forgetting_id)
            # Not whom: this event is not among those that are erased.
            event = caller.event(
                Action.AUDIT_FORGET_ASK,
                project_id=project_id or "",
                resource=f"forgetting/{forgetting_id}",
                reason=reason,
                details={"kind": kind.value, "events": it.events, "remaining": it.remaining},
            )
            await record(tx, event)
            return it

    async def agree(self, caller: Caller, project_id: ProjectId | None, forgetting_id: UUID) -> Forgetting:
        """Raises NotFoundError, ForbiddenError, ConflictError; UnprocessableError while a legal hold stands on a project of which an
        event would be erased.

        1. Somebody else asked for it, not long ago. Whoever agrees is a person: who made a key could be the same.
        2. The database erases, and writes the event that says so, with the words of who agrees.
        """
        require_a_person(caller)
        async with self._database.transaction() as tx:
            if project_id is not None:
                await hold_project(tx, project_id)
            asked = await tx.fetch_row(
                "SELECT * FROM audit_forgetting WHERE project_id IS NOT DISTINCT FROM $1 AND id = $2",
                project_id,
                forgetting_id,
            )
            if asked is None:
                raise NotFoundError(public="forgetting not found")
            if asked["agreed_by"] is None:
                require_another(caller, asked["asked_by"])  # 1.
                require_in_time(asked["asked_at"], self._clock.now())
                words = written(caller.event(Action.AUDIT_FORGET, reason=asked["reason"])).personal
                await tx.execute(  # 2.
                    "SELECT audit_forget($1, $2, $3, $4)",
                    forgetting_id,
                    caller.principal.account_id,
                    caller.request_id,
                    words,
                )
            return await _get(tx, project_id, forgetting_id)


async def _subject(tx: Transaction, project_id: str | None, kind: SubjectKind, subject: str) -> str:
    """As events have it. An account is named by its id, as in events, or by its e-mail address: in a project, of those people whom
    its admins are told of anyway."""
    if kind is SubjectKind.ADDRESS:
        try:
            return str(parse_address(subject))  # as the gateway and the API tell it: IPv4 inside IPv6 is IPv4
        except ValueError:
            raise BadRequestError(public="an address is one of IPv4 or IPv6") from None
    if kind is SubjectKind.ROLE:
        if project_id is None:
            raise BadRequestError(public="a role is one of a project")
        return subject
    if is_uuid(subject):
        return subject
    person = await people.find_person(tx, None if project_id is None else [project_id], email=subject)
    if person is None:
        raise NotFoundError(public=f"nobody here has the address {subject}")
    return str(person.account_id)


_FORGETTINGS: Final = """
    SELECT f.*, coalesce(cardinality(f.events), f.found) AS count, asker.email AS asker, agreer.email AS agreer
      FROM audit_forgetting f
      JOIN account asker ON asker.id = f.asked_by
      LEFT JOIN account agreer ON agreer.id = f.agreed_by
     WHERE f.project_id IS NOT DISTINCT FROM $1 AND ($2::uuid IS NULL OR f.id = $2)
     ORDER BY f.asked_at DESC LIMIT $3"""


async def _get(tx: Transaction, project_id: str | None, forgetting_id: UUID) -> Forgetting:
    row = await tx.fetch_row(_FORGETTINGS, project_id, forgetting_id, 1)
    if row is None:
        raise NotFoundError(public="forgetting not found")
    return _forgetting(row)


def _forgetting(row: Any) -> Forgetting:
    return Forgetting(
        id=row["id"],
        project_id=row["project_id"],
        kind=SubjectKind(row["kind"]),
        subject=row["subject"],
        reason=row["reason"],
        asked_by=row["asker"],
        asked_at=row["asked_at"],
        agreed_by=row["agreer"],
        agreed_at=row["agreed_at"],
        up_to=row["up_to"],
        events=row["count"],
        remaining=row["remaining"],
    )
