"""Rows of `access_review`, its items and its policy; and the rights that there are, as items."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError
from cloister.base.ids import OrgId, ProjectId
from cloister.control.reviews.model import Decision, Item, Kind, Policy, Review

_RIGHTS: Final = """
    SELECT 1 AS place, 'member' AS kind, m.account_id::text AS subject, NULL AS project_id, m.account_id, m.joined_at AS since,
           jsonb_build_object('email', a.email, 'role', m.role, 'since', m.joined_at, 'by_groups_of', i.name, 'last_used',
               (SELECT max(k.last_used_at) FROM api_key k WHERE k.account_id = m.account_id AND k.org_id IS NULL)) AS facts
      FROM membership m JOIN account a ON a.id = m.account_id LEFT JOIN issuer i ON i.id = m.issuer_id WHERE m.org_id = $1
    UNION ALL
    SELECT 2, 'grant', g.id::text, g.project_id, g.account_id, g.granted_at,
           jsonb_build_object('email', a.email, 'role', g.role, 'since', g.granted_at, 'project', p.name)
      FROM project_grant g JOIN account a ON a.id = g.account_id JOIN project p ON p.id = g.project_id
     WHERE g.org_id = $1 AND p.deleted_at IS NULL
    UNION ALL
    SELECT 3, 'key', k.id::text, k.project_id, NULL, k.created_at,
           jsonb_build_object('name', k.name, 'made_by', a.email, 'since', k.created_at, 'last_used', k.last_used_at,
                              'last_used_from', k.last_used_from, 'expires', k.expires_at)
      FROM api_key k JOIN account a ON a.id = k.account_id
     WHERE k.org_id = $1 AND k.service_account_id IS NULL AND k.revoked_at IS NULL
    UNION ALL
    SELECT 4, 'shift', o.id::text, NULL, o.account_id, o.starts_at,
           jsonb_build_object('email', a.email, 'from', o.starts_at, 'until', o.ends_at)
      FROM on_call o JOIN account a ON a.id = o.account_id WHERE o.org_id = $1 AND o.ends_at > $2
    UNION ALL
    SELECT 5, 'service', s.id::text, NULL, NULL, s.created_at,
           jsonb_build_object('name', s.name, 'role', s.role, 'owner', a.email, 'orphaned_since', s.orphaned_at,
               'disabled_since', s.disabled_at, 'since', s.created_at,
               'grants', (SELECT jsonb_object_agg(g.project_id, g.role)
                            FROM service_account_grant g WHERE g.service_account_id = s.id),
               'last_used', (SELECT max(k.last_used_at) FROM api_key k WHERE k.service_account_id = s.id))
      FROM service_account s JOIN account a ON a.id = s.owner_id WHERE s.org_id = $1 AND s.removed_at IS NULL
    ORDER BY place, since, subject
"""


async def rights(tx: Transaction, org_id: OrgId, now: datetime) -> list[Item]:
    """Everything that opens something in the organization, numbered."""
    rows = await tx.fetch(_RIGHTS, org_id, now)
    return [
        Item(
            number=number,
            kind=Kind(row["kind"]),
            subject=row["subject"],
            project_id=_project(row["project_id"]),
            account_id=row["account_id"],
            facts=json.loads(row["facts"]),
        )
        for number, row in enumerate(rows, 1)
    ]


async def add(tx: Transaction, review: Review) -> None:
    await tx.execute(
        "INSERT INTO access_review (id, org_id, started_by, started_at, due_at, lapses) VALUES ($1, $2, $3, $4, $5, $6)",
        review.id,
        review.org_id,
        review.started_by,
        review.started_at,
        review.due_at,
        review.lapses,
    )
    for item in review.items:
        await tx.execute(
            """INSERT INTO access_review_item (review_id, number, kind, subject, project_id, account_id, facts)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            review.id,
            item.number,
            item.kind,
            item.subject,
            item.project_id,
            item.account_id,
            json.dumps(item.facts),
        )


async def has_open(tx: Transaction, org_id: OrgId) -> bool:
    return bool(
        await tx.fetch_value(
            "SELECT EXISTS (SELECT FROM access_review WHERE org_id = $1 AND closed_at IS NULL)", org_id
        )
    )


async def find(tx: Transaction, org_id: OrgId, limit: int) -> list[Review]:
    """Newest first."""
    rows = await tx.fetch(
        "SELECT * FROM access_review WHERE org_id = $1 ORDER BY started_at DESC, id LIMIT $2", org_id, limit
    )
    return await _with_items(tx, rows)


async def get(tx: Transaction, org_id: OrgId, review_id: UUID) -> Review:
    """Raises NotFoundError."""
    rows = await tx.fetch("SELECT * FROM access_review WHERE org_id = $1 AND id = $2", org_id, review_id)
    return _only(await _with_items(tx, rows))


async def held(tx: Transaction, org_id: OrgId, review_id: UUID) -> Review:
    """As `get`; nobody else answers or closes until the transaction ends."""
    rows = await tx.fetch("SELECT * FROM access_review WHERE org_id = $1 AND id = $2 FOR UPDATE", org_id, review_id)
    return _only(await _with_items(tx, rows))


async def overdue(tx: Transaction, now: datetime) -> list[Review]:
    """Held, as `held` does."""
    rows = await tx.fetch(
        "SELECT * FROM access_review WHERE closed_at IS NULL AND due_at <= $1 ORDER BY due_at FOR UPDATE SKIP LOCKED",
        now,
    )
    return await _with_items(tx, rows)


async def decide(tx: Transaction, review_id: UUID, decided: Item, by: UUID | None) -> None:
    await tx.execute(
        """UPDATE access_review_item SET decision = $3, decided_by = $4, decided_at = $5, note = $6
            WHERE review_id = $1 AND number = $2""",
        review_id,
        decided.number,
        decided.decision,
        by,
        decided.decided_at,
        decided.note,
    )


async def close(tx: Transaction, review_id: UUID, now: datetime, report: str, digest: str) -> None:
    await tx.execute(
        "UPDATE access_review SET closed_at = $2, report = $3, digest = $4 WHERE id = $1",
        review_id,
        now,
        report,
        digest,
    )


# ── what is taken back ──


async def is_only_admin(tx: Transaction, org_id: OrgId, account_id: UUID) -> bool:
    """And stays so until the transaction ends, or stays not so. Whom a directory suspended is none, as for `admin_remains`."""
    rows = await tx.fetch(
        """SELECT account_id FROM membership WHERE org_id = $1 AND role = 'admin' AND suspended_at IS NULL
            ORDER BY account_id FOR UPDATE""",
        org_id,
    )
    return [row["account_id"] for row in rows] == [account_id]


async def maker_of(tx: Transaction, key_id: int) -> UUID | None:
    found: UUID | None = await tx.fetch_value("SELECT account_id FROM api_key WHERE id = $1", key_id)
    return found


# ── the policy ──


async def policy(tx: Transaction, org_id: OrgId) -> Policy | None:
    row = await tx.fetch_row("SELECT * FROM access_review_policy WHERE org_id = $1", org_id)
    return None if row is None else _policy(row)


async def set_policy(tx: Transaction, org_id: OrgId, policy: Policy) -> None:
    await tx.execute(
        """INSERT INTO access_review_policy (org_id, every_days, answer_days, lapses, since) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (org_id) DO UPDATE SET every_days = $2, answer_days = $3, lapses = $4""",
        org_id,
        policy.every_days,
        policy.answer_days,
        policy.lapses,
        policy.since,
    )


async def remove_policy(tx: Transaction, org_id: OrgId) -> bool:
    return bool(await tx.execute("DELETE FROM access_review_policy WHERE org_id = $1", org_id))


async def policies(tx: Transaction) -> list[tuple[OrgId, Policy, datetime | None]]:
    """Of organizations without an open review, with when the last one began. Held until the transaction ends."""
    rows = await tx.fetch(
        """SELECT p.*, (SELECT max(r.started_at) FROM access_review r WHERE r.org_id = p.org_id) AS last_started_at
             FROM access_review_policy p
            WHERE NOT EXISTS (SELECT FROM access_review r WHERE r.org_id = p.org_id AND r.closed_at IS NULL)
            ORDER BY p.org_id FOR UPDATE OF p SKIP LOCKED"""
    )
    return [(OrgId(row["org_id"]), _policy(row), row["last_started_at"]) for row in rows]


def _only(found: list[Review]) -> Review:
    for review in found:
        return review
    raise NotFoundError(public="access review not found")


async def _with_items(tx: Transaction, rows: Sequence[Any]) -> list[Review]:
    items = await tx.fetch(
        """SELECT i.*, a.email AS decided_by_email FROM access_review_item i LEFT JOIN account a ON a.id = i.decided_by
            WHERE i.review_id = ANY ($1) ORDER BY i.number""",
        [row["id"] for row in rows],
    )
    of: defaultdict[UUID, list[Item]] = defaultdict(list)
    for item in items:
        of[item["review_id"]].append(_item(item))
    return [
        Review(
            id=row["id"],
            org_id=OrgId(row["org_id"]),
            started_by=row["started_by"],
            started_at=row["started_at"],
            due_at=row["due_at"],
            lapses=row["lapses"],
            closed_at=row["closed_at"],
            items=tuple(of[row["id"]]),
            report=row["report"],
            digest=row["digest"],
        )
        for row in rows
    ]


def _item(row: Any) -> Item:
    return Item(
        number=row["number"],
        kind=Kind(row["kind"]),
        subject=row["subject"],
        project_id=_project(row["project_id"]),
        account_id=row["account_id"],
        facts=json.loads(row["facts"]),
        decision=None if row["decision"] is None else Decision(row["decision"]),
        decided_by=row["decided_by_email"],
        decided_at=row["decided_at"],
        note=row["note"],
    )


def _policy(row: Any) -> Policy:
    return Policy(
        every_days=row["every_days"], answer_days=row["answer_days"], lapses=row["lapses"], since=row["since"]
    )


def _project(text: str | None) -> ProjectId | None:
    return None if text is None else ProjectId(text)
