"""Rows of `passkey` and `passkey_challenge`, in and out, and what an organization demands."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from cloister.base.database import Transaction
from cloister.base.ids import OrgId
from cloister.control.passkeys.model import Passkey, Pending
from cloister.protocol.webauthn import Credential

# ── passkeys ──


async def of_account(tx: Transaction, account_id: UUID) -> list[Passkey]:
    rows = await tx.fetch("SELECT * FROM passkey WHERE account_id = $1 ORDER BY created_at, id", account_id)
    return [_passkey(row) for row in rows]


async def hold(tx: Transaction, account_id: UUID, credential_id: bytes) -> Passkey | None:
    """The account's passkey with that credential, if it has it. Of two acts at once, the second waits."""
    row = await tx.fetch_row(
        "SELECT * FROM passkey WHERE account_id = $1 AND credential_id = $2 FOR UPDATE", account_id, credential_id
    )
    return None if row is None else _passkey(row)


async def add(tx: Transaction, passkey: Passkey) -> bool:
    """False: the account has one of this name, or somebody has this credential."""
    return bool(
        await tx.execute(
            """INSERT INTO passkey (id, account_id, name, credential_id, public_key, sign_count, created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING""",
            passkey.id,
            passkey.account_id,
            passkey.name,
            passkey.credential.id,
            passkey.credential.public_key,
            passkey.credential.sign_count,
            passkey.created_at,
        )
    )


async def used(tx: Transaction, passkey_id: UUID, sign_count: int, now: datetime) -> None:
    await tx.execute("UPDATE passkey SET sign_count = $2, last_used_at = $3 WHERE id = $1", passkey_id, sign_count, now)


async def remove(tx: Transaction, account_id: UUID, passkey_id: UUID) -> Passkey | None:
    row = await tx.fetch_row(
        "DELETE FROM passkey WHERE account_id = $1 AND id = $2 RETURNING *", account_id, passkey_id
    )
    return None if row is None else _passkey(row)


async def remove_all(tx: Transaction, account_id: UUID) -> list[Passkey]:
    rows = await tx.fetch("DELETE FROM passkey WHERE account_id = $1 RETURNING *", account_id)
    return [_passkey(row) for row in rows]


async def hold_account(tx: Transaction, account_id: UUID) -> None:
    """Of two that make the account's first passkey, the second waits, and finds that it is not."""
    await tx.execute("SELECT FROM account WHERE id = $1 FOR UPDATE", account_id)


# ── challenges ──


async def give_out(tx: Transaction, challenge: bytes, pending: Pending) -> None:
    await tx.execute(
        """INSERT INTO passkey_challenge (digest, account_id, key_id, request, act, target, address, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        _digest(challenge),
        pending.account_id,
        pending.key_id,
        pending.request,
        pending.act,
        pending.target,
        pending.address,
        pending.expires_at,
    )


async def take(tx: Transaction, challenge: bytes, account_id: UUID) -> Pending | None:
    """It is over from here on, whatever comes of it. None: the account has no such challenge, or it was taken."""
    row = await tx.fetch_row(
        "DELETE FROM passkey_challenge WHERE digest = $1 AND account_id = $2 RETURNING *",
        _digest(challenge),
        account_id,
    )
    return None if row is None else _pending(row)


async def pending(tx: Transaction, challenge: bytes, now: datetime) -> tuple[Pending, str, str] | None:
    """To look at it: with the address and the name of its account."""
    row = await tx.fetch_row(
        """SELECT c.*, a.email, a.name FROM passkey_challenge c JOIN account a ON a.id = c.account_id
            WHERE c.digest = $1 AND c.expires_at > $2""",
        _digest(challenge),
        now,
    )
    return None if row is None else (_pending(row), row["email"], row["name"])


async def sweep(tx: Transaction, now: datetime) -> None:
    await tx.execute("DELETE FROM passkey_challenge WHERE expires_at <= $1", now)


# ── what is demanded ──


async def is_required(tx: Transaction, org_id: OrgId | None) -> bool:
    if org_id is None:
        return False
    return bool(await tx.fetch_value("SELECT requires_passkey FROM organization WHERE id = $1", org_id))


async def hold_required(tx: Transaction, org_id: OrgId) -> bool:
    """The same; nobody changes it before the transaction ends."""
    return bool(
        await tx.fetch_value("SELECT requires_passkey FROM organization WHERE id = $1 FOR NO KEY UPDATE", org_id)
    )


async def require(tx: Transaction, org_id: OrgId, *, is_required: bool) -> None:
    await tx.execute("UPDATE organization SET requires_passkey = $2 WHERE id = $1", org_id, is_required)


def ids(passkeys: Sequence[Passkey]) -> tuple[bytes, ...]:
    return tuple(it.credential.id for it in passkeys)


def _digest(challenge: bytes) -> bytes:
    return sha256(challenge).digest()


def _passkey(row: Any) -> Passkey:
    return Passkey(
        id=row["id"],
        account_id=row["account_id"],
        name=row["name"],
        credential=Credential(row["credential_id"], row["public_key"], row["sign_count"]),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )


def _pending(row: Any) -> Pending:
    return Pending(
        account_id=row["account_id"],
        key_id=row["key_id"],
        request=row["request"],
        act=row["act"],
        target=row["target"],
        address=row["address"],
        expires_at=row["expires_at"],
    )
