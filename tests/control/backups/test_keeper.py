"""What is sent to the store, and when: over a real control database and a fake node."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.errors import ConflictError, UnavailableError
from cloister.control.backups import keeper as limits
from cloister.control.backups.model import (
    BASE_EVERY,
    DRILL_EVERY,
    LATE_AFTER,
    NO_BASE_AFTER,
    RENEW_AFTER,
    BranchBackups,
)
from cloister.control.backups.trouble import PAUSE_MAX, TOLD_AFTER_FAILURES, TOLD_EVERY
from cloister.control.computes.store import placed
from cloister.control.services import ProjectCreated
from cloister.node.commands import BackUpTimeline, CopyTimeline, FinishCopy, SendWal
from tests.audited import raised
from tests.control.backups.office import A_MOMENT, Office, a_project
from tests.control.branches.scenes import branched
from tests.control.land import CALLER, Land


@pytest.fixture
async def office(land: Land) -> Office:
    return Office(land)


async def main(office: Office, created: ProjectCreated) -> BranchBackups:
    return (await office.found(created)).branches[0]


async def tries(office: Office) -> list[dict[str, Any]]:
    """Restores that were tried, as the log tells of them."""
    return [told for told in await office.land.details_of("backup.check") if told.get("what") == "restore"]


async def test_a_base_and_then_wal_every_half_a_minute(office: Office) -> None:
    created = await a_project(office)
    timeline_id = created.branch.timeline_id
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    office.land.node.write(created.endpoint.id, "two")
    await office.look(limits.WAL_EVERY - 2 * A_MOMENT)
    assert office.done() == []
    await office.look(2 * A_MOMENT)
    assert office.done() == ["SendWal"]
    assert [write.word for write in office.store.wal[timeline_id]] == ["one", "two"]
    branch = await main(office, created)
    assert (len(branch.bases), branch.sent_until) == (1, office.land.clock.now())
    assert branch.known_lsn == f"0/{office.land.node.last_lsn:X}"
    assert (created.project.id, "backup") in office.land.keys.purposes


async def test_the_snapshot_of_a_running_server_is_of_now(office: Office) -> None:
    created = await a_project(office)
    office.land.node.wal_bytes[created.branch.timeline_id] = 1
    await office.look()
    (base,) = office.store.bases[created.branch.timeline_id]
    assert [write.word for write in base.writes] == ["one"]


async def test_two_snapshots_of_one_history_are_made_one_after_the_other(office: Office) -> None:
    """There is one place for it: the caretaker's files under the label of ours would be a place that never was."""
    created = await a_project(office)
    land, steps = office.land, []

    async def before(command: object) -> None:
        if isinstance(command, CopyTimeline | FinishCopy):
            steps.append(type(command).__name__)
            await asyncio.sleep(0.01)  # whoever else is about to

    land.node.without_history.add(created.branch.timeline_id)
    land.node.before = before
    await office.keeper.look()
    await asyncio.gather(office.keeper.settle(), land.plane.caretaker.by_the_bytes())
    assert steps == ["CopyTimeline", "FinishCopy"] * 2


async def test_what_stopped_is_sent_once_more_and_not_woken(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.land.clock.advance(A_MOMENT)
    office.land.node.write(created.endpoint.id, "last words")
    _, operations = await office.land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await office.land.finish(operations)
    office.done()
    await office.look()
    assert office.done() == ["SendWal"]
    assert office.store.wal[created.branch.timeline_id][-1].word == "last words"
    await office.look(limits.WAL_EVERY)
    await office.look(BASE_EVERY - limits.WAL_EVERY - 4 * A_MOMENT)
    assert office.done() == []
    await office.look(4 * A_MOMENT)
    assert office.done() == ["BackUpTimeline", "ReadBack", "SendWal"]
    await office.look(BASE_EVERY)
    assert office.done() == ["ReadBack"], "nothing was written since: no other base"
    assert not office.land.node.computes


async def test_what_was_never_awake_is_sent_too(office: Office) -> None:
    created = await office.land.sleeping_project()
    office.done()
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    assert created.branch.timeline_id in office.store.bases
    assert not office.land.node.computes


async def test_what_does_not_change_is_sent_again_before_its_lock_is_too_short(office: Office) -> None:
    """So that what is promised is locked still, however long it lay."""
    created = await office.land.sleeping_project()
    await office.look()
    before = (await main(office, created)).bases[0]
    office.done()
    await office.look(RENEW_AFTER - A_MOMENT)
    assert "BackUpTimeline" not in office.done()
    assert before.locked_until - office.land.clock.now() >= timedelta(days=30)
    await office.look()
    assert "BackUpTimeline" in office.done()
    (after,) = (await main(office, created)).bases
    assert after.locked_until >= before.locked_until + RENEW_AFTER


async def test_a_base_a_day_of_what_is_written_to(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    for _ in range(3):
        office.land.node.write(created.endpoint.id, "more")
        office.land.node.timeline_of(created.endpoint.id).snapshots.append(office.land.node.last_lsn)
        await office.look(BASE_EVERY)
    assert len((await main(office, created)).bases) == 4


async def test_missing_wal_gets_a_new_base(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.store.broken.add(created.branch.timeline_id)
    await office.look(limits.WAL_EVERY)
    office.done()
    branch = await main(office, created)
    assert branch.progress is not None
    assert branch.progress.is_broken
    assert branch.sent_until == branch.bases[0].moment, "what follows what is missing is of no use"
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    progress = (await main(office, created)).progress
    assert progress is not None
    assert not progress.is_broken


async def test_wal_that_follows_nothing_gets_a_base_of_what_sleeps_too(office: Office) -> None:
    """As where another platform was the sender while this branch was written to, and it slept when that was over."""
    created = await a_project(office)
    await office.look()
    office.store.broken.add(created.branch.timeline_id)
    office.land.clock.advance(A_MOMENT)
    office.land.node.write(created.endpoint.id, "last words")
    _, operations = await office.land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await office.land.finish(operations)
    office.done()
    await office.look()
    assert office.done() == ["SendWal"]
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    office.store.broken.add(created.branch.timeline_id)
    await office.look(limits.WAL_EVERY)
    await office.look()
    assert office.done() == [], "there is nothing newer to begin with"
    assert not office.land.node.computes


async def test_more_wal_than_one_call_sends(office: Office) -> None:
    created = await a_project(office)
    office.store.behind[created.branch.timeline_id] = 2
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal", "SendWal", "SendWal"]


async def test_children_are_sent_as_well(office: Office) -> None:
    created = await a_project(office)
    child = await branched(office.land, created, name="dev")
    await office.look()
    assert set(office.store.bases) == {created.branch.timeline_id, child.branch.timeline_id}


async def test_without_a_store_nothing_is_done(office: Office) -> None:
    """And the rows stay as they are: nothing waits for a store that is not there."""
    await a_project(office)
    office.land.node.store = None
    office.done()
    await office.look()
    assert office.done() == []
    assert office.keeper.has_store is False
    async with office.land.database.reading() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM backup_progress") == 0
    office.land.node.store = office.store
    await office.look(limits.STORE_LOOK_EVERY - 2 * A_MOMENT)
    assert office.done() == [], "it is asked for once a minute"
    await office.look(2 * A_MOMENT)
    assert office.done() == ["BackUpTimeline", "SendWal"]


async def test_where_the_store_was_taken_away_nothing_waits_for_it(office: Office) -> None:
    """History is kept for as long as the project says, nobody is told that it is late, and what lies there can be restored once there
    is a store again."""
    created = await a_project(office)
    await office.look()
    office.land.node.store = None
    await office.look(LATE_AFTER + limits.STORE_LOOK_EVERY)
    assert await office.land.details_of("backup.overdue") == []
    async with office.land.database.reading() as tx:
        assert await tx.fetch_value("SELECT kept_history($1, 60)", created.branch.timeline_id) == 60
    branch = await main(office, created)
    assert (len(branch.bases), branch.progress) == (1, None)
    assert branch.known_lsn == branch.bases[0].stop_lsn


async def test_a_project_that_is_left_out_is_not_sent(office: Office) -> None:
    created = await a_project(office)
    backups = office.land.control.backups
    found = await backups.leave_out(CALLER, created.project.id, "a toy")
    assert (found.left_out.reason, found.left_out.asked_by) == ("a toy", CALLER.principal.actor)
    office.done()
    await office.look()
    assert office.done() == []
    found = await backups.take_in(CALLER, created.project.id)
    assert found.left_out is None
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"]
    assert [it for it in await office.land.actions() if "clude" in it] == ["backup.exclude", "backup.include"]


async def test_what_fails_for_one_is_no_other_s_trouble_and_told_after_a_while(office: Office) -> None:
    ill, well = await a_project(office), await a_project(office)
    office.store.failing[ill.branch.timeline_id] = UnavailableError("no", public="the store answers 503")
    await office.look()
    assert well.branch.timeline_id in office.store.bases
    assert await office.land.details_of("backup.fail") == []
    await office.look()
    assert await office.land.details_of("backup.fail") == [], "left alone for a while"
    for _ in range(TOLD_AFTER_FAILURES + 2):
        await office.look(PAUSE_MAX)
    assert await office.land.details_of("backup.fail") == [{"what": "base", "failures": TOLD_AFTER_FAILURES}]
    assert raised(await office.land.events("backup.fail")) == {"backup-failed"}
    progress = (await main(office, ill)).progress
    assert progress is not None
    assert (progress.failing, progress.problem) == ("base", "the store answers 503")
    await office.look(TOLD_EVERY)
    assert len(await office.land.details_of("backup.fail")) == 2
    office.store.failing.clear()
    await office.look(PAUSE_MAX)
    progress = (await main(office, ill)).progress
    assert progress is not None
    assert (progress.failing, progress.failures, progress.problem, progress.failing_since) == ("", 0, "", None)


async def test_what_takes_long_holds_up_nobody(office: Office) -> None:
    """Bases of gigabytes are on their way, as many as may be at once: WAL of all is sent all the same."""
    big = [await a_project(office) for _ in range(limits.BASES_AT_ONCE_MAX)]
    small = await a_project(office)
    await office.look()
    everybody = [*big, small]
    sending, wal_sent = asyncio.Event(), asyncio.Semaphore(0)

    async def before(command: object) -> None:
        if isinstance(command, SendWal):
            wal_sent.release()
        if isinstance(command, BackUpTimeline):
            await sending.wait()

    office.land.clock.advance(A_MOMENT)
    for created in big:
        await office.land.control.backups.take(CALLER, created.project.id, None)
    office.land.node.before = before
    office.land.clock.advance(limits.WAL_EVERY)
    office.done()
    await office.keeper.look()
    async with asyncio.timeout(5):
        for _ in everybody:
            await wal_sent.acquire()
    sending.set()
    await office.keeper.settle()
    assert office.done().count("BackUpTimeline") == len(big)


async def test_a_store_without_lock_is_told(office: Office) -> None:
    office.store.has_lock = False
    await office.look()
    assert await office.land.details_of("backup.fail") == [{"what": "store", "has_lock": False, "versions": True}]
    assert raised(await office.land.events("backup.fail")) == {"backup-failed"}
    await office.look(limits.STORE_LOOK_EVERY)
    assert len(await office.land.details_of("backup.fail")) == 1
    assert "no object lock" in office.keeper.store_problem


async def test_that_another_platform_sends_is_told_at_once_and_once_a_day(office: Office) -> None:
    await office.look()
    office.store.taken = "another platform sends into this bucket"
    await office.look(limits.STORE_LOOK_EVERY)
    assert await office.land.details_of("backup.fail") == [{"what": "sender"}]
    (event,) = await office.land.events("backup.fail")
    assert (raised([event]), event.reason) == ({"backup-failed"}, office.store.taken)
    assert office.keeper.store_problem == office.store.taken
    await office.look(limits.STORE_LOOK_EVERY)
    assert len(await office.land.details_of("backup.fail")) == 1
    await office.look(TOLD_EVERY)
    assert len(await office.land.details_of("backup.fail")) == 2
    office.store.has_lock, office.store.taken = False, ""
    await office.look(limits.STORE_LOOK_EVERY)
    assert [told["what"] for told in await office.land.details_of("backup.fail")] == ["sender", "sender", "store"]


async def test_a_store_that_is_ours_again_has_nothing_wait_and_is_told_when_it_is_taken_again(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.store.taken = "another platform sends into this bucket"
    office.store.failing[created.branch.timeline_id] = ConflictError("no", public=office.store.taken)
    for _ in range(10):
        await office.look(limits.STORE_LOOK_EVERY)
    office.store.taken, taken = "", office.store.taken
    office.store.failing.clear()
    office.done()
    await office.look(limits.STORE_LOOK_EVERY)
    assert office.done() == ["SendWal"]
    office.store.taken = taken
    await office.look(limits.STORE_LOOK_EVERY)
    assert [told["what"] for told in await office.land.details_of("backup.fail")].count("sender") == 2


async def test_who_writes_and_is_not_sent_is_late_once_a_day(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.store.failing[created.branch.timeline_id] = UnavailableError("no")
    await office.look(LATE_AFTER - A_MOMENT)
    assert await office.land.details_of("backup.overdue") == []
    sent_until = (await main(office, created)).sent_until
    assert sent_until is not None
    await office.look(2 * A_MOMENT)
    await office.look(LATE_AFTER)
    assert await office.land.details_of("backup.overdue") == [{"what": "WAL", "sent_until": sent_until.isoformat()}]
    assert raised(await office.land.events("backup.overdue")) == {"backup-overdue"}
    await office.look(TOLD_EVERY)
    assert len(await office.land.details_of("backup.overdue")) == 2


async def test_no_base_for_two_days_is_late(office: Office) -> None:
    created = await office.land.sleeping_project()
    office.store.failing[created.branch.timeline_id] = UnavailableError("no")
    await office.look()
    await office.look(NO_BASE_AFTER - timedelta(minutes=1))
    assert await office.land.details_of("backup.overdue") == []
    await office.look(timedelta(minutes=2))
    assert await office.land.details_of("backup.overdue") == [{"what": "base", "sent_until": ""}]


async def test_who_sleeps_and_owes_nothing_is_never_late(office: Office) -> None:
    await office.land.sleeping_project()
    await office.look()
    for _ in range(5):
        await office.look(NO_BASE_AFTER)
    assert await office.land.details_of("backup.overdue") == []


async def test_a_sample_is_read_back_once_a_day_and_damage_is_told(office: Office) -> None:
    created = await office.land.sleeping_project()
    await office.look()
    office.done()
    office.store.damaged = ["projects/a/chunks/00/00"]
    await office.look(limits.CHECK_EVERY)
    assert office.done() == ["ReadBack"]
    (told,) = await office.land.details_of("backup.check")
    assert (told["damaged"], told["objects"]) == (1, "projects/a/chunks/00/00")
    assert raised(await office.land.events("backup.check")) == {"backup-damaged"}
    assert (await main(office, created)).bases[0].damaged == 1
    office.store.damaged = []
    await office.look()
    assert office.done() == ["BackUpTimeline", "SendWal"], "what is damaged is sent again"
    await office.look(limits.CHECK_EVERY - 2 * A_MOMENT)
    assert office.done() == []


async def test_a_restore_is_tried_once_a_week_and_what_came_of_it_is_kept(office: Office) -> None:
    created = await office.land.sleeping_project()
    await office.look()
    await office.look(limits.CHECK_EVERY)
    assert "DrillRestore" not in office.done(), "of a store that is set today not everything at once"
    await office.look(DRILL_EVERY)
    assert "DrillRestore" in office.done()
    progress = (await main(office, created)).progress
    assert progress is not None
    assert (progress.tried, progress.tried_at) == ("whole", office.land.clock.now())
    (told,) = await tries(office)
    assert (told["databases"], told["relations"], told["damaged"]) == (4, 600, 0)
    assert raised(await office.land.events("backup.check")) == set()
    await office.look(DRILL_EVERY - 2 * A_MOMENT)
    assert "DrillRestore" not in office.done()
    await office.look(2 * A_MOMENT)
    assert "DrillRestore" in office.done()


async def test_damage_in_what_comes_back_is_told(office: Office) -> None:
    created = await office.land.sleeping_project()
    await office.look()
    office.store.unrestorable = ["database 16384, relation 16400: XX001"]
    await office.look(DRILL_EVERY)
    (told,) = await tries(office)
    assert (told["damaged"], told["objects"]) == (1, "database 16384, relation 16400: XX001")
    assert raised(await office.land.events("backup.check")) == {"backup-damaged"}
    progress = (await main(office, created)).progress
    assert progress is not None
    assert progress.tried == "damaged"


async def test_where_there_is_no_room_nobody_is_called_for_it(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    office.store.room = 1
    await office.look(DRILL_EVERY)
    progress = (await main(office, created)).progress
    assert progress is not None
    assert (progress.tried, progress.failures) == ("no room", 0)
    office.done()
    await office.look()
    assert "DrillRestore" not in office.done(), "in a week again"


async def test_a_store_that_keeps_the_newest_back_fails_the_restore(office: Office) -> None:
    created = await office.land.sleeping_project()
    await office.look()
    office.store.hides_after = 1
    for _ in range(TOLD_AFTER_FAILURES):
        await office.look(max(DRILL_EVERY, PAUSE_MAX))
    progress = (await main(office, created)).progress
    assert progress is not None
    assert (progress.tried, progress.failing) == ("", "restore")
    assert [told["what"] for told in await office.land.details_of("backup.fail")] == ["restore"]
    office.store.hides_after = None
    await office.look(PAUSE_MAX)
    progress = (await main(office, created)).progress
    assert progress is not None
    assert (progress.tried, progress.failing) == ("whole", "")


async def test_somebody_wants_a_restore_to_be_tried(office: Office) -> None:
    created = await office.land.sleeping_project()
    await office.look()
    office.done()
    asked = await office.land.control.backups.check(CALLER, created.project.id, created.branch.id, by_restoring=True)
    progress = asked.branches[0].progress
    assert progress is not None
    assert progress.check_wanted_at is None
    await office.look()
    assert office.done() == ["DrillRestore"]
    await office.look()
    assert office.done() == []


async def test_after_a_restart_a_store_that_does_not_answer_is_not_one_that_is_not_there(office: Office) -> None:
    created = await a_project(office)
    await office.look()
    await office.land.restart_api()
    office.keeper = office.land.plane.backup_keeper
    office.land.node.failing["GetStore"] = UnavailableError("no")
    office.land.node.failing["SendWal"] = UnavailableError("no", public="the courier does not answer")
    await office.look(LATE_AFTER + A_MOMENT)
    assert office.keeper.has_store is True
    assert len(await office.land.details_of("backup.overdue")) == 1
    assert (await main(office, created)).bases


async def test_history_waits_until_it_was_sent_for_a_week_at_most(office: Office) -> None:
    """And where there is a store, a project that wants no history keeps an hour of it."""
    created = await a_project(office)
    timeline_id = created.branch.timeline_id
    wanted = created.project.history_retention_seconds

    async def kept(seconds: int = wanted) -> int:
        async with office.land.database.reading() as tx:
            return int(await tx.fetch_value("SELECT kept_history($1, $2)", timeline_id, seconds))

    assert (await kept(), await kept(0)) == (wanted, 0)
    await office.look()
    assert (await kept(), await kept(0)) == (wanted, 3600)

    async def sent_last(ago: timedelta) -> None:
        async with office.land.database.transaction() as tx:
            await tx.execute("UPDATE backup_progress SET moment = now() - $1::interval", ago)

    await sent_last(timedelta(hours=36))
    assert await kept(86_400) == 37 * 3600, "with the hour that has begun"
    assert await kept(7 * 86_400) == 7 * 86_400
    await sent_last(timedelta(days=90))
    assert await kept(86_400) == 8 * 86_400
    await office.land.control.backups.leave_out(CALLER, created.project.id, "a toy")
    assert await kept(86_400) == 86_400


async def test_whoever_prunes_is_told_of_what_was_not_sent(office: Office) -> None:
    """By the caretaker, for what sleeps and at each place to recover from; by the agent itself, for what runs."""
    created = await a_project(office)
    await office.look()
    async with office.land.database.transaction() as tx:
        await tx.execute("UPDATE backup_progress SET moment = now() - interval '36 hours'")
        await tx.execute("UPDATE project SET history_retention_seconds = 3600")
    office.land.node.without_history.add(created.branch.timeline_id)  # so that the caretaker takes one, and prunes
    await office.land.plane.caretaker.by_the_bytes()
    pruned_to = office.land.node.timeline_of(created.endpoint.id).pruned_to
    assert office.land.clock.now().timestamp() - pruned_to == 37 * 3600
    await office.land.plane.reconciler.compare()
    assert office.land.node.history_retentions_s == {created.endpoint.id: 37 * 3600}
    async with office.land.database.reading() as tx:
        assert (await placed(tx, created.endpoint.id)).history_retention_s == 37 * 3600


async def test_what_was_deleted_stays_listed_while_it_is_locked(office: Office) -> None:
    created = await a_project(office)
    child = await branched(office.land, created, name="dev")
    await office.look()
    _, operations = await office.land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=True)
    await office.land.finish(operations)
    await office.look(limits.TIDY_EVERY)
    assert [it.name for it in (await office.found(created)).branches] == ["main", "dev"]
