"""Projects that are offered and taken, over a real control database."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.errors import (
    BadRequestError,
    BusyError,
    CloisterError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
)
from cloister.control.calling import Caller
from cloister.control.organizations.offers import OFFERED_FOR_MAX, Offer, OfferService
from cloister.control.organizations.service import OrganizationService
from cloister.trust.access.keys import ApiKeys, NewKey
from cloister.trust.access.principals import Principal
from tests.control.organizations.test_service import (
    ADA,
    BLOG,
    BOB,
    EVE,
    HERE,
    SHOP,
    THERE,
    log,
    project,
    protect,
    work_on,
)

DESTINATION_CALLER = Caller(Principal(EVE, 9, "eve@example.com", "Eve", {THERE: "editor"}), "req-2", "198.51.100.7")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(database: Database, clock: FakeClock) -> OfferService:
    return OfferService(database, clock)


@pytest.fixture
def organizations(database: Database, clock: FakeClock) -> OrganizationService:
    return OrganizationService(database, clock)


@pytest.fixture
def keys(database: Database, clock: FakeClock) -> ApiKeys:
    return ApiKeys(database, clock)


@pytest.fixture
async def ada(keys: ApiKeys) -> Caller:
    """With a key of hers that is there."""
    principal = Principal(ADA, 0, "ada@example.com", "Ada", {HERE: "admin", THERE: "admin"})
    made, _ = await keys.create(Caller(principal, "req-0", "::1"), NewKey(name="laptop"))
    return Caller(replace(principal, key_id=made.id), "req-1", "192.0.2.7")


async def owner(database: Database) -> str:
    return (await project(database)).org_id


async def test_whoever_holds_an_offer_takes_the_project_once(
    service: OfferService, organizations: OrganizationService, database: Database, ada: Caller
) -> None:
    await organizations.set_project_role(ada, await project(database), BOB, "admin", is_sure=True)
    offer = await service.offer(ada, await project(database))
    await service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE)
    assert await owner(database) == THERE
    assert await organizations.grants(SHOP) == []
    with pytest.raises(NotFoundError):
        await service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE)
    told = [it for it in await log(database) if it[0].startswith("project.")]
    assert [it[0] for it in told] == ["project.offer", "project.transfer"]
    assert told[1][2] == {"destination_org_id": THERE, "offered_by": f"user:{ADA}"}
    assert str(offer.id) not in repr((told, offer)), "its id opens the project: it is in no log"


async def test_the_id_itself_is_not_kept(service: OfferService, database: Database, ada: Caller) -> None:
    offer = await service.offer(ada, await project(database))
    async with database.reading() as tx:
        row = await tx.fetch_value("SELECT project_offer::text FROM project_offer")
    assert offer.id.hex not in row.replace("-", "")


async def _another(service: OfferService, database: Database, ada: Caller, **_: Any) -> None:
    await service.offer(ada, await project(database))


async def _later(clock: FakeClock, **_: Any) -> None:
    clock.advance(timedelta(days=1))


async def _lowered(organizations: OrganizationService, ada: Caller, **_: Any) -> None:
    await organizations.change_role(ada, HERE, BOB, "admin")
    await organizations.change_role(ada, HERE, ADA, "editor")


async def _lowered_and_raised(organizations: OrganizationService, ada: Caller, **_: Any) -> None:
    await _lowered(organizations, ada)
    await organizations.change_role(ada, HERE, ADA, "admin")


async def _left(organizations: OrganizationService, ada: Caller, **_: Any) -> None:
    await organizations.change_role(ada, HERE, BOB, "admin")
    await organizations.remove(ada, HERE, ADA)


async def _key_revoked(keys: ApiKeys, ada: Caller, **_: Any) -> None:
    await keys.revoke(ada, ada.principal.key_id)


async def _disabled(database: Database, **_: Any) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE account SET disabled_at = now() WHERE id = $1", ADA)


async def _deleted(database: Database, **_: Any) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE project SET deleted_at = now() WHERE id = $1", SHOP)


async def _moved(organizations: OrganizationService, ada: Caller, **_: Any) -> None:
    await organizations.transfer(ada, HERE, THERE, [SHOP])


@pytest.mark.parametrize(
    "ended",
    [_another, _later, _lowered, _lowered_and_raised, _left, _key_revoked, _disabled, _deleted, _moved],
)
async def test_an_offer_ends_with_what_let_it_be_made(  # noqa: PLR0917 - what the parameters need
    ended: Callable[..., Awaitable[None]],
    service: OfferService,
    organizations: OrganizationService,
    keys: ApiKeys,
    database: Database,
    clock: FakeClock,
    ada: Caller,
) -> None:
    offer = await service.offer(ada, await project(database))
    await ended(service=service, organizations=organizations, keys=keys, database=database, clock=clock, ada=ada)
    with pytest.raises(NotFoundError) as gone:
        await service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE)
    with pytest.raises(NotFoundError) as unknown:
        await service.accept(DESTINATION_CALLER, SHOP, uuid4(), THERE)
    assert gone.value.public == unknown.value.public == "transfer request not found"


async def test_without_the_id_nobody_learns_that_a_project_is_offered_busy_or_protected(
    service: OfferService, database: Database, ada: Caller
) -> None:
    blog = await service.offer(ada, await project(database, BLOG))
    await protect(database)
    await work_on(database, SHOP)
    heard = set()
    for project_id, offer_id in ((SHOP, uuid4()), (SHOP, blog.id), (BLOG, uuid4()), ("calm-forest-99999999", uuid4())):
        with pytest.raises(NotFoundError) as refused:
            await service.accept(DESTINATION_CALLER, project_id, offer_id, THERE)  # type: ignore[arg-type]
        heard.add(refused.value.public)
    assert heard == {"transfer request not found"}


async def test_what_a_transfer_refuses_an_offer_refuses(service: OfferService, database: Database, ada: Caller) -> None:
    offer = await service.offer(ada, await project(database))
    with pytest.raises(BadRequestError):
        await service.accept(DESTINATION_CALLER, SHOP, offer.id, HERE)
    await protect(database)
    with pytest.raises(UnprocessableError) as refused:
        await service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE)
    assert refused.value.public == "cannot transfer project with protected branches"
    with pytest.raises(UnprocessableError):
        await service.offer(ada, await project(database))
    await work_on(database, SHOP)
    with pytest.raises(BusyError):
        await service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE)
    assert await owner(database) == HERE


async def test_an_offer_lasts_a_minute_to_a_week(service: OfferService, database: Database, ada: Caller) -> None:
    shop = await project(database)
    for wrong in (timedelta(0), timedelta(seconds=59), OFFERED_FOR_MAX + timedelta(seconds=1)):
        with pytest.raises(BadRequestError):
            await service.offer(ada, shop, wrong)
    offer = await service.offer(ada, shop, OFFERED_FOR_MAX)
    assert offer.expires_at - offer.created_at == OFFERED_FOR_MAX


async def test_who_was_lowered_since_they_were_let_in_offers_nothing(
    service: OfferService, organizations: OrganizationService, database: Database, ada: Caller
) -> None:
    await _lowered(organizations, ada)
    with pytest.raises(ForbiddenError):
        await service.offer(ada, await project(database))


async def test_of_two_who_accept_at_once_one_does(service: OfferService, database: Database, ada: Caller) -> None:
    offer = await service.offer(ada, await project(database))
    outcomes = await asyncio.gather(
        *(service.accept(DESTINATION_CALLER, SHOP, offer.id, THERE) for _ in range(3)), return_exceptions=True
    )
    assert sorted(isinstance(it, CloisterError) for it in outcomes) == [False, True, True]
    moved = [it for it in await log(database) if it[0] == "project.transfer"]
    assert len(moved) == 1


def test_an_offer_does_not_print_its_id() -> None:
    now = FakeClock().now()
    assert str(UUID(int=7)) not in repr(Offer(UUID(int=7), SHOP, now, now))
