"""Runs one operation that is leased: step after step, and writes down what came of each.

When, and for whom, is the engine's business (`engine.py`); what becomes of an operation after a step is decided in
`decisions.py`. What must stay true:

- A step runs with no transaction open.
- A step's outcome, the rows it changes, the audit event of a failure and the hand-over to whoever waits are one
  transaction, and nothing of it happens if the lease was lost.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import UnavailableError
from cloister.control.operations import decisions, store
from cloister.control.operations.decisions import Move
from cloister.control.operations.machine import Fail, Machine
from cloister.control.operations.model import Operation, Status
from cloister.trust.audit import Action, Event, record

_RENEWALS_PER_LEASE: Final = 3
# Two may fail before the lease is lost.

_COMMIT_ATTEMPTS: Final = 5
_COMMIT_PAUSE_S: Final = 0.1
# Each attempt already waits for a database that restarts (see base/database/pool.py).

_ACTOR: Final = "platform:operations"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """What one move wrote: the operation itself, and those that its end set going or failed."""

    operation: Operation
    others: list[Operation]
    goes_on: bool
    """The lease is kept: its next step runs now."""


class Runner:
    """`machines` are those that the engine knows, by name, each with the world its steps work in. `on_commit` hears of
    each move that was written, before the next step runs; it must not wait."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        lease: timedelta,
        machines: dict[str, tuple[Machine[Any], Any]],
        on_commit: Callable[[Committed], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease = lease
        self._machines = machines
        self._on_commit = on_commit

    async def advance(self, held: Operation) -> None:
        """Run steps while there is one to run now and the lease is ours. Raises UnavailableError if the outcome of one
        could not be written: it is run again then, by whoever takes the operation up."""
        operation: Operation | None = held
        while operation is not None:
            move = await self._next_move(operation)
            committed = await self._commit(operation, move) if move is not None else None
            if committed is None:
                return
            self._on_commit(committed)
            operation = committed.operation if committed.goes_on else None

    async def _next_move(self, held: Operation) -> Move | None:
        """Run the step, or its undo, and decide. None: the lease was lost meanwhile."""
        machine, world = self._machines[held.machine]
        if not decisions.has_step(machine, held):
            _log.error("operation %s: machine %s has no step %r", held.id, held.machine, held.step)
            return decisions.without_step(held, self._clock.now())
        if self._clock.now() >= held.deadline_at:
            return decisions.after_deadline(machine, held, self._clock.now())
        step = next(step for step in machine.steps if step.name == held.step)
        try:
            if held.is_undoing:
                assert step.undo is not None
                apply = await self._while_leased(held, step.undo(held, world))
                return decisions.after_undo(machine, held, apply, self._clock.now())
            outcome = await self._while_leased(held, step.run(held, world))
            if isinstance(outcome, Fail):
                _log.warning("operation %s: step %s cannot be: %s", held.id, held.step, outcome.error)
            return decisions.after_outcome(machine, held, outcome, self._clock.now())
        except _LeaseLostError:
            _log.warning("operation %s: lease lost during step %s", held.id, held.step)
            return None
        except Exception as error:  # whatever a step throws is the operation's failure, not the engine's
            return self._after_error(held, error)

    def _after_error(self, held: Operation, error: Exception) -> Move:
        doing = "undoing" if held.is_undoing else "step"
        if getattr(error, "may_retry", None) is None:
            _log.error("operation %s: %s %s raised", held.id, doing, held.step, exc_info=error)
        else:
            _log.warning("operation %s: %s %s: %s", held.id, doing, held.step, error)
        machine = self._machines[held.machine][0]
        return decisions.after_error(machine, held, error, self._clock.now(), random.random())  # noqa: S311 - spreads retries

    async def _while_leased(self, held: Operation, work: Any) -> Any:
        """Await a step, at most until the deadline, renewing the lease. Raises _LeaseLostError."""
        rest_s = (held.deadline_at - self._clock.now()).total_seconds()
        try:
            async with asyncio.timeout(rest_s) as limit:
                renewing = asyncio.ensure_future(self._renew(held))
                working = asyncio.ensure_future(work)
                try:
                    await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
                    if not working.done():
                        renewing.result()
                        raise _LeaseLostError
                    return working.result()
                finally:
                    renewing.cancel()
                    working.cancel()
                    await asyncio.gather(renewing, working, return_exceptions=True)
        except TimeoutError:
            if limit.expired():
                raise UnavailableError(f"step {held.step} ran into the deadline", public="took too long") from None
            raise

    async def _renew(self, held: Operation) -> None:
        """Returns when the lease is lost."""
        leased_until = self._clock.now() + self._lease
        while self._clock.now() < leased_until:
            await asyncio.sleep(self._lease.total_seconds() / _RENEWALS_PER_LEASE)
            until = self._clock.now() + self._lease
            with contextlib.suppress(UnavailableError):
                async with self._database.reading() as tx:
                    if not await store.renew(tx, held, until):
                        return
                leased_until = until

    async def _commit(self, held: Operation, move: Move) -> Committed | None:
        """Write the move down. None: the lease was lost."""
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            try:
                committed = await self._write(held, move)
            except _ApplyError as error:
                # The step's own rows could not be changed: that is a failure of the step.
                move = self._after_error(held, error.cause)
            except UnavailableError as error:
                # Safe to repeat even if it was committed: the lease number has moved on then.
                if attempt == _COMMIT_ATTEMPTS:
                    raise
                _log.warning("operation %s: commit again: %s", held.id, error)
                await asyncio.sleep(_COMMIT_PAUSE_S)
            else:
                if committed is None:
                    _log.warning("operation %s: lease lost before the commit of %s", held.id, held.step)
                return committed
        return None

    async def _write(self, held: Operation, move: Move) -> Committed | None:
        now = self._clock.now()
        goes_on = _keeps_lease(move, held)
        async with self._database.transaction() as tx:
            committed = await store.commit(tx, held, move, now, now + self._lease if goes_on else None)
            if committed is None:
                return None
            if move.apply is not None:
                try:
                    await move.apply(tx)
                except UnavailableError:
                    raise
                except Exception as error:
                    raise _ApplyError(error) from error
            others = await store.hand_over(tx, committed, now) if committed.status.has_ended else []
            if committed.status in (Status.FAILED, Status.ERROR):
                await record(tx, _failure(committed))
            return Committed(committed, others, goes_on)


class _LeaseLostError(Exception):
    """Somebody else may run the operation now: what we found out does not count."""


class _ApplyError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


def _keeps_lease(move: Move, held: Operation) -> bool:
    """Going on to another step (or to undoing this one) at once, without giving the operation back."""
    return not move.status.has_ended and (move.step, move.is_undoing) != (held.step, held.is_undoing)


def _failure(operation: Operation) -> Event:
    return Event(
        action=Action.OPERATION_FAILED,
        actor=_ACTOR,
        outcome="failed",
        project_id=operation.project_id,
        branch_id=operation.branch_id or "",
        endpoint_id=operation.endpoint_id or "",
        operation_id=operation.id,
        resource=operation.resource,
        reason=operation.error or "",
        details={"action": operation.action, "step": operation.step, "status": operation.status},
    )
