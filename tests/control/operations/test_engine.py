"""The engine on a real database: queues, signals, retries, leases, and what happens when the database goes away."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from cloister.base.clock import FakeClock, SystemClock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BusyError, ConflictError, NotFoundError, UnavailableError, UnprocessableError
from cloister.base.ids import OperationId, new_operation_id
from cloister.control.calling import Page
from cloister.control.operations import store
from cloister.control.operations.engine import LEASE, Engine
from cloister.control.operations.machine import Fail, Go, Machine, Outcome, Step, Wait
from cloister.control.operations.model import Operation, Status
from cloister.control.operations.running import Runner
from tests.fix_database import ControlDatabase, DatabaseAs

PROJECT = "calm-forest-12345678"
MINUTE = timedelta(minutes=1)


@dataclass
class World:
    """What the steps of these tests do, by the name of the operation's input `does`."""

    does: dict[str, Callable[[Operation], Awaitable[Outcome]]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)


async def first(operation: Operation, world: World) -> Outcome:
    name = operation.input.get("does", "")
    world.ran.append(name)
    return await world.does[name](operation) if name in world.does else Go()


async def second(operation: Operation, world: World) -> Outcome:
    return Go({"second_saw": operation.facts})


ONE = Machine("one", "start_compute", MINUTE, (Step("first", first),))
TWO = Machine("two", "create_branch", MINUTE, (Step("first", first), Step("second", second)))
KEPT = Machine("kept", "suspend_compute", MINUTE, (Step("first", first),), has_rollback=False)
HEAVY = Machine("heavy", "create_timeline", MINUTE, (Step("first", first),), is_heavy=True)


@dataclass
class Bench:
    """An engine, its world and its clock, and short words for what tests do with them."""

    database: Database
    clock: FakeClock
    world: World
    engine: Engine

    def another_engine(self) -> Engine:
        return new_engine(self.database, self.clock, self.world)

    async def submit(
        self, does: str = "", *, machine: str = "one", resource: str = "endpoint:x", after: Operation | None = None
    ) -> Operation:
        async with self.database.transaction() as tx:
            return await self.engine.submit(
                tx,
                machine=machine,
                project_id=PROJECT,
                resource=resource,
                input={"does": does},
                after=after.id if after else None,
            )

    async def status(self, operation: Operation) -> Status:
        return (await self.row(operation)).status

    async def row(self, operation: Operation) -> Operation:
        return await self.engine.get(PROJECT, operation.id)

    async def signal(self, operation: Operation) -> None:
        async with self.database.transaction() as tx:
            await self.engine.signal(tx, operation.id)


def new_engine(database: Database, clock: Any, world: World, **options: Any) -> Engine:
    engine = Engine(database, clock, **options)
    for machine in (ONE, TWO, KEPT, HEAVY):
        engine.register(machine, world)
    return engine


@pytest.fixture
async def bench(database_as: DatabaseAs) -> Bench:
    database, clock, world = await database_as("cloister_api"), FakeClock(), World()
    return Bench(database, clock, world, new_engine(database, clock, world))


@contextlib.asynccontextmanager
async def running(*engines: Engine) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(engine.run()) for engine in engines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def audited(database: Database) -> list[Any]:
    async with database.reading() as tx:
        return await tx.fetch("SELECT action, body::jsonb ->> 'operation_id' AS id FROM audit_event ORDER BY seq")


def gate() -> tuple[asyncio.Event, asyncio.Event, Callable[[Operation], Awaitable[Outcome]]]:
    """A step that says when it is in (first event) and stays until it is let out (second event)."""
    is_in, may_leave = asyncio.Event(), asyncio.Event()

    async def stay(operation: Operation) -> Outcome:
        is_in.set()
        await may_leave.wait()
        return Go()

    return is_in, may_leave, stay


# ── the ordinary course ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_steps_run_in_order_and_see_what_the_ones_before_learned(bench: Bench) -> None:
    async def learn(operation: Operation) -> Outcome:
        return Go({"learned": 1})

    bench.world.does["learn"] = learn
    operation = await bench.submit("learn", machine="two")
    assert (operation.status, operation.action) == (Status.SCHEDULING, "create_branch")
    await bench.engine.run_due()
    ended = await bench.row(operation)
    assert ended.status is Status.FINISHED
    assert ended.facts == {"learned": 1, "second_saw": {"learned": 1}}
    assert ended.finished_at == bench.clock.now()
    assert await audited(bench.database) == []


async def test_an_operation_of_a_transaction_that_rolled_back_never_was(bench: Bench) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with bench.database.transaction() as tx:
            await bench.engine.submit(tx, machine="one", project_id=PROJECT, resource="endpoint:x", input={})
            raise ZeroDivisionError
    assert await bench.engine.find(PROJECT, Page()) == []
    await bench.submit()


async def test_a_kick_runs_it_without_a_poll(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_claim_due", no_operations)
    async with running(bench.engine):
        await asyncio.sleep(0)  # `run` has begun
        await until(lambda: bench.engine._tasks is not None)
        operation = await bench.submit()
        bench.engine.kick(operation.id)
        assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


async def test_the_poll_finds_what_nobody_kicked(bench: Bench) -> None:
    operation = await bench.submit()
    async with running(bench.engine):
        assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


async def test_wait_answers_for_what_has_ended_and_gives_up_on_what_does_not(bench: Bench) -> None:
    operation = await bench.submit()
    with pytest.raises(UnavailableError):
        await bench.engine.wait(operation.id, timeout_s=0.01)
    await bench.another_engine().run_due()
    assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED
    with pytest.raises(NotFoundError):
        await bench.engine.wait(new_operation_id(), timeout_s=5)
    assert bench.engine._waiting == {}


async def test_a_machine_is_registered_once_and_with_different_step_names(bench: Bench) -> None:
    with pytest.raises(ValueError):
        bench.engine.register(ONE, bench.world)
    with pytest.raises(ValueError):
        bench.engine.register(Machine("twins", "a", MINUTE, (Step("s", first), Step("s", first))), bench.world)


# ── one at a time, in order ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_taken_resource_is_busy_and_the_transaction_goes_on(bench: Bench) -> None:
    held = await bench.submit()
    async with bench.database.transaction() as tx:
        with pytest.raises(BusyError):
            await bench.engine.submit(tx, machine="one", project_id=PROJECT, resource="endpoint:x", input={})
        current = await bench.engine.current(tx, "endpoint:x")
    assert current == held
    await bench.submit(resource="endpoint:y")
    await bench.engine.run_due()
    await bench.submit()


async def test_of_two_at_the_same_moment_one_is_busy(bench: Bench) -> None:
    """The second waits for the first transaction's end: the database decides, not a look beforehand."""
    async with bench.database.transaction() as tx:
        await bench.engine.submit(tx, machine="one", project_id=PROJECT, resource="endpoint:x", input={})
        rival = asyncio.create_task(bench.submit())
        await asyncio.wait({rival}, timeout=0.05)
        assert not rival.done()
    with pytest.raises(BusyError):
        await rival


async def test_a_follower_waits_and_takes_the_resource_without_a_gap(bench: Bench) -> None:
    before = await bench.submit("before")
    after = await bench.submit("after", after=before)
    last = await bench.submit("last", after=after)
    assert await bench.engine.run_due() == 1
    assert await bench.status(before) is Status.FINISHED
    assert await bench.status(after) is Status.SCHEDULING
    with pytest.raises(BusyError):
        await bench.submit()
    await bench.engine.run_due()
    await bench.engine.run_due()
    assert bench.world.ran == ["before", "after", "last"]
    assert await bench.status(last) is Status.FINISHED


async def test_a_follower_on_another_resource_holds_that_from_the_start(bench: Bench) -> None:
    before = await bench.submit("before", resource="project:p")
    after = await bench.submit("after", after=before, resource="endpoint:x")
    with pytest.raises(BusyError):
        await bench.submit(resource="endpoint:x")
    await bench.engine.run_due()
    await bench.engine.run_due()
    assert await bench.status(after) is Status.FINISHED


async def test_followers_are_started_without_a_poll(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_claim_due", no_operations)
    async with running(bench.engine):
        await until(lambda: bench.engine._tasks is not None)
        before = await bench.submit("before")
        after = await bench.submit("after", after=before)
        bench.engine.kick(before.id)
        assert (await bench.engine.wait(after.id, timeout_s=5)).status is Status.FINISHED


async def test_waiting_never_forms_a_circle(bench: Bench) -> None:
    """Two that wait for each other's resource could never run; the queue goes by age, so they do not."""
    holder = await bench.submit("holder", resource="r2")
    first_ = await bench.submit("first", resource="r1")
    waits = await bench.submit("waits", resource="r2", after=first_)  # for r2, behind holder
    await bench.submit("later", resource="r2", after=waits)
    await bench.submit("elsewhere", resource="r1", after=holder)
    for _ in range(5):
        await bench.engine.run_due()
    assert sorted(bench.world.ran) == ["elsewhere", "first", "holder", "later", "waits"]
    assert bench.world.ran.index("waits") < bench.world.ran.index("later")


async def test_whose_turn_has_come_still_waits_for_the_resource(bench: Bench) -> None:
    async def wait_long(operation: Operation) -> Outcome:
        return Wait(30)

    bench.world.does["long"] = wait_long
    before = await bench.submit("before", resource="project:p")
    await bench.submit("long", resource="endpoint:x")
    await bench.submit("after", resource="endpoint:x", after=before)
    await bench.engine.run_due()
    await bench.engine.run_due()
    assert await bench.status(before) is Status.FINISHED
    assert "after" not in bench.world.ran


async def test_a_row_that_somebody_holds_does_not_keep_others_from_running(bench: Bench) -> None:
    locked, other = await bench.submit("locked", resource="a"), await bench.submit("other", resource="b")
    async with bench.database.transaction() as tx, asyncio.timeout(5):
        await tx.execute("SELECT FROM operation WHERE id = $1 FOR UPDATE", locked.id)
        await bench.another_engine().run_due()
        assert await bench.status(other) is Status.FINISHED


async def test_who_follows_a_failure_is_skipped_with_all_who_follow_it(bench: Bench) -> None:
    bench.world.does["fail"] = fail
    failing = await bench.submit("fail")
    follower = await bench.submit("f", after=failing, resource="endpoint:y")
    distant = await bench.submit("d", after=follower, resource="endpoint:z")
    waiting = await bench.submit("w", resource="endpoint:v")
    behind = await bench.submit("b", after=waiting, resource="endpoint:y")
    await bench.engine.run_due()
    await bench.engine.run_due()
    assert await bench.status(failing) is Status.FAILED
    assert [await bench.status(o) for o in (follower, distant)] == [Status.SKIPPED] * 2
    assert await bench.status(behind) is Status.FINISHED, "what a skipped one held goes to the next"
    await bench.submit(resource="endpoint:z")


async def test_following_what_has_ended(bench: Bench) -> None:
    bench.world.does["fail"] = fail
    finished = await bench.submit()
    await bench.engine.run_due()
    follower = await bench.submit(after=finished)
    await bench.engine.run_due()
    assert await bench.status(follower) is Status.FINISHED
    failed = await bench.submit("fail")
    await bench.engine.run_due()
    with pytest.raises(ConflictError):
        await bench.submit(after=failed)


async def test_a_resource_that_nobody_handed_over_is_given_by_the_poll(bench: Bench) -> None:
    """As when the one who waits is inserted at the very moment at which the holder ends."""
    before = await bench.submit("before", resource="project:p")
    await bench.engine.run_due()
    async with bench.database.transaction() as tx:
        await bench.engine.submit(
            tx, machine="one", project_id=PROJECT, resource="endpoint:x", input={"does": "lost"}, after=before.id
        )
        await tx.execute("UPDATE operation SET holds_resource = false")
    await bench.engine.run_due()
    assert bench.world.ran == ["before", "lost"]


# ── heavy ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def few(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Two heavy operations at a time, and three others."""
    monkeypatch.setattr("cloister.control.operations.engine.HEAVY_AT_ONCE_MAX", 2)
    monkeypatch.setattr("cloister.control.operations.engine._AT_ONCE_MAX", 3)
    return replace(bench, engine=bench.another_engine())


async def test_heavy_ones_are_served_as_they_came_and_let_the_others_past(few: Bench) -> None:
    entered: list[str] = []
    may_leave = [asyncio.Event() for _ in range(6)]

    async def stay(operation: Operation) -> Outcome:
        entered.append(operation.resource)
        await may_leave[int(operation.resource)].wait()
        return Go()

    few.world.does["stay"] = stay
    async with running(few.engine):
        await until(lambda: few.engine._tasks is not None)
        heavy = []
        for number in range(6):
            heavy.append(await few.submit("stay", machine="heavy", resource=str(number)))
            few.clock.advance(timedelta(milliseconds=1))
        few.engine.kick_all(reversed(heavy))
        light = await few.submit()
        few.engine.kick(light.id)
        assert (await few.engine.wait(light.id, timeout_s=5)).status is Status.FINISHED
        await until(lambda: len(entered) == 2)
        assert set(entered) == {"0", "1"}
        assert {await few.status(operation) for operation in heavy[2:]} == {Status.SCHEDULING}, (
            "their time does not run"
        )
        for number, leave in enumerate(may_leave):
            leave.set()
            await few.engine.wait(heavy[number].id, timeout_s=5)
            assert len(entered) <= number + 3
    assert entered[2:] == ["2", "3", "4", "5"]


async def test_a_kick_runs_a_heavy_one_without_a_poll(few: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_poll", never)
    async with running(few.engine):
        await until(lambda: few.engine._tasks is not None)
        for number in range(2):
            operation = await few.submit(machine="heavy", resource=str(number))
            few.engine.kick(operation.id)
            assert (await few.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


async def test_one_that_fails_makes_room(few: Bench) -> None:
    few.world.does["fail"] = fail
    async with running(few.engine):
        heavy = [await few.submit("fail", machine="heavy", resource=str(number)) for number in range(5)]
        ended = [await few.engine.wait(operation.id, timeout_s=5) for operation in heavy]
    assert {operation.status for operation in ended} == {Status.FAILED}


# ── waiting and signals ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_signal_ends_a_wait_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    has_come = False

    async def wait_for_it(operation: Operation) -> Outcome:
        return Go() if has_come else Wait(50)

    bench.world.does["wait"] = wait_for_it
    async with running(bench.engine):
        await until(lambda: bench.engine._tasks is not None)
        operation = await bench.submit("wait")
        bench.engine.kick(operation.id)
        await until(lambda: operation.id in bench.engine._timers)
        has_come = True
        await bench.signal(operation)
        assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


async def test_a_signal_during_the_step_is_not_lost(bench: Bench) -> None:
    async def signalled_meanwhile(operation: Operation) -> Outcome:
        if len(bench.world.ran) == 1:
            await bench.signal(operation)
            return Wait(50)
        return Go()

    bench.world.does["wait"] = signalled_meanwhile
    operation = await bench.submit("wait")
    await bench.engine.run_due()
    assert (await bench.row(operation)).run_at == bench.clock.now()
    await bench.engine.run_due()
    assert await bench.status(operation) is Status.FINISHED


async def test_a_signal_between_the_commit_and_letting_go_is_not_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store.commit

    async def commit_and_signal(tx: Transaction, held: Operation, *rest: Any) -> Operation | None:
        committed = await commit(tx, held, *rest)
        if len(bench.world.ran) == 1:
            await store.signal(tx, held.id, bench.clock.now())
            bench.engine.kick(held.id)
        return committed

    async def wait_once(operation: Operation) -> Outcome:
        return Wait(50) if len(bench.world.ran) == 1 else Go()

    monkeypatch.setattr(Engine, "_claim_due", no_operations)
    monkeypatch.setattr(Engine, "_listen", never)
    monkeypatch.setattr(store, "commit", commit_and_signal)
    bench.world.does["wait"] = wait_once
    async with running(bench.engine):
        await until(lambda: bench.engine._tasks is not None)
        operation = await bench.submit("wait")
        bench.engine.kick(operation.id)
        assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


async def test_a_signal_does_not_start_a_follower_early(bench: Bench) -> None:
    before = await bench.submit("before", resource="project:p")
    after = await bench.submit("after", after=before)
    await bench.signal(after)
    assert await bench.engine.run_due() == 1
    assert bench.world.ran == ["before"]


async def test_a_short_wait_does_not_take_a_whole_poll(
    database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_claim_due", no_operations)
    database, world = await database_as("cloister_api"), World()
    bench = Bench(database, FakeClock(), world, new_engine(database, SystemClock(), world))

    async def twice(operation: Operation) -> Outcome:
        return Wait(0.01) if len(world.ran) < 3 else Go()

    world.does["twice"] = twice
    async with running(bench.engine):
        await until(lambda: bench.engine._tasks is not None)
        operation = await bench.submit("twice")
        bench.engine.kick(operation.id)
        assert (await bench.engine.wait(operation.id, timeout_s=5)).status is Status.FINISHED


# ── failure ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def fail(operation: Operation) -> Outcome:
    return Fail(UnprocessableError("of /var/lib", public="not like this"))


async def test_a_failure_is_shown_audited_and_frees_the_resource(bench: Bench) -> None:
    bench.world.does["fail"] = fail
    operation = await bench.submit("fail")
    await bench.engine.run_due()
    row = await bench.row(operation)
    assert (row.status, row.error) == (Status.FAILED, "not like this")
    assert [tuple(event) for event in await audited(bench.database)] == [("operation.failed", operation.id)]
    await bench.submit()


async def test_the_audit_event_and_the_end_are_one_transaction(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def record_nothing(*_: Any) -> int:
        raise UnavailableError("the log cannot be written")

    monkeypatch.setattr("cloister.control.operations.running.record", record_nothing)
    monkeypatch.setattr("cloister.control.operations.running._COMMIT_PAUSE_S", 0.0)
    bench.world.does["fail"] = fail
    operation = await bench.submit("fail")
    with pytest.raises(UnavailableError):
        await bench.engine.run_due()
    assert await bench.status(operation) is Status.RUNNING


async def test_what_passes_is_tried_again_until_it_does(bench: Bench) -> None:
    async def third_time(operation: Operation) -> Outcome:
        if len(bench.world.ran) < 3:
            raise OSError("/a/path/of/ours") if len(bench.world.ran) == 1 else UnavailableError(public="no node")
        return Go()

    bench.world.does["third"] = third_time
    operation = await bench.submit("third")
    await bench.engine.run_due()
    assert (await bench.row(operation)).error == "internal error"
    assert await bench.engine.run_due() == 0, "not before its pause is over"
    for failures in (1, 2):
        row = await bench.row(operation)
        assert (row.status, row.failures_count) == (Status.RUNNING, failures)
        bench.clock.advance(row.run_at - bench.clock.now())
        await bench.engine.run_due()
    row = await bench.row(operation)
    assert (row.status, row.failures_count, row.error) == (Status.FINISHED, 2, None)


@pytest.mark.parametrize(("machine", "end"), [("one", Status.FAILED), ("kept", Status.ERROR)])
async def test_the_deadline_ends_the_attempts(bench: Bench, machine: str, end: Status) -> None:
    async def never(operation: Operation) -> Outcome:
        raise UnavailableError(public="no node")

    bench.world.does["never"] = never
    operation = await bench.submit("never", machine=machine)
    while not (row := await bench.row(operation)).status.has_ended:
        bench.clock.advance(max(row.run_at - bench.clock.now(), timedelta()))
        await bench.engine.run_due()
    assert (row.status, row.error) == (end, "no node")
    assert bench.clock.now() - row.created_at == MINUTE
    assert len(await audited(bench.database)) == 1


async def test_time_in_a_queue_does_not_count(bench: Bench) -> None:
    before = await bench.submit("before")
    after = await bench.submit("after", after=before)
    bench.clock.advance(10 * MINUTE)
    await bench.engine.run_due()
    await bench.engine.run_due()
    assert await bench.status(after) is Status.FINISHED


async def test_a_step_that_hangs_is_cut_off_at_the_deadline(database_as: DatabaseAs) -> None:
    database, world = await database_as("cloister_api"), World()
    engine = Engine(database, SystemClock())
    engine.register(Machine("short", "start_compute", timedelta(seconds=0.05), (Step("first", first),)), world)

    async def hang(operation: Operation) -> Outcome:
        await asyncio.Event().wait()
        return Go()

    world.does["hang"] = hang
    async with running(engine):
        async with database.transaction() as tx:
            operation = await engine.submit(
                tx, machine="short", project_id=PROJECT, resource="r", input={"does": "hang"}
            )
        ended = await engine.wait(operation.id, timeout_s=5)
    assert (ended.status, ended.error) == (Status.FAILED, "took too long")


async def test_rows_that_cannot_be_changed_are_a_failure_of_the_step(bench: Bench) -> None:
    async def refuse(tx: Transaction) -> None:
        await tx.execute("INSERT INTO organization (id, name) VALUES ('org-1', 'half done')")
        raise UnprocessableError(public="name taken")

    async def go(operation: Operation) -> Outcome:
        return Go({"learned": 1}, apply=refuse)

    bench.world.does["go"] = go
    operation = await bench.submit("go")
    await bench.engine.run_due()
    row = await bench.row(operation)
    assert (row.status, row.error, row.facts) == (Status.FAILED, "name taken", {})
    async with bench.database.reading() as tx:
        assert await tx.fetch("SELECT FROM organization") == []


async def test_a_step_that_this_code_does_not_have_is_left_to_a_person(bench: Bench) -> None:
    operation = await bench.submit()
    async with bench.database.transaction() as tx:
        await tx.execute("UPDATE operation SET step = 'of another version'")
    await bench.engine.run_due()
    assert await bench.status(operation) is Status.ERROR


async def test_a_machine_that_this_process_does_not_have_is_left_to_others(bench: Bench) -> None:
    operation = await bench.submit()
    other = Engine(bench.database, bench.clock)
    assert await other.run_due() == 0
    assert await bench.status(operation) is Status.SCHEDULING


# ── leases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def counting(world: World) -> Callable[[Operation], Awaitable[Outcome]]:
    async def count(operation: Operation) -> Outcome:
        async def add(tx: Transaction) -> None:
            await tx.execute("UPDATE organization SET name = (name::integer + 1)::text WHERE id = $1", operation.id)

        return Go(apply=add)

    return count


async def test_engines_that_fight_for_the_same_rows_apply_each_step_once(bench: Bench) -> None:
    bench.world.does["count"] = counting(bench.world)
    operations = [await bench.submit("count", resource=f"endpoint:{n}") for n in range(40)]
    async with bench.database.transaction() as tx:
        for operation in operations:
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, '0')", operation.id)
    engines = [new_engine(bench.database, bench.clock, bench.world) for _ in range(3)]
    async with running(*engines):
        await until(lambda: all(engine._tasks is not None for engine in engines))
        for operation in operations:
            for engine in engines:
                engine.kick(operation.id)
        for operation in operations:
            assert (await engines[0].wait(operation.id, timeout_s=10)).status is Status.FINISHED
    async with bench.database.reading() as tx:
        assert Counter(row["name"] for row in await tx.fetch("SELECT name FROM organization")) == {"1": 40}
    assert len(bench.world.ran) == 40, "a leased operation is not run by another"


async def test_whoever_was_overtaken_changes_nothing(bench: Bench) -> None:
    """It comes back from a long pause with an answer, when another engine has long finished its operation."""
    is_in, may_leave, stay = gate()
    count = counting(bench.world)

    async def stay_the_first_time(operation: Operation) -> Outcome:
        if len(bench.world.ran) == 1:
            await stay(operation)
        return await count(operation)

    bench.world.does["stay"] = stay_the_first_time
    operation = await bench.submit("stay")
    async with bench.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, '0')", operation.id)
    slow = asyncio.create_task(bench.engine.run_due())
    await is_in.wait()
    assert await bench.another_engine().run_due() == 0, "not while it is leased"
    bench.clock.advance(LEASE + timedelta(seconds=1))
    assert await bench.another_engine().run_due() == 1
    ended = await bench.row(operation)
    may_leave.set()
    await slow
    assert await bench.row(operation) == ended
    async with bench.database.reading() as tx:
        assert await tx.fetch_value("SELECT name FROM organization") == "1"


async def test_a_long_step_keeps_its_lease(bench: Bench) -> None:
    is_in, may_leave, stay = gate()
    bench.world.does["stay"] = stay
    engine = new_engine(bench.database, SystemClock(), bench.world, lease=timedelta(seconds=0.15))
    operation = await bench.submit("stay")
    slow = asyncio.create_task(engine.run_due())
    await is_in.wait()
    granted = await leased_until(bench.database, operation)
    async with asyncio.timeout(5):
        while await leased_until(bench.database, operation) < granted + timedelta(seconds=0.3):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    may_leave.set()
    await slow
    assert await bench.status(operation) is Status.FINISHED
    assert bench.world.ran == ["stay"]


async def test_a_step_whose_lease_is_lost_is_stopped(bench: Bench) -> None:
    is_in, _, stay = gate()
    bench.world.does["stay"] = stay
    engine = new_engine(bench.database, SystemClock(), bench.world, lease=timedelta(seconds=0.15))
    operation = await bench.submit("stay")
    slow = asyncio.create_task(engine.run_due())
    await is_in.wait()
    async with bench.database.transaction() as tx:
        await tx.execute("UPDATE operation SET lease = lease + 1, leased_until = 'infinity'")
    await asyncio.wait_for(slow, 5)
    assert await bench.status(operation) is Status.RUNNING


async def test_a_restarted_worker_does_not_wait_for_its_own_lease(bench: Bench) -> None:
    is_in, _, stay = gate()
    bench.world.does["stay"] = stay
    killed = new_engine(bench.database, bench.clock, bench.world, worker="api-1")
    operation = await bench.submit("stay")
    async with running(killed):
        await is_in.wait()
    del bench.world.does["stay"]
    assert await bench.status(operation) is Status.RUNNING
    stranger = new_engine(bench.database, bench.clock, bench.world, worker="api-2")
    async with running(stranger):
        with pytest.raises(UnavailableError):
            await stranger.wait(operation.id, timeout_s=0.1)
    restarted = new_engine(bench.database, bench.clock, bench.world, worker="api-1")
    async with running(restarted):
        assert (await restarted.wait(operation.id, timeout_s=5)).status is Status.FINISHED


# ── the database goes away ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broken_connection_at_the_commit_loses_and_doubles_nothing(
    bench: Bench, control_database: ControlDatabase
) -> None:
    count = counting(bench.world)

    async def break_everything(operation: Operation) -> Outcome:
        superuser = await asyncpg.connect(control_database.url())
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cloister_api'")
        await superuser.close()
        return await count(operation)

    bench.world.does["break"] = break_everything
    async with running(bench.engine):
        await until(lambda: bench.engine._tasks is not None)
        operation = await bench.submit("break")
        async with bench.database.transaction() as tx:
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, '0')", operation.id)
        bench.engine.kick(operation.id)
        assert (await bench.engine.wait(operation.id, timeout_s=10)).status is Status.FINISHED
    async with bench.database.reading() as tx:
        assert await tx.fetch_value("SELECT name FROM organization") == "1"


async def test_a_commit_that_happened_unheard_is_not_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection broke after the server had committed: the second attempt finds that the lease has moved on."""
    monkeypatch.setattr("cloister.control.operations.running._COMMIT_PAUSE_S", 0.0)
    write, attempts = Runner._write, []

    async def write_and_break(self: Runner, *rest: Any) -> Any:
        attempts.append(await write(self, *rest))
        if len(attempts) == 1:
            raise UnavailableError("no answer")
        return attempts[-1]

    monkeypatch.setattr(Runner, "_write", write_and_break)
    bench.world.does["count"] = counting(bench.world)
    operation = await bench.submit("count")
    async with bench.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, '0')", operation.id)
    await bench.engine.run_due()
    assert len(attempts) == 2
    assert await bench.status(operation) is Status.FINISHED
    async with bench.database.reading() as tx:
        assert await tx.fetch_value("SELECT name FROM organization") == "1"


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_pages_are_newest_first_without_gaps_or_repeats(bench: Bench) -> None:
    made = [(await bench.submit(resource=f"endpoint:{n}")).id for n in range(7)]
    found: list[OperationId] = []
    page = Page(limit=3)
    while batch := await bench.engine.find(PROJECT, page):
        found += [operation.id for operation in batch]
        page = Page(limit=3, cursor=batch[-1].id)
    assert found == made[::-1]


async def test_another_project_sees_nothing(bench: Bench) -> None:
    operation = await bench.submit()
    assert await bench.engine.find("other-forest-12345678", Page()) == []
    assert await bench.engine.find("other-forest-12345678", Page(cursor=operation.id)) == []
    with pytest.raises(NotFoundError):
        await bench.engine.get("other-forest-12345678", operation.id)


# ── small helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def no_operations(*_: Any, **__: Any) -> list[Operation]:
    return []


async def never(_engine: Engine) -> None:
    await asyncio.Event().wait()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - inside the engine, where no event tells
            await asyncio.sleep(0.005)


async def leased_until(database: Database, operation: Operation) -> Any:
    async with database.reading() as tx:
        return await tx.fetch_value("SELECT leased_until FROM operation WHERE id = $1", operation.id)
