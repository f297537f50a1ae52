"""Rules of egress: what is refused, recorded and told, over a real control database."""

from typing import Any
from uuid import uuid4

import pytest

from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.control.egress import store
from cloister.control.egress.service import DOORS_MAX, RULES_MAX, EgressService
from cloister.control.projects.model import NewProject, Project
from cloister.trust.audit.reader import events
from tests.control.land import CALLER, ORG, Land


@pytest.fixture
async def project(still_land: Land) -> Project:
    created = await still_land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="shop"))
    found: Project = created.project
    return found


@pytest.fixture
def pokes() -> list[None]:
    return []


@pytest.fixture
def service(still_land: Land, pokes: list[None]) -> EgressService:
    return EgressService(still_land.database, (), poke=lambda: pokes.append(None))


async def _recorded(land: Land, project: Project) -> list[tuple[str, str]]:
    async with land.database.reading() as tx:
        found = await events(tx, project_ids=[project.id], action="egress.", before_seq=None, limit=10)
    return [(each.event.action, each.event.resource) for each in found]


async def test_a_rule_is_made_recorded_told_and_removed(
    still_land: Land, project: Project, service: EgressService, pokes: list[None]
) -> None:
    made = await service.allow(CALLER, project, "DB.example.com:5432", None)
    assert await service.find(project) == [made]
    async with still_land.database.reading() as tx:
        (wanted,) = [each for each in await store.wanted(tx) if each.project_id == project.id]
    assert [way.target for way in wanted.ways] == ["db.example.com:5432"]
    await service.remove(CALLER, project, made.id)
    assert await service.find(project) == []
    assert await _recorded(still_land, project) == [
        ("egress.remove", "db.example.com:5432"),
        ("egress.allow", "db.example.com:5432"),
    ]
    assert len(pokes) == 2


async def test_where_no_way_out_leads_is_refused(
    still_land: Land, project: Project, service: EgressService, pokes: list[None]
) -> None:
    for to in ("10.1.2.0/24:5432", "127.0.0.1:5432", "[fd00::1]:5432", "169.254.169.254:80"):
        with pytest.raises(UnprocessableError):
            await service.allow(CALLER, project, to, None)
    with pytest.raises(BadRequestError):
        await service.allow(CALLER, project, "nonsense", None)
    assert await service.find(project) == []
    assert await _recorded(still_land, project) == []
    assert pokes == []


async def test_twice_the_same_and_a_ca_that_is_none_are_refused(project: Project, service: EgressService) -> None:
    await service.allow(CALLER, project, "db.example.com:5432", None)
    with pytest.raises(ConflictError):
        await service.allow(CALLER, project, "db.EXAMPLE.com.:5432", None)
    for ca_pem in ("no PEM", "x" * 20_000):
        with pytest.raises(BadRequestError):
            await service.allow(CALLER, project, "db2.example.com:5432", ca_pem)


async def test_rules_have_an_end(project: Project, service: EgressService) -> None:
    await service.allow(CALLER, project, "203.0.113.0/25:5432", None)
    await service.allow(CALLER, project, "203.0.113.128/26:5432", None)
    with pytest.raises(UnprocessableError) as refused:
        await service.allow(CALLER, project, "198.51.100.0/25:5432", None)
    assert str(DOORS_MAX) in refused.value.public
    for number in range(RULES_MAX - 2):
        await service.allow(CALLER, project, f"db{number}.example.com:5432", None)
    with pytest.raises(UnprocessableError) as refused:
        await service.allow(CALLER, project, "one-more.example.com:5432", None)
    assert str(RULES_MAX) in refused.value.public


async def test_a_rule_of_another_project_is_not_there(
    still_land: Land, project: Project, service: EgressService
) -> None:
    other: Any = (await still_land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="blog"))).project
    made = await service.allow(CALLER, project, "db.example.com:5432", None)
    for rule_id in (made.id, uuid4()):
        with pytest.raises(NotFoundError):
            await service.remove(CALLER, other, rule_id)
    assert await service.find(project) == [made]
