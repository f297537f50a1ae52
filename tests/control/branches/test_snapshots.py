"""Named snapshots: taken, kept, restored, expired, scheduled."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.base.errors import BadRequestError, BusyError, NotFoundError, UnavailableError, UnprocessableError
from cloister.control.branches.caretaker import TRY_AGAIN_AFTER
from cloister.control.branches.model import HEAD, Point, ScheduleItem, Snapshot, SnapshotChange
from cloister.control.branches.operations import GIVE_UP_DEADLINE
from cloister.control.branches.schedules import checked, due, next_due
from cloister.control.branches.store import take_place
from cloister.control.computes.store import started
from cloister.control.operations.model import Status
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import CAUSE, PAGE, branched, of_project, protect, refused, seen, words
from tests.control.land import CALLER, Land

A_MOMENT = timedelta(seconds=1)


async def taken(
    land: Land,
    created: ProjectCreated,
    *,
    point: Point = HEAD,
    name: str | None = "before",
    expires_at: datetime | None = None,
) -> Snapshot:
    snapshot, operations = await land.control.snapshots.create(
        CALLER, created.project.id, created.branch.id, name=name, point=point, expires_at=expires_at
    )
    await land.finish(operations)
    snapshots: list[Snapshot] = await land.control.snapshots.find(created.project.id)
    return next(each for each in snapshots if each.id == snapshot.id)


async def a_project(land: Land) -> ProjectCreated:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "one")
    return created


async def test_a_snapshot_is_frozen_and_survives_what_becomes_of_its_branch(land: Land) -> None:
    created = await a_project(land)
    snapshot = await taken(land, created)
    land.node.write(created.endpoint.id, "two")
    timeline = land.node.find_timeline(snapshot.timeline_id)
    assert timeline is not None
    assert (timeline.is_frozen, timeline.words(), snapshot.lsn is not None) == (True, ["one"], True)
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name="again", target_id=None, is_final=False
    )
    await land.finish(restored.operations)
    assert await words(land, restored.branch) == ["one"]
    assert (await seen(land, restored.branch)).parent_id == created.branch.id
    assert len(restored.endpoints) == 1
    route = await land.look_up(restored.endpoints[0].id, "neondb_owner")
    assert route.verifier == created.role.verifier


async def test_a_snapshot_of_a_moment_holds_that(land: Land) -> None:
    created = await a_project(land)
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "two")
    snapshot = await taken(land, created, point=Point(at=at))
    assert land.node.words_of(snapshot.timeline_id) == ["one"]
    assert snapshot.taken_at == at


async def test_a_snapshot_over_its_branch_keeps_what_that_was(land: Land) -> None:
    created = await a_project(land)
    snapshot = await taken(land, created)
    land.node.write(created.endpoint.id, "two")
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name=None, target_id=created.branch.id, is_final=True
    )
    await land.finish(restored.operations)
    assert await words(land, created.branch) == ["one"]
    assert land.node.computes[created.endpoint.id].timeline_id == (await seen(land, created.branch)).timeline_id
    found = await land.control.branches.find(created.project.id, PAGE, "main_old_")
    assert [await words(land, branch) for branch in found] == [["one", "two"]]


async def test_a_branch_that_was_looked_at_first_takes_the_others_place(land: Land) -> None:
    created = await a_project(land)
    snapshot = await taken(land, created)
    land.node.write(created.endpoint.id, "two")
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name="look", target_id=created.branch.id, is_final=False
    )
    await land.finish(restored.operations)
    _, operations = await land.control.snapshots.finalize(
        CALLER, created.project.id, restored.branch.id, name="was main"
    )
    await land.finish(operations)
    main, old = await seen(land, restored.branch), await seen(land, created.branch)
    assert (main.name, main.is_default, old.name, old.is_default) == ("main", True, "was main", False)
    assert await words(land, main) == ["one"]
    assert await words(land, old) == ["one", "two"]
    compute = await land.plane.waker.wake(created.endpoint.id)
    assert land.node.computes[compute.endpoint_id].timeline_id == main.timeline_id, (
        "the host serves what took its place"
    )
    assert [each.id for each in await land.control.endpoints.find(created.project.id, main.id)] == [created.endpoint.id]
    with refused(UnprocessableError, "nothing to finalize"):
        await land.control.snapshots.finalize(CALLER, created.project.id, main.id, name=None)


async def looked_at(land: Land, *, sleeps: bool = True) -> tuple[ProjectCreated, Any]:
    """A project, and what is to take its branch's place."""
    created = await a_project(land)
    snapshot = await taken(land, created)
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name="look", target_id=created.branch.id, is_final=False
    )
    await land.finish(restored.operations)
    for endpoint in (created.endpoint, restored.endpoints[0]) if sleeps else ():
        await land.plane.suspender.at_once(endpoint.id, CAUSE)
    return created, restored


async def test_nothing_is_begun_on_an_endpoint_that_is_just_given_to_another_branch(land: Land) -> None:
    """What was asked of the one branch would be done to the data of the other."""
    created, restored = await looked_at(land, sleeps=False)
    project_id = created.project.id
    land.node.failing["StopCompute"] = UnavailableError("later")
    _, operations = await land.control.snapshots.finalize(CALLER, project_id, restored.branch.id, name="old")
    with pytest.raises(BusyError):
        await land.control.databases.delete(CALLER, project_id, created.branch.id, created.database.name)
    with pytest.raises(BusyError):
        await land.control.roles.create(CALLER, project_id, created.branch.id, "ada", can_login=True)
    del land.node.failing["StopCompute"]
    await land.finish_later(operations)
    made = await land.control.roles.create(CALLER, project_id, restored.branch.id, "ada", can_login=True)
    await land.finish(made.operations)
    assert set(land.node.catalog_of(created.endpoint.id).databases) == {created.database.name}


async def test_a_start_under_way_does_not_outlive_the_endpoint_that_ends_with_the_finalizing(land: Land) -> None:
    """Its server died, and it was owed a start: nobody but the one that takes its host's place may run on the data."""
    created, restored = await looked_at(land)
    doomed = restored.endpoints[0].id

    async def take_its_place(command: Any) -> None:
        if type(command).__name__ == "StartCompute":
            land.node.before = None
            async with land.database.transaction() as tx:
                await take_place(tx, restored.branch.id, created.branch.id, name="main", old_name="was main")

    land.node.before = take_its_place
    with pytest.raises(NotFoundError):
        await land.plane.waker.wake(doomed)
    assert doomed not in land.node.computes
    compute = await land.plane.waker.wake(created.endpoint.id)
    assert land.node.computes[compute.endpoint_id].timeline_id == restored.branch.timeline_id


async def test_a_start_that_is_written_down_while_its_endpoint_moves_is_not_true_any_more(land: Land) -> None:
    created, restored = await looked_at(land)
    endpoint_id = created.endpoint.id

    async def write_down() -> bool:
        async with land.database.transaction() as tx:
            return await started(
                tx,
                endpoint_id,
                timeline_id=created.branch.timeline_id,
                generation=9,
                socket_dir="/run/computes/elsewhere",
                now=land.clock.now(),
            )

    async with asyncio.TaskGroup() as tasks, land.database.transaction() as tx:
        await take_place(tx, restored.branch.id, created.branch.id, name="main", old_name="was main")
        writing = tasks.create_task(write_down())
        async with asyncio.timeout(10):
            while not await tx.fetch_value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not writing.done(), "it must wait"
                await asyncio.sleep(0.01)
    assert not writing.result()
    assert (await land.row(endpoint_id))["socket_dir"] is None


async def test_a_protected_branch_is_not_overwritten_by_a_snapshot(land: Land) -> None:
    created = await a_project(land)
    snapshot = await taken(land, created)
    await protect(land, created)
    for is_final in (True, False):
        with refused(UnprocessableError, "cannot reset protected branch"):
            await land.control.snapshots.restore(
                CALLER, created.project.id, snapshot.id, name=None, target_id=created.branch.id, is_final=is_final
            )


async def test_a_branch_of_a_snapshot_of_a_protected_branch_has_passwords_of_its_own(land: Land) -> None:
    created = await a_project(land)
    snapshot = await taken(land, created)
    await protect(land, created)
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name=None, target_id=None, is_final=False
    )
    await land.finish(restored.operations)
    assert [each.role.name for each in restored.passwords] == ["neondb_owner"]
    mine = land.node.catalog_of(restored.endpoints[0].id).roles["neondb_owner"].verifier
    assert mine == restored.passwords[0].role.verifier != created.role.verifier


async def test_a_snapshot_goes_when_it_is_deleted_or_its_time_is_over(land: Land) -> None:
    created = await a_project(land)
    first, second = await taken(land, created), await taken(land, created, name=None)
    changed = await land.control.snapshots.update(
        CALLER,
        created.project.id,
        second.id,
        SnapshotChange(name="named", expires_at=land.clock.now() + timedelta(hours=1)),
    )
    assert (second.name, changed.name) == (second.id, "named")
    _, operations = await land.control.snapshots.delete(CALLER, created.project.id, first.id)
    await land.finish(operations)
    assert land.node.find_timeline(first.timeline_id) is None
    await land.plane.caretaker.by_the_clock()
    assert land.node.find_timeline(second.timeline_id) is not None
    land.clock.advance(timedelta(hours=2))
    await land.plane.caretaker.by_the_clock()
    await land.finish(await of_project(land, created))
    assert land.node.find_timeline(second.timeline_id) is None
    assert await land.control.snapshots.find(created.project.id) == []
    with pytest.raises(NotFoundError):
        await land.control.snapshots.delete(CALLER, created.project.id, first.id)


async def test_a_snapshot_that_is_to_be_kept_after_all_is_not_taken_for_expired(land: Land) -> None:
    """Its owner says so between the look at what has expired and its turn."""
    created = await a_project(land)
    found = [await taken(land, created, expires_at=land.clock.now() + timedelta(hours=1)) for _ in range(2)]
    land.clock.advance(timedelta(hours=2))
    for snapshot, change in zip(
        found,
        (SnapshotChange(never_expires=True), SnapshotChange(expires_at=land.clock.now() + timedelta(hours=1))),
        strict=True,
    ):
        await land.control.snapshots.update(CALLER, created.project.id, snapshot.id, change)
        await land.control.snapshots.expire(snapshot)
    await land.finish(await of_project(land, created))
    assert len(await land.control.snapshots.find(created.project.id)) == 2
    for snapshot in found:
        assert land.node.find_timeline(snapshot.timeline_id) is not None
    await land.control.snapshots.delete(CALLER, created.project.id, found[0].id)
    with pytest.raises(NotFoundError):
        await land.control.snapshots.expire(found[0])


async def test_what_could_not_be_deleted_is_tried_again(still_land: Land) -> None:
    land = still_land
    created = await a_project(land)
    snapshot, _ = await land.control.snapshots.create(
        CALLER, created.project.id, created.branch.id, name=None, point=HEAD, expires_at=None
    )
    await land.settle()
    await land.control.snapshots.delete(CALLER, created.project.id, snapshot.id)
    land.node.failing["DeleteTimeline"] = UnavailableError("on fire")
    await land.settle()
    land.clock.advance(GIVE_UP_DEADLINE)
    await land.settle()
    assert (await of_project(land, created))[0].status is Status.ERROR
    del land.node.failing["DeleteTimeline"]
    await land.plane.caretaker.by_the_clock()
    await land.settle()
    assert land.node.find_timeline(snapshot.timeline_id) is not None, "not without a pause"
    land.clock.advance(TRY_AGAIN_AFTER)
    await land.plane.caretaker.by_the_clock()
    await land.settle()
    assert land.node.find_timeline(snapshot.timeline_id) is None


async def test_a_deleted_branch_leaves_its_snapshots(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev")
    snapshot, operations = await land.control.snapshots.create(
        CALLER, created.project.id, child.branch.id, name="kept", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=True)
    await land.finish(operations)
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name="again", target_id=None, is_final=False
    )
    await land.finish(restored.operations)
    assert await words(land, restored.branch) == ["one"]
    assert restored.branch.parent_id == created.branch.id


async def test_a_snapshot_of_a_branch_that_expires_is_restored_above_it(land: Land) -> None:
    created = await a_project(land)
    child = await branched(land, created, name="dev", expires_at=land.clock.now() + timedelta(hours=1), endpoints=[])
    snapshot, operations = await land.control.snapshots.create(
        CALLER, created.project.id, child.branch.id, name="kept", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    restored = await land.control.snapshots.restore(
        CALLER, created.project.id, snapshot.id, name="again", target_id=None, is_final=False
    )
    assert restored.branch.parent_id == created.branch.id


async def test_a_schedule_takes_one_when_it_is_due_and_lets_it_expire(land: Land) -> None:
    created = await a_project(land)
    items = [ScheduleItem(frequency="hourly", retention_seconds=3600)]
    assert await land.control.snapshots.set_schedule(CALLER, created.project.id, created.branch.id, items) == items
    assert await land.control.snapshots.schedule(created.project.id, created.branch.id) == items
    await land.plane.caretaker.by_the_clock()
    assert await land.control.snapshots.find(created.project.id) == []
    land.clock.advance(timedelta(hours=1))
    for _ in range(2):
        await land.plane.caretaker.by_the_clock()
        await land.finish(await of_project(land, created))
    (snapshot,) = await land.control.snapshots.find(created.project.id)
    assert (snapshot.is_manual, snapshot.expires_at) == (False, land.clock.now() + timedelta(hours=1))
    land.clock.advance(timedelta(hours=1))
    await land.plane.caretaker.by_the_clock()
    await land.finish(await of_project(land, created))
    (successor,) = await land.control.snapshots.find(created.project.id)
    assert successor.id != snapshot.id


@pytest.mark.parametrize(
    ("item", "after", "moment"),
    [
        (ScheduleItem(frequency="hourly"), "2026-03-01T10:00:00", "2026-03-01T11:00:00"),
        (ScheduleItem(frequency="daily", hour=3), "2026-03-01T02:59:59", "2026-03-01T03:00:00"),
        (ScheduleItem(frequency="daily", hour=3), "2026-03-01T03:00:00", "2026-03-02T03:00:00"),
        (ScheduleItem(frequency="weekly", day=1, hour=3), "2026-03-01T12:00:00", "2026-03-02T03:00:00"),
        (ScheduleItem(frequency="weekly", day=7, hour=3), "2026-03-01T12:00:00", "2026-03-08T03:00:00"),
        (ScheduleItem(frequency="monthly", day=31), "2026-02-01T00:00:00", "2026-02-28T00:00:00"),
        (ScheduleItem(frequency="monthly", day=31), "2026-12-31T00:00:00", "2027-01-31T00:00:00"),
        (ScheduleItem(frequency="yearly", month=2, day=29), "2026-03-01T00:00:00", "2027-02-28T00:00:00"),
        (ScheduleItem(frequency="yearly", month=2, day=29), "2027-03-01T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_when_a_snapshot_is_due(item: ScheduleItem, after: str, moment: str) -> None:
    assert next_due(item, _utc(after)) == _utc(moment)


def test_of_several_that_are_due_the_one_that_is_kept_longest_is_taken() -> None:
    short = ScheduleItem(frequency="hourly", retention_seconds=3600)
    long = ScheduleItem(frequency="daily", retention_seconds=86_400)
    assert due([short, long], _utc("2026-03-01T23:30:00"), _utc("2026-03-02T00:10:00")) is long
    assert due([short, long], _utc("2026-03-02T00:10:00"), _utc("2026-03-02T01:10:00")) is short
    assert due([short, long], _utc("2026-03-02T00:10:00"), _utc("2026-03-02T00:50:00")) is None


@pytest.mark.parametrize(
    "item",
    [
        ScheduleItem(frequency="minutely"),
        ScheduleItem(frequency="hourly", hour=3),
        ScheduleItem(frequency="daily", hour=24),
        ScheduleItem(frequency="weekly", day=8),
        ScheduleItem(frequency="monthly", month=3),
        ScheduleItem(frequency="yearly", month=13),
        ScheduleItem(frequency="daily", retention_seconds=60),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(item: ScheduleItem) -> None:
    with pytest.raises(BadRequestError):
        checked([item])


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
