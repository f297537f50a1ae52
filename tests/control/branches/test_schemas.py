"""Schemas: whose compute is asked, what is made of the answer, and what of a refusal."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import CloisterError, NotFoundError, UnprocessableError
from cloister.control.branches.model import Point, Restore
from cloister.control.branches.schemas import comparable
from cloister.control.branches.tables import Column, Constraint, Table, parse_tables
from cloister.control.computes.model import EndpointChange
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import branched, refused
from tests.control.fake_node import a_table
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
    (then,) = await land.control.schemas.tables(CALLER, created.project.id, created.branch.id, "neondb", Point(at=at))
    assert then.name == "one"
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


async def test_tables_are_told_by_the_compute_as_they_are(land: Land) -> None:
    created = await land.project()
    land.node.tables["neondb"] = (a_table("orders") + a_table("people")).encode()
    orders, people = await land.control.schemas.tables(CALLER, created.project.id, created.branch.id, "neondb")
    assert orders == Table(
        schema="public",
        name="orders",
        columns=[Column(name="id", type="bigint", nullable=False, generated=False)],
        constraints=[Constraint(type="primary_key", columns=["id"], name="orders_pkey", referenced_table=None)],
    )
    assert people.name == "people"
    with refused(NotFoundError, "database not found"):
        await land.control.schemas.tables(CALLER, created.project.id, created.branch.id, "postgres")


def test_no_tables_are_an_empty_list() -> None:
    assert parse_tables("") == []


@pytest.mark.parametrize(
    "said",
    [
        "(1 row)",
        "null",
        a_table("t").replace('["id"]', "[]"),
        a_table("t").replace("primary_key", "check"),
        a_table("t").replace("false", '"no"', 1),
        a_table("t").replace('"name" : "t",', ""),
        a_table("t").replace('"name" : "t"', '"name" : "t", "more" : 1'),
        a_table("t") + a_table("t")[:40],
        "[" * 100_000,
    ],
)
def test_tables_of_another_shape_are_refused(said: str) -> None:
    with pytest.raises(UnprocessableError) as refusal:
        parse_tables(said)
    assert refusal.value.public == "the schema cannot be read: the server gave no list of tables"


@given(st.text() | st.text('{}[]":,schemanametypcolutid0tf\\ \n', max_size=60).map(a_table))
def test_whatever_a_server_says_is_tables_or_refused(said: str) -> None:
    try:
        found = parse_tables(said)
    except UnprocessableError:
        return
    assert all(isinstance(it, Table) for it in found)
