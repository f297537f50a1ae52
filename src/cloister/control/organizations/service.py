"""The verbs on organizations, their people and their grants. Each is one transaction: rows and audit event.

Who may is decided before (trust/access). What must stay true, and is held by the database (migration "access"): an
organization has an admin; a grant is of somebody who belongs to the project's organization.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    UnprocessableError,
)
from cloister.base.ids import OrgId, ProjectId, new_org_id
from cloister.base.secret import Secret, new_api_key
from cloister.control.branches import protection
from cloister.control.branches import store as branches
from cloister.control.calling import Caller
from cloister.control.claims import claim_project, hold_project
from cloister.control.naming import checked_name
from cloister.control.organizations import store
from cloister.control.organizations.model import (
    Account,
    Invitation,
    Member,
    Organization,
    OrganizationRole,
    ProjectGrant,
    ProjectRole,
    is_address,
)
from cloister.control.organizations.standing import Standing, StandingChanged, is_less
from cloister.control.projects.model import Project
from cloister.trust.access.keys import NewKey, insert_key
from cloister.trust.audit import Action, Event, record

TRANSFERRED_MAX: Final = 400
# Neon's limit for one request; each is a lock and an event.

INVITATIONS_MAX: Final = 100

FIRST_KEY_NAME: Final = "first key"


class OrganizationService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, org_ids: Sequence[OrgId]) -> list[Organization]:
        async with self._database.reading() as tx:
            return await store.find(tx, org_ids)

    async def project_ids(self, org_ids: Sequence[OrgId]) -> list[ProjectId]:
        async with self._database.reading() as tx:
            return await store.project_ids(tx, org_ids)

    async def create(self, caller: Caller, name: str) -> Organization:
        """The caller becomes its first admin."""
        async with self._database.transaction() as tx:
            made = await store.add(tx, new_org_id(), checked_name("organization name", name))
            await store.add_member(tx, made.id, caller.principal.account_id, "admin")
            await record(tx, caller.event(Action.ORGANIZATION_CREATE, org_id=made.id, resource=made.name))
        return made

    async def create_account(self, caller: Caller, email: str, name: str) -> tuple[Account, Secret[str]]:
        """An account of no organization, and its first key. Who hands the key over has seen it: the new account's holder
        makes another and revokes this one."""
        if not is_address(email):
            raise BadRequestError(public="email must be an e-mail address")
        key = new_api_key()
        async with self._database.transaction() as tx:
            made = await store.add_account(tx, uuid4(), email, checked_name("name", name))
            if made is None:
                raise ConflictError(public="an account with this e-mail address exists already")
            key_id = await insert_key(tx, made.id, NewKey(name=FIRST_KEY_NAME), key, self._clock.now())
            details = {"email": email, "key_id": key_id}
            await record(tx, caller.event(Action.ACCOUNT_CREATE, resource=str(made.id), details=details))
        return made, key

    # ── people ──

    async def members(self, org_id: OrgId) -> list[Member]:
        async with self._database.reading() as tx:
            return await store.members(tx, org_id)

    async def member(self, org_id: OrgId, account_id: UUID) -> Member:
        async with self._database.reading() as tx:
            return _there(await store.member(tx, org_id, account_id))

    async def invite(self, caller: Caller, org_id: OrgId, invitations: Sequence[Invitation]) -> list[Member]:
        """All of them, or nobody: raises UnprocessableError for an address without an account, ConflictError for somebody
        who is of the organization already."""
        if len(invitations) > INVITATIONS_MAX:
            raise BadRequestError(public=f"at most {INVITATIONS_MAX} invitations at once")
        joined = []
        async with self._database.transaction() as tx:
            for invitation in invitations:
                account = await store.account_by_email(tx, invitation.email)
                if account is None:
                    raise UnprocessableError(
                        f"no account {invitation.email!r}", public=f"nobody here has the address {invitation.email}"
                    )
                if not await store.add_member(tx, org_id, account.id, invitation.role):
                    raise ConflictError(public=f"{account.email} is a member already")
                joined.append(_there(await store.member(tx, org_id, account.id)))
            await record(tx, *(_about(caller, Action.MEMBER_ADD, org_id, it, role=it.role) for it in joined))
        return joined

    async def change_role(self, caller: Caller, org_id: OrgId, account_id: UUID, role: OrganizationRole) -> Member:
        """Raises UnprocessableError for the only admin, ConflictError for a role that groups give."""
        async with self._database.transaction() as tx:
            old = _there(await store.member(tx, org_id, account_id))
            if old.issuer:
                raise ConflictError(public=f"{old.email} has this role by a group at {old.issuer}: change it there")
            await store.change_member(tx, org_id, account_id, role)
            changed = _there(await store.member(tx, org_id, account_id))
            await record(tx, _about(caller, Action.MEMBER_UPDATE, org_id, changed, role=role, was=old.role))
        return changed

    async def remove(self, caller: Caller, org_id: OrgId, account_id: UUID) -> None:
        """With all that they were granted in it. Their next call finds nothing of the organization. Raises
        UnprocessableError for the only admin."""
        async with self._database.transaction() as tx:
            removed = _there(await store.member(tx, org_id, account_id))
            if not await store.remove_member(tx, org_id, account_id):
                raise NotFoundError(public="member not found")  # somebody else did, just now
            await record(tx, _about(caller, Action.MEMBER_REMOVE, org_id, removed, was=removed.role))

    # ── grants ──

    async def grants(self, project_id: ProjectId) -> list[ProjectGrant]:
        async with self._database.reading() as tx:
            return await store.grants(tx, project_id)

    async def grant(
        self, caller: Caller, project: Project, email: str, role: ProjectRole, *, may_add_members: bool
    ) -> ProjectGrant:
        """To somebody of the organization; to anybody with an account, who becomes a collaborator of it, if the caller
        `may_add_members`. Raises UnprocessableError, which without that right does not say whether there is an account."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project.id)
            account = await store.account_by_email(tx, email)
            member = None
            if account is not None:
                await store.hold_member(tx, project.org_id, account.id)
                member = await store.member(tx, project.org_id, account.id)
            if account is None or (member is None and not may_add_members):
                where = "here" if may_add_members else "in the project's organization"
                raise UnprocessableError(f"no account {email!r}", public=f"nobody {where} has the address {email}")
            events = []
            if member is None:
                await store.add_member(tx, project.org_id, account.id, "collaborator")
                member = _there(await store.member(tx, project.org_id, account.id))
                events.append(_about(caller, Action.MEMBER_ADD, project.org_id, member, role=member.role))
            granted = await store.set_grant(tx, project, account.id, role, by=caller.principal.account_id)
            events.append(_of_grant(caller, Action.ACCESS_GRANT, project, granted))
            await record(tx, *events)
        return granted

    async def revoke_grant(self, caller: Caller, project: Project, grant_id: UUID) -> ProjectGrant:
        """Only the grant: what somebody may by their role in the organization, they still may."""
        async with self._database.transaction() as tx:
            revoked = await store.remove_grant(tx, project.id, grant_id)
            if revoked is None:
                raise NotFoundError(public="permission not found")
            await record(tx, _of_grant(caller, Action.ACCESS_REVOKE, project, revoked))
        return revoked

    async def standings(self, project: Project, *, and_without_access: bool) -> list[Standing]:
        """Who may what in a project, and by what. `and_without_access`: also those of the organization who may nothing."""
        async with self._database.reading() as tx:
            found = await store.standings(tx, project)
        return [it for it in found if and_without_access or it.effective is not None]

    async def set_project_role(
        self, caller: Caller, project: Project, account_id: UUID, role: ProjectRole | None, *, is_sure: bool
    ) -> StandingChanged:
        """Grant a member of the organization a role in the project, or (None) take back what was granted; both may be said
        twice. Raises NotFoundError for somebody who is not of the organization, PreconditionError unless `is_sure` for who
        would be able to do less themselves by it."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project.id)
            await store.hold_member(tx, project.org_id, account_id)
            was = _only(await store.standings(tx, project, account_id))
            granted = None
            if role is None:
                await store.remove_grant_of(tx, project.id, account_id)
            else:
                granted = await store.set_grant(tx, project, account_id, role, by=caller.principal.account_id)
            now = _only(await store.standings(tx, project, account_id))
            loses = is_less(now.effective, was.effective)
            if loses and caller.principal.actor == f"user:{account_id}" and not is_sure:
                raise PreconditionError(
                    f"{caller.principal.actor} would lower themselves",
                    public="you would be able to do less in this project afterwards: confirm it",
                )
            details = {"email": now.email, "role": role, "was": was.granted}
            if granted is not None:
                details["permission_id"] = str(granted.id)
            await record(
                tx,
                caller.event(
                    Action.ACCESS_REVOKE if role is None else Action.ACCESS_GRANT,
                    org_id=project.org_id,
                    project_id=project.id,
                    resource=str(account_id),
                    details=details,
                ),
            )
            made_keys = loses and await store.has_made_keys(tx, project.id, account_id)
        knows = not is_less(was.effective, "editor") and is_less(now.effective, "editor")
        return StandingChanged(now, knows_passwords=knows, made_keys=made_keys)

    # ── between organizations ──

    async def transfer(
        self, caller: Caller, source: OrgId, destination: OrgId, project_ids: Sequence[ProjectId]
    ) -> None:
        """All of them or none. Raises NotFoundError for one that is not the source's, BusyError while something works on
        one, UnprocessableError for one with a protected branch."""
        if not 1 <= len(project_ids) <= TRANSFERRED_MAX:
            raise BadRequestError(public=f"project_ids must name 1 to {TRANSFERRED_MAX} projects")
        if source == destination:
            raise BadRequestError(public="destination_org_id must be another organization")
        async with self._database.transaction() as tx:
            events = []
            for project_id in sorted(set(project_ids)):  # in one order, or two transfers could wait for each other
                # Whose it is comes first: of another's project nobody learns that it is busy, or protected.
                await _hold_of(tx, source, project_id)
                await claim_project(tx, project_id)
                protection.refuse_moving_project(await branches.protected_of(tx, project_id))
                await store.move_project(tx, project_id, destination)
                events.append(
                    caller.event(
                        Action.PROJECT_TRANSFER,
                        org_id=source,
                        project_id=project_id,
                        details={"destination_org_id": destination},
                    )
                )
            await record(tx, *events)


async def _hold_of(tx: Transaction, org_id: OrgId, project_id: ProjectId) -> None:
    if await store.has_project(tx, org_id, project_id):
        await hold_project(tx, project_id)  # it may have left while we waited for it
        if await store.has_project(tx, org_id, project_id):
            return
    raise NotFoundError(f"{project_id} is not of {org_id}", public="project not found")


def _there(member: Member | None) -> Member:
    if member is None:
        raise NotFoundError(public="member not found")
    return member


def _only(found: list[Standing]) -> Standing:
    for standing in found:
        return standing
    raise NotFoundError(public="member not found")


def _about(caller: Caller, action: Action, org_id: OrgId, member: Member, **details: object) -> Event:
    return caller.event(
        action, org_id=org_id, resource=str(member.account_id), details={"email": member.email, **details}
    )


def _of_grant(caller: Caller, action: Action, project: Project, grant: ProjectGrant) -> Event:
    return caller.event(
        action,
        org_id=project.org_id,
        project_id=project.id,
        resource=str(grant.account_id),
        details={"email": grant.email, "role": grant.role, "permission_id": str(grant.id)},
    )
