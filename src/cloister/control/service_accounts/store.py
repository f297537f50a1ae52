"""Rows of `service_account` and its grants, in and out."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError
from cloister.base.ids import OrgId, ProjectId
from cloister.control.service_accounts.model import Key, ServiceAccount

_ACCOUNT = """
    SELECT s.*, a.email AS owner,
           (SELECT jsonb_object_agg(g.project_id, g.role) FROM service_account_grant g JOIN project p ON p.id = g.project_id
             WHERE g.service_account_id = s.id AND p.org_id = s.org_id AND p.deleted_at IS NULL)::text AS grants
      FROM service_account s JOIN account a ON a.id = s.owner_id
"""


async def find(tx: Transaction, org_id: OrgId, now: datetime) -> list[ServiceAccount]:
    rows = await tx.fetch(f"{_ACCOUNT} WHERE s.org_id = $1 AND s.removed_at IS NULL ORDER BY s.name", org_id)
    keys = await _keys(tx, [row["id"] for row in rows], now)
    return [_account(row, keys) for row in rows]


async def get(tx: Transaction, org_id: OrgId, account_id: UUID, now: datetime) -> ServiceAccount:
    """Raises NotFoundError. Nobody else changes it until the transaction ends."""
    row = await tx.fetch_row(
        f"{_ACCOUNT} WHERE s.org_id = $1 AND s.id = $2 AND s.removed_at IS NULL FOR UPDATE OF s", org_id, account_id
    )
    if row is None:
        raise NotFoundError(f"no service account {account_id} in {org_id}", public="service account not found")
    return _account(row, await _keys(tx, [account_id], now))


async def count(tx: Transaction, org_id: OrgId) -> int:
    found: int = await tx.fetch_value(
        "SELECT count(*) FROM service_account WHERE org_id = $1 AND removed_at IS NULL", org_id
    )
    return found


async def add(
    tx: Transaction, account_id: UUID, *, org_id: OrgId, name: str, role: str, owner_id: UUID, now: datetime
) -> bool:
    """False: there is one of this name."""
    return bool(
        await tx.execute(
            """INSERT INTO service_account (id, org_id, name, role, owner_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT DO NOTHING""",
            account_id,
            org_id,
            name,
            role,
            owner_id,
            now,
        )
    )


async def change(
    tx: Transaction, account_id: UUID, *, role: str, owner_id: UUID, orphaned_at: datetime | None, off: datetime | None
) -> None:
    await tx.execute(
        "UPDATE service_account SET role = $2, owner_id = $3, orphaned_at = $4, disabled_at = $5 WHERE id = $1",
        account_id,
        role,
        owner_id,
        orphaned_at,
        off,
    )


async def set_grants(tx: Transaction, account_id: UUID, org_id: OrgId, grants: dict[ProjectId, Any]) -> bool:
    """False, and nothing is granted: one is not a project of the organization."""
    rows = await tx.fetch(
        """SELECT id FROM project WHERE id = ANY ($1) AND org_id = $2 AND deleted_at IS NULL ORDER BY id FOR SHARE""",
        list(grants),
        org_id,
    )
    if len(rows) != len(grants):
        return False
    await tx.execute("DELETE FROM service_account_grant WHERE service_account_id = $1", account_id)
    for project_id, role in grants.items():
        await tx.execute(
            "INSERT INTO service_account_grant (service_account_id, project_id, role) VALUES ($1, $2, $3)",
            account_id,
            project_id,
            role,
        )
    return True


async def remove(tx: Transaction, org_id: OrgId, account_id: UUID, now: datetime) -> bool:
    """With its keys and grants, for good. False: it is not there."""
    is_there = await tx.execute(
        "UPDATE service_account SET removed_at = $3 WHERE id = $2 AND org_id = $1 AND removed_at IS NULL",
        org_id,
        account_id,
        now,
    )
    await end_keys(tx, account_id, now, timedelta())
    await tx.execute("DELETE FROM service_account_grant WHERE service_account_id = $1", account_id)
    return bool(is_there)


async def owner_of(tx: Transaction, account_id: UUID) -> UUID | None:
    found: UUID | None = await tx.fetch_value("SELECT owner_id FROM service_account WHERE id = $1", account_id)
    return found


async def member_by_email(tx: Transaction, org_id: OrgId, email: str) -> UUID | None:
    """Somebody of the organization who may come in."""
    found: UUID | None = await tx.fetch_value(
        """SELECT a.id FROM account a JOIN membership m ON m.account_id = a.id
            WHERE m.org_id = $1 AND lower(a.email) = lower($2) AND a.disabled_at IS NULL AND m.suspended_at IS NULL""",
        org_id,
        email,
    )
    return found


# ── keys ──


async def addresses(tx: Transaction, account_id: UUID) -> tuple[str, ...]:
    """From where its newest key opens; nothing: from everywhere."""
    found = await tx.fetch_value(
        "SELECT allowed_ips FROM api_key WHERE service_account_id = $1 ORDER BY id DESC LIMIT 1", account_id
    )
    return tuple(found or ())


async def end_keys(tx: Transaction, account_id: UUID, now: datetime, overlap: timedelta) -> None:
    """Each ends with the overlap, or before, where that was so already; none is made to last longer."""
    if not overlap:
        await tx.execute(
            "UPDATE api_key SET revoked_at = $2 WHERE service_account_id = $1 AND revoked_at IS NULL", account_id, now
        )
        return
    await tx.execute(
        """UPDATE api_key SET expires_at = $2
            WHERE service_account_id = $1 AND revoked_at IS NULL AND expires_at > $2""",
        account_id,
        now + overlap,
    )


async def _keys(tx: Transaction, account_ids: list[UUID], now: datetime) -> dict[UUID, list[Key]]:
    """Those that are good, newest first, by whose they are."""
    rows = await tx.fetch(
        """SELECT service_account_id, id, prefix, expires_at, last_used_at, last_used_from FROM api_key
            WHERE service_account_id = ANY ($1) AND revoked_at IS NULL AND expires_at > $2 ORDER BY id DESC""",
        account_ids,
        now,
    )
    found: dict[UUID, list[Key]] = {account_id: [] for account_id in account_ids}
    for row in rows:
        key = Key(row["id"], row["prefix"], row["expires_at"], row["last_used_at"], row["last_used_from"])
        found[row["service_account_id"]].append(key)
    return found


# ── owners ──


async def newly_orphaned(tx: Transaction, now: datetime) -> list[ServiceAccount]:
    """Those whose owner has left since; noted as that. Those whose owner came back are noted as not."""
    await tx.execute(
        """UPDATE service_account s SET orphaned_at = NULL
            WHERE s.orphaned_at IS NOT NULL AND s.removed_at IS NULL
              AND EXISTS (SELECT FROM membership m JOIN account a ON a.id = m.account_id
                           WHERE m.org_id = s.org_id AND m.account_id = s.owner_id AND a.disabled_at IS NULL
                             AND m.suspended_at IS NULL)"""
    )
    rows = await tx.fetch(
        """UPDATE service_account s SET orphaned_at = $1
            WHERE s.orphaned_at IS NULL AND s.removed_at IS NULL
              AND NOT EXISTS (SELECT FROM membership m JOIN account a ON a.id = m.account_id
                               WHERE m.org_id = s.org_id AND m.account_id = s.owner_id AND a.disabled_at IS NULL
                             AND m.suspended_at IS NULL)
           RETURNING s.org_id, s.id""",
        now,
    )
    return [await get(tx, OrgId(row["org_id"]), row["id"], now) for row in rows]


def _account(row: Any, keys: dict[UUID, list[Key]]) -> ServiceAccount:
    return ServiceAccount(
        id=row["id"],
        org_id=OrgId(row["org_id"]),
        name=row["name"],
        role=row["role"],
        grants={ProjectId(project_id): role for project_id, role in json.loads(row["grants"] or "{}").items()},
        owner_id=row["owner_id"],
        owner=row["owner"],
        created_at=row["created_at"],
        orphaned_at=row["orphaned_at"],
        disabled_at=row["disabled_at"],
        keys=tuple(keys[row["id"]]),
    )
