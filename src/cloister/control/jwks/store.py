"""Rows of `jwks`, in and out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from cloister.base.database import Transaction, jsonb
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.jwks.model import Jwks
from cloister.protocol.tokens import VerifyingKey


async def find(tx: Transaction, project_id: ProjectId) -> list[Jwks]:
    """Oldest first. One of a branch that is gone is gone with it."""
    rows = await tx.fetch(
        """SELECT j.* FROM jwks j LEFT JOIN branch b ON b.id = j.branch_id
            WHERE j.project_id = $1 AND (j.branch_id IS NULL OR b.deleted_at IS NULL) ORDER BY j.created_at, j.id""",
        project_id,
    )
    return [_jwks(row) for row in rows]


async def of_endpoint(tx: Transaction, name: str) -> list[Jwks]:
    """Those that hold for an endpoint, or for a branch by its own name."""
    rows = await tx.fetch(
        """SELECT j.* FROM branch b JOIN project p ON p.id = b.project_id JOIN jwks j ON j.project_id = p.id
            WHERE b.id = coalesce((SELECT branch_id FROM endpoint WHERE id = $1 AND deleted_at IS NULL), $1)
              AND b.deleted_at IS NULL AND p.deleted_at IS NULL AND (j.branch_id IS NULL OR j.branch_id = b.id)
            ORDER BY j.created_at, j.id""",
        name,
    )
    return [_jwks(row) for row in rows]


async def count(tx: Transaction, project_id: ProjectId) -> int:
    """Of those that `find` finds."""
    return int(
        await tx.fetch_value(
            """SELECT count(*) FROM jwks j LEFT JOIN branch b ON b.id = j.branch_id
                WHERE j.project_id = $1 AND (j.branch_id IS NULL OR b.deleted_at IS NULL)""",
            project_id,
        )
    )


async def add(tx: Transaction, jwks: Jwks, *, created_by: UUID | None) -> Jwks:
    row = await tx.fetch_row(
        """INSERT INTO jwks (id, project_id, branch_id, url, provider_name, audience, issuer, role_names, keys, fetched_at,
                             tried_at, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text[], $9::jsonb, $10, $11, $12) RETURNING *""",
        jwks.id,
        jwks.project_id,
        jwks.branch_id,
        jwks.url,
        jwks.provider_name,
        jwks.audience,
        jwks.issuer,
        list(jwks.role_names),
        jsonb(list(jwks.keys)),
        jwks.fetched_at,
        jwks.tried_at,
        created_by,
    )
    assert row is not None
    return _jwks(row)


async def delete(tx: Transaction, project_id: ProjectId, jwks_id: UUID) -> Jwks:
    """Raises NotFoundError."""
    row = await tx.fetch_row("DELETE FROM jwks WHERE id = $1 AND project_id = $2 RETURNING *", jwks_id, project_id)
    if row is None:
        raise NotFoundError(f"no key set {jwks_id} in {project_id}", public="JWKS not found")
    return _jwks(row)


async def try_now(tx: Transaction, jwks_id: UUID, now: datetime, *, not_after: datetime) -> bool:
    """Whoever gets True may ask the issuer, and nobody else before the next time."""
    row = await tx.fetch_row(
        "UPDATE jwks SET tried_at = $2 WHERE id = $1 AND tried_at <= $3 RETURNING id", jwks_id, now, not_after
    )
    return row is not None


async def fetched(tx: Transaction, jwks_id: UUID, keys: Sequence[VerifyingKey], now: datetime) -> None:
    await tx.execute(
        "UPDATE jwks SET keys = $2::jsonb, fetched_at = $3, updated_at = $3 WHERE id = $1",
        jwks_id,
        jsonb(list(keys)),
        now,
    )


def _jwks(row: Any) -> Jwks:
    return Jwks(
        id=row["id"],
        project_id=ProjectId(row["project_id"]),
        branch_id=None if row["branch_id"] is None else BranchId(row["branch_id"]),
        url=row["url"],
        provider_name=row["provider_name"],
        audience=row["audience"],
        issuer=row["issuer"],
        role_names=tuple(row["role_names"]),
        keys=tuple(msgspec.json.decode(row["keys"], type=list[VerifyingKey])),
        fetched_at=row["fetched_at"],
        tried_at=row["tried_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
