"""Crashes a step machine everywhere it can crash, and looks whether the world comes out right.

One call tests one machine completely:

    async def test_create_branch_survives_crashes(database_as):
        database = await database_as("cloister_api")
        await every_step_survives_a_crash(CREATE_BRANCH, make_case, database)

`make_case` gives a fresh world each time: fakes with teeth (they refuse what the real thing would refuse, and remember
everything), the rows that the machine expects, and `look`, which returns all that the machine may change in a form that
can be compared between two cases. The real engine runs the machine on a real database; only the clock is moved by hand.

For each step:  crash before it, after its effect, and between its rows and their commit; run its effect twice; let
another engine overtake it; let it fail once in a way that may pass: the operation finishes and the world is as if nothing
had happened. Let it fail for good, before and after its effect, by answer and by exception; then crash and repeat each
undo: the world is as it was before the operation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from cloister.base.clock import FakeClock
from cloister.base.database import Database, Transaction
from cloister.base.errors import UnavailableError, UnprocessableError
from cloister.control.operations.engine import LEASE, Engine
from cloister.control.operations.machine import Apply, Done, Fail, Go, Machine, Outcome, Step
from cloister.control.operations.model import Operation, Status

W = TypeVar("W")

_LOOKS_MAX: Final = 500
# A machine of ten steps that waits and retries at each is done after some fifty.

_A_MOMENT: Final = timedelta(milliseconds=1)


class Crash(BaseException):
    """The process dies here: no handler of the engine or of a step may run on."""


@dataclass(frozen=True)
class Case(Generic[W]):
    """A fresh world, and an operation to run in it."""

    world: W
    input: dict[str, Any]
    look: Callable[[], Awaitable[Any]]
    project_id: str = "calm-forest-12345678"
    branch_id: str | None = None
    endpoint_id: str | None = None
    resource: str = "project:calm-forest-12345678"
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What others do while the operation waits, e.g. a reconciler."""


MakeCase = Callable[[], Awaitable[Case[W]]]


class Trouble(StrEnum):
    """What happens to a step, once."""

    CRASH_BEFORE = "crash before the effect"
    CRASH_AFTER = "crash after the effect"
    CRASH_IN_COMMIT = "crash after the rows were changed, before the commit"
    TWICE = "the effect happens twice"
    OVERTAKEN = "another engine does everything before the commit"
    RETRY_BEFORE = "a passing error before the effect"
    RETRY_AFTER = "a passing error after the effect"
    FAIL_BEFORE = "a final answer before the effect"
    FAIL_AFTER = "a final answer after the effect"
    RAISE_AFTER = "a final error after the effect"


_SURVIVED: Final = (
    Trouble.CRASH_BEFORE,
    Trouble.CRASH_AFTER,
    Trouble.CRASH_IN_COMMIT,
    Trouble.TWICE,
    Trouble.OVERTAKEN,
    Trouble.RETRY_BEFORE,
    Trouble.RETRY_AFTER,
)
_FINAL: Final = (Trouble.FAIL_BEFORE, Trouble.FAIL_AFTER, Trouble.RAISE_AFTER)


async def every_step_survives_a_crash(
    machine: Machine[W], make_case: MakeCase[W], database: Database, *, unreached: frozenset[str] = frozenset()
) -> None:
    """Raises AssertionError that names the step and the trouble. `unreached` are the steps that this case skips (by
    `Done`), to be covered by another case."""
    # (1) Undisturbed: what the world is like before and after, and which steps there are to disturb.
    trial = _Trial(machine, await make_case(), database)
    before = await trial.case.look()
    ended = await trial.run()
    assert ended.status is Status.FINISHED, f"undisturbed, it ends as {ended.status}: {ended.error}"
    after = await trial.case.look()
    reached = [step.name for step in machine.steps if step.name in trial.ran]
    assert {step.name for step in machine.steps} - set(reached) == unreached, f"it only reaches {reached}"
    assert after != before, "`look` sees nothing of what the machine does"

    # (2) Whatever may pass leaves no trace.
    for name in reached:
        for trouble in _SURVIVED:
            trial = _Trial(machine, await make_case(), database)
            assert await trial.case.look() == before, "`make_case` does not give a fresh world"
            await trial.expect(Status.FINISHED, after, step=name, trouble=trouble)

    # (3) A step that fails for good takes the operation back, or leaves it to a person.
    for name in reached:
        for trouble in _FINAL:
            trial = _Trial(machine, await make_case(), database)
            if machine.has_rollback:
                await trial.expect(Status.FAILED, before, step=name, trouble=trouble)
            else:
                await trial.expect(Status.ERROR, None, step=name, trouble=trouble)

    # (4) Taking back survives the same.
    for step in machine.steps if machine.has_rollback else ():
        if step.undo is not None and step.name in reached:
            for trouble in _SURVIVED:
                trial = _Trial(machine, await make_case(), database)
                trial.set_trap(reached[-1], Trouble.FAIL_AFTER)
                await trial.expect(Status.FAILED, before, step=step.name, trouble=trouble, is_undoing=True)


class _Trial(Generic[W]):
    """One operation from its submission to its end, with trouble on the way."""

    def __init__(self, machine: Machine[W], case: Case[W], database: Database) -> None:
        self.case = case
        self.ran: set[str] = set()
        self._original = machine
        self._database = database
        self._clock = FakeClock(datetime.now().astimezone())
        self._traps: dict[tuple[str, bool], Trouble] = {}
        self._operation: Operation | None = None
        self._trapped = replace(machine, steps=tuple(self._trap(step) for step in machine.steps))

    def set_trap(self, step: str, trouble: Trouble, *, is_undoing: bool = False) -> None:
        self._traps[step, is_undoing] = trouble

    async def expect(
        self, status: Status, world: Any, *, step: str, trouble: Trouble, is_undoing: bool = False
    ) -> None:
        where = f"{self._original.name}: {'undo of ' if is_undoing else ''}{step}: {trouble}"
        self.set_trap(step, trouble, is_undoing=is_undoing)
        try:
            ended = await self.run()
        except Exception as error:
            raise AssertionError(f"{where}: {error!r}") from error
        assert not self._traps, f"{where}: never came to {self._traps}"
        assert ended.status is status, f"{where}: ends as {ended.status}: {ended.error}"
        if world is not None:
            found = await self.case.look()
            assert found == world, f"{where}:\n  the world is {found}\n  and ought to be {world}"

    async def run(self) -> Operation:
        engine = self._new_engine(self._trapped)
        async with self._database.transaction() as tx:
            self._operation = await engine.submit(
                tx,
                machine=self._trapped.name,
                project_id=self.case.project_id,
                branch_id=self.case.branch_id,
                endpoint_id=self.case.endpoint_id,
                resource=self.case.resource,
                input=self.case.input,
            )
        return await self._drive(self._trapped)

    async def _drive(self, machine: Machine[W]) -> Operation:
        assert self._operation is not None
        engine = self._new_engine(machine)
        for _ in range(_LOOKS_MAX):
            try:
                await engine.run_due()
            except Crash:
                engine = self._new_engine(machine)
                self._clock.advance(LEASE + _A_MOMENT)
            operation = await engine.get(self.case.project_id, self._operation.id)
            if operation.status.has_ended:
                return operation
            if self.case.meanwhile is not None:
                await self.case.meanwhile()
            self._clock.advance(max(operation.run_at - self._clock.now(), timedelta()) + _A_MOMENT)
        raise AssertionError(f"it never ends: {operation.step} is tried again and again: {operation.error}")

    def _new_engine(self, machine: Machine[W]) -> Engine:
        engine = Engine(self._database, self._clock)
        engine.register(machine, self.case.world)
        return engine

    def _trap(self, step: Step[W]) -> Step[W]:
        async def run(operation: Operation, world: W) -> Outcome:
            self.ran.add(step.name)
            trouble = self._traps.pop((step.name, False), None)
            if trouble is Trouble.FAIL_BEFORE:
                return Fail(UnprocessableError("a trial"))
            await self._before(trouble)
            outcome = await step.run(operation, world)
            if trouble is Trouble.TWICE:
                outcome = await step.run(operation, world)
            await self._after(trouble)
            match trouble, outcome:
                case Trouble.FAIL_AFTER, _:
                    return Fail(UnprocessableError("a trial"))
                case Trouble.CRASH_IN_COMMIT, Go() | Done():
                    return replace(outcome, apply=_dying(outcome.apply))
                case Trouble.CRASH_IN_COMMIT, _:
                    # It waits or fails: this trouble is for the time when it goes on.
                    self._traps[step.name, False] = trouble
            return outcome

        undo = step.undo
        if undo is None:
            return replace(step, run=run)

        async def take_back(operation: Operation, world: W) -> Apply | None:
            trouble = self._traps.pop((step.name, True), None)
            await self._before(trouble)
            apply = await undo(operation, world)
            if trouble is Trouble.TWICE:
                apply = await undo(operation, world)
            await self._after(trouble)
            return _dying(apply) if trouble is Trouble.CRASH_IN_COMMIT else apply

        return replace(step, run=run, undo=take_back)

    async def _before(self, trouble: Trouble | None) -> None:
        if trouble is Trouble.CRASH_BEFORE:
            raise Crash
        if trouble is Trouble.RETRY_BEFORE:
            raise UnavailableError("a trial")

    async def _after(self, trouble: Trouble | None) -> None:
        match trouble:
            case Trouble.CRASH_AFTER:
                raise Crash
            case Trouble.RETRY_AFTER:
                raise UnavailableError("a trial")
            case Trouble.RAISE_AFTER:
                raise UnprocessableError("a trial")
            case Trouble.OVERTAKEN:
                self._clock.advance(LEASE + _A_MOMENT)
                await self._drive(self._trapped)


def _dying(apply: Apply | None) -> Apply:
    async def die(tx: Transaction) -> None:
        if apply is not None:
            await apply(tx)
        raise Crash

    return die
