"""Legal holds: one person places, two lift, and while one stands nothing of the record ends. On a real control database."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from cloister.base.errors import ConflictError, ForbiddenError, NotFoundError, UnprocessableError
from cloister.base.ids import ProjectId
from cloister.control.agreeing import ANSWER_WITHIN
from cloister.control.calling import Caller
from cloister.control.projects.holds import STANDING_MAX, Hold
from cloister.trust.audit.verify import Intact, verify
from tests.control.land import A_LOOK_S, ANOTHER, CALLER, PATIENCE_S, Land
from tests.control.projects.test_erasures import BY_A_KEY, agreed, asked, project, told
from tests.control.projects.test_statements import as_owner, events
from tests.fix_database import ControlDatabase

__all__ = ["project"]

WHY = "matter 17"
RECORD = [["SELECT 'Erika'", "SELECT 'Max'"]]


async def placed(land: Land, project: ProjectId, by: Caller = CALLER) -> Hold:
    found: Hold = await land.control.holds.place(by, project, WHY)
    return found


async def asked_to_lift(land: Land, hold: Hold, by: Caller = CALLER) -> Hold:
    found: Hold = await land.control.holds.ask_to_lift(by, ProjectId(hold.project_id), hold.id, "settled")
    return found


async def lifted(land: Land, hold: Hold, by: Caller = ANOTHER) -> Hold:
    found: Hold = await land.control.holds.lift(by, ProjectId(hold.project_id), hold.id)
    return found


async def test_what_is_held_is_not_erased_and_once_it_is_lifted_it_is(land: Land, project: ProjectId) -> None:
    """Neither what was asked for before, nor what is asked for since; another project's goes."""
    erasure = await asked(land, project)
    hold = await placed(land, project)
    with pytest.raises(UnprocessableError, match="legal hold"):
        await agreed(land, erasure)
    with pytest.raises(UnprocessableError, match="legal hold"):
        await asked(land, project)
    assert await told(land, project) == RECORD
    assert land.keys.erasures == []
    await asked(land, (await land.project()).project.id)

    assert (await asked_to_lift(land, hold)).lifted_at is None
    with pytest.raises(UnprocessableError, match="legal hold"):
        await agreed(land, erasure)
    done = await lifted(land, hold)
    assert (done.placed_by, done.lift_asked_by, done.lifted_by, done.lift_reason) == (
        "ada@example.org", "ada@example.org", "bob@example.org", "settled",
    )  # fmt: skip
    await agreed(land, erasure)
    assert await told(land, project) == [[]]
    for action in ("audit.hold", "audit.hold_lift_ask", "audit.hold_lift"):
        (event,) = await events(land, action)
        assert f'"resource":"hold/{hold.id}"' in event["body"]
    assert f'"asked_by":"{CALLER.principal.actor}"' in event["body"]
    assert isinstance(await verify(land.database), Intact)


async def test_one_of_two_holds_is_enough(land: Land, project: ProjectId) -> None:
    first, second = await placed(land, project), await placed(land, project, ANOTHER)
    await asked_to_lift(land, first)
    await lifted(land, first)
    with pytest.raises(UnprocessableError, match="legal hold"):
        await asked(land, project)
    assert [each.id for each in await land.control.holds.find(project)] == [second.id, first.id]


async def test_nobody_lifts_alone(land: Land, project: ProjectId) -> None:
    hold = await placed(land, project)
    with pytest.raises(ConflictError, match="nobody asked"):
        await lifted(land, hold)
    await asked_to_lift(land, hold)
    for caller in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9)), BY_A_KEY):
        with pytest.raises(ForbiddenError):
            await lifted(land, hold, caller)
    for act in (placed(land, project, BY_A_KEY), asked_to_lift(land, hold, BY_A_KEY)):
        with pytest.raises(ForbiddenError):
            await act
    assert await events(land, "audit.hold_lift") == []


async def test_what_was_asked_for_too_long_ago_or_elsewhere_or_twice_lifts_nothing(
    land: Land, project: ProjectId
) -> None:
    hold = await asked_to_lift(land, await placed(land, project))
    other = (await land.project()).project.id
    for wrong in (replace(hold, project_id=other), replace(hold, id=uuid4())):
        with pytest.raises(NotFoundError):
            await lifted(land, wrong)
    land.clock.advance(ANSWER_WITHIN + timedelta(minutes=1))
    with pytest.raises(ConflictError, match="too long ago"):
        await lifted(land, hold)
    land.clock.advance(-ANSWER_WITHIN)
    await lifted(land, hold)
    for again in (lifted(land, hold), asked_to_lift(land, hold)):
        with pytest.raises(ConflictError, match="already"):
            await again


async def test_there_are_so_many_and_no_more(land: Land, project: ProjectId) -> None:
    for _ in range(STANDING_MAX):
        await placed(land, project)
    with pytest.raises(ConflictError, match="already"):
        await placed(land, project)


async def test_a_project_that_is_held_is_neither_deleted_nor_given_away(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """Either would end the record, or let others lift the hold."""
    await placed(land, project)
    with pytest.raises(UnprocessableError, match="legal hold"):
        await land.control.projects.delete(CALLER, project)
    with pytest.raises(asyncpg.PostgresError, match="legal hold"):
        await as_owner(
            control_database,
            "INSERT INTO organization (id, name) VALUES ('org-2', 'Two'); UPDATE project SET org_id = 'org-2'",
        )


KEYS = {
    "the project's key": "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now() WHERE purpose = 'project'",
    "the statements' key": "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now() WHERE purpose = 'statements'",
    "a row of them": "DELETE FROM wrapped_key WHERE purpose = 'project'",
    "on a day": "UPDATE key_ring SET state = 'pending_destruction', destroy_at = now()",
}  # fmt: skip


@pytest.mark.parametrize("change", KEYS.values(), ids=KEYS)
async def test_the_keys_above_what_is_held_are_not_destroyed(
    land: Land, project: ProjectId, control_database: ControlDatabase, change: str
) -> None:
    """Not even by the database's owner in passing; and all of it works where nothing is held."""
    rows = f"""INSERT INTO wrapped_key (project_id, purpose, version, provider, root_version, state, wrapped)
                 VALUES ('{project}', 'project', 1, 'file', '1', 'enabled', '\\x01'), ('{project}', 'statements', 1, 'file', '1', 'enabled', '\\x01');
               INSERT INTO key_ring (project_id, rotated_at) VALUES ('{project}', now())"""
    await as_owner(control_database, rows)
    hold = await placed(land, project)
    with pytest.raises(asyncpg.PostgresError, match="legal hold"):
        await as_owner(control_database, change)
    await as_owner(control_database, "UPDATE key_ring SET state = 'disabled'")
    await asked_to_lift(land, hold)
    await lifted(land, hold)
    await as_owner(control_database, change)


@pytest.mark.parametrize("holds_first", [True, False])
async def test_of_a_hold_and_an_end_at_once_the_second_sees_the_first(
    land: Land, project: ProjectId, control_database: ControlDatabase, *, holds_first: bool
) -> None:
    """Neither service's lock is between them: the broker's way does not have it."""
    await as_owner(control_database, f"INSERT INTO key_ring (project_id, rotated_at) VALUES ('{project}', now())")
    hold = f"""INSERT INTO cloister.audit_hold (id, project_id, reason, placed_by)
               SELECT gen_random_uuid(), '{project}', 'matter 17', '{CALLER.principal.account_id}'"""
    end = "UPDATE cloister.key_ring SET state = 'pending_destruction', destroy_at = now()"
    first, second, watcher = [await asyncpg.connect(control_database.url()) for _ in range(3)]
    try:
        transaction = first.transaction()
        await transaction.start()
        await first.execute(hold if holds_first else end)
        waiting = asyncio.create_task(second.execute(end if holds_first else hold))
        async with asyncio.timeout(PATIENCE_S):
            while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not waiting.done(), "it must wait for the first"
                await asyncio.sleep(A_LOOK_S)
        await transaction.commit()
        if holds_first:
            with pytest.raises(asyncpg.PostgresError, match="legal hold"):
                await waiting
        else:
            await waiting
    finally:
        for each in (first, second, watcher):
            await each.close()


ALONE = {
    "by one's own word": "UPDATE audit_hold SET lifted_by = lift_asked_by",
    "asked and lifted at once": "UPDATE audit_hold SET lift_asked_by = lifter.id, lifted_by = audit_hold.lift_asked_by FROM account lifter WHERE lifter.email = 'bob@example.org'",
    "of another time": "UPDATE audit_hold SET lifted_at = now()",
    "taken away": "DELETE FROM audit_hold",
    "given to another": "UPDATE audit_hold SET project_id = project_id",
    "a reason is written over": "UPDATE audit_hold SET reason = 'nothing'",
    "born lifted": "INSERT INTO audit_hold (id, project_id, reason, placed_by, lifted_by) SELECT gen_random_uuid(), project_id, reason, placed_by, placed_by FROM audit_hold",
    "the rule": "ALTER TABLE audit_hold DISABLE TRIGGER ALL",
}  # fmt: skip


@pytest.mark.parametrize("change", ALONE.values(), ids=ALONE)
async def test_the_apis_own_process_lifts_nothing_alone(land: Land, project: ProjectId, change: str) -> None:
    """Threat: whoever took over the API's process. The database has the rule as well."""
    await asked_to_lift(land, await placed(land, project))
    with pytest.raises(Exception, match=r"permission denied|must be owner|as somebody asked|not_by_oneself"):
        async with land.database.transaction() as tx:
            await tx.execute(change)
    (hold,) = await land.control.holds.find(project)
    assert (hold.lifted_at, hold.reason) == (None, WHY)


OWNERS: dict[str, Any] = {
    "lifted before it is asked": ("UPDATE audit_hold SET lifted_by = placed_by", "check constraint"),
    "taken away": ("DELETE FROM audit_hold", "lifted once"),
    "changed": ("UPDATE audit_hold SET reason = 'nothing'", "lifted once"),
    "born lifted": ("""INSERT INTO audit_hold (id, project_id, reason, placed_by, lifted_by)
                       SELECT gen_random_uuid(), project_id, reason, placed_by, placed_by FROM audit_hold""", "stands when"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), OWNERS.values(), ids=OWNERS)
async def test_the_databases_owner_is_refused_as_well(
    land: Land, project: ProjectId, control_database: ControlDatabase, change: str, words: str
) -> None:
    """With a database of the operator's own, our processes have its owner's role."""
    await placed(land, project)
    with pytest.raises(asyncpg.PostgresError, match=words):
        await as_owner(control_database, change)
