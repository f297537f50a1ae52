"""Migrations on a real database: applied once, never changed afterwards, refused where they cannot work."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.database import embedded, migrate
from cloister.base.database.migrate import Migration, migrations
from cloister.base.errors import PreconditionError, UnavailableError
from tests.fix_database import ControlDatabase


@pytest.fixture
async def connection(control_database: ControlDatabase) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(control_database.url())
    yield connection
    await connection.close()


@pytest.fixture
async def empty(control_database: ControlDatabase, connection: Any) -> AsyncIterator[ControlDatabase]:
    name = f"{control_database.name}_empty"
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield ControlDatabase(control_database.socket_dir, name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def operator(empty: ControlDatabase, connection: Any) -> AsyncIterator[ControlDatabase]:
    """An operator's own database, owned by a role that may do nothing else."""
    await connection.execute("CREATE ROLE operator LOGIN")
    await connection.execute(f"ALTER DATABASE {empty.name} OWNER TO operator")
    yield empty
    superuser = await asyncpg.connect(empty.url())
    await superuser.execute("DROP OWNED BY operator")
    await superuser.close()
    await connection.execute(f"ALTER DATABASE {empty.name} OWNER TO postgres")
    await connection.execute("DROP OWNED BY operator; DROP ROLE operator")


def test_no_two_migrations_share_a_number() -> None:
    numbers = [migration.number for migration in migrations()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


async def test_what_was_applied_is_not_applied_again(connection: Any) -> None:
    assert await migrate(connection) == 0


async def test_two_platforms_that_start_at_once_migrate_one_after_the_other(empty: ControlDatabase) -> None:
    connections = [await asyncpg.connect(empty.url()) for _ in range(2)]
    applied = await asyncio.gather(*(migrate(connection) for connection in connections))
    assert sorted(applied) == [0, len(migrations())]
    for connection in connections:
        await connection.close()


async def test_a_migration_that_was_changed_afterwards_is_refused(connection: Any) -> None:
    await connection.execute("UPDATE cloister.migration SET digest = 'another' WHERE number = 1")
    with pytest.raises(PreconditionError, match="migration 1 was changed"):
        await migrate(connection)


async def test_a_newer_schema_is_refused(connection: Any) -> None:
    await connection.execute("INSERT INTO cloister.migration (number, name, digest) VALUES (9999, 'later', '')")
    with pytest.raises(PreconditionError, match="9999"):
        await migrate(connection)


async def test_a_migration_that_fails_leaves_nothing(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Migration(9000, "broken", "CREATE TABLE cloister.half (); SELECT 1 / 0")
    monkeypatch.setitem(migrate.__globals__, "migrations", lambda: [*migrations(), broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection)
    assert await connection.fetchval("SELECT to_regclass('cloister.half')") is None


async def test_an_external_database_needs_nothing_but_its_owner(operator: ControlDatabase) -> None:
    """The roles exist on this server; an owner without any other right migrates, and can do what every process does."""
    assert await embedded.migrate_external(operator.url("operator")) == len(migrations())
    assert await embedded.migrate_external(operator.url("operator")) == 0
    connection = await asyncpg.connect(operator.url("operator"))
    await connection.execute("INSERT INTO cloister.organization (id, name) VALUES ('org-1', 'x')")
    await connection.execute("""SELECT cloister.audit_append(ARRAY['{"action": "platform.start"}'])""")
    await connection.close()


async def test_an_external_database_of_somebody_else_is_refused_with_what_to_do(operator: ControlDatabase) -> None:
    with pytest.raises(PreconditionError) as refusal:
        await embedded.migrate_external(operator.url("cloister_api"))
    assert "must own the database" in refusal.value.public
    with pytest.raises(PreconditionError) as refusal:
        await embedded.migrate_external(ControlDatabase(operator.socket_dir, "nowhere").url())
    assert "nowhere" in refusal.value.public


async def test_a_url_that_leads_nowhere_is_said_so_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError) as refusal:
        await embedded.migrate_external("mysql://me:hunter2@host/x")
    assert refusal.value.public == "--database-url is not a URL of a PostgreSQL database"
    with pytest.raises(UnavailableError) as silence:
        await embedded.migrate_external(f"postgresql://me:hunter2@/x?host={tmp_path}", patience_s=0)
    assert silence.value.public == "--database-url: the database does not answer"
    assert "hunter2" not in str(silence.value)


async def test_roles_that_cannot_be_made_are_asked_for(
    operator: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "API_ROLE", "cloister_api_elsewhere")
    with pytest.raises(PreconditionError) as refusal:
        await embedded.migrate_external(operator.url("operator"))
    assert "CREATE ROLE cloister_api_elsewhere NOLOGIN" in refusal.value.public
