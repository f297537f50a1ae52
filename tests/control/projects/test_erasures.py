"""Erasing recorded statements: two people, whole months, and a log that says so and still verifies. On a real control database."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from cloister.base.database import Transaction
from cloister.base.errors import CloisterError, ConflictError, ForbiddenError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.agreeing import ANSWER_WITHIN
from cloister.control.calling import Caller
from cloister.control.projects import erasures as module
from cloister.control.projects.erasures import Erasure
from cloister.trust.access.principals import Holder
from cloister.trust.audit import Event, record, statements
from cloister.trust.audit.statements import verify_segments
from cloister.trust.audit.verify import Intact, verify
from tests.control.land import ANOTHER, BOB, CALLER, Land
from tests.control.projects.test_statements import A_MONTH_AGO, as_owner, events, segments, statement, tell
from tests.fix_database import ControlDatabase
from tests.waiting import until_it_waits

BY_A_KEY = Caller(replace(ANOTHER.principal, holder=Holder.ORGANIZATION), "request-3", "192.0.2.3", CALLER.grants)
WHY = "Art. 17, ticket 4711"


@pytest.fixture
async def project(land: Land) -> ProjectId:
    await land.add_another()
    project: ProjectId = (await land.project()).project.id
    await tell(land, statement(project, "SELECT 'Erika'"), statement(project, "SELECT 'Max'"))
    return project


async def asked(land: Land, project: ProjectId, up_to: datetime | None = None) -> Erasure:
    found: Erasure = await land.control.erasures.ask(CALLER, project, WHY, up_to)
    return found


async def agreed(land: Land, erasure: Erasure, by: Caller = ANOTHER) -> Erasure:
    found: Erasure = await land.control.erasures.agree(by, ProjectId(erasure.project_id), erasure.id)
    return found


async def told(land: Land, project: ProjectId) -> list[list[str]]:
    return [[each.text for each in segment.statements] for segment in await segments(land, project)]


async def test_two_people_erase_and_the_log_holds_and_says_so(land: Land, project: ProjectId) -> None:
    """Nothing is left but how much it was; what comes after is recorded under another key."""
    other = (await land.project()).project.id
    await tell(land, statement(other, "theirs"))
    erasure = await asked(land, project)
    assert (erasure.agreed_at, erasure.segments) == (None, 0)
    assert await told(land, project) == [["SELECT 'Erika'", "SELECT 'Max'"]], "to ask erases nothing"
    done = await agreed(land, erasure)
    assert (done.asked_by, done.agreed_by, done.segments, done.statements) == (
        "ada@example.org", "bob@example.org", 1, 2,
    )  # fmt: skip
    assert land.keys.erasures == [(project, ANOTHER.principal.actor)]
    await tell(land, statement(project, "after"))
    newest, oldest = await segments(land, project)
    assert [each.text for each in newest.statements] == ["after"]
    assert (oldest.statements, oldest.count, oldest.erased_at) == ([], 2, done.agreed_at)
    assert await told(land, other) == [["theirs"]]
    (event,) = await events(land, "audit.erase")
    assert all(
        part in event["body"]
        for part in (f'"actor":"user:{BOB}"', f'"reason":"{WHY}"', '"resource":"statement_key/1"', '"statements":2',
                     f'"asked_by":"{CALLER.principal.actor}"')
    )  # fmt: skip
    assert isinstance(await verify(land.database), Intact)
    held = await verify_segments(land.database)
    assert (held.segments, held.erased, held.wrong) == (3, 1, None)
    (listed,) = await land.control.erasures.find(project)
    assert listed == done


async def test_nobody_erases_alone(land: Land, project: ProjectId) -> None:
    """Not with another key of one's own, not with one that is nobody's; and who may not ask, may not agree."""
    erasure = await asked(land, project)
    for caller in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9)), BY_A_KEY):
        with pytest.raises(ForbiddenError):
            await agreed(land, erasure, caller)
    with pytest.raises(ForbiddenError):
        await land.control.erasures.ask(BY_A_KEY, project, WHY, None)
    assert land.keys.erasures == []
    assert await events(land, "audit.erase") == []
    assert len((await told(land, project))[0]) == 2


async def test_what_was_asked_for_too_long_ago_or_elsewhere_is_not_agreed_to(land: Land, project: ProjectId) -> None:
    erasure = await asked(land, project)
    other = (await land.project()).project.id
    for wrong in (replace(erasure, project_id=other), replace(erasure, id=uuid4())):
        with pytest.raises(NotFoundError):
            await agreed(land, wrong)
    land.clock.advance(ANSWER_WITHIN + timedelta(minutes=1))
    with pytest.raises(ConflictError, match="too long ago"):
        await agreed(land, erasure)
    assert len((await told(land, project))[0]) == 2


async def test_months_that_were_over_are_erased_and_no_other(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    await as_owner(control_database, A_MONTH_AGO)
    await tell(land, statement(project, "new"))
    nothing = await asked(land, project, datetime.now(UTC) - timedelta(days=300))
    with pytest.raises(ConflictError, match="nothing"):
        await agreed(land, nothing)
    assert (await agreed(land, await asked(land, project, datetime.now(UTC) - timedelta(days=1)))).segments == 1
    assert await told(land, project) == [["new"], []]


async def test_where_the_broker_is_away_it_is_erased_and_agreeing_again_waits_for_it(
    land: Land, project: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    erasure = await asked(land, project)

    async def away(*_: Any) -> int:
        raise CloisterError("the broker is away")

    with monkeypatch.context() as patched:
        patched.setattr(land.keys, "erase_statements", away)
        with pytest.raises(CloisterError):
            await agreed(land, erasure)
    assert await told(land, project) == [[]]
    await agreed(land, erasure)
    assert len(land.keys.erasures) == 1
    assert len(await events(land, "audit.erase")) == 1, "twice is once"


ALONE = {
    "a key ends and nobody agreed": "UPDATE statement_key SET wrapped = NULL",
    "a key ends by somebody's own word": "UPDATE statement_erasure SET agreed_by = asked_by",
    "what was agreed to before is used again": "UPDATE statement_key SET wrapped = NULL",
    "a key is exchanged": "UPDATE statement_key SET wrapped = '\\x00'",
    "an agreement is made up whole": """INSERT INTO statement_erasure (id, project_id, reason, asked_by, agreed_by, agreed_at)
        SELECT gen_random_uuid(), project_id, reason, asked_by, asked_by, now() FROM statement_erasure""",
    "an agreement is of another time": "UPDATE statement_erasure SET agreed_at = now() + interval '1 hour'",
    "a reason is written over": "UPDATE statement_erasure SET reason = 'nothing'",
    "it is as if nobody had asked": "DELETE FROM statement_erasure",
    "a segment is taken away": "DELETE FROM statement_segment",
}


@pytest.mark.parametrize("change", ALONE.values(), ids=ALONE)
async def test_the_apis_own_process_erases_nothing_alone(land: Land, project: ProjectId, change: str) -> None:
    """Threat: whoever took over the API's process. The database has the rule as well."""
    await agreed(land, await asked(land, project))
    await tell(land, statement(project, "after"))
    await asked(land, project)
    with pytest.raises(Exception, match=r"permission denied|agree|does not change|once|not_by_oneself"):
        async with land.database.transaction() as tx:
            await tx.execute(change)
    assert await told(land, project) == [["after"], []]


WRONG = {
    "edited": ("UPDATE statement_segment SET body = set_byte(body, 40, get_byte(body, 40) # 1)", "not what was sealed"),
    "taken away": ("DELETE FROM statement_segment", "gone"),
    "put in": ("INSERT INTO statement_segment (project_id, statements, body) SELECT project_id, 1, body FROM statement_segment",
               "never sealed"),
    "given to another": ("""UPDATE statement_segment SET generation = NULL,
                              project_id = (SELECT min(id) FROM project p WHERE p.id <> project_id)""", "never sealed"),
    "erased in silence": ("""ALTER TABLE statement_key DISABLE TRIGGER USER;
                             UPDATE statement_key SET wrapped = NULL, erased_at = now()""", "no event says so"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
async def test_verifying_finds_what_was_done_to_segments(
    land: Land, project: ProjectId, control_database: ControlDatabase, change: str, words: str
) -> None:
    """By whoever rules the control database, and without any key."""
    await land.project()
    assert (await verify_segments(land.database)).wrong is None
    await as_owner(control_database, change)
    assert words in str((await verify_segments(land.database)).wrong)


async def test_what_is_said_while_somebody_erases_is_sealed_for_the_next_key(
    land: Land, project: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    erasure = await asked(land, project)
    async with asyncio.TaskGroup() as tasks:

        async def said_meanwhile(tx: Transaction, *events: Event) -> int:
            await until_it_waits(tx, tasks.create_task(tell(land, statement(project, "after"))))
            return await record(tx, *events)

        monkeypatch.setattr(module, "record", said_meanwhile)
        await agreed(land, erasure)
    assert await told(land, project) == [["after"], []]


async def test_what_was_just_said_when_somebody_erases_is_told_among_what_was_erased(
    land: Land, project: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    erasure = await asked(land, project)
    async with asyncio.TaskGroup() as tasks:

        async def erased_meanwhile(tx: Transaction, *events: Event) -> int:
            await until_it_waits(tx, tasks.create_task(agreed(land, erasure)))
            return await record(tx, *events)

        monkeypatch.setattr(statements, "record", erased_meanwhile)
        await tell(land, statement(project, "before"))
    assert await told(land, project) == [[], []]
    (event,) = await events(land, "audit.erase")
    assert '"segments":2,"statements":3' in event["body"]
