"""Rows of `egress_rule`, in and out."""

from typing import Any
from uuid import UUID, uuid4

from cloister.base.database import Transaction
from cloister.base.egress import Target
from cloister.base.ids import ProjectId
from cloister.control.egress.model import EgressRule
from cloister.node.egress.commands import SetWays, Way


async def find(tx: Transaction, project_id: ProjectId) -> list[EgressRule]:
    rows = await tx.fetch("SELECT * FROM egress_rule WHERE project_id = $1 ORDER BY created_at, id", project_id)
    return [_rule(row) for row in rows]


async def add(
    tx: Transaction, project_id: ProjectId, target: Target, ca_pem: str | None, *, created_by: str
) -> EgressRule | None:
    """None: there is one with this target."""
    row = await tx.fetch_row(
        """INSERT INTO egress_rule (id, project_id, target, ca_pem, created_by)
           VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING *""",
        uuid4(),
        project_id,
        str(target),
        ca_pem,
        created_by,
    )
    return None if row is None else _rule(row)


async def remove(tx: Transaction, project_id: ProjectId, rule_id: UUID) -> EgressRule | None:
    row = await tx.fetch_row(
        "DELETE FROM egress_rule WHERE project_id = $1 AND id = $2 RETURNING *", project_id, rule_id
    )
    return None if row is None else _rule(row)


async def wanted(tx: Transaction) -> list[SetWays]:
    """What the relay is to keep open: the rules of every project that is there."""
    rows = await tx.fetch(
        """SELECT egress_rule.project_id, volume.uid, egress_rule.target, egress_rule.ca_pem
             FROM egress_rule
             JOIN project ON project.id = egress_rule.project_id AND project.deleted_at IS NULL
             JOIN volume ON volume.project_id = project.id
            ORDER BY egress_rule.project_id, egress_rule.created_at, egress_rule.id"""
    )
    ways: dict[tuple[str, int], list[Way]] = {}
    for row in rows:
        ways.setdefault((row["project_id"], row["uid"]), []).append(Way(row["target"], row["ca_pem"]))
    return [SetWays(project_id=name, uid=uid, ways=tuple(found)) for (name, uid), found in ways.items()]


async def organizations(tx: Transaction, project_ids: list[str]) -> dict[str, str]:
    """Project → its organization."""
    rows = await tx.fetch("SELECT id, org_id FROM project WHERE id = ANY ($1)", project_ids)
    return {row["id"]: row["org_id"] for row in rows}


def _rule(row: Any) -> EgressRule:
    return EgressRule(
        id=row["id"],
        project_id=ProjectId(row["project_id"]),
        target=Target.parse(row["target"]),
        ca_pem=row["ca_pem"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
