"""Findings as people work on them, with the rights of the API's process."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cloister.base.errors import ConflictError, NotFoundError, UnprocessableError
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.reader import events
from cloister.trust.sentinel import desk as module
from cloister.trust.sentinel.clocks import CLOCKS
from cloister.trust.sentinel.desk import Desk
from cloister.trust.sentinel.detector import Alarm
from cloister.trust.sentinel.rules import Level
from cloister.trust.sentinel.store import raise_
from tests.fix_database import ControlDatabase, DatabaseAs

OPERATOR = UUID(int=1)
PROJECT = "calm-forest-00000001"


@dataclass(frozen=True)
class Caller:
    principal: Principal
    request_id: str = "r"
    address: str = "192.0.2.1"


ME = Caller(Principal(OPERATOR, 1, "ops@example.com", "Ops", {}, is_operator=True))


class World:
    def __init__(self, database_as: DatabaseAs, control_database: ControlDatabase) -> None:
        self._database_as = database_as
        self._control = control_database

    async def desk(self) -> Desk:
        await self.run(
            "INSERT INTO account (id, email, name, is_operator) VALUES ($1, $2, 'Ops', true)",
            OPERATOR,
            "ops@example.com",
        )
        return Desk(await self._database_as("cloister_api"))

    async def run(self, text: str, *arguments: Any) -> None:
        """As the owner of the tables."""
        connection = await asyncpg.connect(self._control.url())
        await connection.execute("SET search_path = cloister")
        await connection.execute(text, *arguments)
        await connection.close()

    async def happen(self, *happened: Event) -> int:
        """The number of the last."""
        async with (await self._database_as("cloister_api")).transaction() as tx:
            await record(tx, *happened)
            return int(await tx.fetch_value("SELECT seq FROM audit_head"))

    async def find(self, seq: int = 1, level: Level = Level.HIGH, **subject: str) -> str:
        alarm = Alarm(
            rule="failed-logins", level=level, title="Many failed logins", summary="somebody", response="Ask.",
            fingerprint=uuid4().hex, subject=subject, seq=seq, at=datetime.now(UTC).isoformat(), count=1,
        )  # fmt: skip
        async with (await self._database_as("cloister_sentinel")).transaction() as tx:
            found = await raise_(tx, alarm, [])
        assert found is not None
        return found

    async def told(self) -> list[Event]:
        async with (await self._database_as("cloister_api")).reading() as tx:
            return [each.event for each in reversed(await events(tx, action="finding."))]


@pytest.fixture
def world(database_as: DatabaseAs, control_database: ControlDatabase) -> World:
    return World(database_as, control_database)


async def test_notes_are_kept_with_it_in_their_order_and_are_events(world: World) -> None:
    """That of who acknowledges it, too; and what is learned after its end."""
    desk, finding = await world.desk(), await world.find(project_id=PROJECT)
    await desk.note(ME, finding, "asked the tenant")
    await desk.move(ME, finding, "acknowledged", "mine")
    await desk.move(ME, finding, "resolved", "")
    kept = await desk.note(ME, finding, "it was a colleague")
    assert [(it["noted_by"], it["text"]) for it in kept.notes] == [
        (ME.principal.actor, text) for text in ("asked the tenant", "mine", "it was a colleague")
    ]
    assert [(it.action, it.details.get("note")) for it in await world.told()] == [
        ("finding.note", "asked the tenant"), ("finding.acknowledge", "mine"), ("finding.resolve", None),
        ("finding.note", "it was a colleague"),
    ]  # fmt: skip
    assert {(it.resource, it.project_id, it.actor) for it in await world.told()} == {
        (finding, PROJECT, ME.principal.actor)
    }
    with pytest.raises(NotFoundError):
        await desk.note(ME, "fd-000000000000", "nowhere")


async def test_notes_have_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTES_MAX", 2)
    desk, finding = await world.desk(), await world.find()
    for _ in range(2):
        await desk.note(ME, finding, "x")
    with pytest.raises(ConflictError):
        await desk.note(ME, finding, "x")
    assert len(await world.told()) == 2


@pytest.mark.parametrize(
    "text", ["UPDATE finding_note SET text = ''", "DELETE FROM finding_note", "UPDATE finding SET level = 'low'"]
)
async def test_the_api_takes_no_word_back(text: str, database_as: DatabaseAs) -> None:
    with pytest.raises(Exception, match="permission denied"):
        async with (await database_as("cloister_api")).transaction() as tx:
            await tx.execute(text)


@pytest.mark.parametrize("text", ["", "x" * 501])
async def test_the_database_keeps_no_note_that_says_nothing_or_a_book(
    text: str, world: World, database_as: DatabaseAs
) -> None:
    finding = await world.find()
    with pytest.raises(Exception, match="finding_note_text_check"):
        async with (await database_as("cloister_api")).transaction() as tx:
            await tx.execute(
                "INSERT INTO finding_note (finding_id, noted_by, text) VALUES ($1, 'user:me', $2)", finding, text
            )


async def test_it_is_given_to_an_operator_and_to_nobody_else(world: World) -> None:
    desk, finding = await world.desk(), await world.find()
    await world.run("INSERT INTO account (id, email, name) VALUES ($1, $2, 'Dev')", UUID(int=2), "dev@example.com")
    await world.run(
        "INSERT INTO account (id, email, name, is_operator, disabled_at) VALUES ($1, $2, 'Gone', true, now())",
        UUID(int=3), "gone@example.com",
    )  # fmt: skip
    for stranger in ("dev@example.com", "gone@example.com", "nobody@example.com"):
        with pytest.raises(UnprocessableError):
            await desk.assign(ME, finding, stranger)
    assert (await desk.assign(ME, finding, "Ops@Example.com")).assignee == "ops@example.com"
    other = await world.find()
    mine = await desk.find(state=None, run=None, limit=10, assignee_id=OPERATOR)
    assert [it.id for it in mine] == [finding]
    assert {it.id for it in await desk.find(state=None, run=None, limit=10)} == {finding, other}
    assert (await desk.assign(ME, finding, "")).assignee == ""
    assert await desk.find(state=None, run=None, limit=10, assignee_id=OPERATOR) == []
    assert [(it.action, it.details["was_owner"], it.details["owner"]) for it in await world.told()] == [
        ("finding.assign", "", "ops@example.com"), ("finding.assign", "ops@example.com", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("level", Level)
async def test_what_waits_too_long_is_overdue_by_the_clock_that_runs(level: Level, world: World) -> None:
    desk, finding = await world.desk(), await world.find(level=level)
    clock = CLOCKS[level.value]

    async def is_overdue(age: timedelta) -> bool:
        await world.run("UPDATE finding SET raised_at = clock_timestamp() - $1::interval", age)
        found = await desk.find(state=None, run=None, limit=10, overdue=True)
        (measured,) = (it for it in await desk.measure(30) if it.level == level.value)
        assert measured.overdue == len(found)
        due_at = (await desk.get(finding)).due_at
        assert due_at is None or (due_at < datetime.now(UTC)) is bool(found)
        return bool(found)

    some = timedelta(minutes=1)
    assert not await is_overdue(clock.acknowledge - some)
    assert await is_overdue(clock.acknowledge + some)
    await desk.move(ME, finding, "acknowledged", "")
    assert not await is_overdue(clock.acknowledge + some)
    assert await is_overdue(clock.resolve + some)
    await desk.move(ME, finding, "resolved", "")
    assert not await is_overdue(clock.resolve + some)
    (measured,) = (it for it in await desk.measure(400) if it.level == level.value)
    assert (measured.unresolved, measured.acknowledge.count, measured.resolve.count) == (0, 1, 1)


async def test_when_somebody_looked_at_it_first_stays(world: World) -> None:
    desk, finding = await world.desk(), await world.find()
    first = await desk.move(ME, finding, "acknowledged", "")
    again = await desk.move(ME, finding, "acknowledged", "")
    over = await desk.move(ME, finding, "resolved", "")
    assert first.acknowledged_at is not None
    assert {first.acknowledged_at} == {again.acknowledged_at, over.acknowledged_at}
    assert first.resolved_at is None
    assert over.resolved_at is not None
    assert over.resolved_at > first.acknowledged_at


@pytest.mark.parametrize("state", ["acknowledged", "resolved"])
async def test_what_is_resolved_moves_no_more(state: str, world: World) -> None:
    """The next alarm is a finding of its own, so what is measured of this one stands."""
    desk, finding = await world.desk(), await world.find()
    over = await desk.move(ME, finding, "resolved", "a drill")
    with pytest.raises(ConflictError):
        await desk.move(ME, finding, state, "mine")
    assert await desk.get(finding) == over
    assert [it.action for it in await world.told()] == ["finding.resolve"]


async def test_the_self_tests_findings_are_measured_with_nobody_elses(world: World) -> None:
    desk = await world.desk()
    await world.find()
    await world.run("UPDATE finding SET is_test = true")
    await world.find()
    assert sum(it.raised for it in await desk.measure(30)) == 1


async def test_its_timeline_is_what_its_subject_did_around_it_and_what_was_done_about_it(world: World) -> None:
    desk = await world.desk()

    def opened(**given: str) -> Event:
        usual: dict[str, Any] = {
            "action": Action.CONNECTION_OPENED,
            "actor": "role:x",
            "project_id": "other-project-00000001",
        }
        return Event(**usual | given)

    last = await world.happen(
        opened(actor="role:app", project_id=PROJECT),
        opened(address="203.0.113.5"),
        opened(actor="role:app"),
        opened(address="203.0.113.50"),
        Event(action=Action.PROJECT_GET, actor="user:me"),
        Event(action=Action.PROJECT_GET, actor="user:you"),
        Event(action=Action.SENTINEL_PROBE, actor="user:me"),
        opened(),
    )
    finding = await world.find(last, role="app", project_id=PROJECT, address="203.0.113.5", account="user:me")
    await desk.note(ME, finding, "looked")
    await desk.note(ME, await world.find(last), "of another")
    assert [it.seq for it in await desk.timeline(finding)] == [1, 2, 5, last, last + 1]
    (done,) = (it.event for it in await desk.timeline(finding) if it.event.action == "finding.note")
    assert done.details["note"] == "looked"
    with pytest.raises(NotFoundError):
        await desk.timeline("fd-000000000000")


async def test_a_timeline_is_bounded_and_has_the_nearest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AROUND_EVENTS_MAX", 3)
    desk = await world.desk()
    await world.happen(*[Event(action=Action.PROJECT_GET, actor="user:me")] * 20)
    assert [it.seq for it in await desk.timeline(await world.find(10, account="user:me"))] == [9, 10, 11]
    monkeypatch.setattr(module, "AROUND", -timedelta(hours=1))
    assert await desk.timeline(await world.find(10, account="user:me")) == []
