"""When the control database is sent."""

from datetime import timedelta

import pytest

from cloister.base.errors import ConflictError, UnavailableError
from cloister.cli.doctor import backups as doctor
from cloister.control.backups import keeper as keepers
from cloister.control.backups import platform as limits
from cloister.control.backups.model import SAMPLE_CHUNKS
from cloister.control.backups.platform import PlatformKeeper
from cloister.control.backups.trouble import PAUSE_MAX, TOLD_AFTER_FAILURES
from cloister.trust.audit import Action, Event, record
from tests.audited import raised
from tests.control.backups.office import A_MOMENT, Office, a_project
from tests.control.land import Land

MINUTE = timedelta(seconds=limits.LOOK_EVERY_S)


@pytest.fixture
async def office(land: Land) -> Office:
    office = Office(land)
    await office.look()
    return office


@pytest.fixture
def keeper(office: Office) -> PlatformKeeper:
    return office.land.plane.platform_keeper


async def look(office: Office, after: timedelta = A_MOMENT) -> int:
    """How many were sent by now."""
    office.land.clock.advance(after)
    await office.land.plane.platform_keeper.look()
    return len(office.store.dumps)


async def note(office: Office, action: Action, project_id: str = "calm-forest-12345678") -> None:
    async with office.land.database.transaction() as tx:
        await record(tx, Event(action=action, actor="platform:api", project_id=project_id))


async def change(office: Office) -> None:
    async with office.land.database.transaction() as tx:
        await tx.execute("UPDATE organization SET name = name || '.'")
        await tx.execute("SELECT pg_stat_force_next_flush()")


async def test_at_once_and_then_every_hour_if_something_changed(office: Office) -> None:
    assert await look(office) == 1
    await change(office)
    assert await look(office, limits.EVERY - 2 * A_MOMENT) == 1
    assert await look(office, 2 * A_MOMENT) == 2
    assert [it["what"] if "what" in it else it["dump"] for it in await office.land.details_of("backup.take")]


async def test_the_log_says_when_the_last_was_sent(office: Office) -> None:
    """That is where `cloister doctor` looks."""
    async with office.land.database.reading() as tx:
        assert await doctor.last_dump(tx) is None
    await a_project(office)
    await look(office)
    await look(office, limits.AT_LEAST_EVERY)
    await office.look()
    assert len(await office.land.details_of("backup.take")) == 3, "one is a base"
    async with office.land.database.reading() as tx:
        assert await doctor.last_dump(tx) == office.land.clock.now() - A_MOMENT


async def test_while_another_platform_sends_none_is_made_and_as_soon_as_this_one_does_again_one_is(
    office: Office,
) -> None:
    """What the other sent last would be what a lost server comes back from until then."""
    assert await look(office) == 1
    office.store.taken = "another platform sends into this bucket"
    office.store.failing["platform"] = ConflictError("no", public=office.store.taken)
    for _ in range(10):
        await office.look(keepers.STORE_LOOK_EVERY)
        await note(office, Action.PROJECT_CREATE)
        await look(office)
    office.store.taken = ""
    office.store.failing.clear()
    await note(office, Action.STORE_SET)
    await office.look(keepers.STORE_LOOK_EVERY)
    assert await look(office) == 2


async def test_what_only_the_log_has_is_not_sent_before_a_day(office: Office) -> None:
    assert await look(office) == 1
    await note(office, Action.BACKUP_LIST)
    assert await look(office, limits.EVERY) == 1
    assert await look(office, limits.AT_LEAST_EVERY) == 2


@pytest.mark.parametrize("action", limits.PROMPT)
async def test_keys_and_projects_do_not_wait(office: Office, action: Action) -> None:
    assert await look(office) == 1
    await note(office, action)
    assert await look(office, MINUTE) == 2
    assert await look(office, MINUTE) == 2, "it is in there now"


async def test_the_key_of_dumps_is_no_reason_for_another(office: Office) -> None:
    assert await look(office) == 1
    await note(office, Action.KEY_CREATE, "")
    assert await look(office, MINUTE) == 1


async def test_what_is_written_meanwhile_is_owed_by_the_next(office: Office) -> None:
    async def before(_command: object) -> None:
        office.land.node.before = None
        await note(office, Action.PROJECT_CREATE)

    office.land.node.before = before
    assert await look(office) == 1
    assert await look(office, MINUTE) == 2


async def test_without_a_store_nothing_is_done(office: Office) -> None:
    office.land.node.store = None
    await office.look(timedelta(minutes=2))
    assert await look(office) == 0


async def test_what_fails_is_told_after_a_while_and_once(office: Office) -> None:
    office.store.failing["platform"] = UnavailableError("no", public="the store answers 503")
    for _ in range(TOLD_AFTER_FAILURES + 1):
        await look(office)
    assert await office.land.details_of("backup.fail") == [], "it is left alone for a while"
    for _ in range(TOLD_AFTER_FAILURES + 3):
        await look(office, PAUSE_MAX)
    details = {"what": "dump", "failures": TOLD_AFTER_FAILURES}
    assert await office.land.details_of("backup.fail") == [details]
    assert raised(await office.land.events("backup.fail")) == {"backup-failed"}
    assert await office.land.details_of("backup.overdue") == []
    await look(office, limits.LATE_AFTER)
    await look(office, limits.LATE_AFTER)
    assert await office.land.details_of("backup.overdue") == [{"what": "dump", "sent_until": ""}]
    assert raised(await office.land.events("backup.overdue")) == {"backup-overdue"}
    office.store.failing.clear()
    assert await look(office, PAUSE_MAX) == 1


async def test_the_newest_is_read_back_once_a_day(office: Office) -> None:
    assert await look(office) == 1
    await note(office, Action.PROJECT_CREATE)
    assert await look(office, MINUTE) == 2
    name = f"{int(office.store.dumps[0]):016X}"
    details = {"dump": name, "chunks": SAMPLE_CHUNKS, "bytes": 10, "damaged": 0}
    assert await office.land.details_of("backup.check") == [details]
    assert raised(await office.land.events("backup.check")) == set()
    assert await look(office, limits.AT_LEAST_EVERY) == 3
    assert [it["dump"] for it in await office.land.details_of("backup.check")] == [
        name,
        f"{int(office.store.dumps[2]):016X}",
    ]


async def test_what_is_damaged_is_told_and_mended_by_another(office: Office) -> None:
    office.store.damaged = ["platform/dumps/1"]
    assert await look(office) == 1
    (details,) = await office.land.details_of("backup.check")
    assert (details["damaged"], details["objects"]) == (1, "platform/dumps/1")
    assert raised(await office.land.events("backup.check")) == {"backup-damaged"}
    assert await look(office, MINUTE) == 2
    assert await look(office, MINUTE) == 2


async def test_that_it_cannot_be_read_back_is_told_after_a_while(office: Office) -> None:
    office.store.failing["platform's reading"] = UnavailableError("no", public="the store answers 403")
    assert await look(office) == 1
    for _ in range(TOLD_AFTER_FAILURES + 1):
        assert await look(office, A_MOMENT) == 1
    assert await office.land.details_of("backup.fail") == []
    for _ in range(TOLD_AFTER_FAILURES):
        await look(office, PAUSE_MAX)
    details = {"what": "read-back", "failures": TOLD_AFTER_FAILURES}
    assert await office.land.details_of("backup.fail") == [details]
    assert raised(await office.land.events("backup.fail")) == {"backup-failed"}
    office.store.failing.clear()
    await look(office, PAUSE_MAX)
    assert len(await office.land.details_of("backup.check")) == 1
