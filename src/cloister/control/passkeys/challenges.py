"""Challenges: given out, and what must be so of one that comes back. Each is for one request of one key, or for one passkey to be made."""

import hmac
import secrets
from datetime import datetime

from cloister.base.database import Transaction
from cloister.control.calling import Caller
from cloister.control.passkeys import store
from cloister.control.passkeys.model import CHALLENGE_BYTES, PasskeyRefusedError, Pending
from cloister.protocol.webauthn import PasskeyError


async def give_out(tx: Transaction, pending: Pending, now: datetime) -> bytes:
    """A new one; those that were not answered in time are forgotten."""
    challenge = secrets.token_bytes(CHALLENGE_BYTES)
    await store.sweep(tx, now)
    await store.give_out(tx, challenge, pending)
    return challenge


def check(pending: Pending | None, caller: Caller, request: bytes | None, now: datetime) -> None:
    """`request` None: to make a passkey. Raises PasskeyError."""
    if pending is None:
        raise PasskeyError("passkey_challenge", "never given out, or answered before")
    if pending.expires_at <= now:
        raise PasskeyError("passkey_expired", f"expired at {pending.expires_at}")
    if pending.key_id != caller.principal.key_id:
        raise PasskeyError("passkey_other_key", f"given to key {pending.key_id}")
    if not hmac.compare_digest(pending.request or b"", request or b""):
        raise PasskeyError("passkey_other_request", "given for another request")


def refused(error: PasskeyError) -> PasskeyRefusedError:
    """What whoever asked is told: what was wrong is for the audit log."""
    return PasskeyRefusedError(
        error.why,
        str(error),
        public="the passkey is not accepted for this: ask once more, and sign what is asked then",
    )
