"""What the front door asks before a privileged act: that whoever does it is there, and means this.

The factor is shown for an act, never for a session: a challenge is good for one request, to the byte, of one key, once, for a few
minutes. So whoever stole a key has nothing of its holder's that it could be used with, and whoever watched one act has nothing for
the next.
"""

from uuid import UUID

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.control.calling import Caller
from cloister.control.passkeys import challenges, store
from cloister.control.passkeys.demands import Demand, decide
from cloister.control.passkeys.model import (
    CHALLENGE_LASTS,
    Challenge,
    Passkey,
    PasskeyRefusedError,
    Pending,
    PrivilegedRequest,
)
from cloister.protocol import webauthn
from cloister.protocol.webauthn import Assertion, PasskeyError
from cloister.trust.audit import Action, record


class Proofs:
    def __init__(self, database: Database, rp_id: str, clock: Clock) -> None:
        """`rp_id`: the host name at which we are reached."""
        self._database = database
        self._rp_id = rp_id
        self._clock = clock

    async def ask(self, caller: Caller, asked: PrivilegedRequest, assertion: Assertion | None) -> Challenge | None:
        """None: it may be done, now. A challenge: it may be, by whoever repeats the request with this one signed. Raises
        PasskeyRefusedError.

        1. Who must show one (`demands`). Whoever need not is not slowed down.
        2. Nothing was brought: a challenge, for this request of this key.
        3. The challenge that was signed: it is over from here on, whatever comes of it.
        4. It was given to this key, for this request, and not too long ago.
        5. A passkey of this account signed it, on our page, with somebody there who proved to be its holder (`protocol/webauthn`).
        6. The counter is noted, and the event is written, in the same transaction in which the challenge ended.
        """
        now = self._clock.now()
        # 1. The demand.
        account_id = caller.principal.account_id
        async with self._database.reading() as tx:
            passkeys = await store.of_account(tx, account_id)
            is_required = await store.is_required(tx, asked.org_id)
        match decide(caller.principal, has_passkey=bool(passkeys), is_required=is_required, always=asked.always):
            case Demand.NOTHING:
                return None
            case Demand.A_PERSON:
                raise PasskeyRefusedError(
                    "passkey_of_a_person",
                    f"{caller.principal.actor} is nobody who could show a passkey",
                    public="this takes a person with a passkey: no key of an organization's can do it",
                )
            case Demand.A_REGISTRATION:
                raise PasskeyRefusedError(
                    "passkey_missing",
                    f"{caller.principal.actor} has no passkey",
                    public="this takes a passkey, and you have none: `cloister passkeys add` registers one",
                )
            case Demand.A_PASSKEY:
                pass
        # 2. The challenge.
        if assertion is None:
            return await self._challenge(caller, asked, store.ids(passkeys))
        try:
            challenge = webauthn.challenge_of(assertion.client_data)
        except PasskeyError as error:
            raise challenges.refused(error) from None
        async with self._database.transaction() as tx:
            # 3. Taken.
            pending = await store.take(tx, challenge, account_id)
            try:
                # 4. Whose, and for what.
                challenges.check(pending, caller, asked.request, now)
                # 5. The signature.
                passkey, count = await self._verified(tx, account_id, assertion, challenge)
            except PasskeyError as error:
                refusal = challenges.refused(error)
            else:
                # 6. The note.
                await store.used(tx, passkey.id, count, now)
                details = {"act": asked.act, "target": asked.target, "passkey": passkey.name}
                await record(
                    tx,
                    caller.event(
                        Action.PASSKEY_USE, org_id=asked.org_id or "", resource=str(passkey.id), details=details
                    ),
                )
                return None
        raise refusal

    async def _verified(
        self, tx: Transaction, account_id: UUID, assertion: Assertion, challenge: bytes
    ) -> tuple[Passkey, int]:
        """Which passkey signed, and how often it has. Raises PasskeyError."""
        passkey = await store.hold(tx, account_id, assertion.credential_id)
        if passkey is None:
            raise PasskeyError("passkey_unknown", "no passkey of this account")
        return passkey, webauthn.verified(assertion, passkey.credential, challenge=challenge, rp_id=self._rp_id)

    async def _challenge(self, caller: Caller, asked: PrivilegedRequest, passkeys: tuple[bytes, ...]) -> Challenge:
        now = self._clock.now()
        pending = Pending(
            account_id=caller.principal.account_id,
            key_id=caller.principal.key_id,
            request=asked.request,
            act=asked.act,
            target=asked.target,
            address=caller.address,
            expires_at=now + CHALLENGE_LASTS,
        )
        async with self._database.transaction() as tx:
            challenge = await challenges.give_out(tx, pending, now)
        return Challenge(
            challenge=challenge,
            rp_id=self._rp_id,
            passkeys=passkeys,
            act=asked.act,
            target=asked.target,
            address=caller.address,
            expires_at=pending.expires_at,
        )
