"""From an event, or a session, to a person: through the session or the request, the role or the key, to an account.

What can be said depends on how somebody came in. An API key has an account. A role of an approved access has its request,
and that an account and those who agreed. A token has its subject. A role with a password has none of these: whoever knows
the password is that role, and what can be told is to whom it was given, by which events.

Only events of `project_ids` are looked at, and of people only those are named who belong to the organization of such a
project, or asked for access to one: an event may have been caused by a stranger, whose address is nobody's business.
`project_ids` None is the whole platform, and everybody.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cloister.base.database import Transaction
from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event, parse
from cloister.trust.audit.reader import Recorded

NEAR_EVENTS: Final = 1000
# The events of one request lie this close together; a session's beginning is looked for in all of its project's.

RELATED_MAX: Final = 20

_OF_A_SESSION: Final = (
    Action.CONNECTION_OPENED,
    Action.CONNECTION_DENIED,
    Action.CONNECTION_READING,
    Action.CONNECTION_CLOSED,
    Action.CONNECTION_CANCEL,
)
_GIVES_PASSWORD: Final = (Action.ROLE_CREATE, Action.ROLE_RESET_PASSWORD, Action.ROLE_REVEAL_PASSWORD)


@dataclass(frozen=True, slots=True)
class Person:
    account_id: UUID
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class Approved:
    """The request for access that a role was made for."""

    request_id: UUID
    reason: str
    state: str
    approved_by: list[str]
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    event: Recorded
    opened: Recorded | None
    """The beginning of its session."""
    role: str
    key_id: int | None
    key_name: str
    person: Person | None
    approved: Approved | None
    given_by: list[Recorded]
    """Who was given the role's password before, newest first."""
    request: list[Recorded]
    """What else its request did."""


async def of_event(tx: Transaction, project_ids: Sequence[str] | None, seq: int) -> Chain | None:
    """None if there is no such event among those of `project_ids`."""
    found = await _recorded(tx, project_ids, first=seq, last=seq)
    return await _chain(tx, project_ids, found[0]) if found else None


async def of_session(tx: Transaction, project_ids: Sequence[str] | None, session_id: str) -> Chain | None:
    """From its last event. None if there is no such session among those of `project_ids`."""
    found = await _recorded(tx, project_ids, actions=_OF_A_SESSION, session_id=session_id)
    return await _chain(tx, project_ids, found[0]) if found else None


async def actors_of(tx: Transaction, project_ids: Sequence[str] | None, email: str) -> list[str]:
    """As whom the account appears in the log: itself, its organizations' keys that it made, roles made for its access.
    Empty for an account that is not to be named, as for one that does not exist."""
    person = await find_person(tx, project_ids, email=email)
    found = await tx.fetch(
        """SELECT 'key:' || id AS actor FROM api_key WHERE account_id = $1
           UNION ALL SELECT 'role:' || role FROM access_request WHERE account_id = $1""",
        None if person is None else person.account_id,
    )
    return [] if person is None else [f"user:{person.account_id}", *(row["actor"] for row in found)]


async def _chain(tx: Transaction, project_ids: Sequence[str] | None, it: Recorded) -> Chain:
    """Who sees the whole platform is told of everybody; anybody else, of the people of this event's project alone, even if
    they see other projects as well."""
    event = it.event
    within = None if project_ids is None else [event.project_id]
    role = event.actor.removeprefix("role:") if event.actor.startswith("role:") else ""
    key = await _key(tx, event)
    approved = await _approved(tx, event.project_id, role) if role else None
    account_id = approved[0] if approved else key.account_id
    person = None if account_id is None else await find_person(tx, within, account_id=account_id)
    session_id = event.details.get("session_id")
    opened: list[Recorded] = []
    if isinstance(session_id, str) and event.action != Action.CONNECTION_OPENED:
        opened = await _recorded(
            tx, [event.project_id], last=it.seq, actions=[Action.CONNECTION_OPENED], session_id=session_id
        )
    given: list[Recorded] = []
    if role and approved is None:
        given = await _recorded(tx, [event.project_id], last=it.seq, actions=_GIVES_PASSWORD, resource=role)
    request: list[Recorded] = []
    if event.request_id:
        near = (it.seq - NEAR_EVENTS, it.seq + NEAR_EVENTS)
        request = await _recorded(tx, project_ids, first=near[0], last=near[1], request_id=event.request_id)
    return Chain(
        event=it,
        opened=opened[0] if opened else None,
        role=role,
        key_id=key.id,
        key_name=key.name if person else "",
        person=person,
        approved=None if approved is None else approved[1],
        given_by=given,
        request=[each for each in request if each.seq != it.seq],
    )


@dataclass(frozen=True, slots=True)
class _Key:
    id: int | None = None
    name: str = ""
    account_id: UUID | None = None


async def _key(tx: Transaction, event: Event) -> _Key:
    """The API key that called, and whose account it is. Of a person's call its key is a detail, not always told."""
    kind, _, name = event.actor.partition(":")
    asked = str(event.details.get("key_id", "") if kind == "user" else name)
    row = None
    if kind in ("user", "key") and re.fullmatch("[0-9]{1,18}", asked, re.ASCII):
        row = await tx.fetch_row("SELECT id, name, account_id FROM api_key WHERE id = $1", int(asked))
    if kind == "user":
        try:
            account_id = UUID(name)
        except ValueError:
            return _Key()
        if row is None or row["account_id"] != account_id:
            return _Key(account_id=account_id)
    return _Key() if row is None else _Key(row["id"], row["name"], row["account_id"])


async def find_person(
    tx: Transaction, project_ids: Sequence[str] | None, *, account_id: UUID | None = None, email: str | None = None
) -> Person | None:
    """None for who does not exist, and for who has nothing to do with these projects."""
    row = await tx.fetch_row(
        """SELECT a.id, a.email, a.name FROM account a
            WHERE (a.id = $2 OR lower(a.email) = lower($3))
              AND ($1::text[] IS NULL
                   OR EXISTS (SELECT FROM project p JOIN membership m USING (org_id)
                               WHERE p.id = ANY ($1) AND m.account_id = a.id)
                   OR EXISTS (SELECT FROM access_request r WHERE r.project_id = ANY ($1) AND r.account_id = a.id))""",
        None if project_ids is None else list(project_ids),
        account_id,
        email,
    )
    return None if row is None else Person(row["id"], row["email"], row["name"])


async def _approved(tx: Transaction, project_id: str, role: str) -> tuple[UUID, Approved] | None:
    row = await tx.fetch_row(
        """SELECT r.id, r.account_id, r.reason, r.state, r.ends_at,
                  ARRAY(SELECT a.email FROM access_approval JOIN account a ON a.id = approved_by
                         WHERE request_id = r.id ORDER BY approved_at) AS approved_by
             FROM access_request r WHERE r.role = $1 AND r.project_id = $2""",
        role,
        project_id,
    )
    if row is None:
        return None
    approved = Approved(row["id"], row["reason"], row["state"], list(row["approved_by"]), row["ends_at"])
    return row["account_id"], approved


async def _recorded(
    tx: Transaction,
    project_ids: Sequence[str] | None,
    *,
    first: int = 1,
    last: int = 2**63 - 1,
    actions: Sequence[Action] | None = None,
    session_id: str | None = None,
    resource: str | None = None,
    request_id: str | None = None,
) -> list[Recorded]:
    """Newest first; all that is given must fit."""
    found = await tx.fetch(
        """SELECT seq, body, personal, hash FROM audit_event
            WHERE ($1::text[] IS NULL OR project_id = ANY ($1)) AND seq BETWEEN $2 AND $3
              AND ($4::text[] IS NULL OR action = ANY ($4))
              AND ($5::text IS NULL OR body::jsonb -> 'details' ->> 'session_id' = $5)
              AND ($6::text IS NULL OR coalesce(personal::jsonb ->> 'resource', body::jsonb ->> 'resource') = $6)
              AND ($7::text IS NULL OR body::jsonb ->> 'request_id' = $7)
            ORDER BY seq DESC LIMIT $8""",
        None if project_ids is None else list(project_ids),
        first,
        last,
        None if actions is None else [each.value for each in actions],
        session_id,
        resource,
        request_id,
        RELATED_MAX,
    )
    return [Recorded(row["seq"], parse(row["body"], row["personal"]), row["hash"]) for row in found]
