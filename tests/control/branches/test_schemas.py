"""Schemas: whose compute is asked, what is made of the answer, and what of a refusal."""

from datetime import timedelta

import pytest

from cloister.base.errors import CloisterError, NotFoundError, UnprocessableError
from cloister.control.branches.model import Point, Restore
from cloister.control.branches.schemas import comparable
from cloister.control.computes.model import EndpointChange
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import branched, refused
from tests.control.land import CALLER, Land

A_MOMENT = timedelta(seconds=1)

DUMP = b"""--
-- PostgreSQL database dump
--

\\restrict kQ3xWbHn7

-- Dumped from database version 18.6
-- Dumped by pg_dump version 18.6

SET lock_timeout = 0;
-- Dumped by pg_dump version of a tenant's comment
\\restrict aKeyOfATenant

\\unrestrict kQ3xWbHn7

"""


async def sql(land: Land, created: ProjectCreated, database: str = "neondb", point: Point | None = None) -> str:
    text: str = await land.control.schemas.sql(
        CALLER, created.project.id, created.branch.id, database, point or Point()
    )
    return text


async def test_a_sleeping_compute_is_woken_to_tell_its_schema(land: Land) -> None:
    created = await land.project()
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert created.endpoint.id not in land.node.computes
    land.node.dumps["neondb"] = DUMP
    land.node.calls.clear()
    assert "SET lock_timeout" in await sql(land, created)
    assert "StartCompute" in land.node.calls
    assert created.endpoint.id in land.node.computes


def test_what_differs_from_run_to_run_is_left_out_and_nothing_else() -> None:
    text = comparable(DUMP.decode())
    assert "kQ3xWbHn7" not in text
    assert "18.6" not in text
    assert "-- Dumped by pg_dump version of a tenant's comment\n\\restrict aKeyOfATenant\n" in text
    assert comparable(text) == text


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ('FATAL:  database "nothing" does not exist', NotFoundError, "database not found"),
        (
            'FATAL:  permission denied for database "neondb"\nDETAIL:  User does not have CONNECT privilege.',
            UnprocessableError,
            "GRANT CONNECT",
        ),
        (
            "pg_dump: error: query failed: \x1b[31mERROR:  out of shared memory",
            UnprocessableError,
            "out of shared memory",
        ),
    ],
)
async def test_a_refusal_gets_a_name(land: Land, said: str, kind: type[CloisterError], words: str) -> None:
    created = await land.project()
    prefix = 'pg_dump: error: connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: '
    land.node.dumps["neondb"] = UnprocessableError(prefix + said)
    with refused(kind, words) as _:
        await sql(land, created)
    with pytest.raises(kind) as refusal:
        await sql(land, created)
    assert "/run" not in refusal.value.public
    assert "\x1b" not in refusal.value.public


async def test_what_is_not_a_tenants_is_not_there(land: Land) -> None:
    created = await land.project()
    for database in ("postgres", "template1"):
        with refused(NotFoundError, "database not found"):
            await sql(land, created, database)


async def test_a_schema_as_it_was_needs_no_compute_and_leaves_nothing(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    lsn = land.node.write(created.endpoint.id, "one")
    at = land.clock.now()
    land.clock.advance(A_MOMENT)
    land.node.write(created.endpoint.id, "two")
    _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    assert await sql(land, created, point=Point(at=at)) == "one"
    assert await sql(land, created, point=Point(lsn=lsn)) == "one"
    assert land.node.computes == {}
    assert list(land.node.images[created.project.id].timelines) == [created.branch.timeline_id]


async def test_a_schema_before_a_restore_is_found_in_what_the_branch_was(land: Land) -> None:
    created = await land.project()
    land.clock.advance(A_MOMENT)
    child = await branched(land, created)
    land.clock.advance(A_MOMENT)
    lsn = land.node.write(child.endpoints[0].id, "mine")
    land.node.write(created.endpoint.id, "the parent's, and later")
    restored = await land.control.branches.restore(
        CALLER, created.project.id, child.branch.id, Restore(source_id=created.branch.id)
    )
    await land.finish(restored.operations)
    told = await land.control.schemas.sql(CALLER, created.project.id, child.branch.id, "neondb", Point(lsn=lsn))
    assert told == "mine"


async def test_a_point_outside_the_history_is_refused_with_the_window(land: Land) -> None:
    created = await land.project()
    lsn = land.node.write(created.endpoint.id, "one")
    with refused(UnprocessableError, "must lie between"):
        await sql(land, created, point=Point(at=land.clock.now() - timedelta(days=2)))
    with refused(UnprocessableError, "must lie between"):
        await sql(land, created, point=Point(lsn="0/1"))
    with refused(NotFoundError, "database not found"):
        await sql(land, created, "postgres", point=Point(lsn="0/1"))
    land.node.dumps["nothing"] = UnprocessableError('database "nothing" does not exist')
    with refused(NotFoundError, "database not found"):
        await sql(land, created, "nothing", point=Point(lsn=lsn))


async def test_a_branch_that_nobody_can_wake_cannot_tell(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, endpoints=[])
    with refused(UnprocessableError, "no endpoint"):
        await land.control.schemas.sql(CALLER, created.project.id, child.branch.id, "neondb")
    await land.control.endpoints.update(
        CALLER, created.project.id, created.endpoint.id, EndpointChange(is_disabled=True)
    )
    with refused(UnprocessableError, "no endpoint"):
        await sql(land, created)
