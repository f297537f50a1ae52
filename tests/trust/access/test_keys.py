"""API keys: shown once, recognised by digest, gone when revoked; the first one survives crashes."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, NotFoundError, UnauthenticatedError
from cloister.base.secret import Secret, new_api_key
from cloister.trust.access.bootstrap import ADMIN_EMAIL, KEY_NAME, bootstrap
from cloister.trust.access.keys import ApiKeys, NewKey, digest_of, insert_key
from cloister.trust.access.principals import Grant, Holder, Principal
from cloister.trust.audit.reader import events
from tests.fix_database import DatabaseAs

ADA, BOB = UUID(int=1), UUID(int=2)


@dataclass(frozen=True)
class Call:
    principal: Principal
    request_id: str = "req-1"
    address: str = "192.0.2.7"


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        for account_id, name in ((ADA, "Ada"), (BOB, "Bob")):
            await tx.execute("INSERT INTO account VALUES ($1, $2, $3)", account_id, f"{name}@example.com", name)
        await tx.execute("INSERT INTO organization VALUES ('org-1', 'One'), ('org-2', 'Two')")
        await tx.execute("INSERT INTO membership VALUES ('org-1', $1, 'admin'), ('org-2', $1, 'editor')", ADA)
    return database


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(database: Database, clock: FakeClock) -> ApiKeys:
    return ApiKeys(database, clock)


@pytest.fixture
async def key(database: Database, clock: FakeClock) -> str:
    key = new_api_key()
    async with database.transaction() as tx:
        await insert_key(tx, ADA, NewKey(name="first"), key, clock.now())
    return key.reveal()


@pytest.fixture
async def ada(keys: ApiKeys, key: str) -> Call:
    return Call(await keys.authenticate(key, "192.0.2.7"))


async def test_a_key_says_who_holds_it(ada: Call) -> None:
    principal = ada.principal
    assert (principal.account_id, principal.email, principal.name) == (ADA, "Ada@example.com", "Ada")
    assert principal.memberships == {"org-1": "admin", "org-2": "editor"}


async def test_an_account_without_an_organization_is_of_none(
    database: Database, keys: ApiKeys, clock: FakeClock
) -> None:
    key = new_api_key()
    async with database.transaction() as tx:
        await insert_key(tx, BOB, NewKey(name="first"), key, clock.now())
    assert (await keys.authenticate(key.reveal(), "::1")).memberships == {}


async def test_a_created_key_works_until_it_is_revoked(keys: ApiKeys, ada: Call, database: Database) -> None:
    created, secret = await keys.create(ada, NewKey(name="deploy"))
    assert (created.name, created.account_id, created.account_name, created.last_used_at) == (
        "deploy",
        ADA,
        "Ada",
        None,
    )
    assert (await keys.authenticate(secret.reveal(), "192.0.2.8")).key_id == created.id
    assert [each.name for each in await keys.find(ada.principal)] == ["first", "deploy"]
    revoked = await keys.revoke(ada, created.id)
    assert (revoked.id, revoked.last_used_from) == (created.id, "192.0.2.8")
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(secret.reveal(), "192.0.2.8")
    assert [each.name for each in await keys.find(ada.principal)] == ["first"]
    with pytest.raises(NotFoundError):
        await keys.revoke(ada, created.id)
    async with database.reading() as tx:
        log = [recorded.event for recorded in await events(tx)]
    assert [event.action for event in log] == ["api_key.revoke", "api_key.create"]
    assert {(event.actor, event.resource, event.address, event.request_id) for event in log} == {
        (f"user:{ADA}", f"api_key/{created.id}", "192.0.2.7", "req-1")
    }


async def test_use_is_noted_at_most_once_a_minute(keys: ApiKeys, ada: Call, key: str, clock: FakeClock) -> None:
    async def noted() -> tuple[object, str | None]:
        (first,) = await keys.find(ada.principal)
        return first.last_used_at, first.last_used_from

    start = clock.now()
    clock.advance(timedelta(seconds=59))
    await keys.authenticate(key, "198.51.100.1")
    assert await noted() == (start, "192.0.2.7")
    clock.advance(timedelta(seconds=1))
    await keys.authenticate(key, "198.51.100.1")
    assert await noted() == (clock.now(), "198.51.100.1")


async def test_anothers_key_is_not_there(keys: ApiKeys, ada: Call) -> None:
    created, _ = await keys.create(ada, NewKey(name="deploy"))
    bob = Call(Principal(BOB, 0, "Bob@example.com", "Bob", {}))
    for key_id in (created.id, 0, -1, 2**63, 10**30):
        with pytest.raises(NotFoundError):
            await keys.revoke(bob, key_id)
    assert await keys.find(bob.principal) == []
    assert len(await keys.find(ada.principal)) == 2


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\0b", "\x1b[31m", "\ud800"])
async def test_a_name_is_a_line_of_text(keys: ApiKeys, ada: Call, name: str) -> None:
    with pytest.raises(BadRequestError):
        await keys.create(ada, NewKey(name=name))


async def test_the_first_start_makes_an_organization_and_its_admin(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    key = await bootstrap(database, None)
    principal = await ApiKeys(database).authenticate(key.reveal(), "::1")
    assert principal.email == ADMIN_EMAIL
    assert list(principal.memberships.values()) == ["admin"]
    assert (await bootstrap(database, key)).reveal() == key.reveal(), "twice is once"
    async with database.reading() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM api_key") == 1
        assert [recorded.event.action for recorded in await events(tx)] == ["api_key.create"]


@pytest.mark.parametrize("brought", [None, Secret("napi_from_another_platform")], ids=["lost", "foreign"])
async def test_a_key_that_was_lost_is_replaced_and_opens_nothing_more(
    database_as: DatabaseAs, brought: Secret[str] | None
) -> None:
    database = await database_as("cloister_api")
    lost = await bootstrap(database, None)
    key = await bootstrap(database, brought)
    keys = ApiKeys(database)
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(lost.reveal(), "::1")
    principal = await keys.authenticate(key.reveal(), "::1")
    assert [each.name for each in await keys.find(principal)] == [KEY_NAME]
    async with database.reading() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM organization") == 1


async def test_a_key_of_somebody_else_is_not_the_administrators(
    database_as: DatabaseAs, database: Database, key: str
) -> None:
    await bootstrap(database, None)
    assert (await bootstrap(database, Secret(key))).reveal() != key


def test_digests_are_of_the_bytes() -> None:
    assert digest_of("napi_x") != digest_of("napi_y")
    assert len(digest_of("\udcff")) == 32, "a header that is no text is hashed, not a crash"


HERE, PROJECT = "org-1", "calm-forest-00000001"


@pytest.fixture
async def project(database: Database) -> str:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO volume VALUES ($1, 'br', 'timeline', 1, 18, 1, 'taken')", PROJECT)
        await tx.execute(
            """INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
               VALUES ($1, 'org-1', $2, 'x', 'here', 18, false)""",
            PROJECT,
            ADA,
        )
    return PROJECT


async def test_an_organizations_key_is_nobodys(keys: ApiKeys, ada: Call, project: str, database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE account SET is_operator = true")
    wide, wide_key = await keys.create(ada, NewKey(name="ci", org_id=HERE))
    narrow, narrow_key = await keys.create(ada, NewKey(name="shop", org_id=HERE, project_id=project))
    principal = await keys.authenticate(wide_key.reveal(), "::1")
    assert (principal.holder, principal.actor) == (Holder.ORGANIZATION, f"key:{wide.id}")
    assert (principal.memberships, principal.grants) == ({HERE: "admin"}, {})
    assert not principal.is_operator
    principal = await keys.authenticate(narrow_key.reveal(), "::1")
    assert (principal.holder, principal.actor) == (Holder.PROJECT, f"key:{narrow.id}")
    assert (principal.memberships, principal.grants) == ({}, {project: Grant(HERE, "editor")})
    assert [it.name for it in await keys.find(ada.principal)] == ["first"], "it is not a key of hers"
    assert [it.name for it in await keys.find_of(HERE)] == ["ci", "shop"]
    assert await keys.find_of("org-2") == []


async def test_a_key_is_revoked_only_by_its_own_holder(keys: ApiKeys, ada: Call) -> None:
    mine, _ = await keys.create(ada, NewKey(name="mine"))
    ours, secret = await keys.create(ada, NewKey(name="ours", org_id=HERE))
    for key_id, org_id in ((ours.id, None), (mine.id, HERE), (ours.id, "org-2")):
        with pytest.raises(NotFoundError):
            await keys.revoke(ada, key_id, org_id)
    await keys.revoke(ada, ours.id, HERE)
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(secret.reveal(), "::1")


async def test_a_key_for_a_project_of_another_organization_is_not_made(keys: ApiKeys, ada: Call, project: str) -> None:
    for org_id, project_id in (("org-2", project), (HERE, "calm-forest-99999999")):
        with pytest.raises(NotFoundError):
            await keys.create(ada, NewKey(name="x", org_id=org_id, project_id=project_id))


async def test_a_key_ends_when_it_said_it_would(keys: ApiKeys, ada: Call, clock: FakeClock) -> None:
    ends = clock.now() + timedelta(hours=1)
    created, secret = await keys.create(ada, NewKey(name="x", expires_at=ends))
    assert created.expires_at == ends
    clock.advance(timedelta(minutes=59, seconds=59))
    assert (await keys.authenticate(secret.reveal(), "::1")).is_limited
    clock.advance(timedelta(seconds=1))
    with pytest.raises(UnauthenticatedError):
        await keys.authenticate(secret.reveal(), "::1")
    with pytest.raises(BadRequestError):
        await keys.create(ada, NewKey(name="x", expires_at=clock.now()))


async def test_a_key_opens_from_the_addresses_it_is_bound_to(keys: ApiKeys, ada: Call) -> None:
    allowed = ("192.0.2.0/24", "2001:db8::1")
    _, secret = await keys.create(ada, NewKey(name="x", allowed_ips=allowed))
    for address in ("192.0.2.200", "::ffff:192.0.2.1", "2001:db8::1"):
        assert (await keys.authenticate(secret.reveal(), address)).is_limited
    for address in ("192.0.3.1", "2001:db8::2", "", "unix", "192.0.2.1%eth0"):
        with pytest.raises(UnauthenticatedError):
            await keys.authenticate(secret.reveal(), address)
    for entries in (("nonsense",), ("192.0.2.1",) * 65):
        with pytest.raises(BadRequestError):
            await keys.create(ada, NewKey(name="x", allowed_ips=entries))


async def test_people_see_how_a_key_begins_and_no_more(keys: ApiKeys, ada: Call) -> None:
    created, secret = await keys.create(ada, NewKey(name="x"))
    assert created.prefix == secret.reveal()[:9]
    assert created.prefix.startswith("napi_")


async def test_an_organizations_key_of_the_same_name_is_not_the_administrators(
    database_as: DatabaseAs,
) -> None:
    database = await database_as("cloister_api")
    keys = ApiKeys(database)
    admin_key = await bootstrap(database, None)
    admin = Call(await keys.authenticate(admin_key.reveal(), "::1"))
    assert admin.principal.is_operator
    (org_id,) = admin.principal.memberships
    _, ours = await keys.create(admin, NewKey(name=KEY_NAME, org_id=org_id))
    again = await bootstrap(database, ours)
    assert again.reveal() not in (ours.reveal(), admin_key.reveal()), "it is replaced: the file holds the wrong key"
    assert (await keys.authenticate(ours.reveal(), "::1")).holder is Holder.ORGANIZATION, "and not revoked"
