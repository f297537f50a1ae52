"""What the control plane does when something dies."""

import pytest

from cloister.base.errors import ExhaustedError, UnavailableError
from cloister.control.computes import holds
from cloister.control.computes.runner import Cause
from cloister.control.projects.model import ProjectChange
from cloister.control.roles.server import RoleState
from cloister.control.roles.store import roles_of
from cloister.node.commands import StartCompute, VolumeFailed
from tests.control.land import CALLER, Land

VERIFIER = (
    "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)


async def hear(land: Land) -> None:
    """Follow what the node has said, as the reconciler's loop does."""
    heard = land.plane.reconciler._heard
    while not heard.empty():
        await land.plane.reconciler.follow(heard.get_nowait())


async def test_a_crashed_compute_is_said_to_be_down_and_started_again(land: Land) -> None:
    gateway = land.connect_gateway()
    created = await land.project()
    catalog = land.node.catalog_of(created.endpoint.id)
    catalog.roles["by_sql"] = RoleState("by_sql", VERIFIER, can_login=True, valid_until=None)
    land.node.crash(created.endpoint.id)
    await hear(land)
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["desired"], row["is_clean"], row["socket_dir"]) == ("idle", "active", False, None)
    assert gateway.names()[-1] == "Close"
    with pytest.raises(UnavailableError):  # the copy is older than the crash: nobody is judged by it
        await land.look_up(created.endpoint.id, "by_sql")

    await land.plane.reconciler.start_owed()
    assert created.endpoint.id in land.node.computes
    assert (await land.look_up(created.endpoint.id, "by_sql")).verifier == VERIFIER
    assert (await land.actions())[-2:] == ["compute.crashed", "compute.start"]


async def test_the_end_of_what_we_stopped_ourselves_is_no_crash(land: Land) -> None:
    created = await land.sleeping_project()
    await hear(land)
    assert "compute.crashed" not in await land.actions()
    assert (await land.row(created.endpoint.id))["is_clean"]


async def test_a_compute_that_the_node_stopped_by_itself_is_followed(land: Land) -> None:
    created = await land.project()
    land.node.stop_for_want_of_space(created.endpoint.id)
    await hear(land)
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["is_clean"], row["socket_dir"]) == ("idle", False, None)


async def test_the_late_word_of_an_old_generation_changes_nothing(land: Land) -> None:
    created = await land.project()
    old = land.node.computes[created.endpoint.id]
    land.node.crash(created.endpoint.id)
    await land.plane.waker.wake(created.endpoint.id, stale_generation=old.generation)
    await hear(land)
    assert (await land.row(created.endpoint.id))["state"] == "active"


async def test_a_compute_that_keeps_dying_is_left_alone_for_a_while_whoever_asks(land: Land) -> None:
    created = await land.project()
    for _ in range(2):
        land.node.crash(created.endpoint.id)
        await hear(land)
        await land.plane.reconciler.start_owed()
    assert created.endpoint.id not in land.node.computes
    with pytest.raises(UnavailableError):
        await land.plane.waker.wake(created.endpoint.id)
    land.clock.advance(land.plane.reconciler._backoff.wait(created.endpoint.id, land.clock.now()))
    await land.plane.reconciler.start_owed()
    assert created.endpoint.id in land.node.computes


async def test_a_start_that_is_refused_for_good_counts_as_a_death(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.failing["StartCompute"] = ExhaustedError("disk full")
    for _ in range(2):
        with pytest.raises(ExhaustedError):
            await land.plane.waker.wake(created.endpoint.id)
    with pytest.raises(UnavailableError):
        await land.plane.waker.wake(created.endpoint.id)


async def test_after_a_power_cut_what_ran_runs_again_and_what_slept_sleeps(land: Land) -> None:
    asleep = await land.sleeping_project()
    awake = [await land.project() for _ in range(3)]
    land.node.cut_power()
    await land.restart_api()
    await land.plane.reconciler.compare()
    await land.plane.reconciler.start_owed()
    assert set(land.node.computes) == {created.endpoint.id for created in awake}
    assert not (await land.look_up(asleep.endpoint.id, "neondb_owner")).is_doomed


async def test_a_compute_whose_start_was_cut_short_by_our_crash_is_adopted(land: Land) -> None:
    created = await land.sleeping_project()
    await land.node.call(StartCompute(spec=land.node.specs[created.endpoint.id]))
    await land.restart_api()
    await land.plane.reconciler.compare()
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["is_clean"]) == ("active", False)
    assert row["generation"] == land.node.computes[created.endpoint.id].generation


async def test_a_compute_that_is_found_is_not_left_alone_for_what_it_died_of_before(land: Land) -> None:
    created = await land.sleeping_project()
    for _ in range(2):
        land.plane.reconciler._backoff.died(created.endpoint.id, land.clock.now())
    await land.node.call(StartCompute(spec=land.node.specs[created.endpoint.id]))
    await land.plane.reconciler.compare()
    assert (await land.row(created.endpoint.id))["generation"] == land.node.computes[created.endpoint.id].generation


async def test_a_compute_that_outlived_its_endpoint_is_stopped_once_nobody_else_is_to_do_it(land: Land) -> None:
    created = await land.project()
    land.node.failing["StopCompute"] = UnavailableError("the node is on fire")
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    await land.plane.reconciler.stop_outliving()
    assert (await land.row(created.endpoint.id))["socket_dir"] is not None
    async with land.database.transaction() as tx:
        # With the lease, or whoever is just trying it again would write that it goes on.
        await tx.execute(
            "UPDATE operation SET status = 'failed', holds_resource = false, lease = lease + 1 WHERE id = $1",
            operations[0].id,
        )
    await land.plane.reconciler.stop_outliving()
    assert created.endpoint.id in land.node.computes, "that the node does not answer ends no round"
    del land.node.failing["StopCompute"]
    await land.plane.reconciler.stop_outliving()
    assert land.node.computes == {}
    assert (await land.row(created.endpoint.id))["socket_dir"] is None


@pytest.mark.parametrize("how", ["held", "disabled"])
async def test_what_nobody_may_run_is_stopped_though_whoever_was_to_do_it_died(land: Land, how: str) -> None:
    created = await land.project()
    async with land.database.transaction() as tx:
        if how == "disabled":
            await tx.execute("UPDATE endpoint SET is_disabled = true WHERE id = $1", created.endpoint.id)
        else:
            await holds.put(tx, created.project.id, finding_id="fd-one", held_by="operator")
    await land.plane.reconciler.stop_outliving()
    await land.plane.reconciler.start_owed()
    assert land.node.computes == {}


async def test_what_outlives_before_its_first_configuration_leaves_no_catalog_behind(land: Land) -> None:
    """It has the template's names, and the rows have those that were asked for."""
    created = await land.project()
    land.node.catalog_of(created.endpoint.id).roles.clear()
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE endpoint SET state = 'init', is_disabled = true WHERE id = $1", created.endpoint.id)
    await land.plane.reconciler.stop_outliving()
    assert land.node.computes == {}
    async with land.database.reading() as tx:
        assert [role.name for role in await roles_of(tx, created.branch.id)] == [created.role.name]


async def test_an_agent_that_adopted_a_compute_is_told_for_how_long_its_history_is_kept(land: Land) -> None:
    created = await land.project()
    await land.plane.reconciler.compare()
    assert "KeepHistory" not in land.node.calls, "it knows"
    land.node.history_retentions_s.clear()
    await land.plane.reconciler.compare()
    assert land.node.history_retentions_s == {created.endpoint.id: created.project.history_retention_seconds}
    # So is one whose project changed its mind meanwhile.
    await land.control.projects.update(CALLER, created.project.id, ProjectChange(history_retention_seconds=60))
    await land.plane.reconciler.compare()
    assert land.node.history_retentions_s == {created.endpoint.id: 60}


async def test_a_compute_of_nobody_is_stopped_and_an_unused_volume_locked(land: Land) -> None:
    created = await land.sleeping_project()
    spec = land.node.specs[created.endpoint.id]
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    await land.node.call(StartCompute(spec=spec))
    other = await land.sleeping_project()
    land.node.images[other.project.id].is_open = True
    await land.plane.reconciler.compare()
    assert land.node.computes == {}
    assert not any(image.is_open for image in land.node.images.values())


async def test_a_failed_volume_takes_its_computes_down_and_is_recorded(land: Land) -> None:
    created = await land.project()
    land.node._end(created.endpoint.id)
    land.plane.heard(VolumeFailed(created.project.id, "daemon died"))
    await hear(land)
    assert (await land.row(created.endpoint.id))["state"] == "idle"
    assert (await land.actions())[-2:] == ["volume.failed", "compute.crashed"]


async def test_an_endpoint_that_is_suspended_after_a_crash_is_judged_by_its_new_copy(land: Land) -> None:
    created = await land.project()
    land.node.crash(created.endpoint.id)
    await hear(land)
    await land.plane.reconciler.start_owed()
    await land.plane.suspender.at_once(created.endpoint.id, Cause("test", "test"))
    assert (await land.row(created.endpoint.id))["is_clean"]
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_doomed
