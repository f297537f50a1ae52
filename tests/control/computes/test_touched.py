"""What was done inside a compute gets into its project's statement log, once, masked, and what nobody could read is a gap."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import StatementRecord
from cloister.base.errors import UnavailableError
from cloister.control.computes.touched import LINES_MAX, Touched, order, parse
from cloister.control.services import ProjectCreated
from tests.control.fake_node import FakeServer
from tests.control.land import CALLER, Land


def hexed(*texts: str) -> str:
    return " ".join("x" + text.encode().hex() for text in texts)


NAMES = hexed("neondb_owner", "app", "neondb", "public", "Leute", "SELECT")
TEXT = hexed("SELECT * FROM \"Leute\" WHERE password = 'hunter2'")
SAID = f"700 3 9 0\n4 12 700000000000000 700000000000001 77 0 1 49 {NAMES} {TEXT}"
FOUND = parse(SAID)


def test_an_answer_is_read() -> None:
    (line,) = FOUND.lines
    assert (FOUND.epoch, FOUND.level, FOUND.total, FOUND.lost) == (700, AuditLevel.FULL, 9, 0)
    assert (line.login, line.role, line.database, line.schema, line.relation) == (
        "neondb_owner", "app", "neondb", "public", "Leute",
    )  # fmt: skip
    assert (line.command, line.access, line.times, line.rows, line.pid, line.is_worker) == (
        "SELECT", "read", 4, 12, 77, False,
    )  # fmt: skip
    assert line.began.year == 2022
    assert order(FOUND, AuditLevel.BASE) == "9 0 1"


LINE = SAID.split("\n")[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "700 4 9 0",
        "700 3 9",
        "٣ 3 9 0",
        SAID + "\n",
        SAID.replace(" 77 0 1 ", " 77 2 1 "),
        SAID.replace(" 77 0 1 ", " 77 0 16 "),
        SAID.replace(" 700000000000000 ", " 999999999999999999 "),
        SAID.replace(NAMES, NAMES + " x"),
        SAID.replace(NAMES, NAMES.replace("x", "xz", 1)),
        SAID.replace(TEXT, "x" + "41" * 1001),
        "700 3 9 0" + f"\n{LINE}" * (LINES_MAX + 1),
    ],
)
def test_what_no_guard_says_is_refused(text: str) -> None:
    with pytest.raises(UnavailableError):
        parse(text)


@given(st.text() | st.text(alphabet="0123456789 x\nabcdef", max_size=200))
def test_whatever_a_server_says_is_bounded_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UnavailableError:
        return
    assert len(found.lines) <= LINES_MAX


async def statements(land: Land, created: ProjectCreated) -> list[StatementRecord]:
    segments = await land.control.statements.segments(CALLER, created.project.id, before=None, limit=10)
    return [each for segment in segments for each in segment.statements]


async def test_what_was_done_is_sealed_once_masked_and_forgotten(land: Land) -> None:
    created = await land.project()
    land.node.touched[created.endpoint.id] = FOUND
    for _ in range(2):
        await land.plane.reconciler.look_at_all()
    (it,) = await statements(land, created)
    assert it.text == "SELECT * FROM \"Leute\" WHERE password = '***'"
    assert (it.kind, it.role, it.acting_as, it.touched, it.times, it.rows, it.backend, it.tags) == (
        "inside", "neondb_owner", "app", 'read public."Leute"', 4, 12, 77, ["SELECT"],
    )  # fmt: skip
    assert it.at == "2022-03-07T20:26:40.000001Z"
    assert land.node.touched[created.endpoint.id].lines == ()


async def test_the_level_is_told_with_the_next_look(land: Land) -> None:
    """A compute is started with it, and one that runs is told, up and down."""
    created = await land.project()
    id_ = created.endpoint.id
    land.node.touched[id_] = Touched(700, AuditLevel.OFF, 0)
    for level in (AuditLevel.FULL, AuditLevel.BASE):
        await land.control.statements.set_level(CALLER, created.project.id, level)
        await land.plane.reconciler.look_at_all()
        assert land.node.touched[id_].level is level
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, id_)
    await land.finish(operations)
    await land.plane.waker.wake(id_)
    assert land.node.specs[id_].audit_level is AuditLevel.BASE


async def test_a_suspend_does_not_hide_it(land: Land) -> None:
    created = await land.project()
    land.node.touched[created.endpoint.id] = FOUND
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert len(await statements(land, created)) == 1


async def test_what_had_no_room_is_a_gap_with_its_number(land: Land) -> None:
    created = await land.project()
    land.node.touched[created.endpoint.id] = replace(FOUND, lost=5, lines=())
    for _ in range(2):
        await land.plane.reconciler.look_at_all()
    assert await land.details_of("statements.gap") == [{"statements": 5}]


async def test_a_server_that_went_down_unread_is_a_gap(land: Land) -> None:
    """Also when it has nothing to say now. One that was read, and was started anew, is none."""
    created = await land.project()
    id_ = created.endpoint.id
    await land.control.statements.set_level(CALLER, created.project.id, AuditLevel.FULL)
    land.node.touched[id_] = Touched(700, AuditLevel.FULL, 3)
    await land.plane.reconciler.look_at_all()
    assert await land.details_of("statements.gap") == []
    land.node.touched[id_] = Touched(701, AuditLevel.OFF, 0)
    for _ in range(2):
        await land.plane.reconciler.look_at_all()
    async with land.database.reading() as tx:
        rows = await tx.fetch(
            "SELECT body::jsonb ->> 'reason' AS reason FROM audit_event WHERE action = 'statements.gap'"
        )
    assert [row["reason"] for row in rows] == ["server_restarted"]


async def test_a_death_between_writing_and_forgetting_writes_it_twice(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not never."""
    created = await land.project()
    land.node.touched[created.endpoint.id] = FOUND

    async def dies(*_: object) -> None:
        raise UnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(FakeServer, "take_touched", dies)
        await land.plane.reconciler.look_at_all()
    await land.plane.reconciler.look_at_all()
    assert len(await statements(land, created)) == 2
