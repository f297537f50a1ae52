"""Access reviews over a real control database: what is asked, what an answer does, and what nobody can answer."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
)
from cloister.control.access import store as access
from cloister.control.access.model import Shift
from cloister.control.calling import Caller
from cloister.control.organizations.model import Invitation
from cloister.control.organizations.service import OrganizationService
from cloister.control.reviews.keeper import ReviewKeeper
from cloister.control.reviews.model import Decision, Review
from cloister.control.reviews.service import ReviewService
from cloister.trust.access.keys import ApiKeys, NewKey
from cloister.trust.access.principals import Principal
from tests.control.organizations.test_service import ADA, BOB, CALLER, EVE, HERE, SHOP, THERE, log, project, roles
from tests.fix_database import ControlDatabase

BOBS_CALLER = Caller(Principal(BOB, 2, "bob@example.com", "Bob", {HERE: "admin"}), "req-2", "192.0.2.8")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(database: Database, clock: FakeClock) -> ReviewService:
    return ReviewService(database, clock)


@pytest.fixture
def organizations(database: Database, clock: FakeClock) -> OrganizationService:
    return OrganizationService(database, clock)


@pytest.fixture
def keys(database: Database, clock: FakeClock) -> ApiKeys:
    return ApiKeys(database, clock)


@pytest.fixture
def keeper(database: Database, clock: FakeClock) -> ReviewKeeper:
    return ReviewKeeper(database, clock)


async def start(service: ReviewService, *, lapses: bool = True) -> Review:
    return await service.start(CALLER, HERE, answer_days=14, lapses=lapses)


def number_of(review: Review, kind: str, whose: object = None) -> int:
    (found,) = [it.number for it in review.items if it.kind == kind and whose in (None, it.account_id)]
    return found


def answers(review: Review) -> dict[str, str | None]:
    return {f"{it.kind} {it.facts.get('email') or it.facts['name']}": it.decision for it in review.items}


async def test_every_right_is_asked_about(
    service: ReviewService, organizations: OrganizationService, keys: ApiKeys, database: Database, clock: FakeClock
) -> None:
    await organizations.invite(CALLER, HERE, [Invitation("eve@example.com", "collaborator")])
    await organizations.grant(CALLER, await project(database), "eve@example.com", "viewer", may_add_members=False)
    await keys.create(CALLER, NewKey(name="ci", org_id=HERE))
    await keys.create(CALLER, NewKey(name="app", org_id=HERE, project_id=SHOP))
    revoked, _ = await keys.create(CALLER, NewKey(name="old", org_id=HERE))
    await keys.revoke(CALLER, revoked.id, HERE)
    await keys.create(CALLER, NewKey(name="adas own"))
    now = clock.now()
    for number, until in enumerate((now + timedelta(days=1), now - timedelta(days=1))):
        shift = Shift(
            id=UUID(int=90 + number),
            org_id=HERE,
            account_id=BOB,
            email="bob@example.com",
            starts_at=now - timedelta(days=2),
            ends_at=until,
        )
        async with database.transaction() as tx:
            await access.add_shift(tx, shift)

    review = await start(service)
    assert [(it.kind, it.facts.get("email") or it.facts["name"]) for it in review.items] == [
        ("member", "ada@example.com"),
        ("member", "bob@example.com"),
        ("member", "eve@example.com"),
        ("grant", "eve@example.com"),
        ("key", "ci"),
        ("key", "app"),
        ("shift", "bob@example.com"),
    ]
    assert [it.number for it in review.items] == list(range(1, 8))
    assert (await log(database))[-1][0] == "review.start"
    assert (await service.find(HERE))[0] == review
    assert not await service.find(THERE)
    with pytest.raises(NotFoundError):
        await service.get(THERE, review.id)
    with pytest.raises(ConflictError):
        await start(service)


async def test_a_role_that_groups_give_says_so(service: ReviewService, database: Database, clock: FakeClock) -> None:
    """Whoever takes it back must know that the next login brings it again, unless the group goes."""
    async with database.transaction() as tx:
        issuer_id = await tx.fetch_value(
            """INSERT INTO issuer (id, name, url, client_id, domains, groups_claim, session_s, created_at)
               VALUES (gen_random_uuid(), 'company', 'https://login.example.com', 'cloister', '{}', 'groups', 28800, $1)
               RETURNING id""",
            clock.now(),
        )
        await tx.execute("UPDATE membership SET issuer_id = $1 WHERE account_id = $2", issuer_id, BOB)
    review = await start(service)
    by = {it.facts["email"]: it.facts["by_groups_of"] for it in review.items if it.kind == "member"}
    assert by == {"ada@example.com": None, "bob@example.com": "company"}


async def test_what_is_removed_is_gone_at_once(
    service: ReviewService, organizations: OrganizationService, keys: ApiKeys, database: Database
) -> None:
    await organizations.invite(CALLER, HERE, [Invitation("eve@example.com", "collaborator")])
    await organizations.grant(CALLER, await project(database), "eve@example.com", "viewer", may_add_members=False)
    _, key = await keys.create(CALLER, NewKey(name="ci", org_id=HERE))
    review = await start(service)

    async def remove(number: int) -> Review:
        return await service.decide(CALLER, HERE, review.id, number, keeps=False, note="left")

    await remove(number_of(review, "grant"))
    assert not await organizations.grants(SHOP)
    await remove(number_of(review, "key"))
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(key.reveal(), "::1")
    await remove(number_of(review, "member", EVE))
    assert set(await roles(organizations)) == {"ada@example.com", "bob@example.com"}
    actions = [action for action, _, _ in await log(database)]
    for action in ("access.revoke", "api_key.revoke", "member.remove"):
        assert actions[actions.index(action) + 1] == "review.decide"
    decided = await service.get(HERE, review.id)
    assert {(it.decision, it.decided_by, it.note) for it in decided.items if it.decision} == {
        ("removed", "ada@example.com", "left")
    }


async def test_what_was_taken_back_before_is_gone(service: ReviewService, organizations: OrganizationService) -> None:
    review = await start(service)
    await organizations.remove(CALLER, HERE, BOB)
    decided = await service.decide(CALLER, HERE, review.id, number_of(review, "member", BOB), keeps=False, note="")
    assert answers(decided)["member bob@example.com"] == Decision.GONE


async def test_nobody_answers_for_their_own(service: ReviewService, database: Database) -> None:
    review = await start(service)
    mine = number_of(review, "member", ADA)
    for keeps in (True, False):
        with pytest.raises(ForbiddenError, match="their own"):
            await service.decide(CALLER, HERE, review.id, mine, keeps=keeps, note="")
    other_key = replace(CALLER, principal=replace(CALLER.principal, key_id=77))
    with pytest.raises(ForbiddenError):
        await service.decide(other_key, HERE, review.id, mine, keeps=True, note="")
    with pytest.raises(asyncpg.CheckViolationError, match="not_by_oneself"):
        async with database.transaction() as tx:
            await tx.execute(
                """UPDATE access_review_item SET decision = 'kept', decided_by = $2, decided_at = now()
                    WHERE review_id = $1 AND number = $3""",
                review.id, ADA, mine,
            )  # fmt: skip


async def test_an_answer_stays(service: ReviewService, control_database: ControlDatabase) -> None:
    review = await start(service)
    number = number_of(review, "member", BOB)
    await service.decide(CALLER, HERE, review.id, number, keeps=True, note="")
    with pytest.raises(ConflictError):
        await service.decide(CALLER, HERE, review.id, number, keeps=False, note="")
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        for statement in (
            "UPDATE cloister.access_review_item SET decision = 'removed'",
            "UPDATE cloister.access_review_item SET facts = '{}'",
            "UPDATE cloister.access_review_item SET account_id = NULL",
            "UPDATE cloister.access_review SET lapses = false",
            "UPDATE cloister.access_review SET due_at = due_at + interval '1 year'",
            "UPDATE cloister.access_review SET closed_at = now(), report = 'fine', digest = 'x'",
            "DELETE FROM cloister.access_review_item",
        ):
            with pytest.raises((asyncpg.PostgresError,)):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_it_ends_when_everything_is_answered_and_leaves_a_report(
    service: ReviewService, organizations: OrganizationService, database: Database
) -> None:
    await organizations.change_role(CALLER, HERE, BOB, "admin")
    review = await start(service)
    await service.decide(CALLER, HERE, review.id, number_of(review, "member", BOB), keeps=True, note="")
    with pytest.raises(ConflictError, match="1 of 2"):
        await service.close(CALLER, HERE, review.id)
    await service.decide(BOBS_CALLER, HERE, review.id, number_of(review, "member", ADA), keeps=True, note="ours")
    closed = await service.close(CALLER, HERE, review.id)
    assert closed.report is not None
    action, resource, details = (await log(database))[-1]
    assert (action, resource) == ("review.close", str(review.id))
    assert details["sha256"] == closed.digest == hashlib.sha256(closed.report.encode()).hexdigest()
    assert (details["kept"], details["lapsed"]) == (2, 0)
    said = json.loads(closed.report)
    assert [(it["facts"]["email"], it["decision"], it["decided_by"], it["note"]) for it in said["items"]] == [
        ("ada@example.com", "kept", "bob@example.com", "ours"),
        ("bob@example.com", "kept", "ada@example.com", ""),
    ]
    for attempt in (
        service.close(CALLER, HERE, review.id),
        service.decide(CALLER, HERE, review.id, 1, keeps=True, note=""),
    ):
        with pytest.raises(ConflictError):
            await attempt


async def test_what_nobody_answers_for_lapses_and_the_last_admin_stays(  # noqa: PLR0917 - fixtures
    service: ReviewService,
    organizations: OrganizationService,
    keys: ApiKeys,
    keeper: ReviewKeeper,
    database: Database,
    clock: FakeClock,
) -> None:
    _, key = await keys.create(CALLER, NewKey(name="ci", org_id=HERE))
    review = await start(service)
    clock.advance(timedelta(days=14) - timedelta(seconds=1))
    await keeper.pass_once()
    assert (await service.get(HERE, review.id)).closed_at is None
    clock.advance(timedelta(seconds=1))
    with pytest.raises(ConflictError):
        await service.decide(CALLER, HERE, review.id, number_of(review, "member", BOB), keeps=True, note="late")
    await keeper.pass_once()
    closed = await service.get(HERE, review.id)
    assert answers(closed) == {
        "member ada@example.com": Decision.HELD,
        "member bob@example.com": Decision.LAPSED,
        "key ci": Decision.LAPSED,
    }
    assert await roles(organizations) == {"ada@example.com": "admin"}
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(key.reveal(), "::1")
    assert [action for action, _, _ in await log(database)][-3:] == ["member.remove", "api_key.revoke", "review.close"]


async def test_of_two_admins_whom_nobody_answers_for_one_stays(
    service: ReviewService, organizations: OrganizationService, keeper: ReviewKeeper, clock: FakeClock
) -> None:
    await organizations.change_role(CALLER, HERE, BOB, "admin")
    await start(service)
    clock.advance(timedelta(days=15))
    await keeper.pass_once()
    assert len(await roles(organizations)) == 1


async def test_one_that_only_reports_takes_nothing(
    service: ReviewService, organizations: OrganizationService, keeper: ReviewKeeper, clock: FakeClock
) -> None:
    review = await start(service, lapses=False)
    clock.advance(timedelta(days=15))
    await keeper.pass_once()
    closed = await service.get(HERE, review.id)
    assert set(answers(closed).values()) == {Decision.UNANSWERED}
    assert len(await roles(organizations)) == 2


async def test_a_policy_begins_them(
    service: ReviewService, keeper: ReviewKeeper, database: Database, clock: FakeClock
) -> None:
    with pytest.raises(NotFoundError):
        await service.policy(HERE)
    for every, answer in ((6, 1), (367, 14), (30, 30), (90, 0), (90, 61)):
        with pytest.raises(BadRequestError):
            await service.set_policy(CALLER, HERE, every_days=every, answer_days=answer, lapses=False)
    await service.set_policy(CALLER, HERE, every_days=90, answer_days=14, lapses=False)
    await keeper.pass_once()
    assert not await service.find(HERE)
    began = []
    for _ in range(365):
        clock.advance(timedelta(days=1))
        await keeper.pass_once()
        began.append(len(await service.find(HERE)))
    assert began[-1] == 4
    assert began[89 - 1] == 0
    assert began[90 - 1] == 1
    assert [each.closed_at is None for each in await service.find(HERE)] == [True, False, False, False]
    assert await service.remove_policy(CALLER, HERE)
    clock.advance(timedelta(days=400))
    await keeper.pass_once()
    assert len(await service.find(HERE)) == 4
    by = {action for action, _, _ in await log(database)}
    assert {"review.policy", "review.start", "review.close"} <= by


async def test_who_made_a_key_does_not_vouch_for_it_where_somebody_else_can(
    service: ReviewService, organizations: OrganizationService, keys: ApiKeys
) -> None:
    """A back door is not kept open by who made it; who is alone has nobody else to ask."""
    await keys.create(CALLER, NewKey(name="ci", org_id=HERE))
    review = await start(service)
    number = number_of(review, "key")
    await organizations.change_role(CALLER, HERE, BOB, "admin")
    for caller in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=77))):
        with pytest.raises(ForbiddenError) as refused:
            await service.decide(caller, HERE, review.id, number, keeps=True, note="")
        assert refused.value.public == "permission denied: who made a key does not vouch for it"
    kept = await service.decide(BOBS_CALLER, HERE, review.id, number, keeps=True, note="the pipeline's")
    assert answers(kept)["key ci"] == Decision.KEPT


@pytest.mark.parametrize(("has_second_admin", "keeps"), [(True, False), (False, True)])
async def test_who_made_a_key_may_remove_it_and_who_is_alone_answers_for_it(
    service: ReviewService, organizations: OrganizationService, keys: ApiKeys, has_second_admin: bool, keeps: bool
) -> None:
    await keys.create(CALLER, NewKey(name="ci", org_id=HERE))
    if has_second_admin:
        await organizations.change_role(CALLER, HERE, BOB, "admin")
    review = await start(service)
    decided = await service.decide(CALLER, HERE, review.id, number_of(review, "key"), keeps=keeps, note="")
    assert answers(decided)["key ci"] == (Decision.KEPT if keeps else Decision.REMOVED)


async def test_an_admin_whom_a_directory_suspended_is_none(
    service: ReviewService,
    organizations: OrganizationService,
    keeper: ReviewKeeper,
    database: Database,
    clock: FakeClock,
) -> None:
    """A review that took the one who is left for one of two could never end."""
    await organizations.change_role(CALLER, HERE, BOB, "admin")
    async with database.transaction() as tx:
        await tx.execute("UPDATE membership SET suspended_at = now() WHERE org_id = $1 AND account_id = $2", HERE, BOB)
    review = await start(service)
    clock.advance(timedelta(days=14))
    await keeper.pass_once()
    closed = await service.get(HERE, review.id)
    assert answers(closed) == {"member ada@example.com": Decision.HELD, "member bob@example.com": Decision.LAPSED}


async def test_with_one_admin_everything_but_their_own_has_to_be_answered(
    service: ReviewService, organizations: OrganizationService
) -> None:
    review = await start(service)
    with pytest.raises(ConflictError, match="1 of 2"):
        await service.close(CALLER, HERE, review.id)
    await service.decide(CALLER, HERE, review.id, number_of(review, "member", BOB), keeps=True, note="")
    closed = await service.close(CALLER, HERE, review.id)
    assert answers(closed) == {"member ada@example.com": Decision.HELD, "member bob@example.com": Decision.KEPT}
    assert len(await roles(organizations)) == 2


async def test_the_last_admin_is_not_removed_by_an_answer(
    service: ReviewService, organizations: OrganizationService, database: Database
) -> None:
    """Ada is the only one; Bob answers with what he was when he began to ask."""
    review = await start(service)
    with pytest.raises(ConflictError, match="no admin"):
        await service.decide(BOBS_CALLER, HERE, review.id, number_of(review, "member", ADA), keeps=False, note="")
    assert (await roles(organizations))["ada@example.com"] == "admin"
