"""What clients execute, as the gateway records it: on every way in, at every level, and with nobody to record it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import Invalidate, RecordStatements, StatementRecord
from cloister.base.errors import UnavailableError
from cloister.base.limits import RPC_FRAME_BYTES_MAX
from cloister.edge.gateway import worker
from cloister.edge.gateway.limits import STATEMENT_TEXT_CHARS_MAX
from cloister.edge.gateway.statements import StatementTrail, is_wanted
from cloister.protocol.pgwire.statements import Kind, Outcome, Result, Statement
from tests.fix_gateway import ENDPOINT, GatewayWorld
from tests.raw_client import RawClient


def statement(
    *tags: str, text: str = "x", kind: Kind = Kind.SIMPLE, outcome: Outcome = Outcome.DONE, digest: bytes = b""
) -> Statement:
    return Statement(
        number=1, kind=kind, text=text, name="", text_bytes=len(text), digest=digest, outcome=outcome,
        results=tuple(Result(tag) for tag in tags), results_left_out=0, rows=0, rows_sent=0, bytes_sent=0, bytes_taken=0,
        sqlstate="", error="", began=0.0, ended=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("from_level", "told"),
    [
        (AuditLevel.FULL, statement("SELECT 3")),
        (AuditLevel.FULL, statement("BEGIN")),
        (AuditLevel.EXTENDED, statement("INSERT 0 1")),
        (AuditLevel.EXTENDED, statement("SELECT 1", "UPDATE 4")),
        (AuditLevel.EXTENDED, statement("COPY 4")),
        (AuditLevel.EXTENDED, statement("DO")),
        (AuditLevel.EXTENDED, statement(kind=Kind.FUNCTION)),
        (AuditLevel.BASE, statement("CREATE ROLE")),
        (AuditLevel.BASE, statement("GRANT")),
        (AuditLevel.BASE, statement("SET")),
        (AuditLevel.BASE, statement("TRUNCATE TABLE")),
        (AuditLevel.BASE, statement("SOMETHING NEW")),
        (AuditLevel.BASE, statement("SELECT 5", text="CREATE TABLE t AS SELECT 1")),
        (AuditLevel.BASE, statement("SELECT 5", text="SELECT * INTO t FROM u")),
        (AuditLevel.BASE, statement("SELECT 1", "ALTER TABLE")),
        # What changes something and is answered as if it had been read.
        (AuditLevel.BASE, statement("SELECT 5", text="SELECT 1 AS insert INTO t")),
        (AuditLevel.BASE, statement("SELECT 5", text="SELECT /* 64 kB later: INTO t */", digest=b"cut")),
        (AuditLevel.BASE, statement("EXPLAIN", text="EXPLAIN ANALYZE SELECT 1 INTO t")),
        (AuditLevel.EXTENDED, statement("SELECT 1", text="WITH gone AS (DELETE FROM t RETURNING *) TABLE gone")),
        (AuditLevel.EXTENDED, statement("EXPLAIN", text="explain analyze update t set a = 1")),
        (AuditLevel.EXTENDED, statement("SELECT 1", text="EXECUTE p")),
        (AuditLevel.EXTENDED, statement("SELECT 1", text="", kind=Kind.EXTENDED)),
        (AuditLevel.EXTENDED, statement(text="DELETE FROM t RETURNING *", outcome=Outcome.SUSPENDED)),
        (AuditLevel.EXTENDED, statement(text="", outcome=Outcome.SUSPENDED)),
        (AuditLevel.FULL, statement(text="SELECT * FROM t", outcome=Outcome.SUSPENDED)),
        (AuditLevel.FULL, statement("SELECT 0", text="SELECT inserted, updates FROM intoxicated")),
        (AuditLevel.BASE, statement(outcome=Outcome.FAILED)),
        (AuditLevel.BASE, statement(outcome=Outcome.UNKNOWN)),
        (AuditLevel.BASE, statement(outcome=Outcome.SKIPPED)),
    ],
)
def test_each_level_records_what_the_lower_ones_do_and_more(from_level: AuditLevel, told: Statement) -> None:
    levels = list(AuditLevel)
    wanted = [is_wanted(level, told) for level in levels]
    assert wanted == [level is not AuditLevel.OFF and not level.is_lower_than(from_level) for level in levels]


async def test_who_did_what_when_from_where(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start()
    async with await gateway_world.connect() as client:
        await client.execute("SELECT generate_series(1, %s) AS first", [7])
        with contextlib.suppress(psycopg.Error):
            await client.execute("ALTER ROLE nobody PASSWORD 'hunter2hunter2'")
    told = await gateway_world.directory.until_told("first")
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert (told.role, told.address, told.session_id) == ("ada", "127.0.0.1", opened.session_id)
    assert (told.project_id, told.endpoint_id) == ("calm-forest-12345678", ENDPOINT)
    assert (told.outcome, told.tags, told.rows, told.rows_sent) == ("done", ["SELECT 7"], 7, 7)
    failed = await gateway_world.directory.until_told("ALTER ROLE nobody PASSWORD")
    assert "hunter2" not in failed.text
    assert failed.sqlstate


async def test_off_records_nothing(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as client:
        await client.execute("CREATE TEMPORARY TABLE unseen (id int)")
    await gateway_world.directory.until("connection.closed")
    gateway_world.directory.audit_level = AuditLevel.BASE
    gateway_world.directory.send(Invalidate(endpoint_id=ENDPOINT))
    async with await gateway_world.connect() as client:
        await client.execute("SELECT 1")
        await client.execute("CREATE TEMPORARY TABLE seen (id int)")
    await gateway_world.directory.until_told("TABLE seen")
    assert [
        each.text for each in gateway_world.directory.statements if "unseen" in each.text or "SELECT" in each.text
    ] == []


async def test_no_session_goes_on_under_the_old_level(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    client = await gateway_world.connect()
    gateway_world.directory.audit_level = AuditLevel.FULL
    gateway_world.directory.send(Invalidate(endpoint_id=ENDPOINT))
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "audit_level_changed"
    with pytest.raises(psycopg.OperationalError, match="audit level"):
        await client.execute("SELECT 1")
    async with await gateway_world.connect() as again:
        await again.execute("SELECT 'watched'")
    await gateway_world.directory.until_told("watched")


# -- nobody to record it


def record(text: str = "x", project: str = "p") -> StatementRecord:
    return StatementRecord(
        at="2026-01-01T00:00:00.000000Z", session_id="s", project_id=project, branch_id="b", endpoint_id="e", role="ada",
        database="app", address="192.0.2.1", kind="simple", outcome="done", text=text,
    )  # fmt: skip


class Keeper:
    """A control plane that may be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.kept: list[StatementRecord] = []
        self.lost: dict[str, int] = {}

    async def keep(self, statements: list[StatementRecord], lost: dict[str, int]) -> None:
        if self.is_away:
            raise UnavailableError("away")
        self.kept += statements
        for project, count in lost.items():
            self.lost[project] = self.lost.get(project, 0) + count


@contextlib.asynccontextmanager
async def running(trail: StatementTrail) -> AsyncIterator[None]:
    task = asyncio.create_task(trail.run())
    yield
    await trail.finish(task)
    assert task.done()


async def test_clients_are_held_while_there_is_no_room_and_nothing_is_lost() -> None:
    keeper = Keeper()
    told: list[bool] = []
    trail = StatementTrail(keeper.keep, bytes_high=2_000, bytes_max=100_000)
    for number in range(20):
        trail.add(record(str(number)))
    assert trail.is_full("p")
    trail.hold("p", told.append)
    trail.hold("p", told.append)
    assert told == [True]
    async with running(trail):
        await asyncio.wait_for(trail.room("p"), 10)
    assert told == [True, False]
    assert [each.text for each in keeper.kept] == [str(number) for number in range(20)]
    assert keeper.lost == {}


async def test_a_project_that_fills_the_queue_holds_up_itself_alone() -> None:
    """Threat: one tenant's statements stop another's sessions, or push theirs out of the record."""
    keeper = Keeper()
    keeper.is_away = True
    loud: list[bool] = []
    quiet: list[bool] = []
    trail = StatementTrail(keeper.keep, bytes_high=20_000, bytes_max=80_000, assured=5_000)
    for number in range(100):
        trail.add(record(f"loud {number}"))
        if trail.is_full("p"):
            trail.hold("p", loud.append)
    for number in range(4):
        trail.add(record(f"quiet {number}", project="q"))
        assert not trail.is_full("q")
    await asyncio.wait_for(trail.room("q"), 10)
    trail.add(record("the fifth", project="q"))
    trail.add(record("the sixth", project="q"))
    assert trail.is_full("q"), "who has more than is assured waits as well"
    trail.hold("q", quiet.append)
    assert (loud, quiet) == ([True], [True])
    keeper.is_away = False
    async with running(trail):
        await asyncio.wait_for(trail.room("p"), 10)
    assert (loud, quiet) == ([True, False], [True, False])
    kept = [each.text for each in keeper.kept]
    assert kept[:8] == ["loud 0", "quiet 0", "loud 1", "quiet 1", "loud 2", "quiet 2", "loud 3", "quiet 3"], "in turn"
    assert set(keeper.lost) == {"p"}, "the other's statements are there, all of them"
    assert len([each for each in kept if "loud" in each]) + keeper.lost["p"] == 100
    assert sorted(each for each in kept if "quiet" in each) == [f"quiet {number}" for number in range(4)]


@given(st.lists(st.sampled_from("pqr"), max_size=60), st.integers(1, 40_000), st.integers(1, 40_000))
async def test_whatever_comes_each_projects_order_stays_and_every_statement_is_kept_or_counted(
    projects: list[str], high: int, most: int
) -> None:
    keeper = Keeper()
    trail = StatementTrail(keeper.keep, bytes_high=high, bytes_max=most, assured=3_000)
    for number, project in enumerate(projects):
        trail.add(record(f"{number:02}", project=project))
    async with running(trail):
        pass
    for project in "pqr":
        kept = [each.text for each in keeper.kept if each.project_id == project]
        assert kept == sorted(kept)
        assert len(kept) + keeper.lost.get(project, 0) == projects.count(project)


async def test_whatever_texts_are_made_of_a_batch_can_be_sent() -> None:
    """Or the first that cannot would stop every record behind it."""
    keeper, sizes = Keeper(), []
    worst = msgspec.structs.replace(
        record("\U0001f600" * STATEMENT_TEXT_CHARS_MAX),
        name="\U0001f600" * 63,
        tags=["\U0001f600" * 64] * 16,
        role="\U0001f600" * 63,
        database="\U0001f600" * 63,
    )

    async def keep(statements: list[StatementRecord], lost: dict[str, int]) -> None:
        sizes.append(len(msgspec.msgpack.encode(RecordStatements(statements=statements, lost=lost))))
        await keeper.keep(statements, lost)

    for some in (worst, record("")):
        trail = StatementTrail(keep)
        for _ in range(2_500):
            trail.add(some)
        async with running(trail):
            pass
    assert len(keeper.kept) == 5_000
    assert max(sizes) < RPC_FRAME_BYTES_MAX


async def test_what_cannot_be_kept_is_counted_and_the_count_recorded() -> None:
    keeper = Keeper()
    keeper.is_away = True
    trail = StatementTrail(keeper.keep, bytes_high=1_000, bytes_max=2_000)
    for number in range(10):
        trail.add(record(str(number), project="p" if number < 8 else "q"))
    keeper.is_away = False
    async with running(trail):
        await asyncio.wait_for(trail.room("p"), 10)
    assert len(keeper.kept) + sum(keeper.lost.values()) == 10
    assert keeper.lost == {"p": 7, "q": 1}, "there is room for two, and no project gets more than half of it"


async def test_a_record_that_could_not_be_sent_is_sent_again(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start()
    async with await gateway_world.connect() as client:
        gateway_world.directory.is_keeping = False
        await client.execute("SELECT 'patience'")
        assert not [each for each in gateway_world.directory.statements if "patience" in each.text]
        gateway_world.directory.is_keeping = True
        await gateway_world.directory.until_told("patience")


async def test_a_client_waits_while_what_it_does_cannot_be_recorded(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = gateway_world.directory
    monkeypatch.setattr(worker, "StatementTrail", partial(StatementTrail, bytes_high=2_000))
    directory.audit_level = AuditLevel.FULL
    await gateway_world.start()
    async with await gateway_world.connect() as client:
        directory.is_keeping = False

        async def work() -> None:
            for number in range(8):
                await client.execute(f"SELECT 'step{number}.'")

        working = asyncio.create_task(work())
        async with asyncio.timeout(30), directory.changed:
            await directory.changed.wait_for(
                lambda: sum(isinstance(each, RecordStatements) for each in directory.asked) > 1
            )
        assert not working.done()
        directory.is_keeping = True
        await asyncio.wait_for(working, 30)
        await directory.until_told("step7.")
    steps = [each.text for each in directory.statements if "step" in each.text]
    assert steps == [f"SELECT 'step{number}.'" for number in range(8)]


async def test_bytes_that_are_no_protocol_end_an_audited_session(gateway_world: GatewayWorld) -> None:
    """The compute would end it, too; but what it makes of them is not ours to guess."""
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start()
    client = await RawClient.logged_in(gateway_world)
    client.send(b"Q\0\0\0\0")
    (told,) = await client.until(b"E")
    assert b"audited session" in told[1]
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "protocol_violation"


async def test_a_session_that_is_given_on_is_watched_for_each_client(gateway_world: GatewayWorld) -> None:
    """Whoever is next on a reused backend is another visit, with statements of their own."""
    gateway_world.directory.audit_level = AuditLevel.FULL
    await gateway_world.start()
    for number in range(12):
        async with await gateway_world.connect() as client:
            await client.execute(f"SELECT 'visitor{number}'")
    told = [await gateway_world.directory.until_told(f"visitor{number}'") for number in range(12)]
    assert len({each.session_id for each in told}) == 12
