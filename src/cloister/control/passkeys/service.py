"""The verbs on passkeys, and on what an organization demands. Each is one transaction: rows and audit event.

That a further passkey, a removal and a change of the demand are privileged acts themselves is the front door's table
(`edge/api/acts.py`). What must stay true: an account that has a passkey gets no other without showing one.
"""

from uuid import UUID, uuid4

from cloister.base import versions
from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.control.calling import Caller
from cloister.control.passkeys import challenges, store
from cloister.control.passkeys.model import (
    CHALLENGE_LASTS,
    NAME_CHARS_MAX,
    PASSKEYS_MAX,
    Challenge,
    Creation,
    Passkey,
    Pending,
)
from cloister.protocol import webauthn
from cloister.protocol.webauthn import PasskeyError, Registration
from cloister.trust.audit import Action, record


def version_of(org_id: OrgId, *, is_required: bool) -> str:
    return versions.version("passkey_policy", org_id, is_required)


class PasskeyService:
    def __init__(self, database: Database, rp_id: str, clock: Clock) -> None:
        """`rp_id`: the host name at which we are reached. Passkeys are made for it, and for no other."""
        self._database = database
        self._rp_id = rp_id
        self._clock = clock

    async def find(self, caller: Caller) -> list[Passkey]:
        """Their own."""
        async with self._database.reading() as tx:
            return await store.of_account(tx, caller.principal.account_id)

    async def begin(self, caller: Caller) -> Creation:
        now, account_id = self._clock.now(), caller.principal.account_id
        pending = Pending(
            account_id=account_id,
            key_id=caller.principal.key_id,
            request=None,
            act="register a passkey",
            target="",
            address=caller.address,
            expires_at=now + CHALLENGE_LASTS,
        )
        async with self._database.transaction() as tx:
            known = await store.of_account(tx, account_id)
            challenge = await challenges.give_out(tx, pending, now)
        return self._creation(challenge, pending, caller.principal.email, caller.principal.name, known)

    async def add(self, caller: Caller, name: str, said: Registration) -> Passkey:
        """What a browser brought of a passkey that was made for a challenge of ours. Raises PasskeyRefusedError, BadRequestError,
        ConflictError, UnprocessableError."""
        if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
            raise BadRequestError(public=f"a passkey's name has 1 to {NAME_CHARS_MAX} printable characters")
        now, account_id = self._clock.now(), caller.principal.account_id
        try:
            challenge = webauthn.challenge_of(said.client_data)
            async with self._database.transaction() as tx:
                pending = await store.take(tx, challenge, account_id)
            challenges.check(pending, caller, None, now)
            credential = webauthn.registered(said, challenge=challenge, rp_id=self._rp_id)
        except PasskeyError as error:
            raise challenges.refused(error) from None
        made = Passkey(
            id=uuid4(), account_id=account_id, name=name, credential=credential, created_at=now, last_used_at=None
        )
        async with self._database.transaction() as tx:
            await store.hold_account(tx, account_id)
            known = await store.of_account(tx, account_id)
            if known and not caller.principal.with_passkey:
                # Another call made the first one meanwhile: this one was let in as if there were none.
                raise ConflictError(public="you have just got a passkey: ask once more, and show it")
            if len(known) >= PASSKEYS_MAX:
                raise UnprocessableError(public=f"an account may have {PASSKEYS_MAX} passkeys")
            if not await store.add(tx, made):
                raise ConflictError(public="there is a passkey of this name, or this one is registered already")
            details = {"name": name, "is_first": not known, "email": caller.principal.email}
            await record(tx, caller.event(Action.PASSKEY_ADD, resource=str(made.id), details=details))
        return made

    async def remove(self, caller: Caller, passkey_id: UUID) -> Passkey:
        """One of their own. Raises NotFoundError."""
        async with self._database.transaction() as tx:
            removed = await store.remove(tx, caller.principal.account_id, passkey_id)
            if removed is None:
                raise NotFoundError(public="passkey not found")
            left = len(await store.of_account(tx, caller.principal.account_id))
            details = {"name": removed.name, "left": left}
            await record(tx, caller.event(Action.PASSKEY_REMOVE, resource=str(passkey_id), details=details))
        return removed

    async def shown(self, challenge: bytes) -> Challenge | Creation:
        """What the page shows and asks the browser for. Whoever has the challenge may know. Raises NotFoundError."""
        async with self._database.reading() as tx:
            found = await store.pending(tx, challenge, self._clock.now())
            if found is None:
                raise NotFoundError(public="this link was used, or is over: begin again")
            pending, email, name = found
            known = await store.of_account(tx, pending.account_id)
        if pending.request is None:
            return self._creation(challenge, pending, email, name, known)
        return Challenge(
            challenge=challenge,
            rp_id=self._rp_id,
            passkeys=store.ids(known),
            act=pending.act,
            target=pending.target,
            address=pending.address,
            expires_at=pending.expires_at,
        )

    # ── what an organization demands ──

    async def is_required(self, org_id: OrgId) -> bool:
        async with self._database.reading() as tx:
            return await store.is_required(tx, org_id)

    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> bool:
        """Of everybody who does something privileged in its name, from the next call on."""
        async with self._database.transaction() as tx:
            was = await store.hold_required(tx, org_id)
            caller.require_version(version_of(org_id, is_required=was))
            await store.require(tx, org_id, is_required=is_required)
            details = {"required": is_required, "was": was}
            await record(tx, caller.event(Action.PASSKEY_POLICY, org_id=org_id, resource=org_id, details=details))
        return is_required

    def _creation(self, challenge: bytes, pending: Pending, email: str, name: str, known: list[Passkey]) -> Creation:
        return Creation(
            challenge=challenge,
            rp_id=self._rp_id,
            account_id=pending.account_id,
            email=email,
            name=name,
            passkeys=store.ids(known),
            address=pending.address,
            expires_at=pending.expires_at,
        )
