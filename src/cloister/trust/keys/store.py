"""The rows of wrapped keys, of key rings and of policies. Only the broker's database role may read them; a row without the
root key and the project's seal is noise.

The transaction is an argument: the audit event of a change is appended in the same one, by the broker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cloister.base.database import Transaction
from cloister.trust.audit.events import timestamp
from cloister.trust.keys.commands import POLICY_DAYS_DEFAULT, KeyInfo, KeyPolicy

PROJECT: Final = "project"
"""The purpose of a project's own key, and what stands as the provider of those that it wraps."""


STATEMENTS: Final = "statements"
"""The purpose of the key that wraps those of a project's statement log."""

RECORDING: Final = "recording"
"""The purpose of the key that wraps those of its recordings."""

VOLUME: Final = "volume"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    info: KeyInfo
    root_version: str
    wrapped: bytes | None
    """None once destroyed."""

    @property
    def is_enabled(self) -> bool:
        return self.info.state == "enabled"


@dataclass(frozen=True, slots=True)
class Ring:
    """What is so of a project's keys as a whole."""

    project_id: str
    state: str
    destroy_at: datetime | None
    rotated_at: datetime


async def lock_projects(tx: Transaction, *project_ids: str) -> None:
    """Until the transaction ends nobody else creates, rotates or destroys keys of these projects."""
    await tx.execute(
        """SELECT pg_advisory_xact_lock(hashtextextended('wrapped_key ' || project_id, 0))
             FROM unnest($1::text[]) AS project_id""",
        sorted(project_ids),
    )


async def is_deleted(tx: Transaction, project_id: str) -> bool:
    """Whether its project was deleted, recoverably or for good."""
    return bool(
        await tx.fetch_value("SELECT EXISTS (SELECT FROM project WHERE id = $1 AND deleted_at IS NOT NULL)", project_id)
    )


async def keys_of(tx: Transaction, project_ids: Sequence[str]) -> dict[str, list[WrappedKey]]:
    """All versions of all keys, in the order of versions."""
    rows = await tx.fetch(
        "SELECT * FROM wrapped_key WHERE project_id = ANY($1) ORDER BY project_id, purpose, version", project_ids
    )
    found: dict[str, list[WrappedKey]] = {project_id: [] for project_id in project_ids}
    for row in rows:
        found[row["project_id"]].append(_key(row))
    return found


async def insert(tx: Transaction, *keys: WrappedKey) -> None:
    await tx.execute(
        """INSERT INTO wrapped_key (project_id, purpose, version, material, provider, root_version, state, wrapped)
           SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::bytea[])
        """,
        [key.info.project_id for key in keys],
        [key.info.purpose for key in keys],
        [key.info.version for key in keys],
        [key.info.material for key in keys],
        [key.info.provider for key in keys],
        [key.root_version for key in keys],
        [key.info.state for key in keys],
        [key.wrapped for key in keys],
    )


async def destroy(tx: Transaction, project_id: str) -> list[KeyInfo]:
    """Forget every wrapped form of the project's keys; the rows stay, to say that there were some."""
    rows = await tx.fetch(
        """UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now()
            WHERE project_id = $1 AND state <> 'destroyed' RETURNING *""",
        project_id,
    )
    return [_key(row).info for row in rows]


async def destroy_material(tx: Transaction, project_id: str, purpose: str, material: int) -> list[KeyInfo]:
    """Forget one secret, in all its envelopes."""
    rows = await tx.fetch(
        """UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now()
            WHERE project_id = $1 AND purpose = $2 AND material = $3 AND state <> 'destroyed' RETURNING *""",
        project_id,
        purpose,
        material,
    )
    return [_key(row).info for row in rows]


async def destroy_superseded(tx: Transaction, limit: int) -> list[KeyInfo]:
    """Of what rotations and re-encryptions replaced, what nobody needs any more; the database says which (`is_superseded`). What is below a
    project key goes before it does."""
    rows = await tx.fetch(
        """UPDATE wrapped_key AS it SET state = 'destroyed', wrapped = NULL, destroyed_at = now()
             FROM (SELECT project_id, purpose, version FROM wrapped_key AS key
                    WHERE state <> 'destroyed' AND is_superseded(key) LIMIT $1) AS old
            WHERE (it.project_id, it.purpose, it.version) = (old.project_id, old.purpose, old.version) RETURNING it.*""",
        limit,
    )
    return [_key(row).info for row in rows]


async def list_keys(tx: Transaction, project_id: str | None) -> list[KeyInfo]:
    rows = await tx.fetch(
        """SELECT * FROM wrapped_key WHERE $1::text IS NULL OR project_id = $1
            ORDER BY project_id, purpose, version""",
        project_id,
    )
    return [_key(row).info for row in rows]


async def ring(tx: Transaction, project_id: str) -> Ring | None:
    row = await tx.fetch_row("SELECT * FROM key_ring WHERE project_id = $1", project_id)
    return None if row is None else _ring(row)


async def enabled_among(tx: Transaction, project_ids: Sequence[str]) -> list[str]:
    """Of these, those whose keys may be used."""
    rows = await tx.fetch(
        "SELECT project_id FROM key_ring WHERE project_id = ANY($1) AND state = 'enabled' ORDER BY project_id",
        project_ids,
    )
    return [row["project_id"] for row in rows]


async def ensure_ring(tx: Transaction, project_id: str, now: datetime) -> None:
    await tx.execute(
        "INSERT INTO key_ring (project_id, rotated_at) VALUES ($1, $2) ON CONFLICT DO NOTHING", project_id, now
    )


async def change_ring(tx: Transaction, project_id: str, state: str, destroy_at: datetime | None) -> None:
    await tx.execute(
        "UPDATE key_ring SET state = $2, destroy_at = $3 WHERE project_id = $1", project_id, state, destroy_at
    )


async def mark_rotated(tx: Transaction, project_ids: Sequence[str], now: datetime) -> None:
    await tx.execute("UPDATE key_ring SET rotated_at = $2 WHERE project_id = ANY($1)", project_ids, now)


async def overdue(tx: Transaction, now: datetime, except_for: Sequence[str], limit: int) -> list[str]:
    """Projects whose organization's policy says that their key has lived long enough, the oldest first."""
    rows = await tx.fetch(
        """SELECT project_id FROM key_ring AS ring
             JOIN project ON project.id = project_id AND deleted_at IS NULL
             LEFT JOIN key_policy USING (org_id)
            WHERE ring.state = 'enabled' AND rotated_at + make_interval(days => coalesce(rotate_days, $2)) <= $1
              AND project_id <> ALL ($3) AND EXISTS (
                  SELECT FROM wrapped_key AS key WHERE key.project_id = ring.project_id AND key.state = 'enabled')
            ORDER BY rotated_at, project_id LIMIT $4""",
        now,
        POLICY_DAYS_DEFAULT,
        except_for,
        limit,
    )
    return [row["project_id"] for row in rows]


_NEWEST: Final = """
    (SELECT DISTINCT ON (project_id, purpose, of) project_id, provider, root_version
       FROM wrapped_key, LATERAL (SELECT CASE purpose WHEN 'project' THEN 0 ELSE material END AS of) AS secret
      WHERE state = 'enabled'
      ORDER BY project_id, purpose, of, version DESC) AS newest"""
# The envelope that counts of every secret in use: while a volume is encrypted anew it has two.


async def under_other_roots(
    tx: Transaction, provider: str, root_version: str, except_for: Sequence[str], limit: int
) -> list[str]:
    """Projects of which some newest key stands under another root than this."""
    rows = await tx.fetch(
        f"""SELECT DISTINCT project_id FROM {_NEWEST}
            WHERE provider <> 'project' AND (provider, root_version) <> ($1, $2)
              AND project_id <> ALL ($3)
            ORDER BY project_id LIMIT $4""",  # noqa: S608 - a literal
        provider,
        root_version,
        except_for,
        limit,
    )
    return [row["project_id"] for row in rows]


async def count_by_root(tx: Transaction) -> list[tuple[str, str, int]]:
    """How many projects stand under which root: provider, version, number."""
    rows = await tx.fetch(
        f"""SELECT provider, root_version, count(DISTINCT project_id) AS projects FROM {_NEWEST}
            WHERE provider <> 'project' GROUP BY provider, root_version ORDER BY projects DESC"""  # noqa: S608 - a literal
    )
    return [(row["provider"], row["root_version"], row["projects"]) for row in rows]


async def has_project_keys(tx: Transaction) -> bool:
    """Any that a seal belongs to."""
    found: bool = await tx.fetch_value(
        "SELECT EXISTS (SELECT FROM wrapped_key WHERE purpose = 'project' AND state <> 'destroyed')"
    )
    return found


async def due_for_destruction(tx: Transaction, now: datetime, project_id: str | None = None) -> list[str]:
    """`project_id`: of that one alone, for who asks again at its turn: it may have been cancelled since."""
    rows = await tx.fetch(
        """SELECT project_id FROM key_ring
            WHERE destroy_at <= $1 AND ($2::text IS NULL OR project_id = $2) ORDER BY destroy_at""",
        now,
        project_id,
    )
    return [row["project_id"] for row in rows]


async def destroyed_among(tx: Transaction, project_ids: Sequence[str]) -> list[str]:
    """Of these, those that had keys and have none any more."""
    rows = await tx.fetch(
        """SELECT project_id FROM wrapped_key WHERE project_id = ANY($1)
            GROUP BY project_id HAVING bool_and(state = 'destroyed')""",
        project_ids,
    )
    return [row["project_id"] for row in rows]


async def erased_months(tx: Transaction, project_id: str | None = None) -> list[tuple[str, int]]:
    """Of statement logs: project and generation."""
    rows = await tx.fetch(
        """SELECT project_id, generation FROM statement_key
            WHERE erased_at IS NOT NULL AND ($1::text IS NULL OR project_id = $1) ORDER BY project_id, generation""",
        project_id,
    )
    return [(row["project_id"], row["generation"]) for row in rows]


def month_of(moment: datetime) -> int:
    """As recordings' seals are numbered: 202611."""
    at = moment.astimezone(UTC)
    return at.year * 100 + at.month


async def ended_months_of_recordings(tx: Transaction, project_id: str | None, before: int) -> list[tuple[str, int]]:
    """Project and seal, of a month before that, of which every recording has ended."""
    rows = await tx.fetch(
        """SELECT project_id, seal FROM recording
            WHERE seal < $2 AND ($1::text IS NULL OR project_id = $1)
            GROUP BY project_id, seal HAVING bool_and(erased_at IS NOT NULL) ORDER BY project_id, seal""",
        project_id,
        before,
    )
    return [(row["project_id"], row["seal"]) for row in rows]


async def policy(tx: Transaction, org_id: str) -> KeyPolicy:
    row = await tx.fetch_row("SELECT * FROM key_policy WHERE org_id = $1", org_id)
    if row is None:
        return KeyPolicy(rotate_days=POLICY_DAYS_DEFAULT)
    return KeyPolicy(rotate_days=row["rotate_days"], reencrypt_days=row["reencrypt_days"])


async def rotate_days_of(tx: Transaction, project_id: str) -> int:
    """By the policy of the project's organization; a volume of the pool has none yet."""
    days: int | None = await tx.fetch_value(
        "SELECT rotate_days FROM key_policy JOIN project USING (org_id) WHERE project.id = $1", project_id
    )
    return POLICY_DAYS_DEFAULT if days is None else days


async def hold_policy(tx: Transaction, org_id: str) -> KeyPolicy:
    """The same; nobody changes it before the transaction ends. Where nothing was said, the default is written down."""
    await tx.execute(
        "INSERT INTO key_policy (org_id, rotate_days) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        org_id,
        POLICY_DAYS_DEFAULT,
    )
    await tx.execute("SELECT FROM key_policy WHERE org_id = $1 FOR UPDATE", org_id)
    return await policy(tx, org_id)


async def set_policy(tx: Transaction, org_id: str, policy: KeyPolicy) -> None:
    """Of one that is held."""
    await tx.execute(
        "UPDATE key_policy SET rotate_days = $2, reencrypt_days = $3 WHERE org_id = $1",
        org_id,
        policy.rotate_days,
        policy.reencrypt_days,
    )


def _key(row: Any) -> WrappedKey:
    info = KeyInfo(
        project_id=row["project_id"],
        purpose=row["purpose"],
        version=row["version"],
        material=row["material"],
        state=row["state"],
        provider=row["provider"],
        created_at=timestamp(row["created_at"]),
    )
    return WrappedKey(info, row["root_version"], row["wrapped"])


def _ring(row: Any) -> Ring:
    return Ring(row["project_id"], row["state"], row["destroy_at"], row["rotated_at"])
