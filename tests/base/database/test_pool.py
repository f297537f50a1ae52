"""Transactions, and the one name for every failure of the database that may pass."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from cloister.base.database import Database, Transaction
from cloister.base.database.pool import patiently
from cloister.base.errors import UnavailableError
from tests.fix_database import ControlDatabase, DatabaseAs


async def names(database: Database) -> list[str]:
    async with database.reading() as tx:
        return [row["name"] for row in await tx.fetch("SELECT name FROM organization ORDER BY name")]


async def add(tx: Transaction, name: str) -> int:
    return await tx.execute("INSERT INTO organization (id, name) VALUES ($1, $1)", name)


async def add_twice(database: Database, name: str) -> None:
    async with database.transaction() as tx:
        await add(tx, name)
        await add(tx, name)


async def add_and_break(database: Database, name: str) -> None:
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_notify('news', $1)", name)
        await add(tx, name)
        raise ZeroDivisionError


async def test_a_block_that_ends_is_committed_and_one_that_raises_is_not(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        assert await add(tx, "kept") == 1
    with pytest.raises(ZeroDivisionError):
        await add_and_break(database, "lost")
    assert await names(database) == ["kept"]


async def test_a_cancelled_block_is_rolled_back_and_its_connection_is_usable(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    is_in = asyncio.Event()

    async def stay() -> None:
        async with database.transaction() as tx:
            await add(tx, "lost")
            is_in.set()
            await tx.fetch("SELECT pg_sleep(60)")

    task = asyncio.create_task(stay())
    await is_in.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as tx:
        await add(tx, "kept")
    assert await names(database) == ["kept"]


async def test_a_broken_constraint_is_the_stores_to_explain(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    with pytest.raises(asyncpg.UniqueViolationError):
        await add_twice(database, "twice")
    assert await names(database) == []


async def test_a_deadlock_may_be_retried(database_as: DatabaseAs, control_database: ControlDatabase) -> None:
    database = Database(url=control_database.url())
    await database.open()
    async with database.transaction() as tx:
        await add(tx, "a")
        await add(tx, "b")
    both = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        async with database.transaction() as tx:
            await tx.execute("SET LOCAL deadlock_timeout = '20ms'")
            await tx.execute("SELECT FROM organization WHERE id = $1 FOR UPDATE", first)
            await both.wait()
            await tx.execute("SELECT FROM organization WHERE id = $1 FOR UPDATE", second)

    ends = await asyncio.gather(lock("a", "b"), lock("b", "a"), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [UnavailableError]
    await database.close()


async def test_a_lost_connection_may_be_retried_and_the_next_use_has_a_new_one(
    database_as: DatabaseAs, control_database: ControlDatabase
) -> None:
    database = await database_as("cloister_api")
    superuser = await asyncpg.connect(control_database.url())
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cloister_api'"

    async def lose_it(*, before_the_commit: bool) -> None:
        async with database.transaction() as tx:
            await add(tx, "lost")
            await superuser.execute(kill)
            if not before_the_commit:
                await tx.fetch("SELECT 1")

    for before_the_commit in (False, True):
        with pytest.raises(UnavailableError):
            await lose_it(before_the_commit=before_the_commit)
    await superuser.execute(kill)
    await superuser.close()
    async with database.transaction() as tx:  # whatever died in the pool, beginning finds one that lives
        assert await tx.fetch("SELECT FROM organization") == []


async def test_a_mistake_of_ours_is_not_called_a_failure_that_passes(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    async with database.reading() as tx:
        with pytest.raises(asyncpg.InterfaceError):
            await tx.fetch("SELECT $1::integer")


async def test_nothing_of_a_session_survives_into_the_next_use(database_as: DatabaseAs) -> None:
    """The pool does not reset connections; SET LOCAL and rolled-back transactions leave nothing."""
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        await tx.execute("SELECT set_config('synchronous_commit', 'off', true)")
    async with database.reading() as tx:
        await tx.execute("SELECT set_config('synchronous_commit', 'off', true)")
        assert await tx.fetch_value("SHOW synchronous_commit") == await tx.fetch_value(
            "SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'"
        )
        assert await tx.fetch_value("SHOW search_path") == "cloister,pg_catalog"


async def test_listening_hears_what_was_committed_and_tells_when_it_goes_deaf(
    database_as: DatabaseAs, control_database: ControlDatabase
) -> None:
    database = await database_as("cloister_api")
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with database.listening("news", heard.put_nowait) as lost, asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await add_and_break(database, "rolled back")
        async with database.transaction() as tx:
            await tx.execute("SELECT pg_notify('news', 'committed')")
        assert await heard.get() == "committed"
        superuser = await asyncpg.connect(control_database.url())
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        await superuser.close()
        await lost.wait()


async def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await Database(socket_dir=tmp_path, role="cloister_api").open(patience_s=0.1)


@pytest.mark.parametrize("error", [asyncpg.OutOfMemoryError("out of memory"), asyncpg.DiskFullError("no space left")])
async def test_a_database_that_has_nothing_left_for_a_further_connection_is_a_failure_that_may_pass(
    error: asyncpg.PostgresError,
) -> None:
    """Loops of ours expect that one alone, and end their process with any other."""

    async def connect() -> None:
        raise error

    with pytest.raises(UnavailableError):
        await patiently(connect, 0.0)
