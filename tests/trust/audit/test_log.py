"""Appending: in the caller's transaction, in the order of commits, by those who may."""

import asyncpg
import pytest

from cloister.trust.audit import Action, Event, record
from tests.fix_database import ControlDatabase, DatabaseAs


async def test_an_event_of_a_transaction_that_rolled_back_was_never_there(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")

    async def change_and_fail() -> None:
        async with database.transaction() as tx:
            await record(tx, Event(action=Action.PROJECT_CREATE, actor="user:1"))
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_and_fail()
    async with database.transaction() as tx:
        assert await record(tx, Event(action=Action.PROJECT_DELETE, actor="user:1")) == 1
    async with database.reading() as tx:
        assert [row["action"] for row in await tx.fetch("SELECT action FROM audit_event")] == ["project.delete"]


async def test_several_events_are_appended_in_order(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_keys")
    async with database.transaction() as tx:
        last = await record(tx, *(Event(action=Action.KEY_UNWRAP, actor=f"platform:{n}") for n in range(3)))
    assert last == 3


@pytest.mark.parametrize("role", ["cloister_api", "cloister_keys"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET body = '{}'",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event",
        "INSERT INTO audit_event (seq, body, hash) VALUES (9, '{}', '')",
        "UPDATE audit_head SET seq = 0",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
    ],
)
async def test_who_may_append_may_not_change(control_database: ControlDatabase, role: str, statement: str) -> None:
    connection = await asyncpg.connect(control_database.url(role))
    try:
        await connection.execute("SET search_path = cloister")
        await connection.execute("SELECT audit_append(ARRAY['{}'])")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()
