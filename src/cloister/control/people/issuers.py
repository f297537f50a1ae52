"""The verbs on issuers, on what their groups give, and on whether somebody may come in at all.

Who registers an issuer decides who can say whom it vouches for: an operator. What a group of its gives in an organization is for
that organization's admins to say. Each verb is one transaction: rows and audit event.
"""

from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.control.calling import Caller
from cloister.control.organizations import store as organizations
from cloister.control.organizations.model import Account
from cloister.control.people import store
from cloister.control.people.asking import IssuerError, Issuers
from cloister.control.people.model import SESSION_MAX, SESSION_MIN, Group, Issuer, NewGroup, NewIssuer
from cloister.control.people.sealing import LoginKeys
from cloister.trust.audit import Action, Event, record
from cloister.trust.fetching import FetchError, place_of

ISSUERS_MAX: Final = 16
GROUPS_MAX: Final = 200
# Of one organization. Each login reads them all.


class IssuerService:
    def __init__(self, database: Database, issuers: Issuers, keys: LoginKeys, clock: Clock) -> None:
        self._database = database
        self._issuers = issuers
        self._keys = keys
        self._clock = clock

    async def find(self) -> list[Issuer]:
        async with self._database.reading() as tx:
            return await store.issuers(tx)

    async def add(self, caller: Caller, new: NewIssuer) -> Issuer:
        """Asks it first: one that cannot be used is not kept. Raises BadRequestError, ConflictError."""
        if not SESSION_MIN <= new.session <= SESSION_MAX:
            raise BadRequestError(public="a session lasts from 5 minutes to 12 hours")
        try:
            place_of(new.url)
            self._issuers.forget(new.url)
            await self._issuers.metadata(new.url)
        except (FetchError, IssuerError) as error:
            raise BadRequestError(f"{new.url[:200]!r}: {error}", public=f"issuer: {error}") from None
        issuer_id = uuid4()
        made = Issuer(
            id=issuer_id,
            name=new.name,
            url=new.url,
            client_id=new.client_id,
            client_secret=None if new.client_secret is None else self._keys.seal(issuer_id, new.client_secret),
            domains=tuple(it.lower() for it in new.domains),
            groups_claim=new.groups_claim,
            operators=new.operators,
            session=new.session,
            created_at=self._clock.now(),
        )
        async with self._database.transaction() as tx:
            if len(await store.issuers(tx)) >= ISSUERS_MAX:
                raise UnprocessableError(public=f"a platform may have {ISSUERS_MAX} issuers")
            if not await store.add_issuer(tx, made):
                raise ConflictError(public="there is an issuer of this name, or with this URL, already")
            await record(tx, _about_issuer(Action.ISSUER_ADD, caller, made))
        return made

    async def remove(self, caller: Caller, issuer_id: UUID) -> Issuer:
        """From then on nobody logs in there, what its groups gave is gone, and its sessions open nothing. Raises NotFoundError,
        and UnprocessableError where an organization would be left without an admin."""
        async with self._database.transaction() as tx:
            await store.hold_alone(tx, issuer_id)
            issuer = await store.issuer(tx, issuer_id)
            await store.end_sessions(tx, self._clock.now(), issuer_id=issuer_id)
            await store.remove_issuer(tx, issuer_id)
            await record(tx, _about_issuer(Action.ISSUER_REMOVE, caller, issuer))
        self._issuers.forget(issuer.url)
        return issuer

    # ── groups ──

    async def groups(self, org_id: OrgId) -> list[Group]:
        async with self._database.reading() as tx:
            return await store.groups(tx, org_id)

    async def map_group(self, caller: Caller, org_id: OrgId, new: NewGroup) -> Group:
        """A group that is there already gets the other role, and whoever is in the organization by this issuer's groups logs in
        again: what a group gives is looked up at a login."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            issuer = await store.named(tx, new.issuer)
            await store.hold_alone(tx, issuer.id)
            if await store.count_groups(tx, org_id) >= GROUPS_MAX:
                raise UnprocessableError(public=f"an organization may have {GROUPS_MAX} groups")
            group = Group(id=uuid4(), issuer=issuer.name, name=new.name, org_id=org_id, role=new.role, created_at=now)
            is_new = not any(it.name == new.name and it.issuer == issuer.name for it in await store.groups(tx, org_id))
            made = await store.set_group(tx, group, issuer.id)
            ended = 0 if is_new else await store.end_sessions(tx, now, issuer_id=issuer.id, org_id=org_id)
            await record(tx, _about_group(Action.GROUP_MAP, caller, made, ended))
        return made

    async def unmap_group(self, caller: Caller, org_id: OrgId, group_id: UUID) -> Group:
        """Raises NotFoundError. Sessions end as with `map_group`, so what the group gave is gone now, not when they log in again."""
        async with self._database.transaction() as tx:
            if (of := await store.issuer_of_group(tx, org_id, group_id)) is not None:
                await store.hold_alone(tx, of)
            removed = await store.remove_group(tx, org_id, group_id)
            if removed is None:
                raise NotFoundError(public="group not found")
            group, issuer_id = removed
            ended = await store.end_sessions(tx, self._clock.now(), issuer_id=issuer_id, org_id=org_id)
            await record(tx, _about_group(Action.GROUP_UNMAP, caller, group, ended))
        return group

    # ── accounts ──

    async def disable(self, caller: Caller, email: str, *, is_disabled: bool) -> Account:
        """None of a disabled account's keys opens anything, it does not log in, and its access to data ends. What is theirs is
        kept, and holds again when it is enabled. Raises NotFoundError, UnprocessableError for oneself."""
        async with self._database.transaction() as tx:
            account = await organizations.account_by_email(tx, email)
            if account is None:
                raise NotFoundError(f"no account {email!r}", public=f"nobody here has the address {email}")
            if account.id == caller.principal.account_id:
                raise UnprocessableError(public="nobody disables themselves")
            await store.disable(tx, account.id, self._clock.now() if is_disabled else None)
            action = Action.ACCOUNT_DISABLE if is_disabled else Action.ACCOUNT_ENABLE
            await record(tx, caller.event(action, resource=str(account.id), details={"email": account.email}))
        return account


def _about_issuer(action: Action, caller: Caller, issuer: Issuer) -> Event:
    return caller.event(
        action,
        resource=str(issuer.id),
        details={
            "name": issuer.name,
            "issuer": issuer.url,
            "client_id": issuer.client_id,
            "domains": ", ".join(issuer.domains),
            "operators": issuer.operators or "",
            "session_seconds": int(issuer.session.total_seconds()),
        },
    )


def _about_group(action: Action, caller: Caller, group: Group, ended: int) -> Event:
    return caller.event(
        action,
        org_id=group.org_id,
        resource=str(group.id),
        details={"issuer": group.issuer, "group": group.name, "role": group.role, "sessions_ended": ended},
    )
