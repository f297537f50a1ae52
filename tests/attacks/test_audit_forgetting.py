"""Somebody wants what is personal in the log's events erased who may not, or changed, or erased unseen.

One person alone, a process of ours that was taken over, and whoever rules the control database: the first two are refused, and what
the third does, verification finds, with its place.
"""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from cloister.base.ids import ProjectId
from cloister.control.projects.forgetting import SubjectKind
from cloister.trust.audit.events import commitment
from cloister.trust.audit.faults import Fault
from cloister.trust.audit.verify import Broken, Intact, verify
from tests.control.conftest import land
from tests.control.land import ACCOUNT, BOB, CALLER, Land
from tests.control.projects.test_forgetting import ANNA, ELSEWHERE, agreed, asked, everything, project
from tests.fix_database import ControlDatabase, DatabaseAs

__all__ = ["land", "project"]

ROLES = ("cloister_api", "cloister_keys", "cloister_sentinel")
SALTED = '{"salt":"0123456789012345678901"'
FORGET = """SELECT audit_forget(id, '{by}', 'r', '{{"salt":"0123456789012345678901"}}') FROM audit_forgetting"""


async def run(database: ControlDatabase, role: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(database.url(role))
    try:
        await connection.execute("SET search_path = cloister")
        await connection.execute(statement, *values)
    finally:
        await connection.close()


async def as_administrator(database: ControlDatabase, statement: str) -> None:
    """Who may do everything, begins with this."""
    await run(
        database,
        "postgres",
        """ALTER TABLE audit_event DISABLE TRIGGER audit_personal_ends;
           ALTER TABLE audit_forgetting DISABLE TRIGGER audit_forgetting_holds; """
        + statement,
    )


# ── who may not ──


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET personal = NULL",
        "UPDATE audit_event SET personal = erased_mark(gen_random_uuid(), now())",
        "SELECT audit_chain(ARRAY['{}'], '{}', true)",
        "UPDATE audit_forgetting SET agreed_by = asked_by",
        "UPDATE audit_forgetting SET up_to = 0",
        "DELETE FROM audit_forgetting",
        "TRUNCATE audit_forgetting",
        """INSERT INTO audit_forgetting (id, kind, subject, reason, asked_by, agreed_by)
           SELECT gen_random_uuid(), 'role', 'anna', 'x', min(id::text)::uuid, max(id::text)::uuid FROM account""",
        "ALTER TABLE audit_event DISABLE TRIGGER audit_personal_ends",
        "SET session_replication_role = replica",
    ],
)
async def test_no_process_of_ours_has_a_right_to_it(
    control_database: ControlDatabase, role: str, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(control_database, role, statement)


@pytest.mark.parametrize("role", ["cloister_keys", "cloister_sentinel"])
async def test_only_the_api_asks_the_database_to_forget(
    land: Land, project: ProjectId, control_database: ControlDatabase, role: str
) -> None:
    it = await asked(land, project)
    for statement in (
        f"SELECT audit_forget('{it.id}', '{BOB}', 'r', '')",
        "SELECT audit_about(NULL)",
        f"INSERT INTO audit_forgetting (id, kind, subject, reason, asked_by) VALUES ('{BOB}', 'address', '::1', 'x', '{BOB}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(control_database, role, statement)


async def test_one_person_alone_is_refused_by_the_database_too(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """An API that was taken over has to make up a second person, who then stands in the log."""
    it = await asked(land, project)
    with pytest.raises(asyncpg.CheckViolationError, match="not_by_oneself"):
        await run(control_database, "cloister_api", FORGET.format(by=ACCOUNT))
    await as_administrator(control_database, "UPDATE audit_forgetting SET asked_at = now() - interval '8 days'")
    await run(control_database, "postgres", "ALTER TABLE audit_forgetting ENABLE ALWAYS TRIGGER audit_forgetting_holds")
    with pytest.raises(asyncpg.CheckViolationError):
        await run(control_database, "cloister_api", FORGET.format(by=BOB))
    assert not any(each.event.erasure for each in await everything(land)), it


async def test_the_owner_does_not_erase_by_mistake(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """Nor in the transaction of an erasure that two agreed to, in the name of another, or twice."""
    it = await asked(land, project)
    agreeing = FORGET.format(by=BOB)
    for statement in (
        "UPDATE audit_event SET personal = NULL",
        f"UPDATE audit_event SET personal = erased_mark('{it.id}', now())",
        f"{agreeing}; UPDATE audit_event SET personal = erased_mark(gen_random_uuid(), now()) WHERE actor LIKE 'user:%'",
        f"{agreeing}; UPDATE audit_event SET personal = erased_mark('{it.id}', now()), body = '{{}}' WHERE personal NOT LIKE '%erasure%'",
        f"{agreeing}; UPDATE audit_event SET personal = erased_mark('{it.id}', now()) WHERE personal LIKE '%erasure%'",
    ):
        with pytest.raises(asyncpg.PostgresError, match="nobody agreed"):
            await run(control_database, "postgres", statement)
    assert not any(each.event.erasure for each in await everything(land))


async def test_what_was_asked_for_and_agreed_to_is_history(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """Also for the owner: which events it were, and who said so."""
    first, second = await asked(land, project), await asked(land, project, SubjectKind.ADDRESS, ELSEWHERE)
    await agreed(land, first)
    for change in (
        f"UPDATE audit_forgetting SET events = '{{}}' WHERE id = '{first.id}'",
        f"UPDATE audit_forgetting SET agreed_by = NULL, agreed_at = NULL, events = NULL WHERE id = '{first.id}'",
        f"UPDATE audit_forgetting SET subject = 'somebody' WHERE id = '{first.id}'",
        f"UPDATE audit_forgetting SET subject = '{ANNA}' WHERE id = '{second.id}'",
        f"UPDATE audit_forgetting SET up_to = 10 * up_to, subject = NULL WHERE id = '{second.id}'",
        f"DELETE FROM audit_forgetting WHERE id = '{second.id}'",
    ):
        with pytest.raises(asyncpg.PostgresError, match="agreed to once, as it was asked for"):
            await run(control_database, "postgres", change)


async def test_a_legal_hold_stops_the_database_itself(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    await asked(land, project)
    await land.control.holds.place(CALLER, project, "matter 17")
    with pytest.raises(asyncpg.PostgresError, match="legal hold"):
        await run(control_database, "cloister_api", FORGET.format(by=BOB))


APPENDED: dict[str, tuple[dict[str, Any], str | None]] = {
    "that something was forgotten": ({"action": "audit.forget"}, None),
    "what was erased before it was there": ({}, SALTED + ',"erasure":"x","erased_at":"y"}'),
    "what can be guessed": ({}, '{"address":"192.0.2.1"}'),
    "with a salt that is none": ({}, '{"salt":"1","address":"192.0.2.1"}'),
    "what is no object": ({}, '["salt"]'),
    "another part than the body names": ({"personal": commitment("another")}, SALTED + "}"),
    "no part where the body names one": ({"personal": commitment("another")}, None),
    "a part that the body does not name": ({"personal": None}, SALTED + "}"),
}


@pytest.mark.parametrize("role", ["cloister_api", "cloister_keys"])
@pytest.mark.parametrize("name", APPENDED)
async def test_who_may_append_does_not_append(control_database: ControlDatabase, role: str, name: str) -> None:
    more, personal = APPENDED[name]
    body = {"action": "a.b", "actor": "x", **({} if personal is None else {"personal": commitment(personal)}), **more}
    statement = "SELECT audit_append(ARRAY[$1], ARRAY[$2])"
    with pytest.raises(asyncpg.PostgresError, match="not appended so"):
        await run(control_database, role, statement, json.dumps(body, separators=(",", ":")), personal)


@pytest.mark.parametrize(
    "member",
    [r'"\u0070ersonal":"x"', '"personal" : "x"', '"personal":null', r'"\u0070ersonal":"x","personal":"y"'],
)
async def test_a_body_does_not_hide_that_it_commits_to_something(
    control_database: ControlDatabase, member: str
) -> None:
    """However the word is written: a body that names a part, and has none, would break the log's verification for good."""
    body = f'{{"action":"a.b","actor":"x",{member}}}'
    with pytest.raises(asyncpg.PostgresError, match="not appended so"):
        await run(control_database, "cloister_api", "SELECT audit_append(ARRAY[$1])", body)


@pytest.mark.parametrize("event", [{"reason": "personal"}, {"reason": "\\"}, {"details": {"personal": "x"}}, {}])
async def test_and_what_only_looks_so_is_appended(database_as: DatabaseAs, event: dict[str, Any]) -> None:
    """So that the tests above refuse for their reasons."""
    database = await database_as("cloister_api")
    for part in (None, SALTED + "}"):
        fields = {"action": "a.b", "actor": "x", **event, **({} if part is None else {"personal": commitment(part)})}
        async with database.transaction() as tx:
            body = json.dumps(fields, separators=(",", ":"))
            await tx.fetch_value("SELECT audit_append(ARRAY[$1], ARRAY[$2])", body, part)
    assert isinstance(await verify(database), Intact)


# ── who may do everything ──

Seqs = tuple[int, int, int, int, int]
"""The two events that were erased, one that was not, that which says so, and one with nothing personal in it."""

CHANGES: dict[str, tuple[str, Callable[[Seqs], int], Fault]] = {
    "two parts are exchanged": (
        """UPDATE audit_event e SET personal = f.personal FROM audit_event f
            WHERE (e.seq, f.seq) IN (({other}, {told}), ({told}, {other}))""",
        lambda it: it[2], Fault.REPLACED,
    ),
    "another text": (
        """UPDATE audit_event SET personal = replace(personal, '203.0.113.9', '203.0.113.8') WHERE seq = {other}""",
        lambda it: it[2], Fault.REPLACED,
    ),
    "no text": ("UPDATE audit_event SET personal = NULL WHERE seq = {other}", lambda it: it[2], Fault.REPLACED),
    "a text where there was none": (
        "UPDATE audit_event SET personal = '{{}}' WHERE seq = {plain}",
        lambda it: it[4], Fault.REPLACED,
    ),
    "erased, and nobody says so": (
        "UPDATE audit_event SET personal = erased_mark('11111111-1111-4111-8111-111111111111', now()) WHERE seq = {other}",
        lambda it: it[2], Fault.ERASED,
    ),
    "one more in the name of an erasure that was": (
        "UPDATE audit_event SET personal = (SELECT personal FROM audit_event WHERE seq = {first}) WHERE seq = {other}",
        lambda it: it[2], Fault.ERASED,
    ),
    "one more, and the list of it": (
        """UPDATE audit_event SET personal = (SELECT personal FROM audit_event WHERE seq = {first}) WHERE seq = {other};
           UPDATE audit_forgetting SET events = events || {other}::bigint""",
        lambda it: it[3], Fault.MISTOLD,
    ),
    "a stranger's address beside the mark": (
        """UPDATE audit_event SET personal = (personal::jsonb || '{{"address": "203.0.113.66"}}')::text WHERE seq = {second}""",
        lambda it: it[1], Fault.REPLACED,
    ),
    "the erasing of what says so": (
        """UPDATE audit_event SET personal = (SELECT personal FROM audit_event WHERE seq = {first}) WHERE seq = {told}""",
        lambda it: it[3], Fault.ERASED,
    ),
    "from a copy, back": (
        "UPDATE audit_event e SET personal = c.personal FROM copy c WHERE c.seq = e.seq AND e.seq = {second}",
        lambda it: it[1], Fault.BACK,
    ),
    "from a copy, back, and the list is gone": (
        """UPDATE audit_event e SET personal = c.personal FROM copy c WHERE c.seq = e.seq AND e.seq = {second};
           DELETE FROM audit_forgetting""",
        lambda it: it[3], Fault.MISTOLD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
async def test_what_the_administrator_does_is_found_with_its_place(
    land: Land, project: ProjectId, control_database: ControlDatabase, name: str
) -> None:
    change, place, fault = CHANGES[name]
    await run(control_database, "postgres", "CREATE TABLE copy AS SELECT seq, personal FROM audit_event")
    it = await agreed(land, await asked(land, project))
    events = await everything(land)
    first, second, *_ = [each.seq for each in events if each.event.erasure]
    other = next(each.seq for each in events if each.event.actor == "role:app")
    told = next(each.seq for each in events if each.event.action == "audit.forget")
    plain = next(each.seq for each in events if each.event.actor.startswith("platform:"))
    assert isinstance(await verify(land.database), Intact), it
    await as_administrator(
        control_database, change.format(first=first, second=second, other=other, told=told, plain=plain)
    )
    assert await verify(land.database) == Broken(place((first, second, other, told, plain)), fault)
