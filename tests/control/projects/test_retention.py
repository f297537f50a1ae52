"""Retention: one person says longer, two say shorter, a week later; and what is old enough ends. On a real control database."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
)
from cloister.base.ids import OrgId, ProjectId
from cloister.control.agreeing import ANSWER_WITHIN
from cloister.control.calling import Caller
from cloister.control.projects.retention import DAYS_MIN, SHORTER_AFTER, Class, Retention
from cloister.trust.audit import events as bodies
from cloister.trust.audit.statements import verify_segments
from cloister.trust.audit.verify import Intact, verify
from tests.control.access.test_service import Scene, scene
from tests.control.land import ANOTHER, CALLER, ORG, Land
from tests.control.projects.test_erasures import BY_A_KEY, project, told
from tests.control.projects.test_holds import asked_to_lift, lifted, placed
from tests.control.projects.test_statements import as_owner, events, statement, tell
from tests.fix_database import ControlDatabase

__all__ = ["project", "scene"]

WHY = "records policy 3"
AGE = timedelta(days=500)

AGED = """ALTER TABLE statement_key DISABLE TRIGGER USER;
    UPDATE statement_key SET began_at = began_at - interval '500 days';
    ALTER TABLE statement_key ENABLE ALWAYS TRIGGER statement_key_ends, ENABLE ALWAYS TRIGGER statement_key_hold;
    UPDATE statement_segment SET sealed_at = sealed_at - interval '500 days';
    ALTER TABLE recording DISABLE TRIGGER USER;
    UPDATE recording SET written_at = written_at - interval '500 days';
    ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_ends, ENABLE ALWAYS TRIGGER recording_grows"""
A_WEEK_LATER = """ALTER TABLE audit_retention DISABLE TRIGGER USER;
    UPDATE audit_retention SET asked_at = asked_at - interval '8 days', agreed_at = agreed_at - interval '8 days',
                               holds_from = holds_from - interval '8 days';
    ALTER TABLE audit_retention ENABLE ALWAYS TRIGGER audit_retention_holds"""


async def said(land: Land, days: int | None, *, by: Caller = CALLER, what: Class = Class.STATEMENTS) -> Retention:
    found: Retention = await land.control.retentions.set(by, OrgId(ORG), what, days, WHY)
    return found


async def agreed(land: Land, retention: Retention, by: Caller = ANOTHER) -> Retention:
    found: Retention = await land.control.retentions.agree(
        by, retention.org_id and OrgId(retention.org_id), retention.id
    )
    return found


async def in_force(land: Land, what: Class = Class.STATEMENTS) -> int | None:
    async with land.database.reading() as tx:
        days: int | None = await tx.fetch_value("SELECT retention_of($1, $2)", ORG, what.value)
    return days


async def prune(land: Land) -> None:
    await land.plane.retention_keeper.pass_once()


@pytest.fixture
async def old(
    land: Land, control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch, project: ProjectId
) -> ProjectId:
    """A project with a month of 500 days ago, by every clock, and one of today. Its organization keeps 400 days."""
    other: ProjectId = (await land.project()).project.id
    with monkeypatch.context() as then:
        now = bodies.timestamp
        then.setattr(bodies, "timestamp", lambda moment: now(moment - AGE))
        await tell(land, statement(other, "SELECT 'old'"))
    await as_owner(control_database, AGED)
    await tell(land, statement(other, "SELECT 'new'"))
    await agreed(land, await said(land, 400))
    await as_owner(control_database, A_WEEK_LATER)
    # The fixture's own project was aged with it, and its events were not: it has no part in this.
    await placed(land, project)
    return other


async def test_for_longer_one_is_enough_and_it_holds_at_once(land: Land, project: ProjectId) -> None:
    """For less long it takes another, and a week; nothing is said of other records."""
    assert await in_force(land) is None
    first = await said(land, 400)
    assert (first.state, first.holds_from) == ("asked", None)
    shorter = await agreed(land, first)
    assert shorter.holds_from is not None
    assert shorter.state == "agreed"
    assert shorter.holds_from - shorter.asked_at >= SHORTER_AFTER
    assert await in_force(land) is None, "nothing is shorter yet"
    (asking,), (setting,) = await events(land, "audit.retention_ask"), await events(land, "audit.retention_set")
    assert '"days":400,"before":"forever"' in asking["body"]
    assert all(
        part in setting["body"]
        for part in ('"is_shorter":true', f'"asked_by":"{CALLER.principal.actor}"', '"holds_from":', WHY)
    )


async def test_whoever_minds_says_so_within_the_week(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """What is set for longer comes before what was agreed on earlier, and before what is agreed to afterwards."""
    shorter, unanswered = await said(land, 400), await said(land, 365)
    await agreed(land, shorter)
    keep = await said(land, None)
    assert keep.state == "holds"
    with pytest.raises(UnprocessableError, match="another retention was set since"):
        await agreed(land, unanswered)
    await as_owner(control_database, A_WEEK_LATER)
    assert await in_force(land) is None
    assert [each.state for each in await land.control.retentions.find(OrgId(ORG))] == ["holds", "over", "over"]


async def test_nobody_shortens_alone_or_below_a_year_or_too_late(land: Land, project: ProjectId) -> None:
    asked = await said(land, 400)
    for caller in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9)), BY_A_KEY):
        with pytest.raises(ForbiddenError):
            await agreed(land, asked, caller)
    with pytest.raises(ForbiddenError):
        await said(land, 400, by=BY_A_KEY)
    for days in (DAYS_MIN - 1, 0, -1):
        with pytest.raises(BadRequestError):
            await said(land, days)
        with pytest.raises(BadRequestError):
            await land.control.retentions.preview(OrgId(ORG), Class.STATEMENTS, days)
    for wrong in (replace(asked, id=uuid4()), replace(asked, org_id="org-other-forest-12345678")):
        with pytest.raises(NotFoundError):
            await agreed(land, wrong)
    land.clock.advance(ANSWER_WITHIN + timedelta(minutes=1))
    with pytest.raises(ConflictError, match="too long ago"):
        await agreed(land, asked)
    assert await in_force(land) is None


async def test_what_is_old_ends_and_the_log_holds_and_says_so(land: Land, old: ProjectId) -> None:
    """The dry run says what goes; a second pass finds nothing."""
    found = await land.control.retentions.preview(OrgId(ORG), Class.STATEMENTS, None)
    assert {(each.project_id == old, each.resource, each.is_held) for each in found} == {
        (True, "statement_key/1", False),
        (False, "statement_key/1", True),
    }
    assert await land.control.retentions.preview(OrgId(ORG), Class.STATEMENTS, 501) == []
    await prune(land)
    await prune(land)
    assert await told(land, old) == [["SELECT 'new'"], []]
    assert land.keys.erasures == [(old, "platform:api")]
    (event,) = await events(land, "audit.prune")
    assert all(
        part in event["body"]
        for part in ('"actor":"platform:api"', '"resource":"statement_key/1"', '"class":"statements"', '"statements":1',
                     '"first_at":', '"last_at":', '"head":"')
    )  # fmt: skip
    assert isinstance(await verify(land.database), Intact)
    held = await verify_segments(land.database)
    assert (held.erased, held.wrong) == (1, None)


async def test_what_is_held_stays_however_old_until_two_lift_it(land: Land, old: ProjectId) -> None:
    hold = await placed(land, old)
    await prune(land)
    assert await told(land, old) == [["SELECT 'new'"], ["SELECT 'old'"]]
    await asked_to_lift(land, hold)
    await lifted(land, hold)
    await prune(land)
    assert await told(land, old) == [["SELECT 'new'"], []]


async def test_where_we_die_the_next_goes_on(land: Land, old: ProjectId, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the commit nothing has happened; after it, the broker finds what has ended when it next looks."""

    async def dies(*_: Any) -> int:
        raise CloisterError("and dies")

    with monkeypatch.context() as patched:
        patched.setattr("cloister.control.projects.retention.record", dies)
        await prune(land)
    assert await told(land, old) == [["SELECT 'new'"], ["SELECT 'old'"]]
    with monkeypatch.context() as patched:
        patched.setattr(land.keys, "erase_statements", dies)
        await prune(land)
    assert await told(land, old) == [["SELECT 'new'"], []]
    await prune(land)
    assert len(await events(land, "audit.prune")) == 1, "twice is once"
    assert (await verify_segments(land.database)).wrong is None


async def test_a_recording_ends_by_its_age_and_only_by_that(
    land: Land, scene: Scene, control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it goes on, not because a process says that it ended long ago."""
    await land.add_another()
    await agreed(land, await said(land, 400, what=Class.RECORDINGS))
    await as_owner(control_database, A_WEEK_LATER)
    request = await scene.approved()
    with monkeypatch.context() as then:
        now = bodies.timestamp
        then.setattr(bodies, "timestamp", lambda moment: now(moment - AGE))
        first, open_, dated_back = [await scene.begin(request) for _ in range(3)]
        await scene.append(first, 0)
        await scene.end(first)
    await prune(land)
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE recording SET ended_at = '2001-01-01' WHERE id = $1", UUID(dated_back))
    for change in ("SET wrapped_key = NULL", "SET written_at = '2001-01-01'"):
        with pytest.raises(UnprocessableError, match=r"as its organization says|does not change"):
            async with land.database.transaction() as tx:
                await tx.execute(f"UPDATE recording {change} WHERE id = $1", UUID(dated_back))
    assert await events(land, "audit.prune") == []
    await as_owner(control_database, AGED)
    hold = await placed(land, scene.project_id)
    with pytest.raises(asyncpg.PostgresError, match="legal hold"):
        await as_owner(control_database, "UPDATE recording SET wrapped_key = NULL WHERE ended_at IS NOT NULL")
    await asked_to_lift(land, hold)
    await lifted(land, hold)
    await prune(land)
    event, _ = await events(land, "audit.prune")
    assert f'"resource":"recording/{first}"' in event["body"]
    with pytest.raises(ConflictError, match="erased on"):
        await scene.access.replay(CALLER, scene.project_id, UUID(first))
    await scene.access.replay(CALLER, scene.project_id, UUID(open_))
    listed = {str(each.id): each.erased_at for each in await scene.access.recordings(scene.project_id, None)}
    assert listed[first] is not None
    assert listed[open_] is None
    assert (await verify_segments(land.database)).wrong is None


async def test_a_project_is_given_to_nobody_who_keeps_its_record_for_less_long(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """Nor to who is about to. Otherwise whoever is an admin of two organizations would need nobody else."""
    give = "UPDATE project SET org_id = 'org-2'"
    shorter = f"""INSERT INTO organization (id, name) VALUES ('org-2', 'Two');
        INSERT INTO audit_retention (id, org_id, class, days, reason, asked_by)
        SELECT gen_random_uuid(), 'org-2', 'recordings', 400, 'why', '{CALLER.principal.account_id}';
        UPDATE audit_retention SET agreed_by = '{ANOTHER.principal.account_id}'"""
    await as_owner(control_database, shorter)
    with pytest.raises(asyncpg.PostgresError, match="kept for less long there"):
        await as_owner(control_database, give)
    await as_owner(control_database, A_WEEK_LATER)
    with pytest.raises(asyncpg.PostgresError, match="kept for less long there"):
        await as_owner(control_database, give)
    await as_owner(control_database, f"INSERT INTO audit_retention (id, org_id, class, days, reason, asked_by) SELECT gen_random_uuid(), org_id, class, NULL, reason, asked_by FROM audit_retention; {give}")  # fmt: skip


ALONE = {
    "a year is too long": ("INSERT INTO audit_retention (id, org_id, class, days, reason, asked_by) SELECT gen_random_uuid(), org_id, class, 30, reason, asked_by FROM audit_retention", "check constraint"),
    "by one's own word": ("UPDATE audit_retention SET agreed_by = asked_by", "not_by_oneself"),
    "at once": ("UPDATE audit_retention SET agreed_by = (SELECT id FROM account WHERE email = 'bob@example.org'), holds_from = now()", "permission denied"),
    "another number of days": ("UPDATE audit_retention SET days = 365", "permission denied"),
    "taken away": ("DELETE FROM audit_retention", "permission denied"),
    "a key that is not old": ("UPDATE statement_key SET wrapped = NULL", "nobody agreed"),
    "the rule": ("ALTER TABLE audit_retention DISABLE TRIGGER ALL", "must be owner"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), ALONE.values(), ids=ALONE)
async def test_the_apis_own_process_shortens_nothing_alone(
    land: Land, project: ProjectId, change: str, words: str
) -> None:
    """Threat: whoever took over the API's process. The database has the rule as well."""
    await said(land, 400)
    with pytest.raises(Exception, match=words):
        async with land.database.transaction() as tx:
            await tx.execute(change)
    assert await in_force(land) is None


OWNERS = {
    "what was agreed on is changed": ("UPDATE audit_retention SET days = 365 WHERE holds_from IS NOT NULL", "agreed to once"),
    "what was said is taken away": ("DELETE FROM audit_retention", "history"),
    "born agreed to": ("INSERT INTO audit_retention (id, org_id, class, number, days, reason, asked_by, agreed_by, agreed_at, holds_from) SELECT gen_random_uuid(), org_id, class, 9, 365, reason, asked_by, agreed_by, agreed_at, holds_from FROM audit_retention", "after it was asked for"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), OWNERS.values(), ids=OWNERS)
async def test_the_databases_owner_is_refused_as_well(
    land: Land, project: ProjectId, control_database: ControlDatabase, change: str, words: str
) -> None:
    """With a database of the operator's own, our processes have its owner's role."""
    await agreed(land, await said(land, 400))
    with pytest.raises(asyncpg.PostgresError, match=words):
        await as_owner(control_database, change)


WRONG = {
    "in silence": ("""ALTER TABLE recording DISABLE TRIGGER USER;
                      UPDATE recording SET wrapped_key = NULL, erased_at = now()""", "no event says so"),
    "before its time": (AGED, "younger than a year"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
async def test_verifying_finds_what_ended_in_silence_or_too_early(
    land: Land, scene: Scene, control_database: ControlDatabase, change: str, words: str
) -> None:
    """By whoever rules the control database and makes things look older than the log says."""
    await land.add_another()
    await agreed(land, await said(land, 400, what=Class.RECORDINGS))
    await as_owner(control_database, A_WEEK_LATER)
    await scene.end(await scene.begin(await scene.approved()))
    assert (await verify_segments(land.database)).wrong is None
    await as_owner(control_database, change)
    await prune(land)
    assert words in str((await verify_segments(land.database)).wrong)


async def test_verifying_finds_a_month_that_ended_too_early(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    await agreed(land, await said(land, 400))
    await as_owner(control_database, A_WEEK_LATER)
    await as_owner(control_database, AGED)
    await prune(land)
    assert "statement_key/1" in str((await verify_segments(land.database)).wrong)


async def test_two_operators_let_the_logs_own_events_end(
    land: Land, project: ProjectId, control_database: ControlDatabase
) -> None:
    """As with an organization's record, and not among them: 400 days at least, the second person, a week."""
    retentions = land.control.retentions
    with pytest.raises(BadRequestError):
        await said(land, 800, what=Class.EVENTS)
    with pytest.raises(BadRequestError):
        await retentions.set(CALLER, None, Class.STATEMENTS, 800, WHY)
    for days in (399, 36_501):
        with pytest.raises(BadRequestError):
            await retentions.set(CALLER, None, Class.EVENTS, days, WHY)
    asked = await retentions.set(CALLER, None, Class.EVENTS, 400, WHY)
    assert (asked.org_id, asked.state) == (None, "asked")
    with pytest.raises(ForbiddenError):
        await retentions.agree(CALLER, None, asked.id)
    with pytest.raises(NotFoundError):
        await retentions.agree(ANOTHER, OrgId(ORG), asked.id)
    assert (await retentions.agree(ANOTHER, None, asked.id)).state == "agreed"
    await as_owner(control_database, A_WEEK_LATER)
    assert [each.state for each in await retentions.find(None)] == ["holds"]
    assert await retentions.find(OrgId(ORG)) == []
    seen = await retentions.preview_events(None)
    assert (seen.pruned, seen.up_to, seen.kept_by, seen.announced) == (0, 0, "age", None)
    assert (await retentions.set(CALLER, None, Class.EVENTS, None, WHY)).state == "holds"
