"""What comes back from the store: a branch, also one that is gone for good, and a whole project."""

from datetime import timedelta
from typing import Any

import pytest

from cloister.base.errors import (
    ConflictError,
    InternalError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId
from cloister.control.backups import keeper as limits
from cloister.control.backups.model import Wish
from cloister.control.backups.operations import NOT_SENT
from cloister.control.backups.trouble import PAUSE_MAX, TOLD_AFTER_FAILURES
from cloister.control.branches.model import HEAD, Point
from cloister.control.operations.model import Status
from cloister.control.services import ProjectCreated
from cloister.trust.sentinel import rules
from cloister.trust.sentinel.watch import Watch
from tests.control.backups.office import A_MOMENT, Office, a_project
from tests.control.branches.scenes import branched, protect, refused, seen, words
from tests.control.land import CALLER, Land
from tests.fix_database import DatabaseAs


@pytest.fixture
async def office(land: Land) -> Office:
    return Office(land)


async def restored(
    office: Office, created: ProjectCreated, branch_id: str | None = None, point: Point = HEAD, name: str | None = None
) -> Any:
    wish = Wish(branch_id=None if branch_id is None else BranchId(branch_id), point=point, name=name)
    found = await office.land.control.backups.restore(CALLER, created.project.id, wish)
    await office.land.finish(found.operations)
    return found


async def test_a_branch_comes_back_as_far_as_was_sent(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.land.node.write(created.endpoint.id, "two")
    await office.look(limits.WAL_EVERY)
    office.land.node.write(created.endpoint.id, "too late")
    found = await restored(office, created, name="again")
    assert await words(office.land, found.branch) == ["one", "two"]
    branch = await seen(office.land, found.branch)
    assert (branch.name, branch.parent_id, branch.state) == ("again", created.branch.id, "ready")
    route = await office.land.look_up(found.endpoints[0].id, "neondb_owner")
    assert route.verifier == created.role.verifier


async def test_a_branch_that_was_deleted_for_good_comes_back(office: Office) -> None:
    created = await a_project(office)
    child = await branched(office.land, created, name="dev")
    office.land.node.write(child.endpoints[0].id, "of dev")
    await office.look()
    _, operations = await office.land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=True)
    await office.land.finish(operations)
    assert office.land.node.find_timeline(child.branch.timeline_id) is None
    found = await restored(office, created, child.branch.id, name="dev")
    assert await words(office.land, found.branch) == ["one", "of dev"]
    assert (await seen(office.land, found.branch)).parent_id == created.branch.id


async def test_as_it_was_at_a_moment_and_at_an_lsn(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    lsn = office.land.node.write(created.endpoint.id, "two")
    at = office.land.clock.now() + A_MOMENT
    office.land.clock.advance(2 * A_MOMENT)
    office.land.node.write(created.endpoint.id, "three")
    await office.look(limits.WAL_EVERY)
    for point in (Point(at=at), Point(lsn=lsn)):
        assert await words(office.land, (await restored(office, created, point=point)).branch) == ["one", "two"]


async def test_a_moment_that_was_not_sent_is_refused_with_what_there_is(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    sent = office.land.clock.now()
    for at, told in ((sent - timedelta(hours=1), "they begin at"), (sent + timedelta(hours=1), "reach to")):
        with refused(UnprocessableError, told):
            await restored(office, created, point=Point(at=at))


async def test_a_store_that_keeps_the_newest_back_is_not_believed(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.land.node.write(created.endpoint.id, "two")
    await office.look(limits.WAL_EVERY)
    office.store.hides_after = office.land.node.last_lsn - 1
    wish = Wish(branch_id=None, point=HEAD, name="again")
    found = await office.land.control.backups.restore(CALLER, created.project.id, wish)
    await office.land.finish(found.operations[:1], Status.FAILED)
    assert office.land.node.find_timeline(found.branch.timeline_id) is None


async def test_what_has_no_backup_and_where_no_store_is(office: Office) -> None:
    created = await a_project(office)
    await office.keeper.look()
    await office.keeper.settle()
    child = await branched(office.land, created, name="dev")
    with refused(NotFoundError, "no backup of this branch"):
        await restored(office, created, child.branch.id)
    office.land.node.store = None
    await office.look(limits.STORE_LOOK_EVERY)
    backups = office.land.control.backups
    for act in (
        restored(office, created),
        backups.take(CALLER, created.project.id, None),
        backups.check(CALLER, created.project.id, None, by_restoring=False),
        backups.restore_project(CALLER, created.project.id),
    ):
        with refused(PreconditionError, "no store for backups"):
            await act
    office.land.node.store = office.store
    await backups.take(CALLER, created.project.id, None)  # one that was set a moment ago counts


async def test_one_is_taken_and_one_read_back_when_somebody_asks(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.done()
    office.land.clock.advance(A_MOMENT)
    found = await office.land.control.backups.take(CALLER, created.project.id, created.branch.id)
    assert found.branches[0].progress.wanted_at == office.land.clock.now()
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    await office.land.control.backups.check(CALLER, created.project.id, None, by_restoring=False)
    await office.look()
    assert office.done() == ["ReadBack"]
    await office.look()
    assert office.done() == []
    await office.land.control.backups.leave_out(CALLER, created.project.id, "a toy")
    with refused(ConflictError, "left out"):
        await office.land.control.backups.take(CALLER, created.project.id, None)


# ── the whole ──


async def lost(office: Office) -> tuple[ProjectCreated, Any]:
    """A project with a protected branch and one more, whose volume is gone."""
    created = await a_project(office)
    await protect(office.land, created)
    child = await branched(office.land, created, name="dev")
    office.land.node.write(child.endpoints[0].id, "of dev")
    await office.look()
    office.land.node.write(created.endpoint.id, "two")
    await office.look(limits.WAL_EVERY)
    office.land.node.cut_power()
    del office.land.node.images[created.project.id]
    return created, child


async def bring_back(office: Office, created: ProjectCreated) -> None:
    await office.land.finish(await office.land.control.backups.restore_project(CALLER, created.project.id))


async def test_a_project_whose_volume_is_gone_comes_back_under_its_own_ids(office: Office) -> None:
    created, child = await lost(office)
    await bring_back(office, created)
    assert office.land.node.words_of(created.branch.timeline_id) == ["one", "two"]
    assert office.land.node.words_of(child.branch.timeline_id)[-1] == "of dev"
    assert (await seen(office.land, created.branch)).is_protected
    route = await office.land.look_up(created.endpoint.id, "neondb_owner")
    assert route.verifier == created.role.verifier
    begun, done = await office.land.details_of("backup.restore")
    assert (begun["step"], done) == ("begin", {"step": "done", "branches": 2, "lost": ""})


async def test_a_project_that_was_encrypted_anew_comes_back_under_the_key_that_is_left(office: Office) -> None:
    """Its first key is destroyed, or will be after seven days: a volume under it would not open then."""
    created = await a_project(office)
    await office.look()
    land, project_id = office.land, created.project.id
    await land.keys.renew(project_id, 1, CALLER.on_behalf)
    land.node.images[project_id].material = 2
    await land.keys.retire(project_id, 1, CALLER.on_behalf)
    land.node.cut_power()
    del land.node.images[project_id]
    await bring_back(office, created)
    assert land.node.words_of(created.branch.timeline_id) == ["one"]
    assert land.node.images[project_id].material == 2


async def problems(office: Office, created: ProjectCreated) -> list[str]:
    return ["" if it.progress is None else it.progress.problem for it in (await office.found(created)).branches]


async def test_who_waited_for_it_is_served_and_what_failed_meanwhile_is_forgotten(office: Office) -> None:
    """However long there was no data, and however often it was tried: what ran is up when the restoration says that it is done."""
    created, _ = await lost(office)
    land = office.land
    for _ in range(5):
        await office.look(limits.WAL_EVERY)
        await land.plane.reconciler.compare()
        await land.plane.reconciler.start_owed()
    assert all(await problems(office, created))
    assert created.endpoint.id not in land.node.computes
    await bring_back(office, created)
    assert created.endpoint.id in land.node.computes
    assert not any(await problems(office, created))
    office.done()
    await office.look(timedelta(0))
    assert "SendWal" in office.done()


async def test_what_was_found_because_there_was_no_data_is_over_and_what_fails_afterwards_is_news(
    office: Office, database_as: DatabaseAs
) -> None:
    """A branch that does not come back keeps its finding."""
    sentinel = Watch(await database_as("cloister_sentinel"), rules.shipped())
    await sentinel.load()

    async def found() -> list[tuple[str, str]]:
        await sentinel.step()
        async with office.land.database.reading() as tx:
            rows = await tx.fetch(
                "SELECT subject ->> 'branch_id' AS it, state FROM finding WHERE rule = $1 ORDER BY first_seq", NOT_SENT
            )
        return sorted((row["it"], row["state"]) for row in rows)

    created, child = await lost(office)
    del office.store.bases[child.branch.timeline_id]

    async def fails() -> None:
        for _ in range(TOLD_AFTER_FAILURES + 1):
            await office.look(PAUSE_MAX)

    await fails()
    first, second = created.branch.id, child.branch.id
    assert await found() == sorted([(first, "open"), (second, "open")])
    await bring_back(office, created)
    assert await found() == sorted([(first, "resolved"), (second, "open")])
    assert await office.land.details_of("finding.resolve") == [{"rule": NOT_SENT, "note": "its data is back"}]
    office.land.node.failing |= dict.fromkeys(("BackUpTimeline", "SendWal"), UnavailableError("the store is away"))
    await fails()
    assert await found() == sorted([(first, "resolved"), (first, "open"), (second, "open")])


async def test_while_the_volume_is_there_nothing_is_brought_back_over_it(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    with refused(ConflictError, "the project's volume is there"):
        await bring_back(office, created)
    office.land.node.failing["GetVolume"] = UnavailableError("no answer")
    with pytest.raises(UnavailableError):
        await bring_back(office, created)
    assert "RestoreTimeline" not in office.land.node.calls
    await bring_back_refused_after(office, created)


async def bring_back_refused_after(office: Office, created: ProjectCreated) -> None:
    """Also when it was brought back once."""
    office.land.node.failing.clear()
    office.land.node.cut_power()
    del office.land.node.images[created.project.id]
    await bring_back(office, created)
    with refused(ConflictError, "the project's volume is there"):
        await bring_back(office, created)


async def test_what_the_store_has_nothing_for_holds_up_no_other_branch(office: Office) -> None:
    created, child = await lost(office)
    del office.store.bases[child.branch.timeline_id]
    await bring_back(office, created)
    assert office.land.node.words_of(created.branch.timeline_id) == ["one", "two"]
    (_, done) = await office.land.details_of("backup.restore")
    assert done == {"step": "done", "branches": 1, "lost": child.branch.id}


async def test_what_no_database_comes_of_holds_up_no_other_branch(office: Office) -> None:
    """It was sent as it was, damaged; and it is the first of all that are asked for."""
    created, child = await lost(office)
    office.store.failing[created.branch.timeline_id] = InternalError("recovery ended with 1", public="it is damaged")
    operations = await office.land.control.backups.restore_project(CALLER, created.project.id)
    await office.land.finish_later(operations)
    assert office.land.node.words_of(child.branch.timeline_id)[-1] == "of dev"
    (_, done) = await office.land.details_of("backup.restore")
    assert done == {"step": "done", "branches": 1, "lost": created.branch.id}


async def test_cut_off_it_goes_on_where_it_was(office: Office) -> None:
    """The api dies when one branch is back."""
    created, child = await lost(office)
    land = office.land
    office.store.failing[child.branch.timeline_id] = UnavailableError("no", public="the store answers 503")
    operations = await land.control.backups.restore_project(CALLER, created.project.id)
    with pytest.raises(UnavailableError):
        await land.plane.engine.wait(operations[0].id, timeout_s=0.2)
    await land.restart_api()
    office.store.failing.clear()
    await land.finish_later(operations)
    assert land.node.words_of(created.branch.timeline_id) == ["one", "two"]
    assert land.node.words_of(child.branch.timeline_id)[-1] == "of dev"
