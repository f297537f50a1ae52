"""Somebody with the keys to the control database changes the log. Verification must name the place."""

import asyncpg
import pytest

from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.faults import Fault
from cloister.trust.audit.verify import Broken, Head, Intact, verify
from tests.fix_database import ControlDatabase, DatabaseAs

TAMPERINGS = {
    "edit": ("UPDATE audit_event SET body = replace(body, 'user:5', 'user:6') WHERE seq = 5", 5, Fault.EDITED),
    "edit and hash": (
        """UPDATE audit_event SET body = '{}', hash = sha256((SELECT hash FROM audit_event WHERE seq = 4)
               || int8send(5) || convert_to('{}', 'UTF8')) WHERE seq = 5""",
        6,
        Fault.EDITED,
    ),
    "delete": ("DELETE FROM audit_event WHERE seq = 5", 5, Fault.DELETED),
    "reorder": (
        """UPDATE audit_event SET seq = -seq WHERE seq IN (4, 5);
           UPDATE audit_event SET seq = 9 + seq WHERE seq IN (-4, -5)""",
        4,
        Fault.REORDERED,
    ),
    "truncate": ("DELETE FROM audit_event WHERE seq > 7", 8, Fault.TRUNCATED),
    "truncate all": ("TRUNCATE audit_event", 1, Fault.TRUNCATED),
    "append by hand": ("INSERT INTO audit_event (seq, body, hash) VALUES (10, '{}', sha256(''))", 10, Fault.ADDED),
    "hide from its project": (
        "ALTER TABLE audit_event ALTER project_id DROP EXPRESSION; UPDATE audit_event SET project_id = '' WHERE seq = 5",
        5,
        Fault.MISFILED,
    ),
    "remove the head": ("DELETE FROM audit_head", 0, Fault.HEAD),
}


async def fill(database_as: DatabaseAs, count: int = 9) -> None:
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        await record(
            tx, *(Event(action=Action.PROJECT_UPDATE, actor=f"user:{n}", project_id="p") for n in range(1, count + 1))
        )


async def run_as_superuser(control_database: ControlDatabase, statements: str) -> None:
    connection = await asyncpg.connect(control_database.url())
    try:
        await connection.execute("SET search_path = cloister; " + statements)
    finally:
        await connection.close()


@pytest.mark.parametrize(("statements", "seq", "fault"), TAMPERINGS.values(), ids=TAMPERINGS)
async def test_tampering_is_found_with_its_place(
    control_database: ControlDatabase, database_as: DatabaseAs, statements: str, seq: int, fault: Fault
) -> None:
    await fill(database_as)
    reading = await database_as("cloister_api")
    assert isinstance(await verify(reading), Intact)
    await run_as_superuser(control_database, statements)
    assert await verify(reading) == Broken(seq, fault)


async def test_a_log_replaced_as_a_whole_is_found_by_a_head_noted_elsewhere(
    control_database: ControlDatabase, database_as: DatabaseAs
) -> None:
    await fill(database_as)
    reading = await database_as("cloister_api")
    before = await verify(reading)
    assert isinstance(before, Intact)
    noted = Head.parse(str(before.head))
    await run_as_superuser(
        control_database,
        "TRUNCATE audit_event; UPDATE audit_head SET seq = 0, hash = sha256('cloister audit log 1')",
    )
    await fill(database_as, 12)
    assert isinstance(await verify(reading), Intact), "a chain alone cannot show that it was made anew"
    assert await verify(reading, [noted]) == Broken(9, Fault.ROLLED_BACK)


async def test_a_log_of_several_batches_is_replayed_while_it_grows(
    monkeypatch: pytest.MonkeyPatch, database_as: DatabaseAs
) -> None:
    monkeypatch.setattr("cloister.trust.audit.verify.BATCH_ROWS", 4)
    await fill(database_as, 8)
    reading = await database_as("cloister_api")
    report = await verify(reading)
    assert isinstance(report, Intact)
    assert report.head.seq == 8
    await fill(database_as, 3)
    again = await verify(reading, [report.head])
    assert isinstance(again, Intact)
    assert again.head.seq == 11


async def test_a_temporary_table_does_not_take_the_logs_place(
    control_database: ControlDatabase, database_as: DatabaseAs
) -> None:
    """audit_append runs as its owner. If it looked into the caller's temporary schema first, the caller could divert the
    log, and a trigger there would run with the owner's rights."""
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        await connection.execute(
            """CREATE TEMPORARY TABLE audit_head (is_only boolean, seq bigint, hash bytea);
               INSERT INTO audit_head VALUES (true, 0, '');
               CREATE TEMPORARY TABLE audit_event (seq bigint, body text, hash bytea, personal text, action text);
               GRANT ALL ON audit_head, audit_event TO PUBLIC;"""
        )
        await connection.fetchval("""SELECT cloister.audit_append(ARRAY['{"action":"a.b","actor":"c"}'])""")
        assert await connection.fetchval("SELECT count(*) FROM pg_temp.audit_event") == 0
    finally:
        await connection.close()
    report = await verify(await database_as("cloister_api"))
    assert isinstance(report, Intact)
    assert report.head.seq == 1
