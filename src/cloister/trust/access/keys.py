"""API keys: made, shown once, and recognised by their digest.

A key has 381 random bits, so its SHA-256 is kept without salt: nobody can guess towards it, and one indexed look-up finds
it. The database never sees a key.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from cloister.base.clock import Clock, SystemClock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, NotFoundError, UnauthenticatedError
from cloister.base.secret import Secret, new_api_key
from cloister.trust.access.principals import Calling, Principal
from cloister.trust.audit import Action, Event, record

NAME_CHARS_MAX: Final = 64
# Neon's limit for `key_name`.

BEARER_CHARS_MAX: Final = 256
# Ours have 69. What is longer is not hashed: that would be work for whoever sends it.

USE_NOTED_EVERY: Final = timedelta(minutes=1)
# `last_used_at` is for people. Written at every call, it would be the database's main work.


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as its holder sees it: everything but the key."""

    id: int
    name: str
    account_id: UUID
    account_name: str
    created_at: datetime
    last_used_at: datetime | None
    last_used_from: str | None


class ApiKeys:
    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def authenticate(self, bearer: str, address: str) -> Principal:
        """Who holds this key. Raises UnauthenticatedError, in the same words and after the same query, whether the text
        is no key, an unknown one, or a revoked one.

        1. Hash what was sent, whatever it is; what is too long to be a key is replaced by nothing.
        2. Look the digest up, with the account and its memberships. A B-tree's timing tells about digests, which tell
           nothing about keys.
        3. Refuse what was not found or is revoked.
        4. Note the use, if that was not done within the last minute.
        """
        # 1. The digest.
        digest = digest_of(bearer if len(bearer) <= BEARER_CHARS_MAX else "")
        # 2. The row.
        async with self._database.reading() as tx:
            row = await tx.fetch_row(
                """SELECT api_key.id, api_key.revoked_at, api_key.last_used_at, api_key.last_used_from,
                          account.id AS account_id, account.email, account.name,
                          (SELECT jsonb_object_agg(org_id, role) FROM membership WHERE account_id = account.id)::text
                              AS memberships
                     FROM api_key JOIN account ON account.id = api_key.account_id
                    WHERE api_key.digest = $1""",
                digest,
            )
        # 3. The refusal.
        if row is None or row["revoked_at"] is not None:
            raise UnauthenticatedError
        # 4. The note.
        now = self._clock.now()
        if row["last_used_at"] is None or now - row["last_used_at"] >= USE_NOTED_EVERY:
            await self._note_use(row["id"], now, address)
        return _principal(row)

    async def create(self, caller: Calling, name: str) -> tuple[ApiKey, Secret[str]]:
        """A key of the caller's account. The key itself is in the answer and nowhere else."""
        _check_name(name)
        key = new_api_key()
        async with self._database.transaction() as tx:
            key_id = await insert_key(tx, caller.principal.account_id, name, key, self._clock.now())
            created = await _get(tx, caller.principal.account_id, key_id)
            await record(tx, _event(Action.API_KEY_CREATE, caller, created))
        return created, key

    async def find(self, principal: Principal) -> list[ApiKey]:
        """The account's keys that are not revoked, oldest first."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT api_key.*, account.name AS account_name
                     FROM api_key JOIN account ON account.id = api_key.account_id
                    WHERE account_id = $1 AND revoked_at IS NULL ORDER BY api_key.id""",
                principal.account_id,
            )
        return [_api_key(row) for row in rows]

    async def revoke(self, caller: Calling, key_id: int) -> ApiKey:
        """From the moment this returns, the key opens nothing. Raises NotFoundError for a key that is not this
        account's, or was revoked before."""
        async with self._database.transaction() as tx:
            revoked = await tx.execute(
                "UPDATE api_key SET revoked_at = $3 WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL",
                _within_bigint(key_id),
                caller.principal.account_id,
                self._clock.now(),
            )
            if not revoked:
                raise NotFoundError(public="API key not found")
            key = await _get(tx, caller.principal.account_id, key_id)
            await record(tx, _event(Action.API_KEY_REVOKE, caller, key))
        return key

    async def _note_use(self, key_id: int, now: datetime, address: str) -> None:
        async with self._database.transaction() as tx:
            # Two calls at once: one of them is enough.
            await tx.execute(
                """UPDATE api_key SET last_used_at = $2, last_used_from = $3
                    WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $4)""",
                key_id,
                now,
                address,
                now - USE_NOTED_EVERY,
            )


def digest_of(key: str) -> bytes:
    # A header may hold bytes that are no text; they are somebody's guess and hash like any other.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def insert_key(tx: Transaction, account_id: UUID, name: str, key: Secret[str], now: datetime) -> int:
    key_id: int = await tx.fetch_value(
        "INSERT INTO api_key (name, digest, account_id, created_at) VALUES ($1, $2, $3, $4) RETURNING id",
        name,
        digest_of(key.reveal()),
        account_id,
        now,
    )
    return key_id


async def _get(tx: Transaction, account_id: UUID, key_id: int) -> ApiKey:
    row = await tx.fetch_row(
        """SELECT api_key.*, account.name AS account_name
             FROM api_key JOIN account ON account.id = api_key.account_id WHERE api_key.id = $1 AND account_id = $2""",
        key_id,
        account_id,
    )
    return _api_key(row)


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise BadRequestError(public=f"an API key's name has 1 to {NAME_CHARS_MAX} printable characters")


def _within_bigint(number: int) -> int:
    return number if 0 < number < 2**63 else 0  # no key has the number 0


def _principal(row: Any) -> Principal:
    return Principal(
        account_id=row["account_id"],
        key_id=row["id"],
        email=row["email"],
        name=row["name"],
        memberships=msgspec.json.decode(row["memberships"] or "{}", type=dict[str, str]),
    )


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        account_id=row["account_id"],
        account_name=row["account_name"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        last_used_from=row["last_used_from"],
    )


def _event(action: Action, caller: Calling, key: ApiKey) -> Event:
    return Event(
        action=action,
        actor=caller.principal.actor,
        resource=f"api_key/{key.id}",
        address=caller.address,
        request_id=caller.request_id,
        details={"name": key.name},
    )
