"""Work on timelines that can be ended: tasks by the project whose volume they need, their blocking parts in threads, and who
may touch which timeline meanwhile.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from cloister.base.errors import UnavailableError
from cloister.base.ids import ProjectId, TimelineId
from cloister.node.timelines.tree import Abort

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS_MAX: Final = 8
# Copies and removals of different projects side by side: they wait for the kernel.


class Locked:
    """Locks that were taken together and can be let go one by one."""

    def __init__(self) -> None:
        self._locks: dict[TimelineId, asyncio.Lock] = {}

    async def take(self, timeline_id: TimelineId, lock: asyncio.Lock) -> None:
        await lock.acquire()
        self._locks[timeline_id] = lock

    def let_go(self, timeline_id: TimelineId) -> None:
        if (lock := self._locks.pop(timeline_id, None)) is not None:
            lock.release()

    def let_all_go(self) -> None:
        for timeline_id in list(self._locks):
            self.let_go(timeline_id)


class Locks:
    """One piece of work, or the start or the end of a compute, at a time per timeline."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[TimelineId, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, *timeline_ids: TimelineId) -> AsyncIterator[Locked]:
        """In one order, whoever takes several."""
        locked = Locked()
        try:
            for timeline_id in sorted(set(timeline_ids)):
                await locked.take(timeline_id, self._locks.setdefault(timeline_id, asyncio.Lock()))
            yield locked
        finally:
            locked.let_all_go()

    def is_held(self, timeline_id: TimelineId) -> bool:
        lock = self._locks.get(timeline_id)
        return lock is not None and lock.locked()


class Work:
    def __init__(self) -> None:
        self._tasks: defaultdict[ProjectId, set[asyncio.Task[Any]]] = defaultdict(set)
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "timelines")

    async def stop(self) -> None:
        """End all of it."""
        await asyncio.gather(*(self.end(project_id) for project_id in list(self._tasks)))
        self._threads.shutdown(wait=True)

    async def end(self, project_id: ProjectId) -> None:
        """Interrupt everything that needs the project's volume. Not from within it."""
        tasks = list(self._tasks.pop(project_id, ()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, project_id: ProjectId, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        tasks = self._tasks[project_id]
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def do(self, project_id: ProjectId, work: Coroutine[Any, Any, T]) -> T:
        """As a task that `end` can end; its caller is told to come again."""
        return await self.do_ahead(project_id, lambda _tell: work)

    async def do_ahead(self, project_id: ProjectId, work: Callable[[Callable[[T], None]], Coroutine[Any, Any, T]]) -> T:
        """As `do`, of work that may tell its answer before its end. What fails after that is logged."""
        told: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self.begin(project_id, work(told.set_result))
        task.add_done_callback(lambda ended: _log_failure(project_id, ended) if told.done() else None)
        either: set[asyncio.Future[T]] = {task, told}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not told.done():
                task.cancel()
                await asyncio.wait({task})
            raise
        if told.done():
            return told.result()
        if task.cancelled():
            raise UnavailableError(f"work on {project_id} was ended", public="the project is being stopped")
        return task.result()

    async def in_thread(self, function: Callable[[Abort], T]) -> T:
        """A thread cannot be cancelled: it is asked to end at its next file, and its end is awaited."""
        abort = Abort()
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, abort)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            abort.ask()
            await asyncio.wait({call})
            with contextlib.suppress(Exception):
                call.result()
            raise


def _log_failure(project_id: ProjectId, ended: asyncio.Task[Any]) -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        log.warning("what was left to do for %s failed: %s", project_id, error)
