"""Following the log: every event once, whatever dies; a log that was changed raises an alarm; nobody may more than read."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import asyncpg
import pytest

from cloister.base.database import Database
from cloister.base.errors import UnavailableError
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.sentinel import detector, events, rules, scenarios, store
from cloister.trust.sentinel.memory import Groups
from cloister.trust.sentinel.store import ALIVE_PER_RULE_MAX
from cloister.trust.sentinel.watch import Watch
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.waiting import until_it_waits

RULES = rules.shipped()
NOW = datetime.now(UTC)


def failures(count: int, role: str = "app") -> list[Event]:
    at = timestamp(NOW)
    event = Event(
        action=Action.CONNECTION_DENIED, reason="bad_password", actor=f"role:{role}", outcome="denied",
        endpoint_id="ep-a", project_id="p", address="192.0.2.1", at=at,
    )  # fmt: skip
    return [event] * count


async def append(database_as: DatabaseAs, events: Sequence[Event]) -> None:
    async with (await database_as("cloister_api")).transaction() as tx:
        await record(tx, *events)


async def found(database: Database) -> list[tuple[str, int]]:
    async with database.reading() as tx:
        rows = await tx.fetch("SELECT rule, alarms FROM finding ORDER BY first_seq, rule")
    return [(row["rule"], row["alarms"]) for row in rows]


async def started(database_as: DatabaseAs) -> tuple[Watch, Database]:
    database = await database_as("cloister_sentinel")
    watch = Watch(database, RULES)
    await watch.load()
    return watch, database


async def test_what_happens_while_nobody_watches_is_found_afterwards(database_as: DatabaseAs) -> None:
    """A sentinel that was killed in the middle of an attack finds it when it is back, and finds it once."""
    watch, database = await started(database_as)
    await append(database_as, failures(6))
    await watch.step()
    assert await found(database) == []
    await append(database_as, failures(4))
    for _ in range(2):  # each time it is killed before its memory is written
        again = Watch(database, RULES)
        await again.load()
        await again.step()
        assert await found(database) == [("failed-logins", 1)]


async def test_memory_that_was_written_is_not_fed_again(database_as: DatabaseAs) -> None:
    """A restart after the memory was kept goes on from there, with the count that had begun."""
    watch, database = await started(database_as)
    await append(database_as, failures(9))
    watch._kept_at = -1e9
    await watch.step()
    again = Watch(database, RULES)
    await again.load()
    assert again.seq == watch.seq > 0
    await append(database_as, failures(1))
    await again.step()
    assert await found(database) == [("failed-logins", 1)]


async def test_more_of_the_same_is_one_finding_until_it_is_resolved(database_as: DatabaseAs) -> None:
    """Deduplicated: counted while it is open, new when it comes back."""
    watch, database = await started(database_as)
    await append(database_as, failures(12))
    await watch.step()
    assert await found(database) == [("failed-logins", 3)]
    async with database.transaction() as tx:
        await tx.execute("UPDATE finding SET state = 'resolved'")
    await append(database_as, failures(1))
    await watch.step()
    assert await found(database) == [("failed-logins", 3), ("failed-logins", 1)]


async def test_one_more_while_somebody_resolves_it_is_a_finding_of_its_own(database_as: DatabaseAs) -> None:
    """Counted to the one that is just resolved, nobody would hear of it."""
    watch, database = await started(database_as)
    await append(database_as, failures(10))
    await watch.step()
    await append(database_as, failures(1))
    async with asyncio.TaskGroup() as tasks, (await database_as("cloister_api")).transaction() as tx:
        await tx.execute("UPDATE finding SET state = 'resolved'")
        await until_it_waits(tx, tasks.create_task(watch.step()))
    assert await found(database) == [("failed-logins", 1), ("failed-logins", 1)]


async def test_what_is_in_no_log_is_told_although_it_could_not_be_written_at_once(
    database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, database = await started(database_as)
    watch.observe("sentinel.certificate_ends", resource="chain.pem", details={"not_after": "2026-01-01"})

    async def away(_: object) -> None:
        raise UnavailableError("the control database is away")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(watch, "_write", away)
        with pytest.raises(UnavailableError):
            await watch.step()
    await watch.load()
    await watch.step()
    assert [alarms for _, alarms in await found(database)] == [1]


async def test_a_thousand_attackers_are_not_a_thousand_mails(database_as: DatabaseAs) -> None:
    """Beyond so many findings of a rule, the others are one."""
    watch, database = await started(database_as)
    roles = [f"r{number}" for number in range(ALIVE_PER_RULE_MAX + 10)]
    await append(database_as, [event for role in roles for event in failures(10, role)])
    while await watch.step():
        pass
    async with database.reading() as tx:
        alive = await tx.fetch_value("SELECT count(*) FROM finding WHERE rule = 'failed-logins'")
    assert alive == ALIVE_PER_RULE_MAX + 1


@pytest.mark.parametrize(
    ("how", "tampering"),
    [
        ("changed", "UPDATE cloister.audit_event SET body = replace(body, 'denied', 'failed') WHERE seq = 3"),
        (
            "changed",
            """ALTER TABLE cloister.audit_event DISABLE TRIGGER audit_personal_ends;
               UPDATE cloister.audit_event SET personal = replace(personal, 'app', 'ape') WHERE seq = 3""",
        ),
        ("missing", "DELETE FROM cloister.audit_event WHERE seq = 3"),
        ("missing", "DELETE FROM cloister.audit_event"),
        ("rolled_back", "DELETE FROM cloister.audit_event; UPDATE cloister.audit_head SET seq = 0"),
    ],
)
async def test_a_log_that_does_not_go_on_raises_an_alarm(
    control_database: ControlDatabase, database_as: DatabaseAs, how: str, tampering: str
) -> None:
    """By whoever rules the control database; and what comes after it is still looked at."""
    watch, database = await started(database_as)
    await append(database_as, failures(1))
    await watch.step()
    await append(database_as, failures(3))
    owner = await asyncpg.connect(control_database.url())
    try:
        await owner.execute(tampering)
    finally:
        await owner.close()
    await watch.step()
    await watch.step()
    async with database.reading() as tx:
        summary = await tx.fetch_value("SELECT summary FROM finding WHERE rule = 'audit-gap'")
    assert how in summary
    await append(database_as, failures(10))
    await watch.step()
    assert "failed-logins" in {rule for rule, _ in await found(database)}


async def test_a_probe_raises_tests_and_teaches_nothing(database_as: DatabaseAs) -> None:
    """Every story, by way of the log; all findings say that they are tests, and the memory is as it was."""
    watch, database = await started(database_as)
    before = watch.detector.dump()["memories"]
    probes = scenarios.probes(NOW, actor="user:x", run="r1")
    await append(database_as, probes)
    await watch.step()
    async with database.reading() as tx:
        rows = await tx.fetch("SELECT rule, is_test, run FROM finding")
    assert {row["rule"] for row in rows} == {probe.details["rule"] for probe in probes}
    assert {(row["is_test"], row["run"]) for row in rows} == {(True, "r1")}
    assert watch.detector.dump()["memories"] == before


async def test_an_event_from_the_future_carries_nobody_there(database_as: DatabaseAs) -> None:
    """A compromised gateway that dates an event to next year does not end everybody's learning."""
    watch, _ = await started(database_as)
    late = timestamp(NOW + timedelta(days=365))
    await append(database_as, [Event(action=Action.CONNECTION_OPENED, actor="role:a", project_id="p", at=late)])
    await watch.step()
    assert watch.detector.dump()["now"] < (NOW + timedelta(hours=1)).timestamp()


@pytest.mark.parametrize("what", ["a rule", "every rule"])
async def test_an_event_that_breaks_the_sentinel_is_passed_over_and_told(
    database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whoever writes a poisoned event raises a finding instead of a silence: what comes after it is found, and after a
    restart it does no more harm than before."""
    poison = Event(
        action=Action.CONNECTION_CLOSED, actor="role:app", project_id="p", details={"bytes_out": 10**400}, at=timestamp(NOW)
    )  # fmt: skip
    if what == "every rule":
        whole = events.view
        monkeypatch.setattr(
            detector, "view", lambda event, lists: 1 / 0 if event.action == poison.action else whole(event, lists)
        )
    watch, database = await started(database_as)
    await append(database_as, [*failures(9), poison, poison, *failures(1)])
    await watch.step()
    assert await found(database) == [("event-skipped", 1), ("failed-logins", 1)]
    assert watch.skipped == 2
    again = Watch(database, RULES)
    await again.load()
    await again.step()
    assert await found(database) == [("event-skipped", 1), ("failed-logins", 1)]
    async with database.reading() as tx:
        summary = await tx.fetch_value("SELECT summary FROM finding WHERE rule = 'event-skipped'")
    assert summary.startswith("Event 10 of the audit log was passed over by ")
    assert summary.endswith("; 2 since the sentinel's start")


async def test_an_address_that_came_onto_a_list_is_found_from_then_on(database_as: DatabaseAs) -> None:
    watch, database = await started(database_as)
    opened = Event(action=Action.CONNECTION_OPENED, actor="role:app", address="203.0.113.9", at=timestamp(NOW))
    await append(database_as, [opened])
    await watch.step()
    assert await found(database) == []
    watch.lists = {"malicious": {ip_network("203.0.113.0/24")}}
    await append(database_as, [opened])
    await watch.step()
    assert await found(database) == [("listed-login", 1)]


async def test_who_makes_the_sentinel_forget_is_found(database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new names push out those that still matter: that is told, each time once."""
    monkeypatch.setattr(Groups.__init__, "__kwdefaults__", {"groups_max": 50})
    watch, database = await started(database_as)
    for names, alarms in ((range(200), 1), (range(199, 200), 1), (range(200, 260), 2)):
        await append(database_as, [event for number in names for event in failures(1, f"r{number}")])
        await watch.step()
        assert dict(await found(database))["sentinel-overloaded"] == alarms


async def test_a_finding_is_told_to_every_channel_in_the_transaction_that_raises_it(database_as: DatabaseAs) -> None:
    """And a grave one that nobody acknowledges is told once more."""
    watch, database = await started(database_as)
    poked = []
    watch.channels, watch.poke = lambda: ["a", "b"], lambda: poked.append(True)
    key_denied = Event(action=Action.KEY_DENIED, actor="uid:1", outcome="denied", at=timestamp(NOW))
    await append(database_as, [*failures(10), key_denied])
    await watch.step()
    async with database.transaction() as tx:
        assert sorted((each.channel, each.finding["rule"]) for each in await store.due(tx, 10)) == [
            ("a", "failed-logins"), ("a", "key-denied"), ("b", "failed-logins"), ("b", "key-denied"),
        ]  # fmt: skip
        assert await store.escalate(tx, ["a"], after_s=3600) == 0
        assert await store.escalate(tx, ["a"], after_s=0) == 1
        assert await store.escalate(tx, ["a"], after_s=0) == 0
        assert [each.finding["rule"] for each in await store.due(tx, 10) if each.kind == "escalated"] == ["key-denied"]
    assert poked


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT audit_append(ARRAY['{}'])",
        "DELETE FROM audit_event",
        "UPDATE audit_head SET seq = 0",
        "SELECT * FROM pg_role",
        "SELECT * FROM api_key",
        "SELECT * FROM wrapped_key",
        "UPDATE project SET name = 'x'",
        "INSERT INTO hold (project_id, held_by) VALUES ('p', 'x')",
    ],
)
async def test_the_sentinel_may_read_the_log_and_nothing_else(
    control_database: ControlDatabase, statement: str
) -> None:
    """Whoever takes over the process that talks to the outside has an audit log to read."""
    connection = await asyncpg.connect(control_database.url("cloister_sentinel"))
    try:
        await connection.execute("SET search_path = cloister")
        await connection.fetch("SELECT * FROM audit_event")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO finding (id) VALUES ('x')",
        "DELETE FROM finding",
        "UPDATE finding SET summary = 'nothing'",
        "DELETE FROM alert_delivery",
        "UPDATE sentinel SET seq = 0",
    ],
)
async def test_the_api_may_close_a_finding_and_not_rewrite_it(
    control_database: ControlDatabase, statement: str
) -> None:
    """A compromised API process cannot make a finding, or the alert about it, unhappen."""
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        await connection.execute("SET search_path = cloister")
        await connection.execute("UPDATE finding SET state = 'resolved', changed_by = 'x', note = ''")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()
