"""Read-only endpoints: a standby of the branch's head, with the endpoint's own name, that wakes nobody and outlives nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from asyncpg import CheckViolationError

from cloister.base.directory import Close
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId, EndpointId
from cloister.control.branches.model import Point, Restore
from cloister.control.computes import holds
from cloister.control.computes.model import READ_ONLY, Endpoint, EndpointChange, NewEndpoint, State
from cloister.control.computes.service import READERS_PER_BRANCH_MAX
from cloister.control.computes.store import is_branch_clean
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import CAUSE, VERIFIER, branched, protect, refused, running
from tests.control.fake_node import QUIET
from tests.control.land import CALLER, Land

IDLE = timedelta(minutes=6)


@pytest.fixture
async def created(land: Land) -> AsyncIterator[ProjectCreated]:
    yield await land.project()
    # Whatever a test did: by and by nothing is left, on the node as in the rows.
    for _ in range(3):
        await land.plane.standbys.look_after_all()
        land.clock.advance(IDLE)
    async with land.database.reading() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM standby") == 0
    assert [spec.endpoint_id for spec in land.node.specs.values() if spec.is_read_only and runs(land, spec)] == []
    assert all(not timeline.is_frozen for image in land.node.images.values() for timeline in image.timelines.values())


def runs(land: Land, spec: Any) -> bool:
    return spec.endpoint_id in land.node.computes


async def reader(land: Land, created: ProjectCreated, **new: Any) -> Endpoint:
    wanted = NewEndpoint(branch_id=created.branch.id, type=READ_ONLY, **new)
    endpoint, operations = await land.control.endpoints.create(CALLER, created.project.id, wanted)
    await land.finish(operations)
    return await seen(land, endpoint)


async def seen(land: Land, endpoint: Endpoint) -> Endpoint:
    found: Endpoint = await land.control.endpoints.get(endpoint.project_id, endpoint.id)
    return found


async def asleep(land: Land, endpoint: Endpoint) -> None:
    _, operations = await land.control.endpoints.suspend(CALLER, endpoint.project_id, endpoint.id)
    await land.finish(operations)


def shows(land: Land, endpoint_id: EndpointId) -> list[str]:
    return land.node.words_of(land.node.computes[endpoint_id].timeline_id)


async def test_it_shows_the_branch_on_a_timeline_of_its_own_and_follows_the_branchs(
    land: Land, created: ProjectCreated
) -> None:
    land.node.write(created.endpoint.id, "one")
    it = await reader(land, created)
    spec = land.node.specs[it.id]
    assert (spec.is_read_only, spec.follows_id) == (True, created.branch.timeline_id)
    assert spec.timeline_id != created.branch.timeline_id
    assert shows(land, it.id) == ["one"]
    assert (it.type, it.state, it.socket_dir) == (READ_ONLY, State.ACTIVE, None)
    assert land.node.computes[created.endpoint.id].timeline_id == created.branch.timeline_id, "the writer is as it was"


async def test_it_wakes_nobody(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    for endpoint in (it, created.endpoint):
        await asleep(land, endpoint)
    assert land.node.computes == {}
    compute = await land.plane.standbys.wake(it.id)
    assert set(land.node.computes) == {it.id}
    assert (compute.endpoint_id, compute.was_cold) == (it.id, True)


async def test_who_may_log_in_is_who_the_writer_lets_in(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    async with land.plane.sessions.lasting(await running(land, created.endpoint.id)) as server:
        await server.create_role("by_sql", VERIFIER, can_login=True)
    route = await land.look_up(it.id, "by_sql")
    assert (route.endpoint_id, route.is_doomed, route.verifier) == (it.id, False, VERIFIER)
    assert route.socket_dir == land.node.computes[it.id].socket_dir
    assert (await land.look_up(it.id, "nobody")).is_doomed


async def test_it_is_suspended_and_started_and_says_so(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    await asleep(land, it)
    assert (await seen(land, it)).state is State.IDLE
    assert (await land.look_up(it.id, "neondb_owner")).socket_dir is None
    land.node.write(created.endpoint.id, "later")
    _, operations = await land.control.endpoints.start(CALLER, created.project.id, it.id)
    await land.finish(operations)
    assert (await seen(land, it)).state is State.ACTIVE
    assert shows(land, it.id) == ["later"], "made anew of what the branch is now"
    _, operations = await land.control.endpoints.restart(CALLER, created.project.id, it.id)
    await land.finish(operations)
    assert shows(land, it.id) == ["later"]


async def test_it_goes_when_nobody_has_used_it_by_its_own_patience(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created, suspend_timeout_seconds=3600)
    land.node.activity[it.id] = QUIET
    gateway = land.connect_gateway()
    for _ in range(3):
        await land.plane.standbys.look_after_all()
        land.clock.advance(IDLE)
    assert it.id in land.node.computes
    land.clock.advance(timedelta(hours=1))
    await land.plane.standbys.look_after_all()
    assert it.id not in land.node.computes
    assert Close(endpoint_id=it.id, reason="suspended") in gateway.heard


async def test_what_was_restored_is_not_shown_as_it_was(land: Land, created: ProjectCreated) -> None:
    land.node.write(created.endpoint.id, "one")
    land.clock.advance(timedelta(seconds=1))
    at = land.clock.now()
    land.clock.advance(timedelta(seconds=1))
    land.node.write(created.endpoint.id, "two")
    it = await reader(land, created)
    restore = Restore(source_id=created.branch.id, point=Point(at=at), preserve_under_name="before")
    done = await land.control.branches.restore(CALLER, created.project.id, created.branch.id, restore)
    await land.finish(done.operations)
    assert (await land.look_up(it.id, "neondb_owner")).socket_dir is None, "from the moment of the restore"
    await land.plane.standbys.wake(it.id)
    assert shows(land, it.id) == ["one"]
    assert (await land.row(created.endpoint.id))["state"] == "active", "the writer had its first start, and only it"


async def test_one_that_cannot_follow_any_more_is_made_anew(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    timeline_id = land.node.computes[it.id].timeline_id
    land.node.stuck.add(it.id)
    await land.plane.standbys.look_after_all()
    assert it.id not in land.node.computes
    land.node.stuck.clear()
    await land.plane.standbys.wake(it.id)
    assert land.node.computes[it.id].timeline_id != timeline_id


async def test_one_that_ended_on_the_node_is_made_anew(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    land.node.crash(it.id)
    await land.plane.standbys.look_after_all()
    assert (await seen(land, it)).state is State.IDLE
    await land.plane.reconciler.start_owed()
    assert it.id not in land.node.computes, "nobody asked for it"


async def test_it_goes_with_its_endpoint_and_with_its_branch(land: Land, created: ProjectCreated) -> None:
    first, second = await reader(land, created), await reader(land, created)
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, first.id)
    await land.finish(operations)
    assert set(land.node.computes) == {created.endpoint.id, second.id}
    assert not (await land.look_up(first.id, "neondb_owner")).is_known
    with pytest.raises(NotFoundError):
        await land.plane.standbys.wake(first.id)
    child = await branched(land, created, endpoints=[NewEndpoint(branch_id=BranchId(""), type=READ_ONLY)])
    (its,) = child.endpoints
    assert its.id in land.node.computes
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.plane.standbys.look_after_all()
    assert its.id not in land.node.computes


async def test_a_disabled_one_is_refused(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    _, operations = await land.control.endpoints.update(
        CALLER, created.project.id, it.id, EndpointChange(is_disabled=True)
    )
    await land.finish(operations)
    assert it.id not in land.node.computes
    assert (await land.look_up(it.id, "neondb_owner")).is_disabled
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_disabled
    with pytest.raises(PreconditionError):
        await land.plane.standbys.wake(it.id)


async def test_one_that_the_operator_holds_is_held_alone_and_one_of_a_held_writer_too(
    land: Land, created: ProjectCreated
) -> None:
    it = await reader(land, created)
    for held, are_held in ((it.id, (True, False)), (created.endpoint.id, (True, True))):
        async with land.database.transaction() as tx:
            await holds.put(tx, created.project.id, endpoint_id=held, finding_id="f", held_by="operator")
        found = [await land.look_up(name, "neondb_owner") for name in (it.id, created.endpoint.id)]
        assert tuple(route.is_held for route in found) == are_held
    async with land.database.transaction() as tx:
        await holds.release(tx, "f")


async def test_one_that_is_held_ends_and_is_not_made_again(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    async with land.database.transaction() as tx:
        await holds.put(tx, created.project.id, endpoint_id=it.id, finding_id="f", held_by="operator")
    await land.plane.standbys.look_after_all()
    assert it.id not in land.node.computes
    with refused(PreconditionError, "held by the platform's operator"):
        await land.plane.standbys.wake(it.id)
    assert it.id not in land.node.computes


async def test_readers_are_counted_and_make_no_room_for_a_second_writer(land: Land, created: ProjectCreated) -> None:
    for _ in range(READERS_PER_BRANCH_MAX):
        await reader(land, created, is_disabled=True)
    with refused(UnprocessableError, "at most 8 read-only endpoints"):
        await reader(land, created)
    with pytest.raises(ConflictError):
        await land.control.endpoints.create(CALLER, created.project.id, NewEndpoint(branch_id=created.branch.id))


async def test_one_of_a_protected_branch_is_protected_too(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    await protect(land, created)
    with refused(UnprocessableError, "cannot delete endpoint of protected branch"):
        await land.control.endpoints.delete(CALLER, created.project.id, it.id)


async def test_it_vouches_for_nobodys_roles(land: Land, created: ProjectCreated) -> None:
    """A branch whose last writer's roles could not be read stays one, though a reader was added since."""
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE endpoint SET is_clean = false WHERE id = $1", created.endpoint.id)
    it = await reader(land, created)
    async with land.database.reading() as tx:
        assert (await land.row(it.id))["is_clean"]
        assert not await is_branch_clean(tx, created.branch.id)


async def test_many_who_come_at_once_get_one(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    await asleep(land, it)
    computes = await asyncio.gather(*(land.plane.standbys.wake(it.id) for _ in range(5)))
    assert len({compute.generation for compute in computes}) == 1


async def test_no_way_leads_from_it_to_the_branchs_own_data(land: Land, created: ProjectCreated) -> None:
    """The worst that the control plane could do: a second server on the writer's data directory."""
    it = await reader(land, created, is_disabled=True)
    _, operations = await land.control.endpoints.update(
        CALLER, created.project.id, it.id, EndpointChange(is_disabled=False)
    )
    await land.finish(operations)
    await asleep(land, created.endpoint)
    with pytest.raises(PreconditionError):
        await land.plane.runner.start(it.id, CAUSE)
    with pytest.raises(PreconditionError):
        await land.plane.waker.wake(it.id)
    await land.plane.reconciler.start_owed()
    assert land.node.computes == {}
    async with land.database.transaction() as tx:
        with pytest.raises(CheckViolationError):
            await tx.execute("UPDATE endpoint SET socket_dir = '/run/x' WHERE id = $1", it.id)


async def test_one_that_the_node_runs_and_no_row_knows_is_stopped(land: Land, created: ProjectCreated) -> None:
    it = await reader(land, created)
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE timeline SET state = 'deleted' WHERE id = (SELECT timeline_id FROM standby)")
        await tx.execute("DELETE FROM standby")
    await land.plane.reconciler.compare()
    assert it.id not in land.node.computes
    land.node.images[created.project.id].timelines.popitem()
