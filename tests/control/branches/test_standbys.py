"""Branches as they were at a point: made once for all who ask, shared, taken away, and never left over."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.base.directory import Close, Compute, LookUp
from cloister.base.errors import (
    CloisterError,
    ExhaustedError,
    InternalError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId, EndpointId, ProjectId, TimelineId
from cloister.base.past import Past, joined
from cloister.base.secret import new_password
from cloister.control.branches.model import NewBranch, Point, Restore
from cloister.control.branches.standbys import STANDBYS_PER_PROJECT_MAX, Ending, ending
from cloister.control.computes import holds
from cloister.control.computes.model import READ_ONLY, NewEndpoint
from cloister.control.computes.standby_store import Standby
from cloister.control.roles.passwords import new_verifier
from cloister.control.roles.server import RoleState
from cloister.control.services import ProjectCreated
from cloister.node.commands import RecoverTimeline
from tests.control.branches.scenes import VERIFIER, refused
from tests.control.fake_node import QUIET
from tests.control.land import CALLER, Land

IDLE = timedelta(minutes=6)
OTHER_VERIFIER = new_verifier(new_password())
NEW_BRANCH = NewBranch(name="dev", endpoints=[NewEndpoint(branch_id=BranchId(""))])


@pytest.fixture
async def created(land: Land) -> AsyncIterator[ProjectCreated]:
    yield await land.project()
    # Whatever a test did: by and by nothing is left, on the node as in the rows.
    land.node.failing.clear()
    land.node.before = None
    for _ in range(3):
        await land.plane.standbys.look_after_all()
        land.clock.advance(IDLE)
    assert await rows(land) == []
    assert [spec.endpoint_id for spec in land.node.specs.values() if spec.is_read_only and is_running(land, spec)] == []
    assert all(not timeline.is_frozen for image in land.node.images.values() for timeline in image.timelines.values())


def is_running(land: Land, spec: Any) -> bool:
    return spec.endpoint_id in land.node.computes


async def rows(land: Land) -> list[Any]:
    async with land.database.reading() as tx:
        return list(await tx.fetch("SELECT * FROM standby ORDER BY created_at"))


def place_of(created: ProjectCreated, lsn: str) -> str:
    return joined(created.branch.id, Past(lsn=lsn))


async def wake(land: Land, place: str, stale: int = 0) -> Compute:
    return await land.plane.standbys.wake(place, stale_generation=stale)


async def words(land: Land) -> list[str]:
    (row,) = await rows(land)
    return land.node.words_of(row["timeline_id"])


async def without_endpoint(land: Land, created: ProjectCreated) -> None:
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)


# ── what is wrong with one ──

STANDBY = Standby(
    id=EndpointId("ep-calm-forest-ab12cd34"),
    project_id=ProjectId("calm-forest-12345678"),
    branch_id=BranchId("br-calm-forest-ab12cd34"),
    past=Past(lsn="0/1"),
    timeline_id=TimelineId("0" * 32),
    is_ending=False,
    generation=7,
    socket_dir="/run/x",
    last_active_at=datetime(2026, 3, 1, tzinfo=UTC),
    pg_version=18,
    is_orphan=False,
)


@pytest.mark.parametrize(
    ("standby", "on_node", "why"),
    [
        (STANDBY, 7, None),
        (STANDBY, 8, Ending.CRASHED),
        (STANDBY, None, Ending.CRASHED),
        (replace(STANDBY, socket_dir=None), None, Ending.UNFINISHED),
        (replace(STANDBY, socket_dir=None), 7, Ending.UNFINISHED),
        (replace(STANDBY, socket_dir=None, is_ending=True), None, Ending.UNFINISHED),
        (replace(STANDBY, is_orphan=True), 7, Ending.ORPHAN),
    ],
)
def test_what_is_wrong_with_one(standby: Standby, on_node: int | None, why: Ending | None) -> None:
    assert ending(standby, on_node) is why


# ── made ──


async def test_it_holds_what_was_committed_then_and_the_branch_goes_on(land: Land, created: ProjectCreated) -> None:
    land.node.write(created.endpoint.id, "one")
    place = place_of(created, land.node.write(created.endpoint.id, "two"))
    land.node.write(created.endpoint.id, "three")
    compute = await wake(land, place)
    assert (compute.endpoint_id, compute.was_cold) == (place, True)
    assert await words(land) == ["one", "two"]
    land.node.write(created.endpoint.id, "four")
    again = await wake(land, place)
    assert (again.generation, again.was_cold) == (compute.generation, False)
    route = await land.look_up(place, "neondb_owner")
    assert (route.endpoint_id, route.socket_dir, route.generation) == (place, compute.socket_dir, compute.generation)


async def test_however_many_ask_it_is_made_once(land: Land, created: ProjectCreated) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    computes = await asyncio.gather(*(wake(land, place) for _ in range(10)))
    assert len({compute.generation for compute in computes}) == 1
    assert land.node.calls.count("StartCompute") == 2, "the branch's own, and one"


async def test_by_the_endpoints_name_and_by_the_branchs_it_is_one_place(land: Land, created: ProjectCreated) -> None:
    lsn = land.node.write(created.endpoint.id, "one")
    by_endpoint = await land.look_up(joined(created.endpoint.id, Past(lsn=lsn)), "neondb_owner")
    by_branch = await land.look_up(place_of(created, lsn), "neondb_owner")
    assert by_endpoint.endpoint_id == by_branch.endpoint_id == place_of(created, lsn)
    assert by_branch.is_volatile
    assert by_branch.verifier == created.role.verifier, "who may log in now may see what was"


async def test_a_branch_by_its_own_name_leads_to_no_compute(land: Land, created: ProjectCreated) -> None:
    route = await land.look_up(created.branch.id, "neondb_owner")
    assert (route.endpoint_id, route.is_known, route.socket_dir) == (created.branch.id, True, None)
    assert route.is_volatile, "its roles are those of a compute that runs"
    unknown = await land.look_up("br-no-such-00000000", "neondb_owner")
    assert (unknown.is_known, unknown.is_doomed) == (False, True)
    with_point = await land.look_up("br-no-such-00000000@lsn:0/1", "neondb_owner")
    assert with_point.verifier == unknown.verifier, "one mock, whatever the point"


async def test_a_branch_without_an_endpoint_can_be_seen_too(land: Land, created: ProjectCreated) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    await without_endpoint(land, created)
    route = await land.plane.directory.look_up(LookUp(endpoint=place, role="neondb_owner"))
    assert route.verifier == created.role.verifier
    await wake(land, place)
    assert await words(land) == ["one"]


async def test_who_is_let_in_to_a_branch_that_only_a_reader_serves_is_who_was_when_its_writer_ended(
    land: Land, created: ProjectCreated
) -> None:
    """Whatever roles there were at the point: one that was dropped since, or lost its right to log in, is let in nowhere."""
    roles = land.node.catalog_of(created.endpoint.id).roles
    roles |= {
        name: RoleState(name, VERIFIER, can_login=True, valid_until=None) for name in ("dropped", "closed", "renewed")
    }
    past = Past(lsn=land.node.write(created.endpoint.id, "one"))
    del roles["dropped"]
    roles["closed"] = replace(roles["closed"], can_login=False)
    roles["renewed"] = replace(roles["renewed"], verifier=OTHER_VERIFIER)
    wanted = NewEndpoint(branch_id=created.branch.id, type=READ_ONLY)
    reader, operations = await land.control.endpoints.create(CALLER, created.project.id, wanted)
    await land.finish(operations)
    await without_endpoint(land, created)
    for place in (created.branch.id, joined(created.branch.id, past), joined(reader.id, past), reader.id):
        found = {name: await land.look_up(place, name) for name in (*roles, "dropped", "nobody")}
        assert {name for name, route in found.items() if not route.is_doomed} == {"neondb_owner", "renewed"}
        assert found["renewed"].verifier == OTHER_VERIFIER, "the password of today, not that of the point"
    with refused(UnprocessableError, "no read-write endpoint"):
        await land.control.roles.delete(CALLER, created.project.id, created.branch.id, "renewed")


async def test_a_reader_that_may_not_be_used_leads_to_no_past_either(land: Land, created: ProjectCreated) -> None:
    wanted = NewEndpoint(branch_id=created.branch.id, type=READ_ONLY, is_disabled=True)
    reader, _ = await land.control.endpoints.create(CALLER, created.project.id, wanted)
    past = Past(lsn=land.node.write(created.endpoint.id, "one"))
    assert (await land.look_up(joined(reader.id, past), "neondb_owner")).is_disabled
    for name in (created.endpoint.id, created.branch.id):
        assert not (await land.look_up(joined(name, past), "neondb_owner")).is_disabled
    async with land.database.transaction() as tx:
        await holds.put(tx, created.project.id, endpoint_id=reader.id, finding_id="f", held_by="operator")
    assert (await land.look_up(joined(reader.id, past), "neondb_owner")).is_held


@pytest.mark.parametrize("crashes", [True, False])
async def test_a_branch_whose_roles_nobody_knows_lets_nobody_in_and_says_what_to_do(
    land: Land, created: ProjectCreated, crashes: bool
) -> None:
    """Its last compute crashed and was deleted, or it has had none since it was restored: no reconciler starts what is not
    there."""
    lsn = land.node.write(created.endpoint.id, "one")
    place = place_of(created, lsn)
    if crashes:
        land.node.crash(created.endpoint.id)
        await land.plane.reconciler.compare()
    await without_endpoint(land, created)
    if not crashes:
        restore = Restore(source_id=created.branch.id, point=Point(lsn=lsn), preserve_under_name="old")
        done = await land.control.branches.restore(CALLER, created.project.id, created.branch.id, restore)
        await land.finish(done.operations)
    for name in (created.branch.id, place):
        for role in ("neondb_owner", "nobody"):
            with refused(PreconditionError, "add a read-write compute"):
                await land.look_up(name, role)
    wanted = NewEndpoint(branch_id=created.branch.id)
    _, operations = await land.control.endpoints.create(CALLER, created.project.id, wanted)
    await land.finish(operations)
    assert not (await land.look_up(created.branch.id, "neondb_owner")).is_doomed


# ── refused ──


async def test_a_moment_outside_the_window_is_refused_with_the_window(land: Land, created: ProjectCreated) -> None:
    for at in (land.clock.now() - timedelta(days=40), land.clock.now() + timedelta(days=1)):
        with pytest.raises(UnprocessableError) as raised:
            await wake(land, joined(created.branch.id, Past(at=at)))
        assert "the timestamp must lie between" in raised.value.public
        assert await rows(land) == []


async def test_an_lsn_that_the_agent_does_not_find_leaves_nothing(land: Land, created: ProjectCreated) -> None:
    land.node.failing["RecoverTimeline"] = PreconditionError(public="the point is outside the history")
    with pytest.raises(UnprocessableError) as raised:
        await wake(land, place_of(created, "FFFF/0"))
    assert "outside the history" in raised.value.public
    assert await rows(land) == []


async def test_a_branch_that_is_gone_has_no_past(land: Land, created: ProjectCreated) -> None:
    with pytest.raises(NotFoundError):
        await wake(land, "br-no-such-00000000@lsn:0/1")


async def test_a_project_has_so_many_points_at_a_time(land: Land, created: ProjectCreated) -> None:
    lsns = [land.node.write(created.endpoint.id, f"{number}") for number in range(STANDBYS_PER_PROJECT_MAX + 1)]
    for lsn in lsns[:-1]:
        await wake(land, place_of(created, lsn))
    with pytest.raises(ExhaustedError):
        await wake(land, place_of(created, lsns[-1]))
    assert len(await rows(land)) == STANDBYS_PER_PROJECT_MAX


# ── gone ──


async def test_it_goes_when_nobody_has_used_it_for_long_enough(land: Land, created: ProjectCreated) -> None:
    gateway = land.connect_gateway()
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    compute = await wake(land, place)
    (row,) = await rows(land)
    land.node.activity[row["id"]] = replace(QUIET, busy_backends=1)
    for _ in range(2):
        land.clock.advance(IDLE)
        await land.plane.standbys.look_after_all()
    assert len(await rows(land)) == 1, "somebody works"
    del land.node.activity[row["id"]]
    land.clock.advance(IDLE)
    await land.plane.standbys.look_after_all()
    assert await rows(land) == []
    assert land.node.find_timeline(row["timeline_id"]) is None
    assert [event.endpoint_id for event in gateway.heard if isinstance(event, Close)] == [place]
    assert (await wake(land, place)).generation > compute.generation, "and comes back when it is asked for again"


async def test_a_client_that_waits_for_an_answer_keeps_it(land: Land, created: ProjectCreated) -> None:
    gateway = land.connect_gateway()
    gateway.has_unanswered = True
    await wake(land, place_of(created, land.node.write(created.endpoint.id, "one")))
    for _ in range(2):
        land.clock.advance(IDLE)
        await land.plane.standbys.look_after_all()
    assert len(await rows(land)) == 1
    assert gateway.names()[-2:] == ["Freeze", "Thaw"]
    gateway.has_unanswered = False


async def test_one_whose_compute_died_goes(land: Land, created: ProjectCreated) -> None:
    await wake(land, place_of(created, land.node.write(created.endpoint.id, "one")))
    (row,) = await rows(land)
    land.node.crash(row["id"])
    await land.plane.standbys.look_after_all()
    assert await rows(land) == []
    assert "compute.crashed" in await land.actions()


async def test_a_client_that_is_refused_by_its_socket_gets_another(land: Land, created: ProjectCreated) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    compute = await wake(land, place)
    with pytest.raises(UnavailableError):
        await wake(land, place, stale=compute.generation)
    (row,) = await rows(land)
    land.node.crash(row["id"])
    assert (await wake(land, place, stale=compute.generation)).generation > compute.generation


async def test_it_goes_with_its_branch(land: Land, created: ProjectCreated) -> None:
    child = await land.control.branches.create(CALLER, created.project.id, NEW_BRANCH)
    await land.finish(child.operations)
    lsn = land.node.write(child.endpoints[0].id, "one")
    await wake(land, joined(child.branch.id, Past(lsn=lsn)))
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    await land.plane.standbys.look_after_all()
    assert await rows(land) == []


# ── cut short ──


@pytest.mark.parametrize("command", ["RecoverTimeline", "StartCompute"])
@pytest.mark.parametrize("error", [UnavailableError("the agent is away"), InternalError("damaged")])
async def test_what_was_cut_short_is_gone_on_with_or_taken_away(
    land: Land, created: ProjectCreated, command: str, error: CloisterError
) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    land.node.failing[command] = error
    with pytest.raises(type(error)):
        await wake(land, place)
    assert len(await rows(land)) == 1, "what may succeed later is not thrown away at once"
    del land.node.failing[command]
    await wake(land, place)
    assert await words(land) == ["one"]


@pytest.mark.parametrize("command", ["RecoverTimeline", "StartCompute", "StopCompute", "DeleteTimeline"])
async def test_a_restart_of_the_api_leaves_nothing_over(land: Land, created: ProjectCreated, command: str) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    land.node.failing[command] = UnavailableError("cut off")
    if command in ("StopCompute", "DeleteTimeline"):
        await wake(land, place)
        land.clock.advance(IDLE)
        await land.plane.standbys.look_after_all()
        land.clock.advance(IDLE)
        await land.plane.standbys.look_after_all()
        (row,) = await rows(land)
        assert row["is_ending"]
        assert (await land.look_up(place, "neondb_owner")).socket_dir is None, "nobody is led to it any more"
    else:
        with pytest.raises(UnavailableError):
            await wake(land, place)
    await land.restart_api()
    land.node.failing.clear()
    await land.plane.standbys.look_after_all()
    assert await rows(land) == []


async def test_one_that_is_ending_is_ended_before_another_is_made(land: Land, created: ProjectCreated) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    first = await wake(land, place)
    (row,) = await rows(land)
    land.node.crash(row["id"])
    land.node.failing["DeleteTimeline"] = UnavailableError("cut off")
    await land.plane.standbys.look_after_all()
    del land.node.failing["DeleteTimeline"]
    second = await wake(land, place)
    (another,) = await rows(land)
    assert second.generation > first.generation
    assert another["timeline_id"] != row["timeline_id"]


async def test_a_long_replay_goes_on_for_the_one_who_comes_again(land: Land, created: ProjectCreated) -> None:
    place = place_of(created, land.node.write(created.endpoint.id, "one"))
    began, may_go, recovers = asyncio.Event(), asyncio.Event(), 0

    async def slow(command: Any) -> None:
        nonlocal recovers
        if isinstance(command, RecoverTimeline):
            recovers += 1
            began.set()
            await may_go.wait()

    land.node.before = slow
    impatient = asyncio.create_task(wake(land, place))
    await began.wait()
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    await land.plane.standbys.look_after_all()
    assert len(await rows(land)) == 1, "it is worked on"
    may_go.set()
    await wake(land, place)
    assert recovers == 1


# ── the reconciler ──


async def test_the_reconciler_leaves_standbys_alone_and_their_volume_open(land: Land, created: ProjectCreated) -> None:
    await wake(land, place_of(created, land.node.write(created.endpoint.id, "one")))
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    await land.plane.reconciler.compare()
    (row,) = await rows(land)
    assert row["id"] in land.node.computes
    assert "CloseVolume" not in land.node.calls
