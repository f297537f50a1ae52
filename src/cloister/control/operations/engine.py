"""Runs operations: finds what is due, claims its row, has it run, and tells whoever waits.

What an operation does is its machine's business (`machine.py`); its steps are run and written down in `running.py`; the
rows are in `store.py`. Here is when and in which order. What must stay true: however the process dies, the row says what
to do next, and some engine does it.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Final, TypeVar

import asyncpg

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import UnavailableError
from cloister.base.ids import OperationId
from cloister.control.calling import Page
from cloister.control.operations import store
from cloister.control.operations.machine import Machine
from cloister.control.operations.model import Operation
from cloister.control.operations.running import Committed, Runner

W = TypeVar("W")

LEASE: Final = timedelta(seconds=15)
# Long enough that a stalled process (a VM pause, a slow disk) rarely loses it, short enough to wait for after a crash
# of the whole host. A restarted worker of the same name does not wait.

_AT_ONCE_MAX: Final = 64
# Steps mostly wait for other processes; beyond this they only wait for each other.

HEAVY_AT_ONCE_MAX: Final = 2 * (os.cpu_count() or 1) + 4
# On two cores forty creations took as long in all as with no limit, and each on average a third less; with four at a time they
# took a fifth longer, for each waits for a disk as well. With all of them at once the first is ready hardly before the last.

_POLL_S: Final = 1.0
# The safety net: finds what nobody kicked, because the process died between commit and kick.

_WAIT_POLL_S: Final = 0.25
# The safety net of `wait`, for an operation that another process ends.

_log = logging.getLogger(__name__)


class Engine:
    """The one place where operations are submitted, run and awaited.

    `worker` names this process across restarts: at its start it takes over, without waiting for the lease to expire,
    what the process of the same name held when it died. Two that run at once must have different names, or none.
    """

    def __init__(self, database: Database, clock: Clock, *, worker: str = "", lease: timedelta = LEASE) -> None:
        self._database = database
        self._clock = clock
        self._worker = worker
        self._lease = lease
        self._machines: dict[str, tuple[Machine[Any], Any]] = {}
        self._runner = Runner(database, clock, lease, self._machines, self._on_commit)
        self._slots = asyncio.Semaphore(_AT_ONCE_MAX)
        self._tasks: asyncio.TaskGroup | None = None
        self._in_hand: set[OperationId] = set()
        """Operations that a task of ours is taking or running."""
        self._kicked_again: set[OperationId] = set()
        self._heavy_count = 0
        """Heavy operations that run."""
        self._look_for_heavy = asyncio.Event()
        """One may be due, or there is room for one again."""
        self._timers: dict[OperationId, asyncio.TimerHandle] = {}
        self._waiting: dict[OperationId, dict[asyncio.Future[Operation], str | None]] = {}
        """Who waits, and past which step: None for the end."""

    def register(self, machine: Machine[W], world: W) -> None:
        """Run operations of this machine, its steps in this world. Before `run`."""
        names = [step.name for step in machine.steps]
        if not names or len(set(names)) < len(names) or machine.name in self._machines:
            raise ValueError(f"machine {machine.name!r} has no steps, two of one name, or was registered before")
        self._machines[machine.name] = (machine, world)

    # ── what services call ────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        tx: Transaction,
        *,
        machine: str,
        project_id: str,
        resource: str,
        input: dict[str, Any],  # noqa: A002 - the row's word
        branch_id: str | None = None,
        endpoint_id: str | None = None,
        after: OperationId | None = None,
        action: str | None = None,
    ) -> Operation:
        """A new operation, in the caller's transaction; `kick` it once that is committed.

        Only one operation works on a `resource` at a time: raises BusyError, and leaves the transaction usable, if it
        is taken. With `after` it runs once that operation has finished, is skipped if that one fails, and queues for
        its resource. Raises NotFoundError or ConflictError if there is no such operation to wait for.
        """
        wanted = self._machines[machine][0]
        common: dict[str, Any] = {
            "project_id": project_id,
            "branch_id": branch_id,
            "endpoint_id": endpoint_id,
            "resource": resource,
            "action": action or wanted.action,
            "work": input,
            "now": self._clock.now(),
        }
        if after is None:
            return await store.insert(tx, wanted, **common)
        return await store.insert_after(tx, wanted, after=after, **common)

    def kick(self, operation_id: OperationId) -> None:
        """Run it now, in this process, if it is due. Never waits; harmless for any id and at any time."""
        self._cancel_timer(operation_id)
        if self._tasks is None:
            return  # `run` looks for due operations when it starts
        if operation_id in self._in_hand:
            self._kicked_again.add(operation_id)
            return
        self._in_hand.add(operation_id)
        self._tasks.create_task(self._take(operation_id))

    def kick_all(self, operations: Iterable[Operation]) -> None:
        """Those that were just committed."""
        for operation in operations:
            self.kick(operation.id)

    async def signal(self, tx: Transaction, operation_id: OperationId) -> None:
        """What the operation waits for may have come: run its step again, wherever it runs, when `tx` commits."""
        await store.signal(tx, operation_id, self._clock.now())

    async def wait(self, operation_id: OperationId, *, timeout_s: float, past: str | None = None) -> Operation:
        """The operation, once it has ended, however, or does not do its step `past` any more. Raises NotFoundError, and
        UnavailableError after `timeout_s`."""
        arrived: asyncio.Future[Operation] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(operation_id, {})[arrived] = past
        try:
            async with asyncio.timeout(timeout_s):
                while not arrived.done():
                    with contextlib.suppress(UnavailableError):
                        operation = await self._load(operation_id)
                        if _is_past(operation, past):
                            return operation
                    await asyncio.wait({arrived}, timeout=_WAIT_POLL_S)
                return arrived.result()
        except TimeoutError:
            raise UnavailableError(f"operation {operation_id} took longer than {timeout_s} s") from None
        finally:
            del self._waiting[operation_id][arrived]
            if not self._waiting[operation_id]:
                del self._waiting[operation_id]

    async def current(self, tx: Transaction, resource: str) -> Operation | None:
        """The operation that works on this resource now: the one to join, or that makes `submit` raise BusyError."""
        return await store.load_holder(tx, resource)

    async def find(self, project_id: str, page: Page) -> list[Operation]:
        """Newest first."""
        async with self._database.reading() as tx:
            return await store.find(tx, project_id, page)

    async def get(self, project_id: str, operation_id: OperationId) -> Operation:
        """Raises NotFoundError, also for an operation of another project."""
        async with self._database.reading() as tx:
            return await store.load_of_project(tx, project_id, operation_id)

    # ── the worker ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run operations until cancelled. What is under way then is taken up again at the next start."""
        await self._take_over()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    tasks.create_task(self._listen())
                    tasks.create_task(self._admit_heavy())
                    await self._poll()
                finally:
                    self._tasks = None  # before the tasks are cancelled: none of them may start another
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._in_hand.clear()
            self._kicked_again.clear()

    async def run_due(self) -> int:
        """Run, one after the other, what is due now; returns how many were taken. For tests and tools."""
        await self._give_free_resources()
        due = await self._claim_due(list(self._machines), limit=_AT_ONCE_MAX)
        for operation in due:
            await self._runner.advance(operation)
        return len(due)

    async def _take_over(self) -> None:
        """Before anything of ours is leased: what has our name is our predecessor's."""
        while self._worker:
            try:
                async with self._database.transaction() as tx:
                    await store.release_leases(tx, self._worker)
            except UnavailableError as error:
                _log.warning("cannot take over from the worker before: %s", error)
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def _listen(self) -> None:
        while True:
            try:
                async with self._database.listening(
                    store.CHANNEL, lambda payload: self.kick(OperationId(payload))
                ) as lost:
                    await lost.wait()
            except UnavailableError as error:
                _log.warning("cannot listen for signals, polling meanwhile: %s", error)
            except Exception:  # signals only save time, and must not end the engine
                _log.exception("cannot listen for signals, polling meanwhile")
            await asyncio.sleep(_POLL_S)

    async def _poll(self) -> None:
        while True:
            try:
                await self._give_free_resources()
                self._look_for_heavy.set()
                for operation in await self._claim_due(
                    self._which(are_heavy=False), limit=_AT_ONCE_MAX - len(self._in_hand)
                ):
                    self._start(operation)
            except UnavailableError as error:
                _log.warning("cannot look for due operations: %s", error)
            except Exception:  # the loop must outlive whatever one look throws
                _log.exception("looking for due operations failed")
            await asyncio.sleep(_POLL_S)

    async def _give_free_resources(self) -> None:
        # Somebody may take one of them at the same moment: then the next look finds what is left.
        with contextlib.suppress(asyncpg.UniqueViolationError):
            async with self._database.reading() as tx:
                await store.give_free_resources(tx)

    def _start(self, operation: Operation) -> None:
        assert self._tasks is not None
        if operation.id in self._in_hand:
            # A task of ours is about to claim it, and now cannot; the lease is ours, so this task runs it.
            self._kicked_again.add(operation.id)
        self._in_hand.add(operation.id)
        self._tasks.create_task(self._run_held(operation))

    async def _take(self, operation_id: OperationId) -> None:
        try:
            with _left_for_later(operation_id):
                async with self._slots:
                    async with self._database.reading() as tx:
                        held = await store.claim(tx, operation_id, self._claimant(self._which(are_heavy=False)))
                    if held is not None:
                        await self._runner.advance(held)
                    else:
                        self._look_for_heavy.set()
        finally:
            self._let_go(operation_id)

    async def _run_held(self, operation: Operation) -> None:
        try:
            with _left_for_later(operation.id):
                async with self._slots:
                    await self._runner.advance(operation)
        finally:
            self._let_go(operation.id)

    async def _admit_heavy(self) -> None:
        """First come, first served. One that waits has no lease and takes no slot: its deadline does not run yet, and what
        is light goes past it."""
        assert self._tasks is not None
        while True:
            self._look_for_heavy.clear()
            try:
                for operation in await self._claim_due(
                    self._which(are_heavy=True), limit=HEAVY_AT_ONCE_MAX - self._heavy_count
                ):
                    self._heavy_count += 1
                    self._tasks.create_task(self._run_heavy(operation))
            except UnavailableError as error:
                _log.warning("cannot look for heavy operations: %s", error)
            except Exception:  # as in _poll, which has it tried again
                _log.exception("looking for heavy operations failed")
            await self._look_for_heavy.wait()

    async def _run_heavy(self, operation: Operation) -> None:
        try:
            with _left_for_later(operation.id):
                await self._runner.advance(operation)
        finally:
            self._heavy_count -= 1
            self._look_for_heavy.set()

    def _let_go(self, operation_id: OperationId) -> None:
        self._in_hand.discard(operation_id)
        if operation_id in self._kicked_again:
            self._kicked_again.discard(operation_id)
            self.kick(operation_id)

    async def _claim_due(self, machines: list[str], limit: int) -> list[Operation]:
        if limit <= 0 or not machines:
            return []
        async with self._database.reading() as tx:
            return await store.claim_due(tx, self._claimant(machines), limit)

    def _claimant(self, machines: list[str]) -> store.Claimant:
        now = self._clock.now()
        return store.Claimant(machines, self._worker, now, now + self._lease)

    def _which(self, *, are_heavy: bool) -> list[str]:
        return [name for name, (machine, _world) in self._machines.items() if machine.is_heavy is are_heavy]

    # ── what came of it ─────────────────────────────────────────────────────────────────────────────────────────────

    def _on_commit(self, committed: Committed) -> None:
        """What a move wrote: whoever waits hears of it, and what is due now runs."""
        for operation in (committed.operation, *committed.others):
            self._announce(operation)
        for operation in committed.others:
            if not operation.status.has_ended:
                self.kick(operation.id)
        if not committed.goes_on and not committed.operation.status.has_ended:
            self._kick_at(committed.operation)

    def _announce(self, operation: Operation) -> None:
        for arrived, past in self._waiting.get(operation.id, {}).items():
            if _is_past(operation, past) and not arrived.done():
                arrived.set_result(operation)

    def _kick_at(self, operation: Operation) -> None:
        """Come back when it is due; sooner than the poll would."""
        if self._tasks is None:
            return
        self._cancel_timer(operation.id)
        delay_s = max((operation.run_at - self._clock.now()).total_seconds(), 0.0)
        self._timers[operation.id] = asyncio.get_running_loop().call_later(delay_s, self.kick, operation.id)

    def _cancel_timer(self, operation_id: OperationId) -> None:
        if (timer := self._timers.pop(operation_id, None)) is not None:
            timer.cancel()

    async def _load(self, operation_id: OperationId) -> Operation:
        async with self._database.reading() as tx:
            return await store.load(tx, operation_id)


@contextlib.contextmanager
def _left_for_later(operation_id: OperationId) -> Iterator[None]:
    """One operation's trouble is not the engine's; the poll takes it up again."""
    try:
        yield
    except UnavailableError as error:
        _log.warning("operation %s: left for later: %s", operation_id, error)
    except Exception:
        _log.exception("operation %s: left for later", operation_id)


def _is_past(operation: Operation, step: str | None) -> bool:
    return operation.status.has_ended or (step is not None and operation.step != step)
