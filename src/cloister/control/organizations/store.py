"""Rows of `organization`, `account`, `membership` and `project_grant`, in and out."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from cloister.base.database import Transaction
from cloister.base.ids import OrgId, ProjectId
from cloister.control.organizations.model import Account, Member, Organization, ProjectGrant
from cloister.control.organizations.standing import Standing
from cloister.control.projects.model import Project


async def find(tx: Transaction, org_ids: Sequence[OrgId]) -> list[Organization]:
    rows = await tx.fetch("SELECT * FROM organization WHERE id = ANY ($1) ORDER BY created_at, id", list(org_ids))
    return [_organization(row) for row in rows]


async def add(tx: Transaction, org_id: OrgId, name: str) -> Organization:
    row = await tx.fetch_row("INSERT INTO organization (id, name) VALUES ($1, $2) RETURNING *", org_id, name)
    return _organization(row)


async def project_ids(tx: Transaction, org_ids: Sequence[OrgId]) -> list[ProjectId]:
    """Every project they have or had."""
    rows = await tx.fetch("SELECT id FROM project WHERE org_id = ANY ($1)", list(org_ids))
    return [ProjectId(row["id"]) for row in rows]


# ── people ──


async def account_by_email(tx: Transaction, email: str) -> Account | None:
    """E-mail addresses that differ in case alone are one."""
    row = await tx.fetch_row("SELECT * FROM account WHERE lower(email) = lower($1)", email)
    return None if row is None else _account(row)


async def add_account(tx: Transaction, account_id: UUID, email: str, name: str) -> Account | None:
    """None: there is one with this address."""
    row = await tx.fetch_row(
        "INSERT INTO account (id, email, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING *",
        account_id,
        email,
        name,
    )
    return None if row is None else _account(row)


async def members(tx: Transaction, org_id: OrgId) -> list[Member]:
    rows = await tx.fetch(
        """SELECT account.id, account.email, membership.role, membership.joined_at, issuer.name AS issuer
             FROM membership JOIN account ON account.id = membership.account_id
             LEFT JOIN issuer ON issuer.id = membership.issuer_id
            WHERE membership.org_id = $1 ORDER BY account.created_at, account.id""",
        org_id,
    )
    return [_member(row) for row in rows]


async def member(tx: Transaction, org_id: OrgId, account_id: UUID) -> Member | None:
    row = await tx.fetch_row(
        """SELECT account.id, account.email, membership.role, membership.joined_at, issuer.name AS issuer
             FROM membership JOIN account ON account.id = membership.account_id
             LEFT JOIN issuer ON issuer.id = membership.issuer_id
            WHERE membership.org_id = $1 AND account.id = $2""",
        org_id,
        account_id,
    )
    return None if row is None else _member(row)


async def hold_member(tx: Transaction, org_id: OrgId, account_id: UUID) -> None:
    """Whoever is of it stays so until the transaction ends."""
    await tx.fetch("SELECT FROM membership WHERE org_id = $1 AND account_id = $2 FOR KEY SHARE", org_id, account_id)


async def add_member(tx: Transaction, org_id: OrgId, account_id: UUID, role: str) -> bool:
    """False: they are of it already."""
    return bool(
        await tx.execute(
            "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            org_id,
            account_id,
            role,
        )
    )


async def change_member(tx: Transaction, org_id: OrgId, account_id: UUID, role: str) -> None:
    await tx.execute("UPDATE membership SET role = $3 WHERE org_id = $1 AND account_id = $2", org_id, account_id, role)


async def remove_member(tx: Transaction, org_id: OrgId, account_id: UUID) -> bool:
    """What they were granted in the organization's projects goes with it. False: they are not of it."""
    return bool(await tx.execute("DELETE FROM membership WHERE org_id = $1 AND account_id = $2", org_id, account_id))


# ── grants ──


async def grants(tx: Transaction, project_id: ProjectId) -> list[ProjectGrant]:
    rows = await tx.fetch(
        """SELECT project_grant.*, account.email FROM project_grant JOIN account ON account.id = account_id
            WHERE project_id = $1 ORDER BY granted_at, id""",
        project_id,
    )
    return [_grant(row) for row in rows]


async def set_grant(tx: Transaction, project: Project, account_id: UUID, role: str, *, by: UUID) -> ProjectGrant:
    """A second grant to the same person is the first one with another role."""
    row = await tx.fetch_row(
        """WITH it AS (
               INSERT INTO project_grant (id, project_id, org_id, account_id, role, granted_by)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (project_id, account_id) DO UPDATE
                  SET role = EXCLUDED.role, granted_by = EXCLUDED.granted_by, granted_at = now()
               RETURNING *)
           SELECT it.*, account.email FROM it JOIN account ON account.id = it.account_id""",
        uuid4(),
        project.id,
        project.org_id,
        account_id,
        role,
        by,
    )
    return _grant(row)


async def remove_grant(tx: Transaction, project_id: ProjectId, grant_id: UUID) -> ProjectGrant | None:
    row = await tx.fetch_row(
        """WITH it AS (DELETE FROM project_grant WHERE project_id = $1 AND id = $2 RETURNING *)
           SELECT it.*, account.email FROM it JOIN account ON account.id = it.account_id""",
        project_id,
        grant_id,
    )
    return None if row is None else _grant(row)


async def remove_grant_of(tx: Transaction, project_id: ProjectId, account_id: UUID) -> None:
    await tx.execute("DELETE FROM project_grant WHERE project_id = $1 AND account_id = $2", project_id, account_id)


async def standings(tx: Transaction, project: Project, account_id: UUID | None = None) -> list[Standing]:
    """Of everybody in the project's organization, or of one of them."""
    rows = await tx.fetch(
        """SELECT account.id, account.email, account.name, membership.role, project_grant.role AS granted
             FROM membership JOIN account ON account.id = membership.account_id
             LEFT JOIN project_grant ON project_grant.project_id = $2 AND project_grant.account_id = account.id
            WHERE membership.org_id = $1 AND ($3::uuid IS NULL OR account.id = $3)
            ORDER BY account.created_at, account.id""",
        project.org_id,
        project.id,
        account_id,
    )
    return [Standing(row["id"], row["email"], row["name"], row["role"], row["granted"]) for row in rows]


async def has_made_keys(tx: Transaction, project_id: ProjectId, account_id: UUID) -> bool:
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM api_key
                               WHERE project_id = $1 AND account_id = $2 AND org_id IS NOT NULL AND revoked_at IS NULL)""",
            project_id,
            account_id,
        )
    )


# ── a project that moves ──


async def has_project(tx: Transaction, org_id: OrgId, project_id: ProjectId) -> bool:
    return bool(
        await tx.fetch_value(
            "SELECT EXISTS (SELECT FROM project WHERE id = $1 AND org_id = $2 AND deleted_at IS NULL)",
            project_id,
            org_id,
        )
    )


async def move_project(tx: Transaction, project_id: ProjectId, destination: OrgId) -> None:
    """Grants (to people, and to service accounts) and keys are the organization's that it leaves: the grants go, the keys are revoked.
    So does an offer of it."""
    await tx.execute("DELETE FROM project_offer WHERE project_id = $1", project_id)
    await tx.execute("DELETE FROM project_grant WHERE project_id = $1", project_id)
    await tx.execute("DELETE FROM service_account_grant WHERE project_id = $1", project_id)
    await tx.execute("UPDATE api_key SET revoked_at = now() WHERE project_id = $1 AND revoked_at IS NULL", project_id)
    await tx.execute("UPDATE project SET org_id = $2, updated_at = now() WHERE id = $1", project_id, destination)


def _organization(row: Any) -> Organization:
    return Organization(OrgId(row["id"]), row["name"], row["created_at"])


def _account(row: Any) -> Account:
    return Account(row["id"], row["email"], row["name"], row["created_at"])


def _member(row: Any) -> Member:
    return Member(row["id"], row["email"], row["role"], row["joined_at"], row["issuer"] or "")


def _grant(row: Any) -> ProjectGrant:
    return ProjectGrant(
        id=row["id"],
        project_id=ProjectId(row["project_id"]),
        account_id=row["account_id"],
        email=row["email"],
        role=row["role"],
        granted_at=row["granted_at"],
    )
