"""Whoever has data that is tagged, and no protection, is told once; and what was found of it is over when it is."""

from datetime import timedelta

import pytest

from cloister.base.ids import OrgId
from cloister.base.tags import KEPT
from cloister.control.branches.advising import ADVISE_AFTER, ADVISED_MAX, RULE
from cloister.control.branches.model import BranchChange
from cloister.control.projects.model import NewProject
from cloister.control.services import ProjectCreated
from cloister.trust.audit.reader import events
from cloister.trust.sentinel import rules
from cloister.trust.sentinel.watch import Watch
from tests.control.branches.scenes import branched, protect, seen
from tests.control.land import CALLER, ORG, Land
from tests.fix_database import DatabaseAs

LATER = ADVISE_AFTER + timedelta(minutes=1)


@pytest.fixture
async def shop(land: Land) -> ProjectCreated:
    created: ProjectCreated = await land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="shop"))
    await land.finish(created.operations)
    return created


async def tag(land: Land, created: ProjectCreated, word: str = "pii", *, is_project: bool = False) -> None:
    await land.control.tags.change(CALLER, created.project.id, None if is_project else created.branch.id, add=[word])


async def rounds(land: Land, count: int = 2) -> None:
    """The first sees it, the one a day later says it."""
    for number in range(count):
        if number:
            land.clock.advance(LATER)
        await land.plane.caretaker.by_the_tags()


async def advised(land: Land) -> list[tuple[str, str]]:
    async with land.database.reading() as tx:
        found = await events(tx, project_ids=None, action="branch.advise", before_seq=None, limit=500)
    return [(it.event.resource, it.event.details["tags"]) for it in found]


@pytest.mark.parametrize("word", sorted(KEPT))
@pytest.mark.parametrize("is_project", [False, True])
async def test_it_is_said_once_after_a_day(land: Land, shop: ProjectCreated, word: str, is_project: bool) -> None:
    await tag(land, shop, word, is_project=is_project)
    await rounds(land, 1)
    assert await advised(land) == []
    await rounds(land, 5)
    assert await advised(land) == [(shop.branch.name, word)]


async def test_whoever_tags_and_then_protects_hears_nothing(land: Land, shop: ProjectCreated) -> None:
    await tag(land, shop)
    await rounds(land, 1)
    await protect(land, shop)
    await rounds(land, 3)
    assert await advised(land) == []


async def test_nothing_is_said_of_children_nor_of_other_words_nor_of_what_expires(
    land: Land, shop: ProjectCreated
) -> None:
    """A branch for each change would be a finding for each."""
    await tag(land, shop, "team-a")
    await tag(land, shop)
    await protect(land, shop)
    for name in ("one", "two"):
        child = await branched(land, shop, name=name, endpoints=[])
        assert (await seen(land, child.branch)).tags == {"pii", "team-a"}
    await rounds(land, 3)
    assert await advised(land) == []
    await land.control.branches.set_as_default(CALLER, shop.project.id, child.branch.id)
    await rounds(land, 2)
    assert await advised(land) == [("two", "pii")], "the default branch is where work begins"


async def test_a_round_says_so_much_and_the_next_the_rest(
    land: Land, shop: ProjectCreated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.control.branches.advising.ADVISED_MAX", 1)
    other = await land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="other"))
    await land.finish(other.operations)
    for project in (shop, other):
        await tag(land, project)
    await rounds(land, 2)
    assert len(await advised(land)) == 1 < ADVISED_MAX
    await rounds(land, 1)
    assert len(await advised(land)) == 2


async def test_the_finding_is_over_when_the_branch_is_protected(
    land: Land, shop: ProjectCreated, database_as: DatabaseAs
) -> None:
    """And not said again, until it was protected and is not any more."""
    sentinel = Watch(await database_as("cloister_sentinel"), rules.shipped())
    await sentinel.load()

    async def states() -> list[str]:
        await sentinel.step()
        async with land.database.reading() as tx:
            return [
                row["state"]
                for row in await tx.fetch("SELECT state FROM finding WHERE rule = $1 ORDER BY first_seq", RULE)
            ]

    await tag(land, shop)
    await rounds(land, 3)
    assert await states() == ["open"]
    await protect(land, shop)
    await rounds(land, 1)
    assert await states() == ["resolved"]
    async with land.database.reading() as tx:
        (said,) = await events(tx, project_ids=[shop.project.id], action="finding.", before_seq=None, limit=9)
    assert (said.event.action, said.event.actor) == ("finding.resolve", "platform:api")
    await land.control.branches.update(CALLER, shop.project.id, shop.branch.id, BranchChange(is_protected=False))
    await rounds(land, 3)
    assert await states() == ["resolved", "open"]
