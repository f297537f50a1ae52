"""What the guard counts as making somebody more powerful, in a real PostgreSQL, and what is an application's everyday."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloister.control.computes.tallies import Counted, parse
from tests.guard.test_server import ADMIN, connect, server


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """With the rights that roles have which are made through the API."""
    with server("strict") as directory:
        with connect(directory, ADMIN) as platform:
            platform.execute(
                "CREATE ROLE neon_superuser NOLOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION;"
                "GRANT pg_read_all_data, pg_write_all_data TO neon_superuser;"
                "GRANT pg_monitor, pg_signal_backend TO neon_superuser WITH ADMIN OPTION;"
                "CREATE ROLE owner LOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION IN ROLE neon_superuser"
            )
            platform.execute("CREATE DATABASE app OWNER owner")
        yield directory


@pytest.fixture
def platform(place: Path) -> Iterator[psycopg.Connection[Any]]:
    with connect(place, ADMIN) as platform:
        taken(platform)
        yield platform


@pytest.fixture
def owner(place: Path) -> Iterator[psycopg.Connection[Any]]:
    """In a transaction that is taken back: what was counted stays counted."""
    with connect(place, "owner", "app") as session:
        session.execute("BEGIN; CREATE ROLE plain; CREATE ROLE other; CREATE TABLE t (); SAVEPOINT s")
        yield session
        session.execute("ROLLBACK")


def taken(platform: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    row = platform.execute("SHOW guard.powers").fetchone()
    assert row is not None
    found = parse(row[0])
    platform.execute("SELECT set_config('guard.powers', %s, true)", [str(found.total)])
    return [(each.what, each.whom) for each in found.kinds]


@pytest.mark.parametrize(
    ("statement", "what", "whom"),
    [
        ("ALTER ROLE plain BYPASSRLS", "BYPASSRLS", "plain"),
        ("ALTER ROLE plain CREATEDB CREATEROLE", "CREATEROLE, CREATEDB", "plain"),
        ("DO $$BEGIN EXECUTE 'ALTER ROLE plain ' || 'REPLICATION'; END$$", "REPLICATION", "plain"),
        ("CREATE ROLE back_door LOGIN BYPASSRLS", "BYPASSRLS", "back_door"),
        ("CREATE USER back_door CREATEROLE ROLE plain", "CREATEROLE", "plain"),
        ("GRANT pg_monitor TO plain", "pg_monitor", "plain"),
        ("GRANT pg_signal_backend TO plain WITH ADMIN OPTION", "ADMIN OPTION, pg_signal_backend", "plain"),
        ("GRANT other TO plain WITH ADMIN OPTION", "ADMIN OPTION", "plain"),
        ("CREATE ROLE more ADMIN plain", "ADMIN OPTION", "plain"),
        ("ALTER ROLE other CREATEDB; GRANT other TO plain WITH INHERIT FALSE", "CREATEDB", "plain"),
        ("ALTER ROLE other CREATEDB; ALTER GROUP other ADD USER plain", "CREATEDB", "plain"),
        ("ALTER ROLE other CREATEDB; CREATE ROLE more IN ROLE other", "CREATEDB", "more"),
        ("GRANT pg_monitor TO other; CREATE ROLE w IN ROLE other; GRANT w TO plain", "pg_monitor", "plain"),
        ("GRANT SELECT ON t TO PUBLIC", "a table to PUBLIC", ""),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain, PUBLIC", "a table to PUBLIC", ""),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", "tables made later to PUBLIC", ""),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "a schema to PUBLIC", ""),
        ("CREATE SCHEMA s CREATE TABLE x () GRANT SELECT ON x TO PUBLIC", "a table to PUBLIC", ""),
        ("GRANT ALL ON DATABASE app TO PUBLIC", "a database to PUBLIC", ""),
    ],
)
def test_what_makes_somebody_more_powerful_is_counted(
    owner: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str, what: str, whom: str
) -> None:
    """Whatever the statement is called, wherever it stands, and though it is taken back afterwards."""
    owner.execute(statement.encode())
    owner.execute("ROLLBACK TO s")
    assert (what, whom) in taken(platform)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE reader LOGIN; CREATE ROLE writer NOLOGIN",
        "ALTER ROLE plain NOCREATEDB NOBYPASSRLS CONNECTION LIMIT 3",
        "GRANT plain TO other; GRANT plain TO owner",
        "GRANT plain TO other WITH ADMIN FALSE",
        "GRANT SELECT, INSERT ON t TO plain",
        "GRANT ALL ON SCHEMA public TO plain WITH GRANT OPTION",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO plain",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        "GRANT CONNECT, TEMPORARY ON DATABASE app TO PUBLIC",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION f() TO PUBLIC",
        "REVOKE plain FROM owner",
    ],
)
def test_what_a_migration_does_every_day_is_not(
    owner: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str
) -> None:
    """Roles without attributes, memberships among them, and rights to tables."""
    owner.execute(statement.encode())
    assert taken(platform) == []


@pytest.mark.parametrize(
    "twice",
    ["ALTER ROLE plain CREATEDB", "GRANT pg_monitor TO plain", "GRANT other TO plain WITH ADMIN OPTION"],
)
def test_who_has_it_already_is_not_given_it_again(
    owner: psycopg.Connection[Any], platform: psycopg.Connection[Any], twice: str
) -> None:
    """A migration that says everything with every release is told of once."""
    owner.execute(twice.encode())
    assert len(taken(platform)) == 1
    owner.execute(twice.encode())
    assert taken(platform) == []


@pytest.mark.parametrize(
    "statement", ["CREATE ROLE plain BYPASSRLS", "ALTER ROLE nobody CREATEDB", "GRANT pg_checkpoint TO plain"]
)
def test_what_fails_gives_nobody_anything(
    owner: psycopg.Connection[Any], platform: psycopg.Connection[Any], statement: str
) -> None:
    with pytest.raises(psycopg.Error):
        owner.execute(statement.encode())
    owner.execute("ROLLBACK TO s")
    assert taken(platform) == []


def test_the_platforms_own_statements_are_not_counted(platform: psycopg.Connection[Any]) -> None:
    """Those are recorded where they are asked for."""
    platform.execute("BEGIN; CREATE ROLE made CREATEDB IN ROLE pg_monitor; ROLLBACK")
    assert taken(platform) == []


def test_a_grant_by_another_role_is_told_of_who_logged_in(
    owner: psycopg.Connection[Any], platform: psycopg.Connection[Any]
) -> None:
    owner.execute("SET ROLE neon_superuser; CREATE ROLE x CREATEDB")
    row = platform.execute("SHOW guard.powers").fetchone()
    assert row is not None
    assert parse(row[0]).kinds == (Counted("CREATEDB", "owner", 1, "x"),)


def test_no_tenant_makes_it_forget(owner: psycopg.Connection[Any], platform: psycopg.Connection[Any]) -> None:
    owner.execute("ALTER ROLE plain CREATEDB; SAVEPOINT f")
    for statement in ("SET guard.powers = '99'", "SELECT set_config('guard.powers', '99', true)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(statement.encode())
        owner.execute("ROLLBACK TO f")
    assert taken(platform) == [("CREATEDB", "plain")]
