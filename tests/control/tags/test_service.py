"""Tags: what can be set, what comes along where data comes to lie, and who takes what off. On a real control database, in whose
processes' role the last tests write past every service."""

from typing import Any

import pytest

from cloister.base.errors import BadRequestError, ForbiddenError, NotFoundError
from cloister.base.ids import BranchId, OrgId
from cloister.base.tags import TAGS_MAX
from cloister.control.branches.model import HEAD, SCHEMA_ONLY, Restore
from cloister.control.calling import Caller
from cloister.control.projects.model import About, NewProject
from cloister.control.services import ProjectCreated
from cloister.trust.access.permissions import Permission
from cloister.trust.audit.reader import events
from tests.control.branches.scenes import branched, protect, refused, seen
from tests.control.land import CALLER, ORG, Land

EDITOR = Caller(CALLER.principal, "request-3", "192.0.2.1", frozenset(Permission) - {Permission.TAG_LIFT})
GOES_WITH_A_REASON = "without a recorded reason"


@pytest.fixture
async def shop(land: Land) -> ProjectCreated:
    created: ProjectCreated = await land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="shop"))
    await land.finish(created.operations)
    return created


async def tag(land: Land, created: ProjectCreated, *tags: str, branch_id: BranchId | None = None) -> None:
    await land.control.tags.change(CALLER, created.project.id, branch_id or created.branch.id, add=tags)


async def lift(land: Land, created: ProjectCreated, branch_id: BranchId, *tags: str) -> None:
    await land.control.tags.change(CALLER, created.project.id, branch_id, remove=tags, reason="masked")


async def recorded(land: Land, created: ProjectCreated) -> list[tuple[str, str, str, dict[str, Any]]]:
    async with land.database.reading() as tx:
        found = await events(tx, project_ids=[created.project.id], action="tag.", before_seq=None, limit=10)
    return [(it.event.action, it.event.branch_id, it.event.reason, it.event.details) for it in found][::-1]


# ── setting ──


async def test_each_change_is_an_event_and_a_kept_tag_goes_with_a_reason(land: Land, shop: ProjectCreated) -> None:
    tags, project, branch = land.control.tags, shop.project.id, shop.branch.id
    assert await tags.change(CALLER, project, branch, add=["pii", "team-a"]) == {"pii", "team-a"}
    assert await tags.change(CALLER, project, branch, add=["x"], remove=["team-a", "nothing"]) == {"pii", "x"}
    assert await tags.change(CALLER, project, branch, remove=["pii", "x"], reason="masked") == frozenset()
    assert await tags.change(CALLER, project, None, add=["prod"]) == {"prod"}
    assert await tags.change(CALLER, project, None, remove=["prod"]) == frozenset()
    assert (await seen(land, shop.branch)).tags == frozenset()
    assert await recorded(land, shop) == [
        ("tag.set", branch, "", {"added": "pii, team-a", "removed": ""}),
        ("tag.set", branch, "", {"added": "x", "removed": "team-a"}),
        ("tag.set", branch, "", {"added": "", "removed": "x"}),
        ("tag.lift", branch, "masked", {"lifted": "pii"}),
        ("tag.set", "", "", {"added": "prod", "removed": ""}),
        ("tag.lift", "", "asked for without a reason", {"lifted": "prod"}),
    ]


@pytest.mark.parametrize("word", ["PII", "1st", "a b", "ä", "", "x" * 33, "protected", "-x", "a\n"])
async def test_what_is_no_tag_is_refused(land: Land, shop: ProjectCreated, word: str) -> None:
    with pytest.raises(BadRequestError):
        await land.control.tags.change(CALLER, shop.project.id, shop.branch.id, add=[word])


async def test_tags_have_an_end_and_what_follows_the_data_has_room(land: Land, shop: ProjectCreated) -> None:
    await tag(land, shop, *(f"t{number}" for number in range(TAGS_MAX)))
    await tag(land, shop, "pii", "prod")
    with refused(BadRequestError, "at most 16 tags"):
        await tag(land, shop, "one-more")
    with refused(BadRequestError, "at once"):
        await land.control.tags.change(CALLER, shop.project.id, None, add=["x"], remove=["x"])
    with pytest.raises(NotFoundError):
        await land.control.tags.change(CALLER, shop.project.id, BranchId("br-calm-forest-00000000"), add=["x"])


async def test_who_may_not_lift_takes_off_their_own_words_and_no_kept_one(land: Land, shop: ProjectCreated) -> None:
    for branch_id in (shop.branch.id, None):
        await land.control.tags.change(EDITOR, shop.project.id, branch_id, add=["pii", "prod", "x"])
        for kept in ("pii", "prod"):
            with pytest.raises(ForbiddenError, match="tag:lift"):
                await land.control.tags.change(EDITOR, shop.project.id, branch_id, remove=[kept, "x"])
        assert await land.control.tags.change(EDITOR, shop.project.id, branch_id, remove=["x"]) == {"pii", "prod"}


# ── following the data ──


async def test_a_child_is_what_its_parent_is_and_a_schema_is_nothing(land: Land, shop: ProjectCreated) -> None:
    await tag(land, shop, "pii", "team-a")
    child = await branched(land, shop, name="dev")
    assert child.branch.tags == {"pii", "team-a"}, "in the answer already"
    grandchild = await branched(land, shop, name="deep", parent_id=child.branch.id)
    assert grandchild.branch.tags == {"pii", "team-a"}
    bare = await branched(land, shop, name="bare", init_source=SCHEMA_ONLY)
    assert bare.branch.tags == frozenset()
    await lift(land, shop, child.branch.id, "pii")
    assert (await branched(land, shop, name="masked", parent_id=child.branch.id)).branch.tags == {"team-a"}
    assert (await seen(land, grandchild.branch)).tags == {"pii", "team-a"}, "what is there stays"


async def test_a_branch_that_gets_the_data_gets_the_tag(land: Land, shop: ProjectCreated) -> None:
    """Reset and restore are one way: the branch is what its source is."""
    dev = await branched(land, shop, name="dev")
    await tag(land, shop, "own", branch_id=dev.branch.id)
    await tag(land, shop, "pii", "team-a")
    restored = await land.control.branches.restore(
        CALLER, shop.project.id, dev.branch.id, Restore(source_id=shop.branch.id)
    )
    await land.finish(restored.operations)
    assert (await seen(land, dev.branch)).tags == {"own", "pii"}


async def test_what_a_branch_was_keeps_what_it_was_tagged(land: Land, shop: ProjectCreated) -> None:
    """Restored, with what it was under another name: neither loses a tag, and neither gets one that was taken off."""
    await tag(land, shop, "pii")
    dev = await branched(land, shop, name="dev")
    await tag(land, shop, "prod", branch_id=dev.branch.id)
    await lift(land, shop, dev.branch.id, "pii")
    wish = Restore(source_id=dev.branch.id, preserve_under_name="before")
    restored = await land.control.branches.restore(CALLER, shop.project.id, dev.branch.id, wish)
    await land.finish(restored.operations)
    assert restored.preserved is not None
    assert (await seen(land, restored.preserved)).tags == {"prod"}
    assert (await seen(land, dev.branch)).tags == {"prod"}


async def test_a_snapshot_keeps_the_tag_that_its_branch_loses(land: Land, shop: ProjectCreated) -> None:
    await tag(land, shop, "pii", "team-a")
    snapshots = land.control.snapshots
    taken, operations = await snapshots.create(
        CALLER, shop.project.id, shop.branch.id, name="before", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    assert taken.tags == {"pii", "team-a"}
    await lift(land, shop, shop.branch.id, "pii")
    beside = await snapshots.restore(CALLER, shop.project.id, taken.id, name="look", target_id=None, is_final=False)
    assert beside.branch.tags == {"pii", "team-a"}
    await land.finish(beside.operations)
    over = await snapshots.restore(
        CALLER, shop.project.id, taken.id, name=None, target_id=shop.branch.id, is_final=True
    )
    await land.finish(over.operations)
    assert (await seen(land, shop.branch)).tags == {"pii", "team-a"}


async def test_who_takes_anothers_place_takes_its_tags(land: Land, shop: ProjectCreated) -> None:
    snapshots = land.control.snapshots
    taken, operations = await snapshots.create(
        CALLER, shop.project.id, shop.branch.id, name="before", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    beside = await snapshots.restore(
        CALLER, shop.project.id, taken.id, name="new", target_id=shop.branch.id, is_final=False
    )
    await land.finish(beside.operations)
    await tag(land, shop, "prod")
    assert (await seen(land, beside.branch)).tags == frozenset()
    _, operations = await snapshots.finalize(CALLER, shop.project.id, beside.branch.id, name=None)
    await land.finish(operations)
    assert (await seen(land, beside.branch)).tags == {"prod"}


async def test_deleted_and_recovered_it_is_what_it_was(land: Land, shop: ProjectCreated) -> None:
    await tag(land, shop, "pii")
    dev = await branched(land, shop, name="dev")
    _, operations = await land.control.branches.delete(CALLER, shop.project.id, dev.branch.id)
    await land.finish(operations)
    back, operations = await land.control.branches.recover(CALLER, shop.project.id, dev.branch.id)
    await land.finish(operations)
    assert back.tags == {"pii"}


# ── what a decision looks at ──


async def test_a_decision_sees_the_branch_that_is_asked_about_or_all_of_them(land: Land, shop: ProjectCreated) -> None:
    dev = await branched(land, shop, name="dev")
    await land.control.tags.change(CALLER, shop.project.id, None, add=["team-a"])
    await tag(land, shop, "pii")
    await protect(land, shop)
    taken, operations = await land.control.snapshots.create(
        CALLER, shop.project.id, shop.branch.id, name="before", point=HEAD, expires_at=None
    )
    await land.finish(operations)

    async def about(**what: Any) -> set[str]:
        asked = await land.control.projects.about(shop.project.id, About(**what))
        assert asked.project == await land.control.projects.get(shop.project.id)
        return set(asked.tags)

    everything = {"team-a", "pii", "protected"}
    assert await about() == everything
    assert await about(branch_id=shop.branch.id) == everything
    assert await about(branch_id=dev.branch.id) == {"team-a"}
    assert await about(endpoint_id=dev.endpoints[0].id) == {"team-a"}
    assert await about(snapshot_id=taken.id) == everything
    assert await about(branch_id="br-of-nobody-12345678") == everything, "an id that leads nowhere hides nothing"
    await lift(land, shop, shop.branch.id, "pii")
    assert await about(branch_id=shop.branch.id) == {"team-a", "protected"}
    assert await about(snapshot_id=taken.id) == everything, "its own"
    assert await about() == everything
