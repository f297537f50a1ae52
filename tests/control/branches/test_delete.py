"""Deleting a branch, getting it back, and the end of it."""

from datetime import timedelta

import msgspec
import pytest

from cloister.base.errors import ConflictError, NotFoundError
from cloister.control.branches.model import SCHEMA_ONLY, BranchChange, Restore
from cloister.control.branches.rules import RECOVERABLE_FOR
from cloister.control.services import ProjectCreated
from cloister.node.commands import TimelineInfo
from tests.audited import raised
from tests.control.branches.scenes import CAUSE, branched, holds, of_project, seen
from tests.control.land import CALLER, Land


async def a_project(land: Land) -> ProjectCreated:
    created = await land.project()
    land.node.write(created.endpoint.id, "one")
    return created


async def test_a_deleted_branch_is_gone_for_everybody_and_comes_back_as_it_was(land: Land) -> None:
    created = await a_project(land)
    project_id = created.project.id
    child = await branched(land, created, name="dev")
    endpoint_id = child.endpoints[0].id
    land.node.write(endpoint_id, "mine")
    branch, operations = await land.control.branches.delete(CALLER, project_id, child.branch.id)
    assert branch.deleted_at is not None
    await land.finish(operations)
    assert endpoint_id not in land.node.computes
    with pytest.raises(NotFoundError):
        await land.control.branches.get(project_id, child.branch.id)
    assert not (await land.look_up(endpoint_id, "neondb_owner")).is_known
    assert [each.id for each in await land.control.branches.find_deleted(project_id)] == [child.branch.id]

    await land.control.branches.recover(CALLER, project_id, child.branch.id)
    assert (await seen(land, child.branch)).deleted_at is None
    assert holds(land, child) == ["one", "mine"]
    route = await land.look_up(endpoint_id, "neondb_owner")
    assert (route.is_known, route.is_doomed) == (True, False)
    await land.plane.waker.wake(endpoint_id)
    assert await land.control.branches.find_deleted(project_id) == []


async def test_the_log_says_how_old_it_was(land: Land) -> None:
    """Who deletes many that are older than a day is found; a pipeline takes away what it made."""
    created = await a_project(land)
    for days, findings in ((0, set()), (2, {"deletion-spree"})):
        child = await branched(land, created, endpoints=[])
        async with land.database.transaction() as tx:
            made = "UPDATE branch SET created_at = created_at - $2::interval WHERE id = $1"
            await tx.execute(made, child.branch.id, timedelta(days=days))
        _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
        await land.finish(operations)
        deleted = (await land.events("branch.delete"))[-1]
        assert 0 <= deleted.details["age_s"] - days * 86_400 < 3_600
        assert raised([deleted] * 25) == findings


async def test_an_endpoint_that_was_deleted_before_its_branch_does_not_come_back_with_it(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, child.endpoints[0].id)
    await land.finish(operations)
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.control.branches.recover(CALLER, created.project.id, child.branch.id)
    assert await land.control.endpoints.find(created.project.id, child.branch.id) == []


async def test_the_name_is_free_at_once_and_then_nobody_comes_back_under_it(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev", endpoints=[])
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await branched(land, created, name="dev", endpoints=[])
    with pytest.raises(ConflictError):
        await land.control.branches.recover(CALLER, created.project.id, child.branch.id)


async def test_a_hard_delete_is_at_once_and_for_good(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=True)
    await land.finish(operations)
    assert land.node.find_timeline(child.branch.timeline_id) is None
    with pytest.raises(NotFoundError):
        await land.control.branches.recover(CALLER, created.project.id, child.branch.id)


async def test_what_was_deleted_can_still_be_deleted_for_good(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    for hard in (False, True):
        _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=hard)
        await land.finish(operations)
    assert land.node.find_timeline(child.branch.timeline_id) is None


async def test_after_seven_days_its_bytes_go_with_all_that_it_was(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    done = await land.control.branches.restore(
        CALLER, created.project.id, child.branch.id, Restore(source_id=created.branch.id)
    )
    await land.finish(done.operations)
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.plane.caretaker.by_the_clock()
    timelines = land.node.images[created.project.id].timelines
    assert len(timelines) == 3
    land.clock.advance(RECOVERABLE_FOR + timedelta(minutes=1))
    with pytest.raises(NotFoundError):
        await land.control.branches.recover(CALLER, created.project.id, child.branch.id)
    await land.plane.caretaker.by_the_clock()
    await land.finish(await of_project(land, created))
    assert list(timelines) == [created.branch.timeline_id]
    assert "branch.purge" in await land.actions()
    assert await land.control.branches.find_deleted(created.project.id) == []


async def test_a_branch_whose_parent_is_gone_comes_back_under_the_nearest_ancestor(land: Land) -> None:
    created = await a_project(land)
    middle = await branched(land, created, name="middle", endpoints=[])
    leaf = await branched(land, created, name="leaf", endpoints=[], parent_id=middle.branch.id)
    for child in (leaf, middle):
        _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
        await land.finish(operations)
    await land.control.branches.recover(CALLER, created.project.id, leaf.branch.id)
    assert (await seen(land, leaf.branch)).parent_id == created.branch.id


async def test_a_branch_comes_back_above_one_that_expires(land: Land) -> None:
    """Under it, it would keep it from ever expiring."""
    created = await a_project(land)
    middle = await branched(land, created, name="middle", endpoints=[])
    leaf = await branched(land, created, name="leaf", parent_id=middle.branch.id, endpoints=[])
    _, operations = await land.control.branches.delete(CALLER, created.project.id, leaf.branch.id)
    await land.finish(operations)
    soon = BranchChange(expires_at=land.clock.now() + timedelta(hours=1))
    await land.control.branches.update(CALLER, created.project.id, middle.branch.id, soon)
    await land.control.branches.recover(CALLER, created.project.id, leaf.branch.id)
    assert (await seen(land, leaf.branch)).parent_id == created.branch.id


async def test_a_branch_whose_root_is_gone_comes_back_under_the_default_one(land: Land) -> None:
    created = await a_project(land)
    root = await branched(land, created, name="empty", init_source=SCHEMA_ONLY, endpoints=[])
    leaf = await branched(land, created, name="leaf", parent_id=root.branch.id, endpoints=[])
    for branch_id in (leaf.branch.id, root.branch.id):
        _, operations = await land.control.branches.delete(CALLER, created.project.id, branch_id)
        await land.finish(operations)
    await land.control.branches.recover(CALLER, created.project.id, leaf.branch.id)
    assert (await seen(land, leaf.branch)).parent_id == created.branch.id
    await land.control.branches.recover(CALLER, created.project.id, root.branch.id)
    assert (await seen(land, root.branch)).parent_id is None


async def test_a_branch_that_expired_is_deleted_and_can_be_recovered(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="pr-1", expires_at=land.clock.now() + timedelta(hours=1))
    await land.plane.caretaker.by_the_clock()
    assert (await seen(land, child.branch)).expires_at is not None
    land.clock.advance(timedelta(hours=2))
    await land.plane.caretaker.by_the_clock()
    await land.finish(await of_project(land, created))
    with pytest.raises(NotFoundError):
        await seen(land, child.branch)
    await land.control.branches.recover(CALLER, created.project.id, child.branch.id)
    assert (await seen(land, child.branch)).expires_at is None


async def test_a_branch_that_is_to_stay_after_all_is_not_taken_for_expired(land: Land) -> None:
    """Its owner says so between the look at what has expired and its turn."""
    created = await a_project(land)
    child = await branched(land, created, name="pr-1", expires_at=land.clock.now() + timedelta(hours=1))
    land.clock.advance(timedelta(hours=2))
    for change in (BranchChange(never_expires=True), BranchChange(expires_at=land.clock.now() + timedelta(hours=1))):
        await land.control.branches.update(CALLER, created.project.id, child.branch.id, change)
        await land.control.branches.expire(child.branch)
        assert (await seen(land, child.branch)).deleted_at is None


async def test_a_branch_that_is_recovered_in_its_last_moment_is_not_destroyed(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    deleted, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.control.branches.recover(CALLER, created.project.id, child.branch.id)
    await land.control.branches.purge(deleted)
    await land.finish(await of_project(land, created))
    assert (await seen(land, child.branch)).deleted_at is None
    assert land.node.find_timeline(child.branch.timeline_id) is not None


async def test_what_a_branch_was_is_given_up_when_nobody_can_ask_for_it(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    old_id = child.branch.timeline_id
    done = await land.control.branches.restore(
        CALLER, created.project.id, child.branch.id, Restore(source_id=created.branch.id)
    )
    await land.finish(done.operations)
    land.clock.advance(timedelta(hours=23))
    await land.plane.caretaker.by_the_clock()
    assert land.node.find_timeline(old_id) is not None
    land.clock.advance(timedelta(hours=2))
    await land.plane.caretaker.by_the_clock()
    await land.finish(await of_project(land, created))
    assert land.node.find_timeline(old_id) is None


async def test_a_running_branch_gets_a_place_to_recover_from_and_a_sleeping_one_keeps_its_window(land: Land) -> None:
    created = await a_project(land)
    timeline_id = created.branch.timeline_id
    await land.plane.caretaker.by_the_bytes()
    assert "CopyTimeline" not in land.node.calls
    usage = await land.control.branches.usage(created.project.id, created.branch.id)
    assert usage.logical_bytes == 1001
    land.node.wal_bytes[timeline_id] = 1024**3
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls[-3:] == ["CopyTimeline", "FinishCopy", "PruneTimeline"]
    land.node.calls.clear()
    land.node.without_history.add(timeline_id)
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls == ["CopyTimeline", "FinishCopy", "PruneTimeline"], "a crash cost it its first one"
    land.node.without_history.clear()
    land.node.calls.clear()
    land.node.with_gap.add(timeline_id)
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls == ["CopyTimeline", "FinishCopy", "PruneTimeline"], "its volume was full"
    land.node.with_gap.clear()

    await land.plane.suspender.at_once(created.endpoint.id, CAUSE)
    await land.plane.caretaker.by_the_bytes()
    land.clock.advance(timedelta(hours=23))
    land.node.calls.clear()
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls == [], "not more often than once a day"
    land.clock.advance(timedelta(hours=2))
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls == ["PruneTimeline"]
    land.clock.advance(timedelta(days=10))
    await land.plane.caretaker.by_the_bytes()
    assert land.node.calls == ["PruneTimeline"], "its window was past: nothing more to give up"


async def test_what_cannot_be_stored_of_one_timeline_is_the_trouble_of_that_one(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent tells of a tenant's files, and the one that was looked at longest ago is first in each round."""
    hostile, other = await a_project(land), await a_project(land)
    await land.plane.caretaker.by_the_bytes()
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE timeline SET measured_at = NULL WHERE id = $1", hostile.branch.timeline_id)
    tell = land.node._timeline_info

    def tell_too_much(project_id: str, timeline_id: str) -> TimelineInfo:
        info = tell(project_id, timeline_id)
        return msgspec.structs.replace(info, end_lsn="100000000/0") if project_id == hostile.project.id else info

    monkeypatch.setattr(land.node, "_timeline_info", tell_too_much)
    land.node.wal_bytes[other.branch.timeline_id] = 1024**3
    land.node.calls.clear()
    await land.plane.caretaker.by_the_bytes()
    assert "CopyTimeline" in land.node.calls


async def test_every_change_is_in_the_audit_log_once(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev", endpoints=[])
    await land.control.branches.set_as_default(CALLER, created.project.id, child.branch.id)
    await land.control.branches.set_as_default(CALLER, created.project.id, created.branch.id)
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.control.branches.recover(CALLER, created.project.id, child.branch.id)
    assert (await land.actions())[2:] == [
        "branch.create", "branch.set_as_default", "branch.set_as_default", "branch.delete", "branch.recover",
    ]  # fmt: skip
