"""Service accounts over a real control database: what their keys may, and how each of it ends."""

from datetime import timedelta
from typing import Any

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
    UnprocessableError,
)
from cloister.base.secret import Secret
from cloister.control.calling import Caller
from cloister.control.organizations.service import OrganizationService
from cloister.control.reviews.model import Decision
from cloister.control.reviews.service import ReviewService
from cloister.control.service_accounts.keeper import ServiceAccountKeeper
from cloister.control.service_accounts.model import (
    KEY_DAYS_MAX,
    KEYS_MAX,
    OVERLAP_MAX,
    Change,
    KeyWish,
    NewServiceAccount,
    ServiceAccount,
)
from cloister.control.service_accounts.service import ServiceAccountService
from cloister.trust.access.keys import ApiKeys
from cloister.trust.access.principals import Grant, Holder, Principal
from tests.control.organizations.test_service import ADA, BOB, CALLER, HERE, SHOP, THERE, log
from tests.fix_database import ControlDatabase

BOBS_CALLER = Caller(Principal(BOB, 2, "bob@example.com", "Bob", {HERE: "admin"}), "req-2", "192.0.2.8")
HOUR = timedelta(hours=1)


class Scene:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock()
        self.service = ServiceAccountService(database, self.clock)
        self.keeper = ServiceAccountKeeper(database, self.clock)
        self.organizations = OrganizationService(database, self.clock)
        self.api_keys = ApiKeys(database, self.clock)

    async def create(self, **wish: Any) -> tuple[ServiceAccount, Secret[str]]:
        new: dict[str, Any] = {"name": "ci", "role": "collaborator", "grants": {}, "owner": None, "key": KeyWish()}
        return await self.service.create(CALLER, HERE, NewServiceAccount(**new | wish))

    async def change(self, account: ServiceAccount, **what: Any) -> ServiceAccount:
        return await self.service.change(CALLER, HERE, account.id, Change(**what))

    async def rotate(self, account: ServiceAccount, overlap: timedelta = HOUR, **wish: Any) -> Secret[str]:
        return (await self.service.rotate(CALLER, HERE, account.id, KeyWish(**wish), overlap))[1]

    async def who(self, key: Secret[str], address: str = "192.0.2.1") -> Principal:
        return await self.api_keys.authenticate(key.reveal(), address)

    async def is_good(self, key: Secret[str], address: str = "192.0.2.1") -> bool:
        try:
            await self.who(key, address)
        except UnauthenticatedError:
            return False
        return True

    async def only(self) -> ServiceAccount:
        (found,) = await self.service.find(HERE)
        return found


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


async def test_a_key_may_what_its_account_may_and_is_nobodys(scene: Scene) -> None:
    account, key = await scene.create(role="viewer", grants={SHOP: "editor"})
    principal = await scene.who(key)
    assert (principal.holder, principal.name, principal.email) == (Holder.SERVICE, "ci", "ada@example.com")
    assert principal.memberships == {HERE: "viewer"}
    assert principal.grants == {SHOP: Grant(HERE, "editor")}
    assert principal.is_limited, "so it makes no keys"
    assert not principal.is_operator
    assert principal.actor == f"key:{account.keys[0].id}"
    assert account.owner == "ada@example.com"
    assert (await log(scene.database))[-1][0] == "service_account.create"
    assert await scene.api_keys.find_of(HERE) == [], "its keys are told with it"


async def test_what_is_changed_holds_for_keys_that_are_out(scene: Scene) -> None:
    account, key = await scene.create(role="editor", grants={SHOP: "admin"})
    await scene.change(account, role="collaborator", grants={})
    principal = await scene.who(key)
    assert (principal.memberships, principal.grants) == ({HERE: "collaborator"}, {})
    assert (await scene.only()).owner_id == ADA, "which was not asked to change"


async def test_a_rotation_leaves_the_key_before_for_the_overlap(scene: Scene) -> None:
    account, first = await scene.create()
    second = await scene.rotate(account)
    assert await scene.is_good(first)
    assert await scene.is_good(second)
    scene.clock.advance(HOUR)
    assert not await scene.is_good(first)
    assert await scene.is_good(second)
    assert [key.prefix for key in (await scene.only()).keys] == [second.reveal()[:9]]


async def test_a_rotation_without_an_overlap_ends_every_key_before_at_once(scene: Scene) -> None:
    account, first = await scene.create()
    second = await scene.rotate(account)
    third = await scene.rotate(account, timedelta())
    assert [await scene.is_good(key) for key in (first, second, third)] == [False, False, True]


async def test_no_rotation_makes_a_key_last_longer(scene: Scene) -> None:
    account, first = await scene.create()
    await scene.rotate(account)
    await scene.rotate(account, OVERLAP_MAX)
    scene.clock.advance(HOUR)
    assert not await scene.is_good(first)


async def test_keys_end_by_themselves(scene: Scene) -> None:
    _, key = await scene.create(key=KeyWish(days=1))
    scene.clock.advance(timedelta(days=1))
    assert not await scene.is_good(key)
    for days in (0, KEY_DAYS_MAX + 1):
        with pytest.raises(BadRequestError):
            await scene.create(name="other", key=KeyWish(days=days))


async def test_a_rotation_keeps_to_the_addresses_of_before(scene: Scene) -> None:
    account, _ = await scene.create(key=KeyWish(allowed_ips=("192.0.2.0/24",)))
    second = await scene.rotate(account)
    assert await scene.is_good(second)
    assert not await scene.is_good(second, "203.0.113.1")
    third = await scene.rotate(account, allowed_ips=())
    assert await scene.is_good(third, "203.0.113.1")


async def test_keys_that_are_good_at_one_time_have_an_end(scene: Scene) -> None:
    account, _ = await scene.create()
    for _ in range(KEYS_MAX - 1):
        await scene.rotate(account)
    with pytest.raises(UnprocessableError):
        await scene.rotate(account)
    await scene.rotate(account, timedelta())


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), OVERLAP_MAX + timedelta(seconds=1)])
async def test_an_overlap_has_bounds(scene: Scene, overlap: timedelta) -> None:
    account, _ = await scene.create()
    with pytest.raises(BadRequestError):
        await scene.rotate(account, overlap)


async def test_a_disabled_account_is_out_at_once_and_comes_back(scene: Scene) -> None:
    account, key = await scene.create()
    later = await scene.rotate(account)
    await scene.change(account, is_disabled=True)
    assert [await scene.is_good(it) for it in (key, later)] == [False, False]
    assert not await scene.is_good(await scene.rotate(account)), "nor a key that is made meanwhile"
    await scene.change(account, is_disabled=False)
    assert [await scene.is_good(it) for it in (key, later)] == [True, True]
    assert [action for action, *_ in await log(scene.database)][1:] == [
        "service_account.rotate",
        "service_account.disable",
        "service_account.rotate",
        "service_account.enable",
    ]


async def test_what_is_removed_takes_its_keys_along_for_good(scene: Scene) -> None:
    account, key = await scene.create()
    await scene.service.remove(CALLER, HERE, account.id)
    assert not await scene.is_good(key)
    assert await scene.service.find(HERE) == []
    with pytest.raises(NotFoundError):
        await scene.change(account, is_disabled=False)
    _, other = await scene.create()
    assert [await scene.is_good(it) for it in (key, other)] == [False, True], "the name is free, the key stays dead"


async def test_a_name_is_given_once_and_owners_and_projects_are_of_the_organization(scene: Scene) -> None:
    account, _ = await scene.create()
    with pytest.raises(ConflictError):
        await scene.create()
    for name in ("", "CI", "a b", "1st", "x" * 33):
        with pytest.raises(BadRequestError):
            await scene.create(name=name)
    with pytest.raises(UnprocessableError):
        await scene.create(name="other", owner="eve@example.com")
    with pytest.raises(UnprocessableError):
        await scene.change(account, owner="eve@example.com")
    with pytest.raises(NotFoundError):
        await scene.create(name="other", grants={SHOP: "viewer", "calm-forest-00000000": "viewer"})
    with pytest.raises(NotFoundError):
        await scene.service.change(CALLER, THERE, account.id, Change(is_disabled=True))
    assert await scene.only() == account, "nothing of it is left"


async def test_a_project_that_moves_is_not_theirs_any_more(scene: Scene) -> None:
    _, key = await scene.create(grants={SHOP: "admin"})
    await scene.organizations.transfer(CALLER, HERE, THERE, [SHOP])
    assert (await scene.who(key)).grants == {}


# ── owners ──


async def test_who_leaves_leaves_an_orphan_of_which_is_told_once(scene: Scene) -> None:
    account, key = await scene.create(owner="BOB@example.com")
    await scene.keeper.pass_once()
    await scene.organizations.remove(CALLER, HERE, BOB)
    for _ in range(2):
        await scene.keeper.pass_once()
    actions = [action for action, *_ in await log(scene.database)]
    assert actions == ["service_account.create", "member.remove", "service_account.orphan"]
    assert (await scene.only()).orphaned_at == scene.clock.now()
    assert await scene.is_good(key), "what runs at night goes on"
    changed = await scene.change(account, owner="ada@example.com")
    assert (changed.owner, changed.orphaned_at) == ("ada@example.com", None)


async def test_who_is_disabled_answers_for_nothing_until_they_are_back(scene: Scene) -> None:
    await scene.create(owner="bob@example.com")
    for disabled_at in (scene.clock.now(), None):
        async with scene.database.transaction() as tx:
            await tx.execute("UPDATE account SET disabled_at = $1 WHERE id = $2", disabled_at, BOB)
        await scene.keeper.pass_once()
        assert (await scene.only()).orphaned_at == disabled_at


# ── reviews ──


async def test_reviews_ask_about_them_and_their_owner_does_not_vouch(scene: Scene) -> None:
    _, key = await scene.create(role="viewer", grants={SHOP: "editor"})
    async with scene.database.transaction() as tx:
        await tx.execute("UPDATE membership SET role = 'admin' WHERE org_id = $1 AND account_id = $2", HERE, BOB)
    reviews = ReviewService(scene.database, scene.clock)
    review = await reviews.start(CALLER, HERE, answer_days=14, lapses=True)
    (item,) = [it for it in review.items if it.kind in ("service", "key")]
    assert (item.facts["name"], item.facts["role"], item.facts["owner"], item.facts["grants"]) == (
        "ci",
        "viewer",
        "ada@example.com",
        {SHOP: "editor"},
    )
    with pytest.raises(ForbiddenError):
        await reviews.decide(CALLER, HERE, review.id, item.number, keeps=True, note="mine")
    decided = await reviews.decide(BOBS_CALLER, HERE, review.id, item.number, keeps=False, note="over")
    assert decided.items[item.number - 1].decision is Decision.REMOVED
    assert not await scene.is_good(key)
    assert await scene.service.find(HERE) == []


# ── the database ──


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE api_key SET service_account_id = NULL",
        "UPDATE api_key SET expires_at = NULL",
        "UPDATE api_key SET org_id = NULL",
        "UPDATE service_account SET role = 'admin'",
        "DELETE FROM service_account",
    ],
)
async def test_the_database_refuses_the_api_itself(
    scene: Scene, control_database: ControlDatabase, statement: str
) -> None:
    """A key of theirs without its account, its end or its organization would be another's, or open for good."""
    await scene.create()
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(f"SET search_path = cloister; {statement}")
    finally:
        await connection.close()
