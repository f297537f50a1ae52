"""What a directory says, and what people say about a directory. Each verb is one transaction: rows, what follows, audit events.

Who is deactivated has nothing in the organization from the next call on: their membership is suspended, their sessions end, and
their access to data ends within a second, as that of everybody who leaves (`control/access`). They get back what they had when their
directory says that they are there again. A group takes away as well, and gives nothing: that is for a login, by the issuer's word.
"""

import secrets
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnauthenticatedError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.base.secret import Secret
from cloister.control.calling import Caller
from cloister.control.organizations.model import is_address
from cloister.control.scim import store
from cloister.control.scim.model import (
    GROUPS_MAX,
    USERS_MAX,
    Directory,
    Group,
    LastAdminError,
    Speaking,
    Status,
    TakenError,
    User,
    Wanted,
)
from cloister.protocol.scim import GroupAttributes, UserAttributes
from cloister.trust.access.keys import digest_of
from cloister.trust.audit import Action, Event, record

PREFIX: Final = "scim_"
TOKEN_BYTES: Final = 32
# 256 bits: nobody guesses towards its digest, so that has no salt, as an API key's has none.

TOKEN_CHARS_MAX: Final = 128

USE_NOTED_EVERY: Final = timedelta(minutes=1)

GroupsOf = dict[UUID, list[tuple[UUID, str]]]
"""User → (id, name) of each of their groups."""


class ScimService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ── what people say about it ──

    async def status(self, org_id: OrgId) -> Status:
        async with self._database.reading() as tx:
            return await store.status(tx, org_id)

    async def enable(self, caller: Caller, org_id: OrgId) -> tuple[Status, Secret[str]]:
        """The token is in the answer, and nowhere else. What a directory said before that was disabled is still so."""
        token = _new_token()
        async with self._database.transaction() as tx:
            if not await store.enable(tx, org_id, digest_of(token.reveal()), self._clock.now()):
                raise ConflictError(public="the directory is enabled already: rotate its token to get another")
            await record(tx, caller.event(Action.SCIM_ENABLE, org_id=org_id, resource="scim"))
            return await store.status(tx, org_id), token

    async def rotate(self, caller: Caller, org_id: OrgId) -> tuple[Status, Secret[str]]:
        """From the moment this returns, the token before opens nothing. Raises NotFoundError."""
        token = _new_token()
        async with self._database.transaction() as tx:
            await self._set(tx, org_id, digest_of(token.reveal()))
            await record(tx, caller.event(Action.SCIM_ROTATE, org_id=org_id, resource="scim"))
            return await store.status(tx, org_id), token

    async def disable(self, caller: Caller, org_id: OrgId) -> Status:
        """Nobody speaks any more; who was deactivated stays so. Raises NotFoundError."""
        async with self._database.transaction() as tx:
            await self._set(tx, org_id, None)
            await record(tx, caller.event(Action.SCIM_DISABLE, org_id=org_id, resource="scim"))
            return await store.status(tx, org_id)

    async def _set(self, tx: Transaction, org_id: OrgId, digest: bytes | None) -> None:
        if not await store.set_digest(tx, org_id, digest):
            raise NotFoundError(public="the organization has no directory: enable one")

    # ── who speaks ──

    async def authenticate(self, bearer: str, address: str) -> Directory:
        """Raises UnauthenticatedError: in the same words and after the same query whatever it is that was sent."""
        now = self._clock.now()
        async with self._database.reading() as tx:
            found = await store.directory(tx, digest_of(bearer if len(bearer) <= TOKEN_CHARS_MAX else ""))
        if found is None:
            raise UnauthenticatedError
        async with self._database.transaction() as tx:
            await store.note_use(tx, found.org_id, now, address, now - USE_NOTED_EVERY)
        return found

    # ── users ──

    async def users(self, by: Speaking, wanted: Wanted) -> tuple[int, list[User], GroupsOf]:
        async with self._database.transaction() as tx:
            total, found = await store.users(tx, by.directory.org_id, wanted)
            in_groups = await store.groups_of(tx, [it.id for it in found])
            await record(tx, _event(by, Action.SCIM_READ, details={"what": "users", "count": len(found)}))
        return total, found, in_groups

    async def user(self, by: Speaking, user_id: UUID) -> tuple[User, GroupsOf]:
        """Raises NotFoundError."""
        async with self._database.transaction() as tx:
            found = await store.user(tx, by.directory.org_id, user_id)
            in_groups = await store.groups_of(tx, [user_id])
            await record(tx, _event(by, Action.SCIM_READ, resource=str(user_id), details={"what": "user"}))
        return found, in_groups

    async def create_user(self, by: Speaking, wanted: UserAttributes) -> User:
        """No account is made, and no role given: that is for a login. Raises TakenError, UnprocessableError."""
        org_id, now, user_id = by.directory.org_id, self._clock.now(), uuid4()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            if await store.count_users(tx, org_id) >= USERS_MAX:
                raise UnprocessableError(public=f"a directory may have {USERS_MAX} users")
            if not await store.add_user(tx, org_id, user_id, wanted, now):
                raise TakenError(public="there is a user of this userName")
            account_id = await store.link(tx, org_id, user_id)
            await store.forget_deleted(tx, org_id, wanted, account_id)
            made = await store.user(tx, org_id, user_id)
            events = [_about_user(by, Action.SCIM_USER_CREATE, made)]
            events += await self._follow(tx, by, made, was_active=None)
            await record(tx, *events)
        return made

    async def change_user(
        self, by: Speaking, user_id: UUID, change: Callable[[UserAttributes], UserAttributes]
    ) -> tuple[User, GroupsOf]:
        """`change`: from what they are to what they are to be; what it raises is raised, and nothing was done. Raises NotFoundError,
        TakenError, LastAdminError."""
        org_id, now = by.directory.org_id, self._clock.now()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            was = await store.user(tx, org_id, user_id)
            wanted = change(was.attributes)
            if await store.is_taken(tx, org_id, user_id, wanted):
                raise TakenError(public="there is another user of this userName")
            # Before they are renamed, too: who was not found by the name they had is found by the one they get.
            await store.link(tx, org_id, user_id)
            if wanted != was.attributes:
                await store.set_user(tx, user_id, wanted, now)
            await store.link(tx, org_id, user_id)
            made = await store.user(tx, org_id, user_id)
            events = [_about_user(by, Action.SCIM_USER_UPDATE, made)]
            events += await self._follow(tx, by, made, was_active=was.attributes.is_active)
            in_groups = await store.groups_of(tx, [user_id])
            await record(tx, *events)
        return made, in_groups

    async def delete_user(self, by: Speaking, user_id: UUID) -> None:
        """As deactivated, for good: who comes back is created anew. Raises NotFoundError, LastAdminError."""
        org_id, now = by.directory.org_id, self._clock.now()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            was = await store.user(tx, org_id, user_id)
            await store.link(tx, org_id, user_id)
            gone = await store.user(tx, org_id, user_id)
            events = [_about_user(by, Action.SCIM_USER_DELETE, gone)]
            events += await self._suspend(tx, by, gone, was_active=was.attributes.is_active)
            await store.delete_user(tx, user_id, now)
            await record(tx, *events)

    async def _follow(self, tx: Transaction, by: Speaking, it: User, *, was_active: bool | None) -> list[Event]:
        """What their being active, or not, means here. It is looked at each time, not only when it changes: somebody may have been
        made a member, or been found, since. Raises LastAdminError."""
        if not it.attributes.is_active:
            return await self._suspend(tx, by, it, was_active=was_active is not False)
        resumed = it.account_id is not None and await store.resume(tx, by.directory.org_id, it.account_id)
        if was_active is False or resumed:
            return [_about_user(by, Action.SCIM_USER_ACTIVATE, it, had_membership=resumed)]
        return []

    async def _suspend(self, tx: Transaction, by: Speaking, it: User, *, was_active: bool) -> list[Event]:
        org_id, now = by.directory.org_id, self._clock.now()
        suspended, ended = False, 0
        if it.account_id is not None:
            try:
                suspended = await store.suspend(tx, org_id, it.account_id, now)
            except UnprocessableError as error:
                raise LastAdminError(str(error)) from None
            # Of who is not of the organization (any more) a session is for elsewhere, and not for this directory to end.
            if suspended:
                ended = await store.end_sessions(tx, [it.account_id], now)
        if not (suspended or was_active):
            return []
        return [
            _about_user(by, Action.SCIM_USER_DEACTIVATE, it, had_membership=suspended, sessions_ended=ended),
        ]

    # ── groups ──

    async def groups(self, by: Speaking, wanted: Wanted, *, with_members: bool) -> tuple[int, list[Group]]:
        async with self._database.transaction() as tx:
            total, found = await store.groups(tx, by.directory.org_id, wanted, with_members=with_members)
            await record(tx, _event(by, Action.SCIM_READ, details={"what": "groups", "count": len(found)}))
        return total, found

    async def group(self, by: Speaking, group_id: UUID) -> Group:
        """Raises NotFoundError."""
        async with self._database.transaction() as tx:
            found = await store.group(tx, by.directory.org_id, group_id)
            await record(tx, _event(by, Action.SCIM_READ, resource=str(group_id), details={"what": "group"}))
        return found

    async def create_group(self, by: Speaking, wanted: GroupAttributes) -> Group:
        """Raises TakenError, UnprocessableError, BadRequestError for a member who is not in this directory."""
        org_id, group_id = by.directory.org_id, uuid4()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            if await store.count_groups(tx, org_id) >= GROUPS_MAX:
                raise UnprocessableError(public=f"a directory may have {GROUPS_MAX} groups")
            if not await store.add_group(tx, org_id, group_id, wanted, self._clock.now()):
                raise TakenError(public="there is a group of this displayName")
            await self._add(tx, org_id, group_id, wanted.members)
            made = await store.group(tx, org_id, group_id)
            await record(tx, _about_group(by, Action.SCIM_GROUP_CREATE, made, added=len(wanted.members)))
        return made

    async def change_group(
        self, by: Speaking, group_id: UUID, change: Callable[[GroupAttributes], GroupAttributes]
    ) -> Group:
        """Who is taken out, and is here by groups, logs in again, and gets what they are still in. Raises NotFoundError, TakenError."""
        org_id, now = by.directory.org_id, self._clock.now()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            was = await store.group(tx, org_id, group_id)
            wanted = change(was.attributes)
            if not await store.set_group(tx, org_id, group_id, wanted, now):
                raise TakenError(public="there is another group of this displayName")
            added, removed = wanted.members - was.attributes.members, was.attributes.members - wanted.members
            await store.remove_members(tx, group_id, removed)
            await self._add(tx, org_id, group_id, added)
            # Under another name it may be another role's group: nobody in it keeps what the one before gave.
            touched = was.attributes.members if wanted.display_name != was.attributes.display_name else removed
            await store.hold_users(tx, touched)
            ended = await store.end_sessions(tx, await store.by_groups(tx, org_id, touched), now)
            made = await store.group(tx, org_id, group_id)
            await record(
                tx,
                _about_group(
                    by, Action.SCIM_GROUP_UPDATE, made, added=len(added), removed=len(removed), sessions_ended=ended
                ),
            )
        return made

    async def delete_group(self, by: Speaking, group_id: UUID) -> None:
        """Raises NotFoundError."""
        org_id, now = by.directory.org_id, self._clock.now()
        async with self._database.transaction() as tx:
            await store.hold(tx, org_id)
            was = await store.group(tx, org_id, group_id)
            await store.hold_users(tx, was.attributes.members)
            ended = await store.end_sessions(tx, await store.by_groups(tx, org_id, was.attributes.members), now)
            await store.delete_group(tx, org_id, group_id)
            removed = len(was.attributes.members)
            await record(tx, _about_group(by, Action.SCIM_GROUP_DELETE, was, removed=removed, sessions_ended=ended))

    async def _add(self, tx: Transaction, org_id: OrgId, group_id: UUID, members: Collection[UUID]) -> None:
        if members and await store.add_members(tx, org_id, group_id, members) != len(members):
            raise BadRequestError(public="a member is no user of this directory")


def _new_token() -> Secret[str]:
    return Secret(PREFIX + secrets.token_urlsafe(TOKEN_BYTES))


def _event(by: Speaking, action: Action, *, resource: str = "", details: dict[str, object] | None = None) -> Event:
    return Event(
        action=action,
        actor=by.directory.actor,
        org_id=by.directory.org_id,
        resource=resource,
        address=by.address,
        request_id=by.request_id,
        details=details or {},
    )


def _about_user(by: Speaking, action: Action, it: User, **more: object) -> Event:
    """Where it is known whose account it is, that is what the event is about, so whoever looks for them, or forgets them, finds it."""
    attributes = it.attributes
    details: dict[str, object] = {
        "user_id": str(it.id),
        "user_name": attributes.user_name,
        "email": next((one for one in attributes.addresses if is_address(one)), ""),
        "active": attributes.is_active,
        **more,
    }
    return _event(by, action, resource=str(it.account_id or it.id), details=details)


def _about_group(by: Speaking, action: Action, it: Group, **more: object) -> Event:
    return _event(by, action, resource=str(it.id), details={"group": it.attributes.display_name, **more})
