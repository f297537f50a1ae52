"""API keys: made, shown once, and recognised by their digest.

A key has 381 random bits, so its SHA-256 is kept without salt: nobody can guess towards it, and one indexed look-up finds
it. The database never sees a key, but for its first letters, by which people tell keys apart.

A key is a person's, or an organization's, or an organization's for one of its projects or for one of its service accounts
(`control/service_accounts`). It may have an end, and a list of addresses that it opens from. A person's session is a key as well,
which a login made (`control/people`): what their groups give them holds in sessions of that issuer, and for no other key of
theirs. What stays with others: who may make and revoke which (`policies/`).
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from cloister.base.clock import Clock, SystemClock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, NotFoundError, UnauthenticatedError
from cloister.base.ipallow import AllowList, parse_address
from cloister.base.secret import Secret, new_api_key
from cloister.trust.access.principals import Calling, Grant, Holder, Principal
from cloister.trust.audit import Action, Event, record

NAME_CHARS_MAX: Final = 64
# Neon's limit for `key_name`.

BEARER_CHARS_MAX: Final = 256
# Ours have 69. What is longer is not hashed: that would be work for whoever sends it.

PREFIX_CHARS: Final = 9
# `napi_` and four more: enough to tell a person's keys apart, and 357 bits stay unknown.

ADDRESSES_MAX: Final = 64
# Read at every call. More machines than this are networks.

USE_NOTED_EVERY: Final = timedelta(minutes=1)
# `last_used_at` is for people. Written at every call, it would be the database's main work.

_HOLDS: Final = "m.suspended_at IS NULL AND (m.issuer_id IS NULL OR m.issuer_id = api_key.issuer_id)"
"""Of a membership `m`, for whoever comes with this key: no directory says that they are gone, and what groups of an issuer give, only
that issuer's sessions have."""

_ROLE_OF_ORGANIZATIONS_KEY: Final = "admin"
_ROLE_OF_PROJECTS_KEY: Final = "editor"
"""As at Neon: a project's key does everything in it but delete it. What a key can never do, the policies say."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as people see it: everything but the key."""

    id: int
    name: str
    account_id: UUID
    account_name: str
    created_at: datetime
    last_used_at: datetime | None
    last_used_from: str | None
    org_id: str | None = None
    project_id: str | None = None
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] = ()
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A request for a key. Without `org_id` it is the caller's own."""

    name: str
    org_id: str | None = None
    project_id: str | None = None
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] = ()


class KeyRefusedError(UnauthenticatedError):
    """A real key, and not now or not from there. Whoever sent it hears what everybody hears; the audit log hears this."""

    def __init__(self, key_id: int, why: str) -> None:
        super().__init__(f"key {key_id}: {why}")
        self.actor = f"key:{key_id}"
        self.subject = ""
        self.why = why


class ApiKeys:
    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def authenticate(self, bearer: str, address: str) -> Principal:
        """Who holds this key. Raises UnauthenticatedError, in the same words and after the same query, whether the text
        is no key, an unknown one, a revoked or expired one, or one that does not open from this address.

        1. Hash what was sent, whatever it is; what is too long to be a key is replaced by nothing.
        2. Look the digest up, with what its holder is a member of and was granted. A B-tree's timing tells about
           digests, which tell nothing about keys. Nothing of this is remembered: what is taken away is gone at the
           next call.
        3. Refuse what was not found or is revoked, has expired, comes from elsewhere, or is of a person or a service account that
           was disabled, or of a person whose every organization's directory says that they are not there. What an organization's key may is not its maker's.
        4. Note the use, if that was not done within the last minute.
        """
        # 1. The digest.
        digest = digest_of(bearer if len(bearer) <= BEARER_CHARS_MAX else "")
        # 2. The row.
        now = self._clock.now()
        async with self._database.reading() as tx:
            row = await tx.fetch_row(
                f"""SELECT api_key.*, account.email, account.name AS account_name, account.disabled_at,
                          account.is_operator OR EXISTS (
                              SELECT FROM identity i
                               WHERE i.account_id = account.id AND i.issuer_id = api_key.issuer_id AND i.is_operator
                          ) AS is_operator,
                          (SELECT jsonb_object_agg(m.org_id, m.role) FROM membership m
                            WHERE m.account_id = account.id AND {_HOLDS})::text AS memberships,
                          (SELECT jsonb_object_agg(g.project_id, jsonb_build_object('org_id', g.org_id, 'role', g.role))
                             FROM project_grant g JOIN membership m USING (org_id, account_id)
                            WHERE g.account_id = account.id AND {_HOLDS})::text AS grants,
                          (SELECT coalesce(array_agg(o.org_id), '{{}}') FROM on_call o JOIN membership m USING (org_id, account_id)
                            WHERE o.account_id = account.id AND o.starts_at <= $2 AND o.ends_at > $2 AND {_HOLDS}) AS on_call,
                          (SELECT bool_and(m.suspended_at IS NOT NULL) FROM membership m
                            WHERE m.account_id = account.id) AS is_suspended,
                          EXISTS (SELECT FROM passkey p WHERE p.account_id = account.id) AS has_passkey,
                          service.name AS service_name, service.role AS service_role,
                          service.disabled_at IS NOT NULL OR service.removed_at IS NOT NULL AS service_is_off,
                          (SELECT jsonb_object_agg(g.project_id, jsonb_build_object('org_id', service.org_id, 'role', g.role))
                             FROM service_account_grant g WHERE g.service_account_id = service.id)::text AS service_grants
                     FROM api_key JOIN account ON account.id = api_key.account_id
                     LEFT JOIN service_account service ON service.id = api_key.service_account_id
                    WHERE api_key.digest = $1""",  # noqa: S608 - literals
                digest,
                now,
            )
        # 3. The refusal.
        if row is None or row["revoked_at"] is not None:
            raise UnauthenticatedError
        if row["expires_at"] is not None and row["expires_at"] <= now:
            raise KeyRefusedError(row["id"], "key_expired")
        if row["allowed_ips"] and not _opens_from(row["allowed_ips"], address):
            raise KeyRefusedError(row["id"], "key_from_elsewhere")
        if row["disabled_at"] is not None and row["org_id"] is None:
            raise KeyRefusedError(row["id"], "account_disabled")
        if row["is_suspended"] and not row["is_operator"] and row["org_id"] is None:
            raise KeyRefusedError(row["id"], "account_deactivated")
        if row["service_is_off"]:
            raise KeyRefusedError(row["id"], "service_account_disabled")
        # 4. The note.
        if row["last_used_at"] is None or now - row["last_used_at"] >= USE_NOTED_EVERY:
            await self._note_use(row["id"], now, address)
        return _principal(row)

    async def create(self, caller: Calling, new: NewKey) -> tuple[ApiKey, Secret[str]]:
        """The key itself is in the answer and nowhere else. Raises BadRequestError, and NotFoundError for a project that
        is not the organization's."""
        checked_key(new, self._clock.now())
        key = new_api_key()
        async with self._database.transaction() as tx:
            if new.project_id is not None and not await tx.fetch_value(
                """SELECT EXISTS (SELECT FROM project
                                   WHERE id = $1 AND org_id = $2 AND deleted_at IS NULL FOR SHARE)""",
                new.project_id,
                new.org_id,
            ):
                raise NotFoundError(f"no {new.project_id} in {new.org_id}", public="project not found")
            key_id = await insert_key(tx, caller.principal.account_id, new, key, self._clock.now())
            created = await _get(tx, key_id)
            await record(tx, _event(Action.API_KEY_CREATE, caller, created))
        return created, key

    async def find(self, principal: Principal) -> list[ApiKey]:
        """The account's own keys that are not revoked, oldest first."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT api_key.*, account.name AS account_name
                     FROM api_key JOIN account ON account.id = api_key.account_id
                    WHERE account_id = $1 AND org_id IS NULL AND revoked_at IS NULL ORDER BY api_key.id""",
                principal.account_id,
            )
        return [_api_key(row) for row in rows]

    async def find_of(self, org_id: str) -> list[ApiKey]:
        """The organization's keys, those for its projects among them; those of its service accounts are told with these."""
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT api_key.*, account.name AS account_name
                     FROM api_key JOIN account ON account.id = api_key.account_id
                    WHERE org_id = $1 AND service_account_id IS NULL AND revoked_at IS NULL ORDER BY api_key.id""",
                org_id,
            )
        return [_api_key(row) for row in rows]

    async def revoke(self, caller: Calling, key_id: int, org_id: str | None = None) -> ApiKey:
        """From the moment this returns, the key opens nothing. Without `org_id` a key of the caller's own. Raises
        NotFoundError for a key that is another's, or was revoked before."""
        async with self._database.transaction() as tx:
            if not await revoke_key(
                tx, key_id, self._clock.now(), org_id=org_id, account_id=caller.principal.account_id
            ):
                raise NotFoundError(public="API key not found")
            key = await _get(tx, key_id)
            await record(tx, _event(Action.API_KEY_REVOKE, caller, key))
        return key

    async def _note_use(self, key_id: int, now: datetime, address: str) -> None:
        async with self._database.transaction() as tx:
            # Two calls at once: one of them is enough.
            await tx.execute(
                """UPDATE api_key SET last_used_at = $2, last_used_from = $3
                    WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $4)""",
                key_id,
                now,
                address,
                now - USE_NOTED_EVERY,
            )


def digest_of(key: str) -> bytes:
    # A header may hold bytes that are no text; they are somebody's guess and hash like any other.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def insert_key(
    tx: Transaction,
    account_id: UUID,
    new: NewKey,
    key: Secret[str],
    now: datetime,
    *,
    issuer_id: UUID | None = None,
    service_account_id: UUID | None = None,
) -> int:
    """`issuer_id`: where its holder logged in, of a session. `service_account_id`: whose it is, of the organization's."""
    key_id: int = await tx.fetch_value(
        """INSERT INTO api_key (name, digest, account_id, created_at, org_id, project_id, expires_at, allowed_ips, prefix, issuer_id,
                                service_account_id)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id""",
        new.name,
        digest_of(key.reveal()),
        account_id,
        now,
        new.org_id,
        new.project_id,
        new.expires_at,
        list(new.allowed_ips),
        key.reveal()[:PREFIX_CHARS],
        issuer_id,
        service_account_id,
    )
    return key_id


async def revoke_key(
    tx: Transaction, key_id: int, now: datetime, *, org_id: str | None, account_id: UUID | None = None
) -> bool:
    """The organization's key, or without one the account's own. False: there is none such, or it was revoked before."""
    return bool(
        await tx.execute(
            """UPDATE api_key SET revoked_at = $4
                WHERE id = $1 AND revoked_at IS NULL
                  AND CASE WHEN $2::text IS NULL THEN account_id = $3 AND org_id IS NULL ELSE org_id = $2 END""",
            _within_bigint(key_id),
            org_id,
            account_id,
            now,
        )
    )


async def _get(tx: Transaction, key_id: int) -> ApiKey:
    row = await tx.fetch_row(
        """SELECT api_key.*, account.name AS account_name
             FROM api_key JOIN account ON account.id = api_key.account_id WHERE api_key.id = $1""",
        key_id,
    )
    return _api_key(row)


def checked_key(new: NewKey, now: datetime) -> NewKey:
    """Raises BadRequestError."""
    if not 1 <= len(new.name) <= NAME_CHARS_MAX or not new.name.isprintable():
        raise BadRequestError(public=f"an API key's name has 1 to {NAME_CHARS_MAX} printable characters")
    if new.expires_at is not None and new.expires_at <= now:
        raise BadRequestError(public="expires_at must be in the future")
    if len(new.allowed_ips) > ADDRESSES_MAX:
        raise BadRequestError(public=f"an API key may be bound to {ADDRESSES_MAX} addresses or networks")
    AllowList.parse(new.allowed_ips)
    return new


def _opens_from(entries: list[str], address: str) -> bool:
    """A list or an address that cannot be read opens nothing."""
    try:
        return parse_address(address) in AllowList.read(entries)
    except ValueError:
        return False


def _within_bigint(number: int) -> int:
    return number if 0 < number < 2**63 else 0  # no key has the number 0


def _principal(row: Any) -> Principal:
    memberships = msgspec.json.decode(row["memberships"] or "{}", type=dict[str, str])
    grants = msgspec.json.decode(row["grants"] or "{}", type=dict[str, Grant])
    holder = Holder.PERSON
    org_id, project_id = row["org_id"], row["project_id"]
    name = row["account_name"]
    if row["service_account_id"] is not None:
        holder, memberships, name = Holder.SERVICE, {org_id: row["service_role"]}, row["service_name"]
        grants = msgspec.json.decode(row["service_grants"] or "{}", type=dict[str, Grant])
    elif project_id is not None:
        holder, memberships, grants = Holder.PROJECT, {}, {project_id: Grant(org_id, _ROLE_OF_PROJECTS_KEY)}
    elif org_id is not None:
        holder, memberships, grants = Holder.ORGANIZATION, {org_id: _ROLE_OF_ORGANIZATIONS_KEY}, {}
    return Principal(
        account_id=row["account_id"],
        key_id=row["id"],
        email=row["email"],
        name=name,
        memberships=memberships,
        grants=grants,
        holder=holder,
        is_operator=row["is_operator"] and holder is Holder.PERSON,
        is_limited=row["expires_at"] is not None or bool(row["allowed_ips"]),
        has_passkey=row["has_passkey"] and holder is Holder.PERSON,
        on_call=frozenset(row["on_call"] if holder is Holder.PERSON else ()),
    )


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        account_id=row["account_id"],
        account_name=row["account_name"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        last_used_from=row["last_used_from"],
        org_id=row["org_id"],
        project_id=row["project_id"],
        expires_at=row["expires_at"],
        allowed_ips=tuple(row["allowed_ips"]),
        prefix=row["prefix"],
    )


def _event(action: Action, caller: Calling, key: ApiKey) -> Event:
    details: dict[str, Any] = {"name": key.name}
    if key.expires_at is not None:
        details["expires_at"] = key.expires_at.isoformat()
    if key.allowed_ips:
        details["allowed_ips"] = ", ".join(key.allowed_ips)
    return Event(
        action=action,
        actor=caller.principal.actor,
        org_id=key.org_id or "",
        project_id=key.project_id or "",
        resource=f"api_key/{key.id}",
        address=caller.address,
        request_id=caller.request_id,
        details=details,
    )
