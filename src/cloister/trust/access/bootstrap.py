"""The first organization, the first account, and the key of whoever is root on this server.

Idempotent, and safe against a crash between the database and the file that holds the key: the caller brings what the file
says, the database is made to agree, and what comes back is the key that works. A key that was lost on the way is revoked.
"""

from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock, SystemClock
from cloister.base.database import Database, Transaction
from cloister.base.ids import new_org_id
from cloister.base.secret import Secret, new_api_key
from cloister.trust.access.keys import NewKey, digest_of, insert_key
from cloister.trust.audit import Action, Event, record

ADMIN_EMAIL: Final = "admin@localhost"
ADMIN_NAME: Final = "Administrator"
ORGANIZATION_NAME: Final = "Default"
KEY_NAME: Final = "this server"
"""The administrator's key of this name is the one in `Paths.admin_key`. There is one at a time."""

_LOCK: Final = 0x626F6F7473747270  # "bootstrp" in ASCII: two starting platforms do this one after the other
_ACTOR: Final = "platform:supervisor"


async def bootstrap(database: Database, admin_key: Secret[str] | None, clock: Clock | None = None) -> Secret[str]:
    """`admin_key` is what `Paths.admin_key` holds, or None. Returns the key it must hold: the same one, if it is good.
    Whoever can write that file is root here and could change the database as well, so a key revoked through the API is
    replaced, not respected."""
    now = (clock or SystemClock()).now()
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        account_id = await _administrator(tx)
        if admin_key is not None and await _opens(tx, account_id, admin_key):
            return admin_key
        lost = await tx.fetch(
            """UPDATE api_key SET revoked_at = $3
                WHERE account_id = $1 AND name = $2 AND org_id IS NULL AND revoked_at IS NULL RETURNING id""",
            account_id,
            KEY_NAME,
            now,
        )
        admin_key = new_api_key()
        key_id = await insert_key(tx, account_id, NewKey(name=KEY_NAME), admin_key, now)
        await record(
            tx,
            *(_event(Action.API_KEY_REVOKE, row["id"]) for row in lost),
            _event(Action.API_KEY_CREATE, key_id),
        )
    return admin_key


async def _administrator(tx: Transaction) -> UUID:
    known: UUID | None = await tx.fetch_value("SELECT id FROM account WHERE email = $1", ADMIN_EMAIL)
    if known is not None:
        return known
    account_id, org_id = uuid4(), new_org_id()
    await tx.execute(
        "INSERT INTO account (id, email, name, is_operator) VALUES ($1, $2, $3, true)",
        account_id,
        ADMIN_EMAIL,
        ADMIN_NAME,
    )
    await tx.execute("INSERT INTO organization (id, name) VALUES ($1, $2)", org_id, ORGANIZATION_NAME)
    await tx.execute("INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'admin')", org_id, account_id)
    return account_id


async def _opens(tx: Transaction, account_id: UUID, key: Secret[str]) -> bool:
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM api_key WHERE digest = $1 AND account_id = $2 AND org_id IS NULL
                                 AND expires_at IS NULL AND allowed_ips = '{}' AND revoked_at IS NULL)""",
            digest_of(key.reveal()),
            account_id,
        )
    )


def _event(action: Action, key_id: int) -> Event:
    return Event(action=action, actor=_ACTOR, resource=f"api_key/{key_id}", details={"name": KEY_NAME})
