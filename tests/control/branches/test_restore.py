"""A branch becomes something else: reset, restore, what it was, and who stands in the way."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from cloister.base.errors import BusyError, ConflictError, UnavailableError, UnprocessableError
from cloister.base.ids import new_timeline_id
from cloister.control.branches import timelines
from cloister.control.branches.model import Branch, BranchCreated, BranchRestored, Point, Restore
from cloister.control.calling import Page
from cloister.control.computes.model import EndpointChange, NewEndpoint
from cloister.control.computes.store import begin_anew
from cloister.control.operations.model import Status
from cloister.control.services import ProjectCreated
from cloister.node.commands import StartCompute
from tests.control.branches.scenes import CAUSE, VERIFIER, branched, holds, protect, refused, running, seen, words
from tests.control.fake_node import QUIET
from tests.control.land import CALLER, Land

A_MOMENT = timedelta(seconds=1)
PAGE = Page(100)


async def restored(
    land: Land,
    branch: Branch,
    source: Branch | None = None,
    *,
    finish: bool = True,
    **wish: Any,
) -> BranchRestored:
    done: BranchRestored = await land.control.branches.restore(
        CALLER, branch.project_id, branch.id, Restore(source_id=(source or branch).id, **wish)
    )
    if finish:
        await land.finish(done.operations)
    return done


async def a_child(land: Land) -> tuple[ProjectCreated, BranchCreated]:
    created = await land.project()
    land.node.write(created.endpoint.id, "one")
    child = await branched(land, created, name="dev")
    land.node.write(child.endpoints[0].id, "mine")
    land.node.write(created.endpoint.id, "two")
    return created, child


async def test_a_reset_gives_a_branch_its_parents_head_under_the_same_id_and_host(land: Land) -> None:
    created, child = await a_child(land)
    endpoint_id = child.endpoints[0].id
    gateway = land.connect_gateway()
    done = await restored(land, child.branch, created.branch)
    assert await words(land, child.branch) == ["one", "two"]
    assert land.node.computes[endpoint_id].timeline_id == (await seen(land, child.branch)).timeline_id
    assert (await land.row(endpoint_id))["state"] == "active"
    assert gateway.names().index("Freeze") < gateway.names().index("Close"), "suspended in order"
    assert [operation.action for operation in done.operations] == ["create_timeline", "start_compute"]
    after = await seen(land, child.branch)
    assert (after.id, after.parent_id, after.name) == (child.branch.id, created.branch.id, "dev")
    assert land.node.words_of(child.branch.timeline_id) == ["one", "mine"], "what it was can still be asked for"
    land.node.write(endpoint_id, "again")
    assert await words(land, child.branch) == ["one", "two", "again"]
    assert land.node.words_of(created.branch.timeline_id) == ["one", "two"]


async def test_what_a_branch_was_before_a_reset_is_found_by_the_moment(land: Land) -> None:
    created, child = await a_child(land)
    async with land.database.reading() as tx:
        at: datetime = await tx.fetch_value("SELECT now()")
    await restored(land, child.branch, created.branch)
    land.clock.advance(timedelta(minutes=1))
    before = await branched(land, created, parent_id=child.branch.id, point=Point(at=at), name="before")
    assert holds(land, before) == ["one", "mine"]


async def test_a_branch_is_restored_to_its_own_past_and_what_it_was_is_kept_with_its_children(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "good")
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "bad migration")
    child = await branched(land, created, name="dev", endpoints=[])
    with refused(UnprocessableError, "its own history"):
        await restored(land, created.branch, point=Point(at=at))
    done = await restored(land, created.branch, point=Point(at=at), preserve_under_name="main_old")
    assert done.preserved is not None
    assert done.branch.parent_id == done.preserved.id, "Neon's command line asks for its backup by that"
    assert await words(land, created.branch) == ["good"]
    assert await words(land, done.preserved) == ["good", "bad migration"]
    main, old = await seen(land, created.branch), await seen(land, done.preserved)
    assert (main.is_default, main.parent_id, old.parent_id) == (True, old.id, None)
    assert (old.state, old.timeline_id) == ("ready", created.branch.timeline_id)
    assert (await seen(land, child.branch)).parent_id == old.id
    roles = await land.control.roles.find(created.project.id, old.id)
    assert [role.verifier for role in roles] == [created.role.verifier]
    assert land.node.catalog_of(created.endpoint.id).roles["neondb_owner"].verifier == created.role.verifier


async def test_what_the_first_branch_was_can_be_branched_without_an_endpoint_of_its_own(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "first")
    land.clock.advance(A_MOMENT)
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "second")
    done = await restored(land, created.branch, point=Point(at=at), preserve_under_name="main_old")
    assert done.preserved is not None
    child = await branched(land, created, name="of-the-old", parent_id=done.preserved.id)
    assert (await seen(land, child.branch)).state == "ready"
    assert holds(land, child) == ["first", "second"]


async def test_a_sleeping_branch_is_asleep_again_afterwards_and_its_roles_are_known(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "good")
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    made = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "late", can_login=True)
    await land.finish(made.operations)
    land.node.write(created.endpoint.id, "bad")
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    done = await restored(land, created.branch, point=Point(at=at), preserve_under_name="old")
    assert [operation.action for operation in done.operations] == [
        "create_timeline",
        "start_compute",
        "suspend_compute",
    ]
    assert land.node.computes == {}
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["is_clean"]) == ("idle", True)
    assert (await land.look_up(created.endpoint.id, "late")).is_doomed
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_doomed


async def test_a_client_that_came_meanwhile_is_not_put_out(land: Land) -> None:
    created, child = await a_child(land)
    endpoint_id = child.endpoints[0].id
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, endpoint_id)
    await land.finish(operations)

    async def come(command: Any) -> None:
        if type(command).__name__ == "StartCompute":
            land.node.activity[endpoint_id] = replace(QUIET, last_change_at=land.clock.now())

    land.node.before = come
    await restored(land, child.branch, created.branch)
    assert endpoint_id in land.node.computes


async def test_children_stand_in_the_way_unless_they_have_somewhere_to_go(land: Land) -> None:
    created, child = await a_child(land)
    await branched(land, created, parent_id=child.branch.id, name="grandchild", endpoints=[])
    with refused(UnprocessableError, "grandchild"):
        await restored(land, child.branch, created.branch)
    with pytest.raises(ConflictError):
        await restored(land, child.branch, created.branch, preserve_under_name="grandchild")
    assert await words(land, child.branch) == ["one", "mine"]


async def test_a_protected_branch_is_not_reset(land: Land) -> None:
    created, child = await a_child(land)
    await protect(land, created)
    with refused(UnprocessableError, "cannot reset protected branch"):
        await restored(land, created.branch, child.branch)


async def test_a_child_of_a_protected_branch_keeps_its_own_passwords(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    child = await branched(land, created, name="dev")
    mine = child.passwords[0].role.verifier
    async with land.plane.sessions.lasting(await running(land, created.endpoint.id)) as server:
        await server.create_role("new", VERIFIER, can_login=True)
    done = await restored(land, child.branch, created.branch)
    assert [each.role.name for each in done.passwords] == ["new"]
    roles = land.node.catalog_of(child.endpoints[0].id).roles
    assert roles["neondb_owner"].verifier == mine
    assert roles["new"].verifier == done.passwords[0].role.verifier != VERIFIER
    assert land.node.catalog_of(created.endpoint.id).roles["new"].verifier == VERIFIER


async def test_the_time_to_live_begins_anew(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, name="dev", expires_at=land.clock.now() + timedelta(hours=2))
    assert child.branch.ttl_interval_seconds == 7200
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE branch SET expires_at = now() + interval '1 minute' WHERE id = $1", child.branch.id)
    await restored(land, child.branch, created.branch)
    expires_at = (await seen(land, child.branch)).expires_at
    assert expires_at is not None
    assert expires_at > land.clock.now() + timedelta(minutes=110)


async def test_a_client_that_wakes_it_in_the_middle_gets_what_it_will_be(land: Land) -> None:
    """Suspended for the swap, it is started on the old timeline by somebody who came at this moment."""
    created, child = await a_child(land)
    endpoint_id = child.endpoints[0].id
    woken: list[str] = []

    async def wake(command: Any) -> None:
        if type(command).__name__ == "StopCompute" and not woken:
            woken.append("once")
            land.node.before = None
            await land.node.call(command)  # it is down, and the row does not say so yet

    land.node.before = wake
    done = await restored(land, child.branch, created.branch, finish=False)
    await land.finish_later(done.operations)
    compute = await land.plane.waker.wake(endpoint_id)
    assert land.node.computes[compute.endpoint_id].timeline_id == (await seen(land, child.branch)).timeline_id
    assert woken == ["once"]


async def test_a_compute_that_was_started_on_what_the_branch_was_is_shown_to_nobody(land: Land) -> None:
    """Another process gives the branch other data between our look at the row and the agent's start."""
    created, child = await a_child(land)
    endpoint_id, branch_id, old_id = child.endpoints[0].id, child.branch.id, child.branch.timeline_id
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, endpoint_id)
    await land.finish(operations)
    new_id = new_timeline_id()

    async def replace_it(command: Any) -> None:
        if type(command).__name__ == "StartCompute":
            land.node.before = None
            land.node.images[created.project.id].timelines[new_id] = land.node.images[created.project.id].timelines[
                old_id
            ]
            async with land.database.transaction() as tx:
                await timelines.add(tx, new_id, created.project.id, branch_id=None, source_id=old_id)
                await timelines.succeed(tx, branch_id, old_id, new_id, None)
                await begin_anew(tx, branch_id)

    land.node.before = replace_it
    compute = await land.plane.waker.wake(endpoint_id)
    assert land.node.computes[compute.endpoint_id].timeline_id == new_id
    assert land.node.calls[-3:] == ["StartCompute", "StopCompute", "StartCompute"]


async def test_a_start_of_which_no_row_told_does_not_serve_what_the_branch_was(land: Land) -> None:
    """The API dies between the agent's start and the row, and its successor restores the branch first."""
    created, child = await a_child(land)
    endpoint_id = child.endpoints[0].id
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, endpoint_id)
    await land.finish(operations)
    await land.node.call(StartCompute(spec=land.node.specs[endpoint_id]))
    done = await restored(land, child.branch, created.branch, finish=False)
    await land.finish_later(done.operations)
    compute = await land.plane.waker.wake(endpoint_id)
    assert land.node.computes[compute.endpoint_id].timeline_id == (await seen(land, child.branch)).timeline_id
    assert await words(land, child.branch) == ["one", "two"]


async def test_a_restore_that_cannot_be_leaves_the_branch_as_it_was_and_running(land: Land) -> None:
    created, child = await a_child(land)
    done = await restored(
        land, child.branch, created.branch, finish=False, point=Point(lsn="0/FFFFFF"), preserve_under_name="old"
    )
    await land.finish(done.operations[:1], Status.FAILED)
    await land.finish(done.operations[1:], Status.SKIPPED)
    assert await words(land, child.branch) == ["one", "mine"]
    assert child.endpoints[0].id in land.node.computes
    assert done.preserved is not None
    names = {branch.name for branch in await land.control.branches.find(created.project.id, PAGE, None)}
    assert names == {"main", "dev"}
    await restored(land, child.branch, created.branch, preserve_under_name="old")


async def test_two_restores_of_one_branch_exclude_each_other(land: Land) -> None:
    created, child = await a_child(land)
    land.node.failing["CopyTimeline"] = UnavailableError("later")
    await restored(land, child.branch, created.branch, finish=False)
    with pytest.raises(BusyError):
        await restored(land, child.branch, created.branch)
    with pytest.raises(BusyError):
        await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    with pytest.raises(BusyError):
        await branched(land, created, parent_id=child.branch.id)
    with pytest.raises(BusyError):
        await land.control.roles.create(CALLER, created.project.id, child.branch.id, "ada", can_login=True)


async def test_what_a_branch_was_is_its_restores_until_that_is_done(land: Land) -> None:
    """Until then the row shows the data that the branch itself lives on: a server there would be the second one."""
    created, child = await a_child(land)
    land.node.failing["CopyTimeline"] = UnavailableError("later")
    done = await restored(land, child.branch, created.branch, finish=False, preserve_under_name="old")
    assert done.preserved is not None
    project_id, old_id = created.project.id, done.preserved.id
    with pytest.raises(BusyError):
        await land.control.endpoints.create(CALLER, project_id, NewEndpoint(branch_id=old_id))
    with pytest.raises(BusyError):
        await land.control.branches.delete(CALLER, project_id, old_id, hard=True)
    with pytest.raises(BusyError):
        await branched(land, created, parent_id=old_id)
    del land.node.failing["CopyTimeline"]
    await land.finish_later(done.operations)
    _, operations = await land.control.endpoints.create(CALLER, project_id, NewEndpoint(branch_id=old_id))
    await land.finish(operations)
    assert await words(land, done.preserved) == ["one", "mine"]


async def test_an_endpoint_that_is_disabled_stays_so(land: Land) -> None:
    created, child = await a_child(land)
    _, operations = await land.control.endpoints.update(
        CALLER, created.project.id, child.endpoints[0].id, EndpointChange(is_disabled=True)
    )
    await land.finish(operations)
    done = await restored(land, child.branch, created.branch)
    assert len(done.operations) == 1
    assert await words(land, child.branch) == ["one", "two"]
    await land.plane.suspender.at_once(created.endpoint.id, CAUSE)


async def test_the_default_branch_and_the_root_are_not_deleted_nor_one_with_children(land: Land) -> None:
    created, child = await a_child(land)
    project_id = created.project.id
    with refused(UnprocessableError, "default"):
        await land.control.branches.delete(CALLER, project_id, created.branch.id)
    await land.control.branches.set_as_default(CALLER, project_id, child.branch.id)
    with refused(UnprocessableError, "root"):
        await land.control.branches.delete(CALLER, project_id, created.branch.id)
    with refused(UnprocessableError, "default"):
        await land.control.branches.delete(CALLER, project_id, child.branch.id)
    await land.control.branches.set_as_default(CALLER, project_id, created.branch.id)
    grandchild = await branched(land, created, parent_id=child.branch.id, name="leaf", endpoints=[])
    with refused(UnprocessableError, "leaf"):
        await land.control.branches.delete(CALLER, project_id, child.branch.id)
    _, operations = await land.control.branches.delete(CALLER, project_id, grandchild.branch.id)
    await land.finish(operations)
    await land.control.branches.delete(CALLER, project_id, child.branch.id)
