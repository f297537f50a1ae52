"""Reading the log: newest first, by project, action and time.

Who may read which events is the caller's to decide (`Permission.AUDIT_READ`); this only finds and decodes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloister.base.database import Transaction
from cloister.trust.audit.events import Event, parse, timestamp

LIMIT_MAX: Final = 1000
# An answer of about half a megabyte; more is asked for page by page.


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event in the log. `hash` covers it and everything before it."""

    seq: int
    event: Event
    hash: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """Who did it, as far as is asked for; all of it must fit."""

    role: str | None = None
    address: str | None = None
    account: str | None = None
    """Its e-mail address."""


EVERYBODY: Final = Subject()


async def events(
    tx: Transaction,
    *,
    project_ids: Sequence[str] | None = None,
    action: str | None = None,
    actors: Sequence[str] | None = None,
    address: str | None = None,
    since: datetime | None = None,
    before_seq: int | None = None,
    limit: int = 100,
) -> list[Recorded]:
    """Events, newest first. `project_ids` None: of the whole platform; empty: none. `action` is one action, or a group
    of them if it ends with a dot (`connection.`). `actors` None: anybody's. `before_seq` is the last `seq` of the page before."""
    found = await tx.fetch(
        """SELECT seq, body, personal, hash FROM audit_event
            WHERE ($1::text[] IS NULL OR project_id = ANY ($1))
              AND ($2::text IS NULL OR action = $2)
              AND ($3::text IS NULL OR starts_with(action, $3))
              AND ($4::text IS NULL OR at >= $4)
              AND ($5::bigint IS NULL OR seq < $5)
              AND ($6::text[] IS NULL OR actor = ANY ($6) OR personal::jsonb ->> 'actor' = ANY ($6))
              AND ($7::text IS NULL OR coalesce(personal, body)::jsonb ->> 'address' = $7)
            ORDER BY seq DESC LIMIT $8""",
        None if project_ids is None else list(project_ids),
        None if action is None or action.endswith(".") else action,
        action if action is not None and action.endswith(".") else None,
        None if since is None else timestamp(since),
        before_seq,
        None if actors is None else list(actors),
        address,
        max(1, min(limit, LIMIT_MAX)),
    )
    return [Recorded(row["seq"], parse(row["body"], row["personal"]), row["hash"]) for row in found]


async def of_resource(tx: Transaction, action: str, project_id: str, resource: str) -> list[Recorded]:
    """Every event of this action on one thing of a project, oldest first."""
    found = await tx.fetch(
        """SELECT seq, body, personal, hash FROM audit_event
            WHERE action = $1 AND project_id = $2 AND body::jsonb ->> 'resource' = $3 ORDER BY seq""",
        action,
        project_id,
        resource,
    )
    return [Recorded(row["seq"], parse(row["body"], row["personal"]), row["hash"]) for row in found]
