"""Erasing one person in the log's own events: two people, one subject, and a log that says so and still verifies."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from cloister.base.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
)
from cloister.base.ids import ProjectId
from cloister.control.agreeing import ANSWER_WITHIN
from cloister.control.calling import Caller
from cloister.control.projects.forgetting import Forgetting, SubjectKind
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import PERSONAL_DETAILS
from cloister.trust.audit.personal import digest
from cloister.trust.audit.reader import Recorded
from cloister.trust.audit.reader import events as find
from cloister.trust.audit.verify import Intact, verify
from tests.control.land import ACCOUNT, ANOTHER, BOB, CALLER, Land
from tests.control.projects.test_erasures import BY_A_KEY

WHY = "Art. 17, ticket 4711"
ANNA, ELSEWHERE = "198.51.100.7", "203.0.113.9"


@pytest.fixture
async def project(land: Land) -> ProjectId:
    await land.add_another()
    project: ProjectId = (await land.project()).project.id
    await append(
        land,
        Event(action=Action.CONNECTION_OPENED, actor="role:anna", project_id=project, address=ANNA, details={"n": 1}),
        Event(action=Action.CONNECTION_OPENED, actor="role:app", project_id=project, address=ELSEWHERE),
        Event(action=Action.ROLE_CREATE, actor=f"user:{BOB}", project_id=project, address=ELSEWHERE, resource="anna"),
        Event(
            action=Action.ROLE_EMPOWER, actor="role:app", project_id=project, reason="BYPASSRLS", details={"to": "anna"}
        ),
        Event(action=Action.JWKS_CREATE, actor="key:7", project_id=project, details={"role_names": "app, anna"}),
        Event(action=Action.CONNECTION_OPENED, actor="role:anna", project_id="another", address=ANNA),
    )
    return project


async def append(land: Land, *events: Event) -> None:
    async with land.database.transaction() as tx:
        await record(tx, *events)


async def everything(land: Land, action: str | None = None) -> list[Recorded]:
    """Oldest first."""
    async with land.database.reading() as tx:
        return (await find(tx, action=action, limit=1000))[::-1]


async def asked(
    land: Land, project: ProjectId | None, kind: SubjectKind = SubjectKind.ROLE, subject: str = "anna"
) -> Forgetting:
    found: Forgetting = await land.control.forgettings.ask(CALLER, project, kind, subject, WHY)
    return found


async def agreed(land: Land, it: Forgetting, by: Caller = ANOTHER) -> Forgetting:
    project = None if it.project_id is None else ProjectId(it.project_id)
    found: Forgetting = await land.control.forgettings.agree(by, project, it.id)
    return found


def erased(events: list[Recorded], by: Forgetting) -> list[int]:
    return [it.seq for it in events if it.event.erasure == str(by.id)]


async def test_two_people_erase_a_role_and_the_log_holds_and_says_so(land: Land, project: ProjectId) -> None:
    """What was done, when, and by what kind of actor stays; her name, her address and her program do not. Others' do."""
    before = await everything(land)
    it = await asked(land, project)
    assert (it.subject, it.events, it.remaining, it.agreed_at) == ("anna", 4, 0, None)
    assert "anna" in str(await everything(land)), "to ask erases nothing"
    done = await agreed(land, it)
    assert (done.subject, done.events, done.asked_by, done.agreed_by) == (
        None, 4, "ada@example.org", "bob@example.org",
    )  # fmt: skip
    after = await everything(land)
    numbers = erased(after, it)
    assert len(numbers) == 4
    for old, new in zip(before, after, strict=False):
        assert new.hash == old.hash
        if new.seq in numbers:
            kept = replace_of(old.event, actor="role:" if old.event.actor.startswith("role:") else old.event.actor)
            details = {name: value for name, value in kept.details.items() if name not in PERSONAL_DETAILS}
            assert new.event == replace_of(kept, address="", resource="", details=details, erasure=str(it.id))
        else:
            assert new.event == old.event
    (told,) = [each.event for each in after if each.event.action == "audit.forget"]
    assert (told.actor, told.address, told.reason, told.project_id, told.request_id) == (
        f"user:{BOB}", "192.0.2.2", WHY, project, "request-2",
    )  # fmt: skip
    assert told.details | {"client": ""} == {
        "erasure": str(it.id), "asked_by": f"user:{ACCOUNT}", "kind": "role", "events": 4, "sha256": digest(numbers), "client": "",
    }  # fmt: skip
    assert [await verify(land.database)] == [Intact((await verify(land.database)).head, 4)]  # type: ignore[union-attr]
    (listed,) = await land.control.forgettings.find(project)
    assert listed == done
    assert await agreed(land, it) == done, "twice is once"


def replace_of(event: Event, **fields: Any) -> Event:
    return Event(**{name: getattr(event, name) for name in event.__struct_fields__} | fields)


async def test_an_address_goes_whoever_came_from_it_and_no_other_does(land: Land, project: ProjectId) -> None:
    """In the one project; and who asks for the whole log, in all."""
    it = await asked(land, project, SubjectKind.ADDRESS, ELSEWHERE)
    await agreed(land, it)
    events = await everything(land)
    assert [each.event.action for each in events if each.event.erasure] == ["connection.opened", "role.create"]
    assert [each.event.address for each in events if each.event.actor == "role:anna"] == [ANNA, ANNA]
    whole = await asked(land, None, SubjectKind.ADDRESS, f"::ffff:{ANNA}")
    assert whole.events == 2
    await agreed(land, whole)
    assert ANNA not in str([each.event for each in await everything(land)])
    assert isinstance(await verify(land.database), Intact)


ACCOUNTS: dict[str, Callable[[], str]] = {"by its address": lambda: "Bob@example.org", "by its id": lambda: str(BOB)}


@pytest.mark.parametrize("subject", ACCOUNTS.values(), ids=ACCOUNTS)
async def test_an_account_goes_where_it_acted_and_where_others_named_it(
    land: Land, project: ProjectId, subject: Callable[[], str]
) -> None:
    """Its id stays, in the actor: whose that is, the table of accounts says."""
    await append(
        land,
        Event(action=Action.SESSION_CREATE, actor=f"user:{BOB}", address=ANNA, details={"client": "Mozilla/5.0"}),
        Event(
            action=Action.MEMBER_ADD, actor=f"user:{ACCOUNT}", resource=str(BOB), details={"email": "bob@example.org"}
        ),
        Event(action=Action.ACCESS_DENY, actor=f"user:{ACCOUNT}", resource="r", details={"email": "BOB@example.org"}),
        Event(action=Action.ACCESS_DENY, actor=f"user:{ACCOUNT}", resource="r", details={"email": "eve@example.org"}),
    )
    it = await asked(land, None, SubjectKind.ACCOUNT, subject())
    assert (it.subject, it.events) == (str(BOB), 4)
    await agreed(land, it)
    events = await everything(land)
    assert [each.event.action for each in events if each.event.erasure] == [
        "role.create", "session.create", "member.add", "access.deny",
    ]  # fmt: skip
    told = [each.event for each in events if each.event.action != "audit.forget"]
    assert "bob@example.org" not in str(told).lower()
    assert "Mozilla" not in str(told)
    assert "eve@example.org" in str(told)


async def test_who_is_erased_in_part_is_erased_in_the_rest(land: Land, project: ProjectId) -> None:
    """What another erasure took is not taken again: it has its name in the log. Who agreed to that one can be forgotten, too."""
    await append(land, Event(action=Action.PROJECT_GET, actor=f"user:{BOB}", project_id=project, address=ANNA))
    await agreed(land, await asked(land, project, SubjectKind.ADDRESS, ELSEWHERE))
    it = await asked(land, None, SubjectKind.ACCOUNT, str(BOB))
    assert it.events == 2
    await agreed(land, it)
    bobs = [each.event for each in await everything(land) if each.event.actor == f"user:{BOB}"]
    assert [(each.action, each.erasure == str(it.id), each.erasure != "") for each in bobs] == [
        ("role.create", False, True), ("project.get", True, True), ("audit.forget", True, True), ("audit.forget", False, False),
    ]  # fmt: skip
    assert isinstance(await verify(land.database), Intact)


async def test_of_a_project_nobody_is_found_who_has_nothing_to_do_with_it(land: Land, project: ProjectId) -> None:
    """An admin of a project does not learn who has an account."""
    for unknown in ("bob@example.org", "nobody@example.org"):
        with pytest.raises(NotFoundError, match="nobody here"):
            await asked(land, project, SubjectKind.ACCOUNT, unknown)


@pytest.mark.parametrize(
    ("kind", "subject", "in_project"),
    [
        (SubjectKind.ADDRESS, "198.51.100.7/24", True),
        (SubjectKind.ADDRESS, "' OR 1", True),
        (SubjectKind.ROLE, "anna", False),
    ],
)
async def test_what_is_no_subject_is_refused(
    land: Land, project: ProjectId, kind: SubjectKind, subject: str, in_project: bool
) -> None:
    with pytest.raises(BadRequestError):
        await asked(land, project if in_project else None, kind, subject)


async def test_what_nobody_is_in_is_not_asked_for(land: Land, project: ProjectId) -> None:
    with pytest.raises(UnprocessableError, match="nothing"):
        await asked(land, project, SubjectKind.ROLE, "ann")


async def test_what_comes_after_the_question_is_not_erased(land: Land, project: ProjectId) -> None:
    """Who agrees agrees to what was asked for."""
    it = await asked(land, project)
    await append(land, Event(action=Action.CONNECTION_OPENED, actor="role:anna", project_id=project, address=ANNA))
    assert (await agreed(land, it)).events == 4
    assert (await everything(land))[-2].event.actor == "role:anna"


async def test_events_from_before_stay_and_are_counted(land: Land, project: ProjectId) -> None:
    async with land.database.transaction() as tx:
        body = f'{{"action":"connection.opened","actor":"role:anna","project_id":"{project}","address":"{ANNA}"}}'
        await tx.execute("SELECT audit_append(ARRAY[$1])", body)
    it = await asked(land, project)
    assert (it.events, it.remaining) == (4, 1)
    assert (await agreed(land, it)).remaining == 1
    assert (await everything(land))[-3].event.actor == "role:anna"


async def test_whoever_was_asked_about_is_forgotten_in_every_question(land: Land, project: ProjectId) -> None:
    """Also in one that nobody answered; that one cannot be agreed to any more."""
    first, second = await asked(land, project), await asked(land, project)
    await agreed(land, second)
    assert [it.subject for it in await land.control.forgettings.find(project)] == [None, None]
    with pytest.raises(UnprocessableError, match="nothing"):
        await agreed(land, first)


async def test_nobody_erases_alone(land: Land, project: ProjectId) -> None:
    """Not with another key of one's own, not with one that is nobody's."""
    it = await asked(land, project)
    for caller in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9)), BY_A_KEY):
        with pytest.raises(ForbiddenError):
            await agreed(land, it, caller)
    with pytest.raises(ForbiddenError):
        await land.control.forgettings.ask(BY_A_KEY, project, SubjectKind.ROLE, "anna", WHY)
    assert erased(await everything(land), it) == []


async def test_what_was_asked_for_too_long_ago_or_elsewhere_is_not_agreed_to(land: Land, project: ProjectId) -> None:
    it = await asked(land, project)
    other = (await land.project()).project.id
    for wrong in (replace(it, project_id=other), replace(it, project_id=None), replace(it, id=uuid4())):
        with pytest.raises(NotFoundError):
            await agreed(land, wrong)
    land.clock.advance(ANSWER_WITHIN + timedelta(minutes=1))
    with pytest.raises(ConflictError, match="too long ago"):
        await agreed(land, it)
    assert erased(await everything(land), it) == []


async def test_a_legal_hold_comes_before_both_of_them(land: Land, project: ProjectId) -> None:
    """Also before who erases in the whole log, of which the project is a part."""
    in_project, whole = await asked(land, project), await asked(land, None, SubjectKind.ADDRESS, ANNA)
    await land.control.holds.place(CALLER, project, "matter 17")
    for it in (in_project, whole):
        with pytest.raises(UnprocessableError, match="legal hold"):
            await agreed(land, it)
    with pytest.raises(UnprocessableError, match="legal hold"):
        await asked(land, project)
    events = await everything(land)
    assert not any(each.event.erasure for each in events)
    assert not any(each.event.action == "audit.forget" for each in events)
