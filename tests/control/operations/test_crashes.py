"""The crash harness finds nothing wrong with a right machine on the right engine, and something with every wrong one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError
from cloister.control.operations import decisions, running, store
from cloister.control.operations.decisions import Move
from cloister.control.operations.machine import Apply, Done, Go, Machine, Outcome, Step, Wait
from cloister.control.operations.model import Operation
from tests.crashes import Case, every_step_survives_a_crash
from tests.fix_database import DatabaseAs


@dataclass
class Disks:
    """A fake with teeth: creating twice and dropping what is not there are refused, as a disk would."""

    disks: dict[str, str] = field(default_factory=dict)
    looks_until_formatted: int = 2

    def create(self, name: str) -> None:
        if name in self.disks:
            raise ConflictError(f"{name} is there")
        self.disks[name] = "raw"

    def drop(self, name: str) -> None:
        if self.disks.pop(name, None) is None:
            raise NotFoundError(name)

    def is_formatted(self, name: str) -> bool:
        self.looks_until_formatted -= 1
        if self.looks_until_formatted <= 0:
            self.disks[name] = "formatted"
        return self.disks[name] == "formatted"


async def reserve(operation: Operation, world: Disks) -> Outcome:
    async def insert(tx: Transaction) -> None:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'reserved')", operation.input["org"])

    return Go(apply=insert)


async def cancel_reservation(operation: Operation, world: Disks) -> Apply:
    async def delete(tx: Transaction) -> None:
        await tx.execute("DELETE FROM organization WHERE id = $1", operation.input["org"])

    return delete


async def create_disk(operation: Operation, world: Disks) -> Outcome:
    if operation.input["disk"] not in world.disks:
        world.create(operation.input["disk"])
    return Go({"disk": operation.input["disk"]})


async def drop_disk(operation: Operation, world: Disks) -> None:
    if operation.input["disk"] in world.disks:
        world.drop(operation.input["disk"])


async def await_format(operation: Operation, world: Disks) -> Outcome:
    return Go() if world.is_formatted(operation.facts["disk"]) else Wait(0.5, "formatting")


async def publish(operation: Operation, world: Disks) -> Outcome:
    async def update(tx: Transaction) -> None:
        # Not idempotent on purpose: what the engine commits twice shows.
        await tx.execute("UPDATE organization SET name = name || ', published' WHERE id = $1", operation.input["org"])

    return Go(apply=update)


RESERVE = Step("reserve", reserve, cancel_reservation)
CREATE = Step("create", create_disk, drop_disk)
AWAIT = Step("await", await_format)
PUBLISH = Step("publish", publish)
MACHINE = Machine("open_account", "create_branch", timedelta(minutes=10), (RESERVE, CREATE, AWAIT, PUBLISH))


def cases(database: Database) -> Any:
    async def make() -> Case[Disks]:
        world = Disks()
        async with database.transaction() as tx:
            await tx.execute("DELETE FROM organization")

        async def look() -> object:
            async with database.reading() as tx:
                rows = await tx.fetch("SELECT id, name FROM organization")
            return dict(world.disks), [tuple(row) for row in rows]

        return Case(world, {"org": "org-1", "disk": "disk-1"}, look)

    return make


async def test_a_right_machine_survives(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    await every_step_survives_a_crash(MACHINE, cases(database), database)


async def test_a_machine_without_rollback_is_left_in_error(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    await every_step_survives_a_crash(replace(MACHINE, has_rollback=False), cases(database), database)


async def test_a_step_that_is_done_early_needs_another_case_for_the_rest(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")

    async def done(operation: Operation, world: Disks) -> Outcome:
        return Done()

    machine = replace(MACHINE, steps=(RESERVE, Step("done", done), PUBLISH))
    await every_step_survives_a_crash(machine, cases(database), database, unreached=frozenset({"publish"}))
    with pytest.raises(AssertionError, match="only reaches"):
        await every_step_survives_a_crash(machine, cases(database), database)


async def create_blindly(operation: Operation, world: Disks) -> Outcome:
    world.create(operation.input["disk"])
    return Go({"disk": operation.input["disk"]})


async def drop_blindly(operation: Operation, world: Disks) -> None:
    world.drop(operation.input["disk"])


async def create_under_a_new_name(operation: Operation, world: Disks) -> Outcome:
    name = f"disk-{len(world.disks)}"
    world.create(name)
    return Go({"disk": name})


async def publish_outside_the_transaction(operation: Operation, world: Disks) -> Outcome:
    world.disks["published"] = world.disks.get("published", "") + "!"
    return Go()


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ((RESERVE, Step("create", create_blindly, drop_disk), AWAIT), "create: crash after the effect"),
        ((RESERVE, Step("create", create_disk, drop_blindly), AWAIT), "create: a final answer before the effect"),
        ((RESERVE, Step("create", create_disk), AWAIT), "create: a final answer after the effect"),
        ((Step("create", create_under_a_new_name, drop_disk), AWAIT), "create: crash after the effect"),
        ((Step("publish", publish_outside_the_transaction),), "publish: crash after the effect"),
        ((Step("reserve", reserve), CREATE, AWAIT), "create: a final answer before the effect"),
    ],
)
async def test_a_wrong_machine_is_found(
    database_as: DatabaseAs, steps: tuple[Step[Disks], ...], complaint: str
) -> None:
    database = await database_as("cloister_api")
    with pytest.raises(AssertionError, match=complaint):
        await every_step_survives_a_crash(replace(MACHINE, steps=steps), cases(database), database)


def _without_lease_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = store.commit

    async def commit_whoever_holds(tx: Transaction, held: Operation, *rest: Any) -> Operation | None:
        newest = await tx.fetch_value("SELECT lease FROM operation WHERE id = $1", held.id)
        return await commit(tx, replace(held, lease=newest), *rest)

    monkeypatch.setattr(store, "commit", commit_whoever_holds)


def _with_rows_in_a_transaction_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    write = running.Runner._write

    async def write_in_two(self: running.Runner, held: Operation, move: Move) -> Any:
        if move.apply is not None:
            async with self._database.transaction() as tx:
                await move.apply(tx)
        return await write(self, held, replace(move, apply=None))

    monkeypatch.setattr(running.Runner, "_write", write_in_two)


def _that_skips_undoing_the_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    undo_from = decisions._undo_from

    def from_one_before(machine: Any, operation: Any, step: int, now: Any, **rest: Any) -> Move:
        return undo_from(machine, operation, step - (not operation.is_undoing), now, **rest)

    monkeypatch.setattr(decisions, "_undo_from", from_one_before)


def _that_takes_every_error_as_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.base.errors.RETRYABLE", frozenset())


@pytest.mark.parametrize(
    "break_engine",
    [
        _without_lease_guard,
        _with_rows_in_a_transaction_of_their_own,
        _that_skips_undoing_the_failed_step,
        _that_takes_every_error_as_final,
    ],
)
async def test_a_broken_engine_is_found(
    database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch, break_engine: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """With a right machine, so that it is the engine that fails."""
    database = await database_as("cloister_api")
    break_engine(monkeypatch)
    with pytest.raises(AssertionError):
        await every_step_survives_a_crash(MACHINE, cases(database), database)
