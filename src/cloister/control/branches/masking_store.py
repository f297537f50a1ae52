"""Maskings, in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from cloister.base.database import Transaction, jsonb
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.branches import store
from cloister.control.branches.model import MaskingRule

INITIALIZED: Final = "initialized"
ANONYMIZING: Final = "anonymizing"
ANONYMIZED: Final = "anonymized"
ERROR: Final = "error"
"""Neon's states, of those that a branch here has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """As far as it has come."""

    project_id: ProjectId
    branch_id: BranchId
    rules: list[MaskingRule]
    state: str
    message: str
    work: dict[str, Any]
    created_at: datetime
    changed_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    started_by: UUID | None


async def add(tx: Transaction, branch_id: BranchId, rules: Sequence[MaskingRule], work: dict[str, Any]) -> None:
    """Of a branch that is to be masked, in the transaction that makes its row."""
    await tx.execute(
        "INSERT INTO masking (branch_id, rules, state, work) VALUES ($1, $2, 'initialized', $3)",
        branch_id,
        jsonb(list(rules)),
        jsonb(work),
    )


async def get(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> Masking:
    """Raises NotFoundError for a branch that is not there or is no masked one."""
    await store.get(tx, project_id, branch_id)
    row = await tx.fetch_row("SELECT * FROM masking WHERE branch_id = $1", branch_id)
    if row is None:
        raise NotFoundError(f"{branch_id} is not masked", public="the branch is no anonymized branch")
    return Masking(
        project_id=project_id,
        branch_id=branch_id,
        rules=msgspec.json.decode(row["rules"], type=list[MaskingRule]),
        state=row["state"],
        message=row["message"],
        work=msgspec.json.decode(row["work"]),
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        started_by=row["started_by"],
    )


async def change_rules(tx: Transaction, branch_id: BranchId, rules: Sequence[MaskingRule]) -> None:
    await tx.execute(
        "UPDATE masking SET rules = $2, changed_at = now() WHERE branch_id = $1", branch_id, jsonb(list(rules))
    )


async def begun(tx: Transaction, branch_id: BranchId, by: UUID | None) -> None:
    await tx.execute(
        """UPDATE masking SET state = 'anonymizing', message = '', changed_at = now(), started_at = now(),
                  completed_at = NULL, started_by = $2 WHERE branch_id = $1""",
        branch_id,
        by,
    )


async def done(tx: Transaction, branch_id: BranchId) -> None:
    """Before its timeline is said to be there: the database wants it so."""
    await tx.execute(
        "UPDATE masking SET state = 'anonymized', changed_at = now(), completed_at = now() WHERE branch_id = $1",
        branch_id,
    )


async def failed(tx: Transaction, branch_id: BranchId, message: str) -> None:
    await tx.execute(
        """UPDATE masking SET state = 'error', message = $2, changed_at = now(), completed_at = now()
            WHERE branch_id = $1""",
        branch_id,
        message,
    )


async def is_masked(tx: Transaction, branch_id: BranchId) -> bool:
    """Or is to be."""
    return bool(await tx.fetch_value("SELECT EXISTS (SELECT FROM masking WHERE branch_id = $1)", branch_id))
