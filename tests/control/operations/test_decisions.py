"""What becomes of an operation, path by path, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import CloisterError, ExhaustedError, UnavailableError, UnprocessableError
from cloister.base.ids import new_operation_id
from cloister.control.operations import decisions
from cloister.control.operations.machine import Done, Fail, Go, Machine, Outcome, Step, Wait
from cloister.control.operations.model import Operation, Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def nothing(operation: Operation, world: None) -> Outcome:
    return Go()


async def undo_nothing(operation: Operation, world: None) -> None:
    return None


MACHINE = Machine(
    "m", "create_branch", HOUR, (Step("a", nothing, undo_nothing), Step("b", nothing), Step("c", nothing, undo_nothing))
)


def at(step: str, **changes: Any) -> Operation:
    operation = Operation(
        id=new_operation_id(),
        project_id="calm-forest-12345678",
        branch_id=None,
        endpoint_id=None,
        action="create_branch",
        machine="m",
        status=Status.RUNNING,
        step=step,
        is_undoing=False,
        failures_count=0,
        run_at=NOW,
        deadline_at=NOW + HOUR,
        created_at=NOW,
        updated_at=NOW,
        facts={"known": 1},
    )
    return replace(operation, **changes)


def test_go_leads_to_the_next_step_and_keeps_facts() -> None:
    move = decisions.after_outcome(MACHINE, at("a", failures_count=3, error="hiccup"), Go({"new": 2}), NOW)
    assert (move.status, move.step, move.run_at) == (Status.RUNNING, "b", NOW)
    assert move.facts == {"known": 1, "new": 2}
    assert (move.failures_count, move.error) == (0, None)


@pytest.mark.parametrize(("step", "outcome"), [("c", Go({"new": 2})), ("a", Done({"new": 2}))])
def test_the_last_go_and_done_finish(step: str, outcome: Go | Done) -> None:
    move = decisions.after_outcome(MACHINE, at(step), outcome, NOW)
    assert (move.status, move.facts) == (Status.FINISHED, {"known": 1, "new": 2})


def test_wait_is_the_same_step_later_but_not_after_the_deadline() -> None:
    assert decisions.after_outcome(MACHINE, at("b"), Wait(5), NOW).run_at == NOW + timedelta(seconds=5)
    assert decisions.after_outcome(MACHINE, at("b"), Wait(5), NOW).step == "b"
    assert decisions.after_outcome(MACHINE, at("b"), Wait(9999), NOW).run_at == NOW + HOUR


@pytest.mark.parametrize(("failed_at", "undone_first"), [("c", "c"), ("b", "a"), ("a", "a")])
def test_failing_undoes_from_the_failed_step_backwards(failed_at: str, undone_first: str) -> None:
    error = UnprocessableError("/a/path/of/ours", public="too many branches")
    move = decisions.after_outcome(MACHINE, at(failed_at), Fail(error), NOW + timedelta(minutes=59))
    assert (move.status, move.step, move.is_undoing) == (Status.RUNNING, undone_first, True)
    assert move.error == "too many branches"
    assert move.deadline_at == NOW + timedelta(minutes=59) + HOUR, "taking back has time of its own"


def test_undoing_ends_as_failed_with_the_first_error() -> None:
    undoing = at("c", is_undoing=True, error="too many branches")
    move = decisions.after_undo(MACHINE, undoing, None, NOW)
    assert (move.status, move.step) == (Status.RUNNING, "a")
    move = decisions.after_undo(MACHINE, replace(undoing, step="a"), None, NOW)
    assert (move.status, move.error) == (Status.FAILED, "too many branches")


def test_without_anything_to_undo_it_has_failed_at_once() -> None:
    machine = replace(MACHINE, steps=(Step("b", nothing),))
    assert decisions.after_outcome(machine, at("b"), Fail(UnprocessableError()), NOW).status is Status.FAILED


def test_without_rollback_a_person_must_look() -> None:
    machine = replace(MACHINE, has_rollback=False)
    assert decisions.after_outcome(machine, at("c"), Fail(UnprocessableError()), NOW).status is Status.ERROR
    assert decisions.after_deadline(machine, at("c"), NOW).status is Status.ERROR


@pytest.mark.parametrize("error", [UnprocessableError(), ExhaustedError()])
def test_an_error_that_no_retry_helps_is_final(error: CloisterError) -> None:
    assert decisions.after_error(MACHINE, at("c"), error, NOW, 0.5).is_undoing


@pytest.mark.parametrize("error", [UnavailableError("secret detail", public="no node"), ValueError("secret detail")])
def test_other_errors_are_tried_again_and_tell_no_secret(error: Exception) -> None:
    move = decisions.after_error(MACHINE, at("c"), error, NOW, 0.5)
    assert (move.status, move.step, move.is_undoing, move.failures_count) == (Status.RUNNING, "c", False, 1)
    assert move.error in {"no node", "internal error"}


def test_pauses_grow_from_50_ms_to_a_minute() -> None:
    def pause(failures: int) -> float:
        operation = at("c", failures_count=failures - 1)
        return (decisions.after_error(MACHINE, operation, UnavailableError(), NOW, 1.0).run_at - NOW).total_seconds()

    assert [pause(n) for n in (1, 2, 3, 4, 5, 8, 9, 1_000_000)] == [0.05, 0.2, 1, 2, 4, 32, 60, 60]


@given(st.integers(0, 10_000), st.floats(0, 1), st.timedeltas(timedelta(), HOUR))
def test_no_retry_is_after_the_deadline(failures: int, chance: float, elapsed: timedelta) -> None:
    operation = at("c", failures_count=failures)
    move = decisions.after_error(MACHINE, operation, UnavailableError(), NOW + elapsed, chance)
    assert NOW + elapsed <= move.run_at <= operation.deadline_at


@pytest.mark.parametrize("error", [UnavailableError(), UnprocessableError(), ValueError()])
def test_whatever_undoing_raises_is_tried_again(error: Exception) -> None:
    undoing = at("c", is_undoing=True, error="the cause")
    move = decisions.after_error(MACHINE, undoing, error, NOW, 0.5)
    assert (move.status, move.step, move.is_undoing, move.error) == (Status.RUNNING, "c", True, "the cause")


def test_past_the_deadline_it_is_undone_and_then_left_to_a_person() -> None:
    late = NOW + HOUR
    move = decisions.after_deadline(MACHINE, at("b"), late)
    assert (move.is_undoing, move.step, move.error) == (True, "a", "took too long")
    assert decisions.after_deadline(MACHINE, at("b", error="no node"), late).error == "no node"
    move = decisions.after_deadline(MACHINE, at("a", is_undoing=True, error="no node"), late)
    assert (move.status, move.error) == (Status.ERROR, "no node; could not be undone")
