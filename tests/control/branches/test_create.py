"""Creating branches, from the request to what the branch holds."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.database import Transaction
from cloister.base.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId
from cloister.control.branches import store
from cloister.control.branches.model import SCHEMA_ONLY, NewBranch, Point
from cloister.control.computes.model import NewEndpoint
from cloister.control.computes.operations import DEADLINE
from cloister.control.operations.model import Status
from cloister.control.projects.model import NewProject
from tests.control.branches.scenes import CAUSE, UNGRANTED, VERIFIER, branched, holds, protect, refused, running
from tests.control.land import CALLER, PATIENCE_S, Land

A_MOMENT = timedelta(seconds=1)


async def test_a_branch_of_a_running_parent_holds_what_was_committed_before_and_goes_its_own_way(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "before")
    child = await branched(land, created, name="dev")
    land.node.write(created.endpoint.id, "after")
    land.node.write(child.endpoints[0].id, "mine")
    assert holds(land, child) == ["before", "mine"]
    assert land.node.words_of(created.branch.timeline_id) == ["before", "after"]
    assert land.node.calls[2:] == ["CopyTimeline", "FinishCopy", "StartCompute"]
    branch = await land.control.branches.get(created.project.id, child.branch.id)
    assert (branch.state, branch.parent_id, branch.name) == ("ready", created.branch.id, "dev")
    assert branch.parent_lsn is not None
    assert [operation.action for operation in child.operations] == ["create_branch", "start_compute"]


async def test_a_branch_of_a_sleeping_parent_does_not_wake_it(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.calls.clear()
    child = await branched(land, created, endpoints=[])
    assert land.node.calls == ["CloneTimeline"]
    assert land.node.computes == {}
    assert child.branch.name == child.branch.id
    assert (child.branch.state, child.operations[0].action) == ("init", "create_branch")


async def test_roles_and_passwords_are_the_parents_and_a_client_that_comes_at_once_is_held(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, finish=False)
    route = await land.look_up(child.endpoints[0].id, "neondb_owner")
    assert (route.verifier, route.is_doomed, route.socket_dir) == (created.role.verifier, False, None)
    compute = await land.plane.waker.wake(child.endpoints[0].id)
    assert land.node.computes[compute.endpoint_id].timeline_id == child.branch.timeline_id
    assert [role.name for role in child.roles] == ["neondb_owner"]
    assert [database.name for database in child.databases] == ["neondb"]


async def test_clients_of_a_child_are_let_in_while_its_server_still_starts(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, finish=False)
    endpoint_id = child.endpoints[0].id
    land.node.deaf.add(endpoint_id)
    compute = await land.plane.waker.wake(endpoint_id)
    assert compute.generation == land.node.computes[endpoint_id].generation
    first_start = child.operations[-1]
    assert not (await land.control.operations.get(created.project.id, first_start.id)).status.has_ended
    land.node.deaf.clear()
    await land.finish_later([first_start])


@pytest.mark.parametrize("point", [None, A_MOMENT], ids=["scrubbed", "of a moment"])
async def test_nobody_is_let_in_to_what_only_the_server_can_say_before_it_was_asked(
    land: Land, point: timedelta | None
) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT * 2)
    if point is None:
        await protect(land, created)
    at = Point() if point is None else Point(at=land.clock.now() - point)
    child = await branched(land, created, finish=False, point=at)
    endpoint_id = child.endpoints[0].id
    land.node.deaf.add(endpoint_id)
    await land.plane.engine.wait(child.operations[-1].id, timeout_s=PATIENCE_S, past="start")
    assert (await land.row(endpoint_id))["state"] == "init"
    land.node.deaf.clear()
    await land.finish_later(child.operations)
    assert (await land.row(endpoint_id))["state"] == "active"


async def test_a_first_start_that_comes_to_nothing_leaves_an_endpoint_that_can_be_woken(still_land: Land) -> None:
    land = still_land
    created = await land.project()
    child = await branched(land, created, finish=False)
    endpoint_id = child.endpoints[0].id
    land.node.deaf.add(endpoint_id)
    await land.settle()
    land.clock.advance(DEADLINE)
    await land.settle()
    await land.finish(child.operations[-1:], Status.FAILED)
    assert endpoint_id not in land.node.computes
    assert (await land.row(endpoint_id))["state"] == "idle"


async def test_a_role_made_by_sql_in_the_running_parent_is_known_in_the_child(land: Land) -> None:
    created = await land.project()
    async with land.plane.sessions.lasting(await running(land, created.endpoint.id)) as server:
        await server.create_role("by_sql", VERIFIER, can_login=True)
    child = await branched(land, created, endpoints=[])
    roles = await land.control.roles.find(created.project.id, child.branch.id)
    assert {role.name for role in roles} == {"neondb_owner", "by_sql"}


async def test_a_project_can_be_branched_before_its_first_start_has_ended(land: Land) -> None:
    project = await land.control.projects.create(CALLER, NewProject(role_name="ada"))
    child = await branched(land, project, finish=False)
    await land.finish(project.operations)
    await land.finish_later(child.operations)
    assert set(land.node.catalog_of(child.endpoints[0].id).roles) == {"ada"}


async def test_a_first_start_that_ends_while_it_is_asked_for_is_no_failure(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await land.control.projects.create(CALLER, NewProject(role_name="ada"))
    really = store.is_being_made
    looks: list[BranchId] = []

    async def is_being_made(tx: Transaction, branch_id: BranchId) -> bool:
        if not looks:
            looks.append(branch_id)
            await land.finish(project.operations)
        return await really(tx, branch_id)

    monkeypatch.setattr(store, "is_being_made", is_being_made)
    child = await branched(land, project, finish=False)
    await land.finish_later(child.operations)
    assert looks


async def test_a_branch_at_a_moment_or_an_lsn_holds_that_and_nothing_after(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    lsn = land.node.write(created.endpoint.id, "one")
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "two")
    by_time = await branched(land, created, name="by time", point=Point(at=at))
    by_lsn = await branched(land, created, name="by lsn", point=Point(lsn=lsn.lower()))
    assert holds(land, by_time) == holds(land, by_lsn) == ["one"]
    assert land.node.calls.count("RecoverTimeline") == 2


async def test_who_may_log_in_at_a_moment_only_its_server_can_say(land: Land) -> None:
    created = await land.project()
    endpoint_id = created.endpoint.id
    land.clock.advance(A_MOMENT)
    land.node.write(endpoint_id, "one")
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    changed = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "late", can_login=True)
    await land.finish(changed.operations)
    child = await branched(land, created, finish=False, point=Point(at=at))
    route = await land.look_up(child.endpoints[0].id, "neondb_owner")
    assert (route.is_doomed, route.verifier) == (False, created.role.verifier), "the look-up waited for the first start"
    assert (await land.look_up(child.endpoints[0].id, "late")).is_doomed
    assert [role.name for role in await land.control.roles.find(created.project.id, child.branch.id)] == [
        "neondb_owner"
    ]


async def test_a_moment_outside_the_window_is_refused_with_the_window(land: Land) -> None:
    created = await land.project()
    for at in (land.clock.now() - timedelta(days=40), land.clock.now() + timedelta(hours=1)):
        with pytest.raises(UnprocessableError) as refusal:
            await branched(land, created, point=Point(at=at))
        window = await land.control.branches.window(created.project.id, created.branch.id)
        assert window.since.isoformat(timespec="seconds")[:-6] in refusal.value.public
    assert await land.control.branches.count(created.project.id, None) == 1


async def test_an_lsn_outside_the_history_fails_and_leaves_nothing(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, finish=False, name="dev", point=Point(lsn="0/FFFFFF"))
    await land.finish(child.operations[:1], Status.FAILED)
    await land.finish(child.operations[1:], Status.SKIPPED)
    operation = await land.control.operations.get(created.project.id, child.operations[0].id)
    assert "LSN must lie between" in operation.error
    with pytest.raises(NotFoundError):
        await land.control.branches.get(created.project.id, child.branch.id)
    assert land.node.find_timeline(child.branch.timeline_id) is None
    await branched(land, created, name="dev")


async def test_an_lsn_of_a_branch_that_has_no_data_yet_is_refused(land: Land) -> None:
    created = await land.project()
    land.node.failing["CopyTimeline"] = UnavailableError("later")
    child = await branched(land, created, finish=False)
    with refused(UnprocessableError, "not ready yet"):
        await branched(land, created, parent_id=child.branch.id, point=Point(lsn="0/100"))


async def test_a_name_that_is_taken_is_a_conflict(land: Land) -> None:
    created = await land.project()
    await branched(land, created, name="dev")
    with pytest.raises(ConflictError) as refusal:
        await branched(land, created, name="dev")
    assert refusal.value.public == 'branch already exists; branch_name:"dev"'


async def test_a_parent_that_is_suspended_in_the_middle_is_copied_at_rest(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "one")
    is_first = True

    async def suspend_once(command: Any) -> None:
        nonlocal is_first
        if type(command).__name__ == "FinishCopy" and is_first:
            is_first = False
            land.node.failing["FinishCopy"] = UnavailableError("the agent restarts")
            await land.plane.suspender.at_once(created.endpoint.id, CAUSE)

    land.node.before = suspend_once
    child = await branched(land, created, finish=False)
    await land.finish_later(child.operations)
    assert land.node.calls.count("CloneTimeline") == 1
    assert holds(land, child) == ["one"]


async def test_a_copy_that_an_agent_of_before_began_is_begun_again(land: Land) -> None:
    """An agent that is started sweeps what it finds half-made. The operation must not fail for that."""
    created = await land.project()
    land.node.write(created.endpoint.id, "kept")
    finished = 0

    async def swept_once(command: Any) -> None:
        nonlocal finished
        if type(command).__name__ == "FinishCopy":
            finished += 1
            if finished == 1:
                raise NotFoundError("no copy", public="the copy is gone; begin again")

    land.node.before = swept_once
    child = await branched(land, created, finish=False)
    await land.finish_later(child.operations)
    assert holds(land, child) == ["kept"]
    assert (finished, land.node.calls.count("CopyTimeline")) == (2, 2)


async def test_many_branches_of_one_parent_are_made_at_once_but_not_while_it_is_restored(land: Land) -> None:
    created = await land.project()
    gate = asyncio.Event()

    async def wait(command: Any) -> None:
        if type(command).__name__ == "CopyTimeline":
            await gate.wait()

    land.node.before = wait
    children = [await branched(land, created, finish=False, name=f"dev {number}") for number in range(5)]
    with pytest.raises(BusyError):
        await land.control.branches.set_as_default(CALLER, created.project.id, created.branch.id)
    await land.plane.waker.wake(created.endpoint.id)
    gate.set()
    for child in children:
        await land.finish(child.operations)
    assert len({child.branch.timeline_id for child in children}) == 5


async def test_an_endpoint_that_is_added_later_has_a_first_start(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, endpoints=[])
    endpoint, operations = await land.control.endpoints.create(
        CALLER, created.project.id, NewEndpoint(branch_id=child.branch.id)
    )
    assert endpoint.state == "init"
    await land.finish(operations)
    assert (await land.row(endpoint.id))["state"] == "active"


async def test_the_child_of_a_protected_branch_has_passwords_of_its_own(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    async with land.plane.sessions.lasting(await running(land, created.endpoint.id)) as server:
        await server.create_role("by_sql", VERIFIER, can_login=True)
    child = await branched(land, created)
    assert land.node.calls.index("ScrubTimeline") < len(land.node.calls) - 1
    assert [each.role.name for each in child.passwords] == ["neondb_owner", "by_sql"]
    mine = land.node.catalog_of(child.endpoints[0].id).roles
    theirs = land.node.catalog_of(created.endpoint.id).roles
    for each in child.passwords:
        assert mine[each.role.name].verifier == each.role.verifier != theirs[each.role.name].verifier
    route = await land.look_up(child.endpoints[0].id, "neondb_owner")
    assert route.verifier == child.passwords[0].role.verifier


async def test_branching_a_protected_branch_is_a_permission_of_its_own(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    with pytest.raises(ForbiddenError):
        await land.control.branches.create(UNGRANTED, created.project.id, NewBranch())


async def test_a_failed_scrub_leaves_nothing(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    land.node.failing["ScrubTimeline"] = PreconditionError("no")
    child = await branched(land, created, finish=False)
    await land.finish(child.operations[:1], Status.FAILED)
    assert land.node.find_timeline(child.branch.timeline_id) is None
    assert (await land.look_up(child.endpoints[0].id, "neondb_owner")).is_known is False


# ── without rows ──


async def test_a_schema_becomes_a_root_with_its_roles_and_nothing_of_its_copy_stays(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "a row")
    async with land.plane.sessions.lasting(await running(land, created.endpoint.id)) as server:
        await server.create_role("by_sql", VERIFIER, can_login=True)
    child = await branched(land, created, init_source=SCHEMA_ONLY)
    assert holds(land, child) == []
    assert land.node.words_of(created.branch.timeline_id) == ["a row"]
    assert len(land.node.images[created.project.id].timelines) == 2
    branch = await land.control.branches.get(created.project.id, child.branch.id)
    assert (branch.state, branch.parent_id, branch.parent_lsn, branch.parent_timestamp) == ("ready", None, None, None)
    assert branch.init_source == SCHEMA_ONLY
    assert {role.name for role in await land.control.roles.find(created.project.id, branch.id)} == {
        "neondb_owner",
        "by_sql",
    }
    route = await land.look_up(child.endpoints[0].id, "neondb_owner")
    assert route.verifier == created.role.verifier
    # It can be made again, so it can be deleted, root or not.
    await land.control.branches.delete(CALLER, created.project.id, branch.id)


async def test_a_schema_at_a_moment_comes_by_way_of_what_was_then(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    at = land.clock.now()
    child = await branched(land, created, init_source=SCHEMA_ONLY, point=Point(at=at), endpoints=[])
    assert land.node.calls[2:] == ["RecoverTimeline", "CopySchema", "DeleteTimeline"]
    assert holds(land, child) == []


async def test_the_schema_of_a_protected_branch_comes_without_its_passwords(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    with pytest.raises(ForbiddenError):
        await land.control.branches.create(UNGRANTED, created.project.id, NewBranch(init_source=SCHEMA_ONLY))
    child = await branched(land, created, init_source=SCHEMA_ONLY, finish=False)
    [password] = child.passwords
    await land.finish(child.operations[:1])
    timeline = land.node.find_timeline(child.branch.timeline_id)
    assert timeline is not None
    assert timeline.catalog.roles["neondb_owner"].verifier is None
    assert "ScrubTimeline" not in land.node.calls
    await land.finish(child.operations[1:])
    mine = land.node.catalog_of(child.endpoints[0].id).roles["neondb_owner"]
    assert mine.verifier == password.role.verifier != created.role.verifier


async def test_a_schema_that_cannot_be_made_anew_leaves_nothing(land: Land) -> None:
    created = await land.project()
    land.node.failing["CopySchema"] = UnprocessableError("no", public="the schema cannot be made anew: …")
    child = await branched(land, created, init_source=SCHEMA_ONLY, finish=False)
    await land.finish(child.operations[:1], Status.FAILED)
    assert list(land.node.images[created.project.id].timelines) == [created.branch.timeline_id]
    failed = await land.control.operations.get(created.project.id, child.operations[0].id)
    assert failed.error == "the schema cannot be made anew: …"
