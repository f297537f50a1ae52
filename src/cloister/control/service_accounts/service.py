"""The verbs on service accounts. Each is one transaction: rows and audit event.

Who may is decided before (trust/access): people who govern the organization, and to make a key with a key of theirs that has no
limit. What must stay true: a key of a service account's may what the account may at that moment, and ends.
"""

from datetime import timedelta
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import OrgId, ProjectId
from cloister.base.secret import Secret, new_api_key
from cloister.control.calling import Caller
from cloister.control.organizations.model import ProjectRole
from cloister.control.service_accounts import store
from cloister.control.service_accounts.model import (
    ACCOUNTS_MAX,
    GRANTS_MAX,
    KEY_DAYS_MAX,
    KEYS_MAX,
    OVERLAP_MAX,
    Change,
    KeyWish,
    NewServiceAccount,
    ServiceAccount,
    is_name,
)
from cloister.trust.access.keys import NewKey, checked_key, insert_key
from cloister.trust.audit import Action, record


class ServiceAccountService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, org_id: OrgId) -> list[ServiceAccount]:
        async with self._database.reading() as tx:
            return await store.find(tx, org_id, self._clock.now())

    async def create(self, caller: Caller, org_id: OrgId, new: NewServiceAccount) -> tuple[ServiceAccount, Secret[str]]:
        """The account and its first key, which is in the answer and nowhere else. Raises BadRequestError, ConflictError for a
        name that is taken, NotFoundError for a project and UnprocessableError for an owner that are not the organization's."""
        if not is_name(new.name):
            raise BadRequestError(
                public="a service account's name has 1 to 32 small letters, digits and hyphens, a letter first"
            )
        now = self._clock.now()
        account_id = uuid4()
        async with self._database.transaction() as tx:
            if await store.count(tx, org_id) >= ACCOUNTS_MAX:
                raise UnprocessableError(public=f"an organization may have {ACCOUNTS_MAX} service accounts")
            owner_id = await _owner(tx, org_id, new.owner or caller.principal.email)
            if not await store.add(
                tx, account_id, org_id=org_id, name=new.name, role=new.role, owner_id=owner_id, now=now
            ):
                raise ConflictError(public=f"there is a service account {new.name} already")
            await _grant(tx, account_id, org_id, new.grants)
            key_id, key = await self._new_key(tx, caller, org_id, (account_id, new.name), new.key)
            made = await store.get(tx, org_id, account_id, now)
            details = {**_told(made), "key_id": key_id}
            await record(
                tx,
                caller.event(Action.SERVICE_ACCOUNT_CREATE, org_id=org_id, resource=str(account_id), details=details),
            )
        return made, key

    async def change(self, caller: Caller, org_id: OrgId, account_id: UUID, change: Change) -> ServiceAccount:
        """Holds from the next call of its keys on. Raises what `create` does, and NotFoundError."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            was = await store.get(tx, org_id, account_id, now)
            owner_id, orphaned_at, off = was.owner_id, was.orphaned_at, was.disabled_at
            if change.owner is not None:
                owner_id, orphaned_at = await _owner(tx, org_id, change.owner), None
            if change.is_disabled is not None:
                off = (was.disabled_at or now) if change.is_disabled else None
            role = change.role or was.role
            await store.change(tx, account_id, role=role, owner_id=owner_id, orphaned_at=orphaned_at, off=off)
            if change.grants is not None:
                await _grant(tx, account_id, org_id, change.grants)
            changed = await store.get(tx, org_id, account_id, now)
            details = {**_told(changed), "was_role": was.role, "was_grants": _grants(was), "was_owner": was.owner}
            await record(tx, caller.event(_action(change), org_id=org_id, resource=str(account_id), details=details))
        return changed

    async def rotate(
        self, caller: Caller, org_id: OrgId, account_id: UUID, wish: KeyWish, overlap: timedelta
    ) -> tuple[ServiceAccount, Secret[str]]:
        """A new key; those before end with the overlap, without one at once. Raises BadRequestError, NotFoundError, and
        UnprocessableError where too many are good at the same time."""
        if not timedelta() <= overlap <= OVERLAP_MAX:
            raise BadRequestError(public=f"overlap_seconds must be from 0 to {OVERLAP_MAX.total_seconds():.0f}")
        now = self._clock.now()
        async with self._database.transaction() as tx:
            was = await store.get(tx, org_id, account_id, now)
            if overlap and len(was.keys) >= KEYS_MAX:
                raise UnprocessableError(
                    public=f"{KEYS_MAX} of its keys are good now: wait for one to end, or rotate without an overlap"
                )
            await store.end_keys(tx, account_id, now, overlap)
            key_id, key = await self._new_key(tx, caller, org_id, (account_id, was.name), wish)
            rotated = await store.get(tx, org_id, account_id, now)
            details = {"name": was.name, "key_id": key_id, "overlap_seconds": int(overlap.total_seconds())}
            await record(
                tx,
                caller.event(Action.SERVICE_ACCOUNT_ROTATE, org_id=org_id, resource=str(account_id), details=details),
            )
        return rotated, key

    async def remove(self, caller: Caller, org_id: OrgId, account_id: UUID) -> ServiceAccount:
        """With its keys, for good; its name may be given again. Raises NotFoundError."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            was = await store.get(tx, org_id, account_id, now)
            await store.remove(tx, org_id, account_id, now)
            await record(
                tx,
                caller.event(
                    Action.SERVICE_ACCOUNT_REMOVE, org_id=org_id, resource=str(account_id), details=_told(was)
                ),
            )
        return was

    async def _new_key(
        self, tx: Transaction, caller: Caller, org_id: OrgId, whose: tuple[UUID, str], wish: KeyWish
    ) -> tuple[int, Secret[str]]:
        """`whose`: the service account's id and name."""
        account_id, name = whose
        if not 1 <= wish.days <= KEY_DAYS_MAX:
            raise BadRequestError(public=f"key_days must be from 1 to {KEY_DAYS_MAX}")
        now = self._clock.now()
        allowed = await store.addresses(tx, account_id) if wish.allowed_ips is None else wish.allowed_ips
        new = NewKey(name=name, org_id=org_id, expires_at=now + timedelta(days=wish.days), allowed_ips=allowed)
        key = new_api_key()
        key_id = await insert_key(
            tx, caller.principal.account_id, checked_key(new, now), key, now, service_account_id=account_id
        )
        return key_id, key


async def _owner(tx: Transaction, org_id: OrgId, email: str) -> UUID:
    owner_id = await store.member_by_email(tx, org_id, email)
    if owner_id is None:
        raise UnprocessableError(
            f"{email!r} is not of {org_id}", public=f"nobody of the organization has the address {email}"
        )
    return owner_id


async def _grant(tx: Transaction, account_id: UUID, org_id: OrgId, grants: dict[ProjectId, ProjectRole]) -> None:
    if len(grants) > GRANTS_MAX:
        raise UnprocessableError(public=f"a service account may be granted {GRANTS_MAX} projects")
    if not await store.set_grants(tx, account_id, org_id, grants):
        raise NotFoundError(f"one of {sorted(grants)} is not of {org_id}", public="project not found")


def _action(change: Change) -> Action:
    """To let it in or not is an event of its own, also where more was changed with it."""
    match change.is_disabled:
        case True:
            return Action.SERVICE_ACCOUNT_DISABLE
        case False:
            return Action.SERVICE_ACCOUNT_ENABLE
        case None:
            return Action.SERVICE_ACCOUNT_UPDATE


def _grants(it: ServiceAccount) -> str:
    return ", ".join(f"{project_id}={role}" for project_id, role in sorted(it.grants.items()))


def _told(it: ServiceAccount) -> dict[str, object]:
    return {"name": it.name, "role": it.role, "grants": _grants(it), "owner": it.owner}
