"""A project that is offered, and taken by somebody of another organization: Neon's transfer requests.

Where `transfer` takes one person of both organizations, an offer takes one of each: who offers may give projects away, who
accepts may make projects where it goes. What leads from the one to the other is the offer's id, which whoever offers sends
on. So the id is a secret: kept as a digest, never recorded, good once and until it ends.

What must stay true: of an offer that is not there, is over, or is of another project everybody hears the same; and an offer
is worth nothing once who made it could not make it again (their role, their membership, their key: migration "offers").
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ForbiddenError, NotFoundError
from cloister.base.ids import OrgId, ProjectId
from cloister.control.branches import protection
from cloister.control.branches import store as branches
from cloister.control.calling import Caller
from cloister.control.claims import claim_project
from cloister.control.organizations import store
from cloister.control.projects.model import Project
from cloister.trust.audit import Action, record

OFFERED_FOR_DEFAULT: Final = timedelta(days=1)
OFFERED_FOR_MIN: Final = timedelta(minutes=1)
OFFERED_FOR_MAX: Final = timedelta(days=7)
# An offer lies in somebody's mail. Neon's default; a week is a holiday's length.


@dataclass(frozen=True, slots=True)
class Offer:
    id: UUID
    """Whoever holds it may accept."""
    project_id: ProjectId
    created_at: datetime
    expires_at: datetime

    def __repr__(self) -> str:
        return f"<Offer of {self.project_id}>"


class OfferService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def offer(self, caller: Caller, project: Project, lasts: timedelta = OFFERED_FOR_DEFAULT) -> Offer:
        """An offer that was made before ends. Raises UnprocessableError for a project with a protected branch."""
        if not OFFERED_FOR_MIN <= lasts <= OFFERED_FOR_MAX:
            shortest, longest = OFFERED_FOR_MIN.total_seconds(), OFFERED_FOR_MAX.total_seconds()
            raise BadRequestError(public=f"ttl_seconds must be from {shortest:.0f} to {longest:.0f}")
        now = self._clock.now()
        made = Offer(uuid4(), project.id, now, now + lasts)
        principal = caller.principal
        async with self._database.transaction() as tx:
            await claim_project(tx, project.id)
            protection.refuse_moving_project(await branches.protected_of(tx, project.id))
            # The role that was decided by is held: who is lowered at this moment is lowered before, or ends the offer.
            if not await _has_role_still(tx, project.org_id, principal.account_id, principal.memberships):
                raise ForbiddenError(f"{principal.actor} has another role in {project.org_id} now")
            await tx.execute(
                """INSERT INTO project_offer (project_id, org_id, digest, offered_by, key_id, created_at, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (project_id) DO UPDATE
                      SET digest = EXCLUDED.digest, offered_by = EXCLUDED.offered_by, key_id = EXCLUDED.key_id,
                          created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at""",
                project.id,
                project.org_id,
                _digest(made.id),
                principal.account_id,
                principal.key_id,
                made.created_at,
                made.expires_at,
            )
            details = {"expires_at": made.expires_at.isoformat(timespec="seconds")}
            await record(
                tx, caller.event(Action.PROJECT_OFFER, org_id=project.org_id, project_id=project.id, details=details)
            )
        return made

    async def accept(self, caller: Caller, project_id: ProjectId, offer_id: UUID, destination: OrgId) -> None:
        """Raises NotFoundError, BusyError while something works on the project, UnprocessableError for one with a protected
        branch."""
        async with self._database.transaction() as tx:
            # (1) Whose it is, by what is brought: nothing is locked, and nothing told, for who brings nothing.
            source, offered_by = await self._find(tx, project_id, offer_id)
            # (2) The project's row, as everybody who changes something takes it first; meanwhile the offer may have ended.
            await claim_project(tx, project_id)
            source, offered_by = await self._find(tx, project_id, offer_id)
            if source == destination:
                raise BadRequestError(public="org_id must be another organization")
            # (3) What a transfer does; the offer goes with it.
            protection.refuse_moving_project(await branches.protected_of(tx, project_id))
            await store.move_project(tx, project_id, destination)
            await record(
                tx,
                caller.event(
                    Action.PROJECT_TRANSFER,
                    org_id=source,
                    project_id=project_id,
                    details={"destination_org_id": destination, "offered_by": f"user:{offered_by}"},
                ),
            )

    async def _find(self, tx: Transaction, project_id: ProjectId, offer_id: UUID) -> tuple[OrgId, UUID]:
        row = await tx.fetch_row(
            """SELECT o.org_id, o.offered_by
                 FROM project_offer o JOIN project p ON p.id = o.project_id JOIN api_key k ON k.id = o.key_id
                 JOIN account a ON a.id = o.offered_by
                 JOIN membership m ON m.org_id = o.org_id AND m.account_id = o.offered_by AND m.suspended_at IS NULL
                WHERE o.digest = $1 AND o.project_id = $2 AND o.expires_at > $3
                  AND p.deleted_at IS NULL AND k.revoked_at IS NULL AND a.disabled_at IS NULL""",
            _digest(offer_id),
            project_id,
            self._clock.now(),
        )
        if row is None:
            raise NotFoundError(f"no such offer of {project_id}", public="transfer request not found")
        return OrgId(row["org_id"]), row["offered_by"]


async def _has_role_still(tx: Transaction, org_id: OrgId, account_id: UUID, known: Mapping[str, str]) -> bool:
    role = await tx.fetch_value(
        "SELECT role FROM membership WHERE org_id = $1 AND account_id = $2 AND suspended_at IS NULL FOR SHARE",
        org_id,
        account_id,
    )
    return role is not None and role == known.get(org_id)


def _digest(offer_id: UUID) -> bytes:
    return hashlib.sha256(offer_id.bytes).digest()
