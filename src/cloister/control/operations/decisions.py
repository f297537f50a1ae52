"""What becomes of an operation: pure, so that every path can be read and tested without a database.

Given where an operation is and how its step went, each function answers with a `Move`: the row's next content. Writing
it down, guarded by the lease, is `store.py`'s work; when to ask is `engine.py`'s.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, assert_never

from cloister.base.errors import CloisterError, InternalError
from cloister.control.operations.machine import Apply, Done, Fail, Go, Machine, Outcome, Wait
from cloister.control.operations.model import Operation, Status

_QUICK_RETRIES_S: Final = (0.05, 0.2)
# Most hiccups (a peer that restarts, a lock) pass at once, and a client may be waiting.

_RETRY_PAUSE_S_MAX: Final = 60.0
# A person who repaired something should not wait longer than this for the platform to notice.


@dataclass(frozen=True, slots=True)
class Move:
    """The next content of an operation's row, and the rows that change with it."""

    status: Status
    step: str
    is_undoing: bool
    failures_count: int
    run_at: datetime
    deadline_at: datetime
    error: str | None
    facts: dict[str, Any]
    apply: Apply | None = None


def after_outcome(machine: Machine[Any], operation: Operation, outcome: Outcome, now: datetime) -> Move:
    """The step answered."""
    match outcome:
        case Go(facts, apply):
            following = _index(machine, operation) + 1
            if following == len(machine.steps):
                return _end(operation, Status.FINISHED, now, facts=facts, apply=apply)
            return Move(
                status=Status.RUNNING,
                step=machine.steps[following].name,
                is_undoing=False,
                failures_count=0,
                run_at=now,
                deadline_at=operation.deadline_at,
                error=None,
                facts=operation.facts | facts,
                apply=apply,
            )
        case Done(facts, apply):
            return _end(operation, Status.FINISHED, now, facts=facts, apply=apply)
        case Wait(seconds, _):
            return _again(operation, now + timedelta(seconds=seconds), failures_count=0, error=None)
        case Fail(error):
            return _give_up(machine, operation, error.public, now)
        case unreachable:
            assert_never(unreachable)


def after_error(machine: Machine[Any], operation: Operation, error: Exception, now: datetime, chance: float) -> Move:
    """The step raised. `chance`, from 0 to 1, spreads retries so that many do not come at the same moment."""
    known = error if isinstance(error, CloisterError) else InternalError(str(error))
    failures_count = operation.failures_count + 1
    if operation.is_undoing:
        # Whatever undoing raises, the world is half done until it succeeds: only the deadline ends the attempts.
        return _again(operation, now + _pause(failures_count, chance), failures_count, operation.error)
    if known.may_retry:
        return _again(operation, now + _pause(failures_count, chance), failures_count, known.public)
    return _give_up(machine, operation, known.public, now)


def after_undo(machine: Machine[Any], operation: Operation, apply: Apply | None, now: datetime) -> Move:
    """The step's effect was taken back: go on with the one before it, or be done."""
    return _undo_from(machine, operation, _index(machine, operation) - 1, now, apply=apply)


def after_deadline(machine: Machine[Any], operation: Operation, now: datetime) -> Move:
    """Its time is up before the step was begun (again)."""
    if operation.is_undoing:
        return _end(operation, Status.ERROR, now, error=f"{operation.error}; could not be undone")
    return _give_up(machine, operation, operation.error or "took too long", now)


def without_step(operation: Operation, now: datetime) -> Move:
    """The row names a step that this code does not have: nobody can say what to do or to undo."""
    return _end(operation, Status.ERROR, now, error="internal error")


def has_step(machine: Machine[Any], operation: Operation) -> bool:
    return any(step.name == operation.step for step in machine.steps)


def _index(machine: Machine[Any], operation: Operation) -> int:
    return [step.name for step in machine.steps].index(operation.step)


def _give_up(machine: Machine[Any], operation: Operation, error: str, now: datetime) -> Move:
    if not machine.has_rollback:
        return _end(operation, Status.ERROR, now, error=error)
    # The failed step itself is undone too: nobody knows how far it came.
    return _undo_from(machine, operation, _index(machine, operation), now, error=error, until=now + machine.deadline)


def _undo_from(
    machine: Machine[Any],
    operation: Operation,
    index: int,
    now: datetime,
    *,
    apply: Apply | None = None,
    error: str | None = None,
    until: datetime | None = None,
) -> Move:
    error = error or operation.error
    while index >= 0 and machine.steps[index].undo is None:
        index -= 1
    if index < 0:
        return _end(operation, Status.FAILED, now, error=error, apply=apply)
    return Move(
        status=Status.RUNNING,
        step=machine.steps[index].name,
        is_undoing=True,
        failures_count=0,
        run_at=now,
        deadline_at=until or operation.deadline_at,
        error=error,
        facts=operation.facts,
        apply=apply,
    )


def _again(operation: Operation, run_at: datetime, failures_count: int, error: str | None) -> Move:
    return Move(
        status=Status.RUNNING,
        step=operation.step,
        is_undoing=operation.is_undoing,
        failures_count=failures_count,
        run_at=min(run_at, operation.deadline_at),
        deadline_at=operation.deadline_at,
        error=error,
        facts=operation.facts,
    )


def _end(
    operation: Operation,
    status: Status,
    now: datetime,
    *,
    facts: dict[str, Any] | None = None,
    error: str | None = None,
    apply: Apply | None = None,
) -> Move:
    return Move(
        status=status,
        step=operation.step,
        is_undoing=operation.is_undoing,
        failures_count=operation.failures_count,
        run_at=now,
        deadline_at=operation.deadline_at,
        error=error,
        facts=operation.facts | (facts or {}),
        apply=apply,
    )


def _pause(failures_count: int, chance: float) -> timedelta:
    if failures_count <= len(_QUICK_RETRIES_S):
        longest = _QUICK_RETRIES_S[failures_count - 1]
    else:
        exponent = min(failures_count - len(_QUICK_RETRIES_S) - 1, 16)  # beyond, only the cap counts
        longest = min(2.0**exponent, _RETRY_PAUSE_S_MAX)
    return timedelta(seconds=longest * (0.5 + chance / 2))
