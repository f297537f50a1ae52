"""Somebody has lost every passkey of theirs. Whoever is root on the server takes them away; then the account registers a first one, as
anybody does who has none.

There is no way over the network: whoever has stolen a key asks for this before anything else. What stays with others: that it is root who
asks (`app/recovery.py`).
"""

from cloister.base.database import Database
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError
from cloister.control.organizations import store as organizations
from cloister.control.passkeys import store
from cloister.control.passkeys.model import Passkey
from cloister.trust.audit import Action, Event, record

ACTOR = "platform:root"


async def recover(database: Database, email: str, reason: str) -> list[Passkey]:
    """What was taken away. Raises BadRequestError without a reason, NotFoundError, ConflictError where there is none."""
    if not reason.strip():
        raise BadRequestError(public="say why: it stands in the audit log")
    async with database.transaction() as tx:
        account = await organizations.account_by_email(tx, email)
        if account is None:
            raise NotFoundError(f"no account {email!r}", public=f"nobody here has the address {email}")
        await store.hold_account(tx, account.id)
        removed = await store.remove_all(tx, account.id)
        if not removed:
            raise ConflictError(public=f"{email} has no passkey")
        details = {"email": account.email, "passkeys": ", ".join(it.name for it in removed)}
        await record(
            tx,
            Event(action=Action.PASSKEY_RECOVER, actor=ACTOR, resource=str(account.id), reason=reason, details=details),
        )
    return removed
