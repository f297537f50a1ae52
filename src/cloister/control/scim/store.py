"""Rows of `scim`, `scim_user`, `scim_group` and `scim_group_member`; and what a directory's word changes of memberships and sessions."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from cloister.base.database import Transaction
from cloister.base.database.jsonb import jsonb
from cloister.base.errors import NotFoundError
from cloister.base.ids import OrgId
from cloister.control.scim.model import Directory, Group, Status, User, Wanted
from cloister.protocol.scim import Email, GroupAttributes, UserAttributes

# ── the directory ──


async def directory(tx: Transaction, digest: bytes) -> Directory | None:
    org_id = await tx.fetch_value("SELECT org_id FROM scim WHERE digest = $1", digest)
    return None if org_id is None else Directory(OrgId(org_id))


async def note_use(tx: Transaction, org_id: OrgId, now: datetime, address: str, before: datetime) -> None:
    await tx.execute(
        """UPDATE scim SET last_used_at = $2, last_used_from = $3
            WHERE org_id = $1 AND (last_used_at IS NULL OR last_used_at <= $4)""",
        org_id,
        now,
        address,
        before,
    )


async def status(tx: Transaction, org_id: OrgId) -> Status:
    row = await tx.fetch_row(
        """SELECT s.*, u.users, u.active, u.linked, (SELECT count(*) FROM scim_group WHERE org_id = $1) AS groups
             FROM (SELECT count(*) AS users, count(*) FILTER (WHERE is_active) AS active, count(account_id) AS linked
                     FROM scim_user WHERE org_id = $1 AND deleted_at IS NULL) u
             LEFT JOIN scim s ON s.org_id = $1""",
        org_id,
    )
    assert row is not None  # it counts
    return Status(
        org_id=org_id,
        is_enabled=row["digest"] is not None,
        enabled_at=row["enabled_at"] if row["digest"] is not None else None,
        last_used_at=row["last_used_at"],
        last_used_from=row["last_used_from"],
        users=row["users"],
        active=row["active"],
        linked=row["linked"],
        groups=row["groups"],
    )


async def enable(tx: Transaction, org_id: OrgId, digest: bytes, now: datetime) -> bool:
    """False: it is enabled already."""
    return bool(
        await tx.execute(
            """INSERT INTO scim (org_id, digest, enabled_at) VALUES ($1, $2, $3)
               ON CONFLICT (org_id) DO UPDATE SET digest = EXCLUDED.digest, enabled_at = EXCLUDED.enabled_at
                WHERE scim.digest IS NULL""",
            org_id,
            digest,
            now,
        )
    )


async def set_digest(tx: Transaction, org_id: OrgId, digest: bytes | None) -> bool:
    """False: it is not enabled."""
    return bool(
        await tx.execute("UPDATE scim SET digest = $2 WHERE org_id = $1 AND digest IS NOT NULL", org_id, digest)
    )


async def hold(tx: Transaction, org_id: OrgId) -> None:
    """What a directory says is done one after the other."""
    await tx.fetch("SELECT FROM scim WHERE org_id = $1 FOR UPDATE", org_id)


# ── users ──


async def count_users(tx: Transaction, org_id: OrgId) -> int:
    return int(await tx.fetch_value("SELECT count(*) FROM scim_user WHERE org_id = $1 AND deleted_at IS NULL", org_id))


async def users(tx: Transaction, org_id: OrgId, wanted: Wanted) -> tuple[int, list[User]]:
    """How many there are, and the page that is wanted."""
    rows = await tx.fetch(
        """WITH found AS (
               SELECT * FROM scim_user
                WHERE org_id = $1 AND deleted_at IS NULL
                  AND ($2::text IS NULL OR user_key = $2) AND ($3::text IS NULL OR external_id = $3)
                  AND ($4::text IS NULL OR id::text = lower($4)) AND ($5::text IS NULL OR display_name = $5)
                  AND ($6::text IS NULL OR lower($6) = ANY (addresses)))
           SELECT total, page.* FROM (SELECT count(*) AS total FROM found) t
             LEFT JOIN (SELECT * FROM found ORDER BY created_at, id OFFSET $7 LIMIT $8) page ON true
            ORDER BY page.created_at, page.id""",
        org_id,
        wanted.where["userName"].casefold() if "userName" in wanted.where else None,
        wanted.where.get("externalId"),
        wanted.where.get("id"),
        wanted.where.get("displayName"),
        wanted.where.get("emails.value"),
        wanted.start - 1,
        wanted.count,
    )
    return rows[0]["total"], [_user(row) for row in rows if row["id"] is not None]


async def user(tx: Transaction, org_id: OrgId, user_id: UUID) -> User:
    """Raises NotFoundError."""
    row = await tx.fetch_row(
        "SELECT * FROM scim_user WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL", org_id, user_id
    )
    if row is None:
        raise NotFoundError(f"no user {user_id} in the directory of {org_id}", public="user not found")
    return _user(row)


async def add_user(tx: Transaction, org_id: OrgId, user_id: UUID, it: UserAttributes, now: datetime) -> bool:
    """False: there is one of this name. Who was deleted and comes back has another id, and the same account."""
    return bool(
        await tx.execute(
            """INSERT INTO scim_user (id, org_id, user_name, user_key, external_id, display_name, given_name, family_name, emails,
                                      addresses, is_active, created_at, changed_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb,
                       ARRAY(SELECT lower(one) FROM unnest($10::text[]) one), $11, $12, $12)
               ON CONFLICT DO NOTHING""",
            user_id,
            org_id,
            *_columns(it),
            it.is_active,
            now,
        )
    )


async def is_taken(tx: Transaction, org_id: OrgId, user_id: UUID, it: UserAttributes) -> bool:
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM scim_user
                               WHERE org_id = $1 AND user_key = $2 AND id <> $3 AND deleted_at IS NULL)""",
            org_id,
            it.key,
            user_id,
        )
    )


async def set_user(tx: Transaction, user_id: UUID, it: UserAttributes, now: datetime) -> None:
    await tx.execute(
        """UPDATE scim_user SET user_name = $2, user_key = $3, external_id = $4, display_name = $5, given_name = $6,
                  family_name = $7, emails = $8::text::jsonb, addresses = ARRAY(SELECT lower(one) FROM unnest($9::text[]) one),
                  is_active = $10, changed_at = $11
            WHERE id = $1""",
        user_id,
        *_columns(it),
        it.is_active,
        now,
    )


async def delete_user(tx: Transaction, user_id: UUID, now: datetime) -> None:
    """They are not to be seen any more, and in no group. Kept is what they are recognised by, so that they do not come in."""
    await tx.execute("DELETE FROM scim_group_member WHERE user_id = $1", user_id)
    await tx.execute(
        """UPDATE scim_user SET is_active = false, deleted_at = $2, changed_at = $2, display_name = NULL, given_name = NULL,
                  family_name = NULL
            WHERE id = $1""",
        user_id,
        now,
    )


async def forget_deleted(tx: Transaction, org_id: OrgId, it: UserAttributes, account_id: UUID | None) -> None:
    """Of somebody who is there again, what was kept of them."""
    await tx.execute(
        """DELETE FROM scim_user
            WHERE org_id = $1 AND deleted_at IS NOT NULL AND (user_key = $2 OR account_id = $3)""",
        org_id,
        it.key,
        account_id,
    )


async def link(tx: Transaction, org_id: OrgId, user_id: UUID) -> UUID | None:
    """Whose account they are, as far as it can be known: somebody of the organization who has one of their addresses here, or had
    it at an issuer, or whom an issuer calls as the directory does. Once known it stays: to rename somebody hides nobody."""
    account_id: UUID | None = await tx.fetch_value(
        """UPDATE scim_user u SET account_id = coalesce(u.account_id, (
               SELECT a.id FROM membership m JOIN account a ON a.id = m.account_id
                LEFT JOIN identity i ON i.account_id = a.id
                WHERE m.org_id = $1
                  AND (lower(a.email) = ANY (u.addresses) OR lower(i.email) = ANY (u.addresses) OR i.subject = u.external_id)
                  AND NOT EXISTS (SELECT FROM scim_user o
                                   WHERE o.org_id = $1 AND o.account_id = a.id AND o.deleted_at IS NULL AND o.id <> u.id)
                ORDER BY array_position(u.addresses, lower(a.email)), a.created_at, a.id LIMIT 1))
            WHERE u.id = $2 AND u.org_id = $1 RETURNING u.account_id""",
        org_id,
        user_id,
    )
    return account_id


# ── what follows ──


async def suspend(tx: Transaction, org_id: OrgId, account_id: UUID, now: datetime) -> bool:
    """From the next call on nothing of their membership holds. False: they have none, or it was so before. Raises
    UnprocessableError for the only admin."""
    return bool(
        await tx.execute(
            "UPDATE membership SET suspended_at = $3 WHERE org_id = $1 AND account_id = $2 AND suspended_at IS NULL",
            org_id,
            account_id,
            now,
        )
    )


async def resume(tx: Transaction, org_id: OrgId, account_id: UUID) -> bool:
    return bool(
        await tx.execute(
            "UPDATE membership SET suspended_at = NULL WHERE org_id = $1 AND account_id = $2 AND suspended_at IS NOT NULL",
            org_id,
            account_id,
        )
    )


async def end_sessions(tx: Transaction, accounts: Collection[UUID], now: datetime) -> int:
    """Whoever has something elsewhere logs in again."""
    return int(
        await tx.execute(
            "UPDATE api_key SET revoked_at = $2 WHERE account_id = ANY ($1) AND issuer_id IS NOT NULL AND revoked_at IS NULL",
            list(accounts),
            now,
        )
    )


# ── groups ──


async def count_groups(tx: Transaction, org_id: OrgId) -> int:
    return int(await tx.fetch_value("SELECT count(*) FROM scim_group WHERE org_id = $1", org_id))


async def groups(tx: Transaction, org_id: OrgId, wanted: Wanted, *, with_members: bool) -> tuple[int, list[Group]]:
    rows = await tx.fetch(
        """WITH found AS (
               SELECT * FROM scim_group g
                WHERE g.org_id = $1 AND ($2::text IS NULL OR g.display_name = $2) AND ($3::text IS NULL OR g.external_id = $3)
                  AND ($4::text IS NULL OR g.id::text = lower($4))
                  AND ($5::text IS NULL OR EXISTS (SELECT FROM scim_group_member m
                                                    WHERE m.group_id = g.id AND m.user_id::text = lower($5))))
           SELECT total, page.* FROM (SELECT count(*) AS total FROM found) t
             LEFT JOIN (SELECT * FROM found ORDER BY created_at, id OFFSET $6 LIMIT $7) page ON true
            ORDER BY page.created_at, page.id""",
        org_id,
        wanted.where.get("displayName"),
        wanted.where.get("externalId"),
        wanted.where.get("id"),
        wanted.where.get("members.value"),
        wanted.start - 1,
        wanted.count,
    )
    page = [row for row in rows if row["id"] is not None]
    members = await _members(tx, [row["id"] for row in page]) if with_members else {}
    return rows[0]["total"], [_group(row, members.get(row["id"], frozenset())) for row in page]


async def group(tx: Transaction, org_id: OrgId, group_id: UUID) -> Group:
    """Raises NotFoundError."""
    row = await tx.fetch_row("SELECT * FROM scim_group WHERE org_id = $1 AND id = $2", org_id, group_id)
    if row is None:
        raise NotFoundError(f"no group {group_id} in the directory of {org_id}", public="group not found")
    return _group(row, (await _members(tx, [group_id])).get(group_id, frozenset()))


async def groups_of(tx: Transaction, users: Collection[UUID]) -> dict[UUID, list[tuple[UUID, str]]]:
    """User → (id, name) of each group that they are in."""
    found: dict[UUID, list[tuple[UUID, str]]] = {}
    for row in await tx.fetch(
        """SELECT m.user_id, g.id, g.display_name FROM scim_group_member m JOIN scim_group g ON g.id = m.group_id
            WHERE m.user_id = ANY ($1) ORDER BY g.display_name""",
        list(users),
    ):
        found.setdefault(row["user_id"], []).append((row["id"], row["display_name"]))
    return found


async def add_group(tx: Transaction, org_id: OrgId, group_id: UUID, it: GroupAttributes, now: datetime) -> bool:
    """Without its members. False: there is one of this name."""
    return bool(
        await tx.execute(
            """INSERT INTO scim_group (id, org_id, display_name, external_id, created_at, changed_at)
               VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT DO NOTHING""",
            group_id,
            org_id,
            it.display_name,
            it.external_id,
            now,
        )
    )


async def set_group(tx: Transaction, org_id: OrgId, group_id: UUID, it: GroupAttributes, now: datetime) -> bool:
    """Without its members. False: there is another one of this name."""
    return bool(
        await tx.execute(
            """UPDATE scim_group SET display_name = $3, external_id = $4, changed_at = $5
                WHERE org_id = $1 AND id = $2
                  AND NOT EXISTS (SELECT FROM scim_group WHERE org_id = $1 AND display_name = $3 AND id <> $2)""",
            org_id,
            group_id,
            it.display_name,
            it.external_id,
            now,
        )
    )


async def delete_group(tx: Transaction, org_id: OrgId, group_id: UUID) -> None:
    await tx.execute("DELETE FROM scim_group WHERE org_id = $1 AND id = $2", org_id, group_id)


async def add_members(tx: Transaction, org_id: OrgId, group_id: UUID, users: Collection[UUID]) -> int:
    """How many of them are users of the organization's directory, and are in the group now."""
    return int(
        await tx.execute(
            """INSERT INTO scim_group_member (group_id, user_id, org_id)
               SELECT $2, u.id, $1 FROM scim_user u WHERE u.org_id = $1 AND u.id = ANY ($3) AND u.deleted_at IS NULL
               ON CONFLICT DO NOTHING""",
            org_id,
            group_id,
            list(users),
        )
    )


async def remove_members(tx: Transaction, group_id: UUID, users: Collection[UUID]) -> None:
    await tx.execute("DELETE FROM scim_group_member WHERE group_id = $1 AND user_id = ANY ($2)", group_id, list(users))


async def hold_users(tx: Transaction, users: Collection[UUID]) -> None:
    """Who of them is just logging in has done so first (`meet`), and has a session that can be ended."""
    await tx.fetch("SELECT FROM scim_user WHERE id = ANY ($1) ORDER BY id FOR UPDATE", list(users))


async def by_groups(tx: Transaction, org_id: OrgId, users: Collection[UUID]) -> list[UUID]:
    """Accounts of these users that are of the organization by an issuer's groups."""
    rows = await tx.fetch(
        """SELECT m.account_id FROM scim_user u JOIN membership m ON m.org_id = u.org_id AND m.account_id = u.account_id
            WHERE u.org_id = $1 AND u.id = ANY ($2) AND m.issuer_id IS NOT NULL""",
        org_id,
        list(users),
    )
    return [row["account_id"] for row in rows]


# ── at a login ──


async def meet(
    tx: Transaction, *, account_id: UUID | None, issuer_id: UUID, subject: str, addresses: Iterable[str]
) -> tuple[frozenset[OrgId], frozenset[tuple[OrgId, str]]]:
    """Of who logs in: organizations whose directory says that they are not there; and (organization, group) of each group that a
    directory knows, and in which it does not have them. Looked for is by all that their account is known by, at other issuers, too;
    and a user whose account is another's counts as well, against who comes with that user's address to a second account."""
    known = [one for one in addresses if one]
    found = await tx.fetch(
        """SELECT u.id, u.org_id, u.is_active, u.account_id, u.deleted_at FROM scim_user u
            WHERE u.account_id = $1
               OR u.addresses && ARRAY(SELECT lower(one) FROM unnest($2::text[]) one
                                        UNION SELECT lower(email) FROM identity WHERE account_id = $1 AND email IS NOT NULL)
               OR u.external_id = $3 OR u.external_id IN (SELECT subject FROM identity WHERE account_id = $1)
            FOR UPDATE""",
        account_id,
        known,
        subject,
    )
    gone = frozenset(
        OrgId(org_id) for org_id in {row["org_id"] for row in found} if not _is_there(found, org_id, account_id)
    )
    rows = await tx.fetch(
        """SELECT g.org_id, g.display_name FROM scim_group g JOIN scim s ON s.org_id = g.org_id
            WHERE s.digest IS NOT NULL
              AND EXISTS (SELECT FROM issuer_group i
                           WHERE i.org_id = g.org_id AND i.name = g.display_name AND i.issuer_id = $2)
              AND NOT EXISTS (SELECT FROM scim_group_member m WHERE m.group_id = g.id AND m.user_id = ANY ($1))""",
        [row["id"] for row in found if row["account_id"] in (None, account_id)],  # another's groups are not theirs
        issuer_id,
    )
    return gone, frozenset((OrgId(row["org_id"]), row["display_name"]) for row in rows)


async def link_all(tx: Transaction, account_id: UUID, org_ids: Collection[OrgId]) -> None:
    """Of who has just logged in, in these organizations, whose directories have them."""
    for row in await tx.fetch(
        """SELECT u.org_id, u.id FROM scim_user u WHERE u.org_id = ANY ($1) AND u.account_id IS NULL AND u.deleted_at IS NULL
              AND NOT EXISTS (SELECT FROM scim_user o WHERE o.org_id = u.org_id AND o.account_id = $2 AND o.deleted_at IS NULL)
              AND EXISTS (SELECT FROM account a LEFT JOIN identity i ON i.account_id = a.id
                           WHERE a.id = $2 AND (lower(a.email) = ANY (u.addresses) OR lower(i.email) = ANY (u.addresses)
                                                OR i.subject = u.external_id))""",
        list(org_ids),
        account_id,
    ):
        if await link(tx, OrgId(row["org_id"]), row["id"]) == account_id:
            await resume(tx, OrgId(row["org_id"]), account_id)


def _is_there(rows: Iterable[Any], org_id: str, account_id: UUID | None) -> bool:
    """By the row of their account; without one, by every row that may be about them. One that was deleted counts where there is
    no other."""
    rows = [row for row in rows if row["org_id"] == org_id]
    live = [row for row in rows if row["deleted_at"] is None]
    linked = [row for row in live if account_id is not None and row["account_id"] == account_id]
    return all(row["is_active"] for row in linked or live or rows)


def _columns(it: UserAttributes) -> tuple[object, ...]:
    emails = [{"value": one.value, "type": one.type, "primary": one.is_primary} for one in it.emails]
    return (
        it.user_name,
        it.key,
        it.external_id,
        it.display_name,
        it.given_name,
        it.family_name,
        jsonb(emails),
        list(it.addresses),
    )


async def _members(tx: Transaction, groups: Collection[UUID]) -> dict[UUID, frozenset[UUID]]:
    found: dict[UUID, set[UUID]] = {}
    for row in await tx.fetch(
        "SELECT group_id, user_id FROM scim_group_member WHERE group_id = ANY ($1)", list(groups)
    ):
        found.setdefault(row["group_id"], set()).add(row["user_id"])
    return {group_id: frozenset(members) for group_id, members in found.items()}


def _user(row: Any) -> User:
    emails = row["emails"] if isinstance(row["emails"], list) else msgspec.json.decode(row["emails"])
    return User(
        id=row["id"],
        attributes=UserAttributes(
            user_name=row["user_name"],
            external_id=row["external_id"],
            display_name=row["display_name"],
            given_name=row["given_name"],
            family_name=row["family_name"],
            emails=tuple(Email(one["value"], one["type"], one["primary"]) for one in emails),
            is_active=row["is_active"],
        ),
        account_id=row["account_id"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )


def _group(row: Any, members: frozenset[UUID]) -> Group:
    return Group(
        id=row["id"],
        attributes=GroupAttributes(row["display_name"], row["external_id"], members),
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )
