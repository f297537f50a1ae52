"""What the guard notes of what no client's wire shows, in a real PostgreSQL."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.control.computes.touched import LINES_MAX, Line, Touched, order, parse
from tests.guard.test_server import ADMIN, connect, server

PATIENCE_S: Final = 60.0


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with server("strict", **{"guard.record": "full"}) as directory:
        with connect(directory, ADMIN) as platform:
            platform.execute("GRANT CREATE ON SCHEMA public TO tenant")
            platform.execute(
                "CREATE FUNCTION public.borrowed(text) RETURNS void SECURITY DEFINER LANGUAGE plpgsql "
                "AS 'BEGIN EXECUTE $1; END'"
            )
        with connect(directory) as tenant:
            tenant.execute("CREATE TABLE people (id int PRIMARY KEY, name text)")
            tenant.execute("CREATE TABLE log (id int, said text)")
            tenant.execute("CREATE VIEW names AS SELECT name FROM people")
            tenant.execute("INSERT INTO people SELECT i, 'n' || i FROM generate_series(1, 10) i")
            tenant.execute(
                "CREATE FUNCTION peek() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN "
                "EXECUTE 'SELECT count(*) FROM ' || 'peo' || 'ple'; RETURN 1; END$$"
            )
            tenant.execute(
                "CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN INSERT INTO log VALUES (NEW.id, 'seen'); RETURN NEW; END$$"
            )
            tenant.execute("CREATE TRIGGER logs AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION logs()")
        yield directory


@pytest.fixture
def platform(place: Path) -> Iterator[psycopg.Connection[Any]]:
    with connect(place, ADMIN) as platform:
        take(platform)
        yield platform


def take(platform: psycopg.Connection[Any], level: AuditLevel = AuditLevel.FULL) -> Touched:
    row = platform.execute("SHOW guard.touched").fetchone()
    assert row is not None
    found = parse(row[0])
    platform.execute("SELECT set_config('guard.touched', %s, true)", [order(found, level)])
    return found


def lines(found: Touched) -> list[tuple[str, str, str, int, int]]:
    return [(each.command, each.relation, each.access, each.times, each.rows) for each in found.lines]


def run(place: Path, *statements: str) -> None:
    with connect(place) as tenant:
        for statement in statements:
            tenant.execute(statement.encode())


def only(found: Touched) -> Line:
    (line,) = found.lines
    return line


def test_of_what_a_client_sent_the_tables_are_noted_and_not_the_text(
    place: Path, platform: psycopg.Connection[Any]
) -> None:
    run(place, "SELECT * FROM people WHERE id < 4", "SELECT * FROM people WHERE id < 4")
    line = only(take(platform))
    assert (line.login, line.role, line.database, line.schema, line.relation) == (
        "tenant", "tenant", "postgres", "public", "people",
    )  # fmt: skip
    assert (line.command, line.access, line.times, line.rows, line.text) == ("SELECT", "read", 2, 6, "")
    assert line.began <= line.ended


@pytest.mark.parametrize(
    ("statement", "noted", "text"),
    [
        ("SELECT peek()", ("SELECT", "people", "read", 1, 1), "SELECT count(*) FROM people"),
        ("DO $$BEGIN PERFORM * FROM people; END$$", ("SELECT", "people", "read", 1, 10), "SELECT * FROM people"),
        ("DO $$BEGIN DELETE FROM log; END$$", ("DELETE", "log", "delete", 1, 0), "DELETE FROM log"),
        ("DO $$BEGIN CREATE TEMP TABLE t (); END$$", ("CREATE TABLE", "", "", 1, 0), "CREATE TEMP TABLE t ()"),
        (
            "DO $$BEGIN PERFORM 1 / (count(*) - 10) FROM people; EXCEPTION WHEN OTHERS THEN NULL; END$$",
            ("SELECT", "people", "read", 1, 0),
            "SELECT 1 / (count(*) - 10) FROM people",
        ),
    ],
)
def test_what_runs_from_within_is_noted_with_its_text(
    place: Path, platform: psycopg.Connection[Any], statement: str, noted: tuple[object, ...], text: str
) -> None:
    """Also what fails in it and is caught; dynamic SQL as it came out."""
    run(place, statement)
    found = take(platform)
    assert noted in lines(found)
    assert [each.text for each in found.lines if each.text] == [text]


def test_a_trigger_is_noted_and_a_view_with_the_table_behind_it(place: Path, platform: psycopg.Connection[Any]) -> None:
    run(place, "UPDATE people SET name = 'x' WHERE id < 3", "TABLE names")
    assert sorted(lines(take(platform))) == [
        ("INSERT", "log", "insert", 2, 2),
        ("SELECT", "names", "read", 1, 10),
        ("SELECT", "people", "read", 1, 10),
        ("UPDATE", "people", "read, update", 1, 2),
    ]


def test_copy_is_noted_both_ways_with_its_rows(place: Path, platform: psycopg.Connection[Any]) -> None:
    with connect(place) as tenant, tenant.cursor() as cursor:
        with cursor.copy("COPY people TO STDOUT") as out:
            assert len([*out]) == 10
        with cursor.copy("COPY log FROM STDIN") as into:
            into.write_row((1, "a"))
    assert lines(take(platform)) == [("COPY", "people", "read", 1, 10), ("COPY", "log", "insert", 1, 1)]


def test_an_expression_that_the_planner_runs_is_noted(place: Path, platform: psycopg.Connection[Any]) -> None:
    """A function that calls itself immutable runs before its statement does."""
    run(
        place,
        "CREATE OR REPLACE FUNCTION folded() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS "
        "'BEGIN RETURN (SELECT count(*) FROM log); END'",
    )
    take(platform)
    run(place, "SELECT folded()")
    assert {(each.relation, each.text) for each in take(platform).lines} == {("log", "(SELECT count(*) FROM log)")}


@pytest.mark.parametrize(
    ("level", "commands"),
    [
        (AuditLevel.OFF, set()),
        (AuditLevel.BASE, {"CREATE TABLE"}),
        (AuditLevel.EXTENDED, {"CREATE TABLE", "INSERT"}),
        (AuditLevel.FULL, {"CREATE TABLE", "INSERT", "SELECT"}),
    ],
)
def test_each_level_notes_what_it_says(
    place: Path, platform: psycopg.Connection[Any], level: AuditLevel, commands: set[str]
) -> None:
    """And the platform sets it while the server runs."""
    take(platform, level)
    run(
        place,
        "DO $$BEGIN CREATE TEMP TABLE t (); PERFORM FROM people; INSERT INTO log VALUES (1); END$$",
        "TABLE people",
    )
    found = take(platform)
    assert found.level is level
    assert {each.command for each in found.lines} == commands


def test_what_came_after_the_reading_is_not_forgotten(place: Path, platform: psycopg.Connection[Any]) -> None:
    row = platform.execute("SHOW guard.touched").fetchone()
    assert row is not None
    run(place, "TABLE people")
    platform.execute("SELECT set_config('guard.touched', %s, true)", [order(parse(row[0]), AuditLevel.FULL)])
    assert only(take(platform)).relation == "people"
    assert take(platform).lines == ()


def test_what_there_is_no_room_for_is_noted_without_text_and_then_counted(
    place: Path, platform: psycopg.Connection[Any]
) -> None:
    """Two thousand different statements in one look's time: none is lost, for their tables are few; with two thousand
    tables, what is lost is a number."""
    run(place, "DO $$BEGIN FOR i IN 1..2000 LOOP EXECUTE 'SELECT ' || i || ' FROM people'; END LOOP; END$$")
    found = take(platform)
    assert sum(each.times for each in found.lines if each.relation == "people") == 2000
    assert found.lost == 0
    assert next(each.times for each in found.lines if each.relation == "people" and not each.text) > 1000


def test_what_is_lost_is_a_number_until_it_is_taken(place: Path, platform: psycopg.Connection[Any]) -> None:
    run(
        place,
        "DO $$BEGIN FOR i IN 1..1100 LOOP EXECUTE format('CREATE TEMP TABLE t%s ()', i); END LOOP; "
        "FOR i IN 1..1100 LOOP EXECUTE format('INSERT INTO t%s DEFAULT VALUES', i); END LOOP; END$$",
    )
    found = take(platform)
    assert (len(found.lines), found.lost > 0) == (LINES_MAX, True)
    assert take(platform).lost == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SET guard.touched = '99 0 0'",
        "SELECT set_config('guard.touched', '99 0 0', true)",
        "SELECT borrowed($$SELECT set_config('guard.touched', '99 0 0', true)$$)",
        "ALTER ROLE tenant SET guard.touched = '99 0 0'",
        "SET guard.record = 'off'",
    ],
)
def test_no_tenant_makes_it_forget_or_lowers_the_level(
    place: Path, platform: psycopg.Connection[Any], statement: str
) -> None:
    """Nor by a function with the rights of the superuser."""
    with connect(place) as tenant:
        tenant.execute("TABLE people")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CantChangeRuntimeParam)):
            tenant.execute(statement.encode())
        tenant.execute("TABLE log")
    found = take(platform)
    assert found.level is AuditLevel.FULL
    assert {each.relation for each in found.lines} >= {"people", "log"}


def test_no_tenant_is_shown_anything_of_it(place: Path, platform: psycopg.Connection[Any]) -> None:
    """Not by pg_read_all_settings either: the texts are of other roles."""
    platform.execute("GRANT pg_read_all_settings TO tenant")
    run(place, "DO $$BEGIN PERFORM 'a secret'; END$$")
    with connect(place) as tenant:
        assert tenant.execute("SELECT current_setting('guard.touched')").fetchone() == ("",)
    platform.execute("REVOKE pg_read_all_settings FROM tenant")
    assert any("a secret" in each.text for each in take(platform).lines)


def test_what_a_parallel_worker_runs_by_itself_is_noted(place: Path, platform: psycopg.Connection[Any]) -> None:
    """A function that calls itself safe to run there asks in a process that no client is connected to. What the worker does
    of the client's own statement, its leader has noted."""
    run(
        place,
        "CREATE OR REPLACE FUNCTION aside() RETURNS bigint PARALLEL SAFE LANGUAGE plpgsql AS "
        "'BEGIN RETURN (SELECT count(*) FROM log); END'",
    )
    take(platform)
    run(place, "SET debug_parallel_query = on; SELECT aside() FROM people")
    found = take(platform)
    noted = {(each.relation, each.text, each.login, each.is_worker) for each in found.lines}
    assert noted == {("people", "", "tenant", False), ("log", "(SELECT count(*) FROM log)", "tenant", True)}
    assert [each.times for each in found.lines if each.relation == "people"] == [1]


def test_what_an_autovacuum_worker_runs_is_noted_as_its_owners() -> None:
    """ANALYZE computes the expressions of a tenant's indexes, and those are functions of the tenant's."""
    every_second = {"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_analyze_threshold": "1"}
    with (
        server("strict", **{"guard.record": "full", **every_second}) as directory,
        connect(directory, ADMIN) as platform,
    ):
        platform.execute("GRANT CREATE ON SCHEMA public TO tenant")
        run(
            directory,
            "CREATE TABLE secrets (id int)",
            "CREATE TABLE things (id int)",
            "CREATE FUNCTION look(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
            "'BEGIN PERFORM FROM public.secrets; RETURN $1; END'",
            "CREATE INDEX ON things (look(id))",
            "INSERT INTO things SELECT generate_series(1, 500)",
        )
        deadline, seen = time.monotonic() + PATIENCE_S, list[Line]()
        while not seen:
            assert time.monotonic() < deadline, "no autovacuum worker came"
            seen = [each for each in take(platform).lines if each.is_worker and each.relation == "secrets"]
        assert {(each.login, each.role, each.access, each.text) for each in seen} == {
            (ADMIN, "tenant", "read", "SELECT FROM public.secrets")
        }
