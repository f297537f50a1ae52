"""What a guard refused gets into the audit log, once it is there it is forgotten, and nothing a server says breaks that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import UnavailableError
from cloister.control.computes.refusals import KINDS_MAX, Refusals, Refused, parse
from tests.control.fake_node import FakeServer
from tests.control.land import CALLER, Land

SAID = "7\n3 x6e656f6e6462 COPY PROGRAM\n4 x ALTER SYSTEM"
HEARD = Refusals(7, (Refused("COPY PROGRAM", "neondb", 3), Refused("ALTER SYSTEM", "", 4)))


def test_an_answer_is_read() -> None:
    assert parse(SAID) == HEARD
    assert parse("0") == parse("") == Refusals(0)
    assert parse("1\n1 xff LOAD").kinds[0].role == "\ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "-1",
        "7\n",
        "7\n3 6e COPY",
        "7\n3 x6 COPY",
        "7\n3 x6e COPY\x1b[2J",
        "7\n3 x6e " + "C" * 32,
        "7\n3 x" + "6e" * 64 + " COPY",
        "7\n" + "9" * 19 + " x6e COPY",
        "٣\n٣ x6e COPY",
        "9" * 21,
        "9" + "\n1 x6e COPY" * (KINDS_MAX + 1),
    ],
)
def test_what_no_guard_says_is_refused(text: str) -> None:
    with pytest.raises(UnavailableError):
        parse(text)


@given(st.text() | st.text(alphabet="0123456789 x\nabcdefC", max_size=60))
def test_whatever_a_server_says_is_bounded_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UnavailableError:
        return
    assert len(found.kinds) <= KINDS_MAX
    for each in found.kinds:
        assert len(each.role) <= 63
        assert len(each.statement) < 32
        assert 0 <= each.count < 10**18


async def test_what_was_refused_is_written_down_once_and_forgotten(land: Land) -> None:
    created = await land.project()
    land.node.refusals[created.endpoint.id] = HEARD
    for _ in range(2):
        await land.plane.reconciler.look_at_all()
    assert await land.details_of("statement.refused") == [{"count": 3}, {"count": 4}]
    async with land.database.reading() as tx:
        row = await tx.fetch_row(
            "SELECT body::jsonb ->> 'reason', actor, project_id FROM audit_event WHERE action = 'statement.refused' ORDER BY seq"
        )
    assert row is not None
    assert tuple(row) == ("COPY PROGRAM", "role:neondb", created.project.id)
    assert land.node.refusals == {}


async def test_a_suspend_does_not_hide_it(land: Land) -> None:
    """Neither the tenant's own, a moment after it."""
    created = await land.project()
    land.node.refusals[created.endpoint.id] = HEARD
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert len(await land.details_of("statement.refused")) == 2
    assert (await land.row(created.endpoint.id))["is_clean"]


async def test_a_death_between_writing_and_forgetting_writes_it_twice(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not never."""
    created = await land.project()
    land.node.refusals[created.endpoint.id] = HEARD

    async def dies(*_: object) -> None:
        raise UnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(FakeServer, "forget_refusals", dies)
        await land.plane.reconciler.look_at_all()
    await land.plane.reconciler.look_at_all()
    assert len(await land.details_of("statement.refused")) == 4
