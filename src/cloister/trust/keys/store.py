"""The rows of wrapped keys. Only the broker's database role may read them; a row without the root key is noise.

The transaction is an argument: the audit event of a change is appended in the same one, by the broker.
"""

from dataclasses import dataclass
from typing import Any

from cloister.base.database import Transaction
from cloister.trust.audit.events import timestamp
from cloister.trust.keys.commands import KeyInfo


@dataclass(frozen=True, slots=True)
class WrappedKey:
    info: KeyInfo
    root_version: str
    wrapped: bytes | None
    """None once destroyed."""


async def lock_project(tx: Transaction, project_id: str) -> None:
    """Until the transaction ends nobody else creates or destroys keys of this project."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"wrapped_key {project_id}")


async def newest(tx: Transaction, project_id: str, purpose: str) -> WrappedKey | None:
    """The key that counts: the newest enabled version, or the newest of all where none is enabled."""
    row = await tx.fetch_row(
        """SELECT * FROM wrapped_key WHERE project_id = $1 AND purpose = $2
            ORDER BY (state = 'enabled') DESC, version DESC LIMIT 1""",
        project_id,
        purpose,
    )
    return None if row is None else _key(row)


async def insert(tx: Transaction, key: WrappedKey) -> KeyInfo:
    row = await tx.fetch_row(
        """INSERT INTO wrapped_key (project_id, purpose, version, provider, root_version, state, wrapped)
           VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *""",
        key.info.project_id,
        key.info.purpose,
        key.info.version,
        key.info.provider,
        key.root_version,
        key.info.state,
        key.wrapped,
    )
    return _key(row).info


async def destroy(tx: Transaction, project_id: str) -> list[KeyInfo]:
    """Forget every wrapped form of the project's keys; the rows stay, to say that there were some."""
    rows = await tx.fetch(
        """UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now()
            WHERE project_id = $1 AND state <> 'destroyed' RETURNING *""",
        project_id,
    )
    return [_key(row).info for row in rows]


async def list_keys(tx: Transaction, project_id: str | None) -> list[KeyInfo]:
    rows = await tx.fetch(
        """SELECT * FROM wrapped_key WHERE $1::text IS NULL OR project_id = $1
            ORDER BY project_id, purpose, version""",
        project_id,
    )
    return [_key(row).info for row in rows]


def _key(row: Any) -> WrappedKey:
    info = KeyInfo(
        project_id=row["project_id"],
        purpose=row["purpose"],
        version=row["version"],
        state=row["state"],
        provider=row["provider"],
        created_at=timestamp(row["created_at"]),
    )
    return WrappedKey(info, row["root_version"], row["wrapped"])
