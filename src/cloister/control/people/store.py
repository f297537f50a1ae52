"""Rows of `issuer`, `issuer_group`, `identity` and `login`, in and out; and what a login changes of others."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cloister.base.database import Transaction
from cloister.base.errors import BadRequestError, NotFoundError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.control.people.model import Group, Issuer, Pending
from cloister.control.people.roles import Held

# ── issuers ──


async def add_issuer(tx: Transaction, issuer: Issuer) -> bool:
    """False: there is one of this name, or with this URL."""
    return bool(
        await tx.execute(
            """INSERT INTO issuer (id, name, url, client_id, client_secret, domains, groups_claim, operators, session_s,
                                   created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING""",
            issuer.id,
            issuer.name,
            issuer.url,
            issuer.client_id,
            issuer.client_secret,
            list(issuer.domains),
            issuer.groups_claim,
            issuer.operators,
            int(issuer.session.total_seconds()),
            issuer.created_at,
        )
    )


async def issuers(tx: Transaction) -> list[Issuer]:
    return [_issuer(row) for row in await tx.fetch("SELECT * FROM issuer ORDER BY created_at, id")]


async def issuer(tx: Transaction, issuer_id: UUID) -> Issuer:
    """Raises NotFoundError."""
    row = await tx.fetch_row("SELECT * FROM issuer WHERE id = $1", issuer_id)
    if row is None:
        raise NotFoundError(f"no issuer {issuer_id}", public="issuer not found")
    return _issuer(row)


async def named(tx: Transaction, name: str | None) -> Issuer:
    """By its name or its URL; without either, the only one there is. Raises UnprocessableError or BadRequestError."""
    found = await issuers(tx)
    if name is None and len(found) > 1:
        raise BadRequestError(public=f"name an issuer: {', '.join(it.name for it in found)}")
    for it in found:
        if name is None or name in (it.name, it.url):
            return it
    raise UnprocessableError(public="nobody can log in at this issuer here" if name else "no issuer is registered here")


async def remove_issuer(tx: Transaction, issuer_id: UUID) -> None:
    """With the identities, the groups, and what they gave. Sessions must have ended before (`end_sessions`)."""
    await tx.execute("DELETE FROM issuer WHERE id = $1", issuer_id)


async def hold(tx: Transaction, issuer_id: UUID) -> bool:
    """For a login: until the transaction ends the issuer stays, and what its groups give. False: it was removed."""
    await tx.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('issuer ' || $1, 0))", str(issuer_id))
    return bool(await tx.fetch_value("SELECT EXISTS (SELECT FROM issuer WHERE id = $1)", issuer_id))


async def hold_alone(tx: Transaction, issuer_id: UUID) -> None:
    """For a change: logins that are just being finished are finished first, and their sessions seen; others wait."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended('issuer ' || $1, 0))", str(issuer_id))


# ── groups ──


async def groups(tx: Transaction, org_id: OrgId) -> list[Group]:
    rows = await tx.fetch(
        """SELECT g.*, i.name AS issuer FROM issuer_group g JOIN issuer i ON i.id = g.issuer_id
            WHERE g.org_id = $1 ORDER BY i.name, g.name""",
        org_id,
    )
    return [_group(row) for row in rows]


async def mapped(tx: Transaction, issuer_id: UUID) -> list[tuple[str, OrgId, str]]:
    """(group, organization, role)."""
    rows = await tx.fetch("SELECT name, org_id, role FROM issuer_group WHERE issuer_id = $1", issuer_id)
    return [(row["name"], OrgId(row["org_id"]), row["role"]) for row in rows]


async def count_groups(tx: Transaction, org_id: OrgId) -> int:
    return int(await tx.fetch_value("SELECT count(*) FROM issuer_group WHERE org_id = $1", org_id))


async def set_group(tx: Transaction, group: Group, issuer_id: UUID) -> Group:
    """A group that was given another role keeps its id."""
    row = await tx.fetch_row(
        """WITH it AS (
               INSERT INTO issuer_group (id, issuer_id, name, org_id, role, created_at) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (org_id, issuer_id, name) DO UPDATE SET role = EXCLUDED.role RETURNING *)
           SELECT it.*, issuer.name AS issuer FROM it JOIN issuer ON issuer.id = it.issuer_id""",
        group.id,
        issuer_id,
        group.name,
        group.org_id,
        group.role,
        group.created_at,
    )
    return _group(row)


async def issuer_of_group(tx: Transaction, org_id: OrgId, group_id: UUID) -> UUID | None:
    found: UUID | None = await tx.fetch_value(
        "SELECT issuer_id FROM issuer_group WHERE org_id = $1 AND id = $2", org_id, group_id
    )
    return found


async def remove_group(tx: Transaction, org_id: OrgId, group_id: UUID) -> tuple[Group, UUID] | None:
    """What was removed, and the issuer's id."""
    row = await tx.fetch_row(
        """WITH it AS (DELETE FROM issuer_group WHERE org_id = $1 AND id = $2 RETURNING *)
           SELECT it.*, issuer.name AS issuer FROM it JOIN issuer ON issuer.id = it.issuer_id""",
        org_id,
        group_id,
    )
    return None if row is None else (_group(row), row["issuer_id"])


# ── logins ──


async def begin(
    tx: Transaction,
    state: str,
    *,
    challenge: str,
    issuer_id: UUID,
    redirect_uri: str,
    key_id: int | None,
    expires_at: datetime,
) -> None:
    await tx.execute(
        """INSERT INTO login (digest, challenge, issuer_id, redirect_uri, key_id, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        _digest(state),
        challenge,
        issuer_id,
        redirect_uri,
        key_id,
        expires_at,
    )


async def sweep(tx: Transaction, now: datetime) -> None:
    await tx.execute("DELETE FROM login WHERE expires_at <= $1", now)


async def take(tx: Transaction, state: str, challenge: str, now: datetime) -> Pending | None:
    """The login, for whoever began it: once. None for everybody else, who takes nothing away by asking, and where the key that
    was to link an identity has been revoked meanwhile."""
    row = await tx.fetch_row(
        """WITH it AS (DELETE FROM login WHERE digest = $1 AND challenge = $2 RETURNING *)
           SELECT issuer.*, it.redirect_uri, it.key_id, k.account_id
             FROM it JOIN issuer ON issuer.id = it.issuer_id
             LEFT JOIN api_key k ON k.id = it.key_id AND k.revoked_at IS NULL
            WHERE it.expires_at > $3 AND (it.key_id IS NULL OR k.id IS NOT NULL)""",
        _digest(state),
        challenge,
        now,
    )
    return (
        None
        if row is None
        else Pending(
            issuer=_issuer(row),
            redirect_uri=row["redirect_uri"],
            account_id=row["account_id"],
            key_id=row["key_id"],
        )
    )


async def holds_key(tx: Transaction, key_id: int, now: datetime) -> bool:
    """Whether it is good, and stays so until the transaction ends."""
    return bool(
        await tx.fetch(
            "SELECT FROM api_key WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) FOR SHARE",
            key_id,
            now,
        )
    )


# ── identities ──


async def account_of(tx: Transaction, issuer_id: UUID, subject: str) -> UUID | None:
    account_id: UUID | None = await tx.fetch_value(
        "SELECT account_id FROM identity WHERE issuer_id = $1 AND subject = $2", issuer_id, subject
    )
    return account_id


async def link(tx: Transaction, issuer_id: UUID, subject: str, account_id: UUID, now: datetime) -> bool:
    """False: the subject is another account's, or the account is another subject's."""
    return bool(
        await tx.execute(
            """INSERT INTO identity (issuer_id, subject, account_id, created_at, last_login_at)
               VALUES ($1, $2, $3, $4, $4) ON CONFLICT DO NOTHING""",
            issuer_id,
            subject,
            account_id,
            now,
        )
    )


async def logged_in(
    tx: Transaction, issuer_id: UUID, account_id: UUID, now: datetime, *, is_operator: bool, email: str | None
) -> bool:
    """Whether they were an operator before. `email`: as the issuer vouches for it now."""
    was = await tx.fetch_value(
        "SELECT is_operator FROM identity WHERE issuer_id = $1 AND account_id = $2 FOR UPDATE", issuer_id, account_id
    )
    await tx.execute(
        "UPDATE identity SET last_login_at = $3, is_operator = $4, email = $5 WHERE issuer_id = $1 AND account_id = $2",
        issuer_id,
        account_id,
        now,
        is_operator,
        email,
    )
    return bool(was)


async def hold_account(tx: Transaction, account_id: UUID) -> Any:
    """Its row: of two logins of one person at the same moment the second waits."""
    return await tx.fetch_row("SELECT * FROM account WHERE id = $1 FOR UPDATE", account_id)


async def held(tx: Transaction, account_id: UUID) -> dict[OrgId, Held]:
    rows = await tx.fetch("SELECT org_id, role, issuer_id FROM membership WHERE account_id = $1 FOR UPDATE", account_id)
    return {OrgId(row["org_id"]): Held(row["role"], row["issuer_id"]) for row in rows}


async def give(tx: Transaction, org_id: OrgId, account_id: UUID, role: str, issuer_id: UUID) -> None:
    await tx.execute(
        """INSERT INTO membership (org_id, account_id, role, issuer_id) VALUES ($1, $2, $3, $4)
           ON CONFLICT (org_id, account_id) DO UPDATE SET role = EXCLUDED.role
            WHERE membership.issuer_id = EXCLUDED.issuer_id""",
        org_id,
        account_id,
        role,
        issuer_id,
    )


async def disable(tx: Transaction, account_id: UUID, now: datetime | None) -> None:
    await tx.execute("UPDATE account SET disabled_at = $2 WHERE id = $1", account_id, now)


# ── sessions ──


async def end_sessions(
    tx: Transaction, now: datetime, *, issuer_id: UUID, org_id: OrgId | None = None, account_id: UUID | None = None
) -> int:
    """Of an issuer: all, or those of who is of the organization by its groups, or those of one account that are over by now."""
    return int(
        await tx.execute(
            """UPDATE api_key SET revoked_at = $2
                WHERE issuer_id = $1 AND revoked_at IS NULL
                  AND ($3::text IS NULL OR account_id IN
                       (SELECT account_id FROM membership WHERE org_id = $3 AND issuer_id = $1))
                  AND ($4::uuid IS NULL OR (account_id = $4 AND expires_at <= $2))""",
            issuer_id,
            now,
            org_id,
            account_id,
        )
    )


def _digest(state: str) -> bytes:
    return hashlib.sha256(state.encode("utf-8", "surrogatepass")).digest()


def _issuer(row: Any) -> Issuer:
    return Issuer(
        id=row["id"],
        name=row["name"],
        url=row["url"],
        client_id=row["client_id"],
        client_secret=row["client_secret"],
        domains=tuple(row["domains"]),
        groups_claim=row["groups_claim"],
        operators=row["operators"],
        session=timedelta(seconds=row["session_s"]),
        created_at=row["created_at"],
    )


def _group(row: Any) -> Group:
    return Group(
        id=row["id"],
        issuer=row["issuer"],
        name=row["name"],
        org_id=OrgId(row["org_id"]),
        role=row["role"],
        created_at=row["created_at"],
    )
