"""Who was made more powerful in SQL gets into the audit log, and once it is there it is forgotten."""

import pytest

from cloister.base.errors import UnavailableError
from cloister.control.computes.tallies import Counted, Tally
from tests.control.fake_node import FakeServer
from tests.control.land import CALLER, Land

HEARD = Tally(
    9,
    (
        Counted("BYPASSRLS", "neondb", 1, "reader"),
        Counted("a table to PUBLIC", "neondb", 2),
        Counted("others", "", 6),
    ),
)


async def test_what_was_given_is_written_down_once_and_forgotten(land: Land) -> None:
    created = await land.project()
    land.node.powers[created.endpoint.id] = HEARD
    for _ in range(2):
        await land.plane.reconciler.look_at_all()
    assert await land.details_of("role.empower") == [
        {"count": 1, "to": "reader"}, {"count": 2, "to": "PUBLIC"}, {"count": 6, "to": "several"},
    ]  # fmt: skip
    async with land.database.reading() as tx:
        row = await tx.fetch_row(
            "SELECT body::jsonb ->> 'reason', personal::jsonb ->> 'actor', project_id FROM audit_event WHERE action = 'role.empower' ORDER BY seq"
        )
    assert row is not None
    assert tuple(row) == ("BYPASSRLS", "role:neondb", created.project.id)
    assert land.node.powers == {}


async def test_a_suspend_does_not_hide_it(land: Land) -> None:
    """Neither the tenant's own, a moment after it."""
    created = await land.project()
    land.node.powers[created.endpoint.id] = HEARD
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert len(await land.details_of("role.empower")) == 3


async def test_a_death_between_writing_and_forgetting_writes_it_twice(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not never."""
    created = await land.project()
    land.node.powers[created.endpoint.id] = HEARD

    async def dies(*_: object) -> None:
        raise UnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(FakeServer, "forget_powers", dies)
        await land.plane.reconciler.look_at_all()
    await land.plane.reconciler.look_at_all()
    assert len(await land.details_of("role.empower")) == 6
