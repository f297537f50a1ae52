"""Answers the commands about timelines: who may touch which one, and when its volume must be open.

The work itself blocks and runs in threads; what it does to files is in the other modules. What must stay true:

- a volume stays open while anything here works on it, and is closed afterwards if no compute needs it (`Volume`);
- one piece of work, or the start or the end of a compute, at a time per timeline: `lock`. Whoever needs both takes the
  timeline's lock before the project's, and long work never holds the project's: other computes wake meanwhile;
- a target is there as a whole or not at all, and then the command was done: twice is once.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from cloister.base.errors import BadRequestError, ConflictError, UnavailableError
from cloister.base.identities import checked_compute_uid
from cloister.base.ids import ProjectId, TimelineId, parse_project_id, parse_timeline_id
from cloister.node.commands import (
    CloneTimeline,
    CopyTimeline,
    CreateTimeline,
    DeleteTimeline,
    Done,
    FinishCopy,
    GetTimeline,
    PruneTimeline,
    Recovered,
    RecoverTimeline,
    ScrubTimeline,
)
from cloister.node.timelines import clone, control, tree
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.tree import Abort
from cloister.node.timelines.wal import format_lsn
from cloister.node.volumes import headroom

log = logging.getLogger(__name__)

T = TypeVar("T")

AnyTimelineCommand = (
    CreateTimeline
    | CloneTimeline
    | CopyTimeline
    | FinishCopy
    | RecoverTimeline
    | ScrubTimeline
    | DeleteTimeline
    | PruneTimeline
    | GetTimeline
)

_THREADS_MAX: Final = 8
# Copies and removals of different projects side by side: they wait for the kernel.


class Engines(Protocol):
    """What is needed of `node/postgres`."""

    def get(self, major: int) -> Any: ...
    async def ensure_template(self, engine: Any) -> None: ...
    def populate(self, engine: Any, data_dir: Path, uid: int) -> None: ...


class Keeper:
    def __init__(
        self,
        engines: Engines,
        hold: Callable[[ProjectId], AbstractAsyncContextManager[Path]],
        is_running: Callable[[TimelineId], bool],
        has_volume: Callable[[ProjectId], bool],
        *,
        has_own_space: bool,
    ) -> None:
        """`hold` keeps a project's volume open for the time of a context, and gives where it is mounted."""
        self._engines = engines
        self._hold = hold
        self._is_running = is_running
        self._has_volume = has_volume
        self._has_own_space = has_own_space
        self._locks: WeakValueDictionary[TimelineId, asyncio.Lock] = WeakValueDictionary()
        self._work: defaultdict[ProjectId, set[asyncio.Task[Any]]] = defaultdict(set)
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "timelines")

    async def stop(self) -> None:
        """End all work. What is half-made is swept when its volume is opened, and asked for again."""
        await asyncio.gather(*(self.end_work(project_id) for project_id in list(self._work)))
        self._threads.shutdown(wait=True)

    async def answer(self, command: AnyTimelineCommand) -> Any:
        project_id = parse_project_id(command.project_id)
        match command:
            case CreateTimeline():
                work: Coroutine[Any, Any, Any] = self._create(project_id, command)
            case CloneTimeline():
                work = self._clone(project_id, command)
            case DeleteTimeline():
                work = self._delete(project_id, parse_timeline_id(command.timeline_id))
            case _:
                raise BadRequestError(f"{type(command).__name__} is not known here yet")
        return await self._do(project_id, work)

    @contextlib.asynccontextmanager
    async def lock(self, *timeline_ids: TimelineId) -> AsyncIterator[None]:
        """Nobody else works on these timelines, or starts or stops a compute on them."""
        async with contextlib.AsyncExitStack() as stack:
            for timeline_id in sorted(set(timeline_ids)):
                await stack.enter_async_context(self._locks.setdefault(timeline_id, asyncio.Lock()))
            yield

    async def end_work(self, project_id: ProjectId) -> None:
        """Interrupt everything that needs the project's volume. Not while holding one of the locks."""
        tasks = list(self._work.pop(project_id, ()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def opened(self, project_id: ProjectId, mountpoint: Path) -> None:
        """A volume was opened, or found open: nothing is being made in it. Clears up what a crash left there."""
        layout = Layout(mountpoint)
        layout.sweep()
        self._empty_trash_later(project_id, layout)

    def fill(self, engine: Any, mountpoint: Path, timeline_id: TimelineId, uid: int) -> None:
        """A volume's first timeline, or another fresh one. Blocking."""
        layout = Layout(mountpoint)
        timeline = layout.begin(timeline_id, uid)
        self._engines.populate(engine, timeline.data, uid)
        self._complete(timeline, uid)
        layout.finish(timeline_id)

    async def _create(self, project_id: ProjectId, command: CreateTimeline) -> Done:
        timeline_id, uid = parse_timeline_id(command.timeline_id), checked_compute_uid(command.uid)
        engine = self._engines.get(command.pg_version)
        await self._engines.ensure_template(engine)
        async with self._hold(project_id) as mountpoint, self.lock(timeline_id):
            if not Layout(mountpoint).timeline(timeline_id).exists:
                await self._in_thread(lambda _abort: self.fill(engine, mountpoint, timeline_id, uid))
        return Done()

    async def _clone(self, project_id: ProjectId, command: CloneTimeline) -> Recovered:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid = checked_compute_uid(command.uid)

        def work(abort: Abort) -> Recovered:
            layout = Layout(mountpoint)
            target = layout.timeline(target_id)
            if not target.exists:
                source = layout.existing(source_id)
                target = layout.begin(target_id, uid)
                clone.clone_cluster(source.data, target.data, uid, abort, is_running=False)
                clone.clone_wal(source.data, target.data, uid, abort)
                self._complete(target, uid, is_frozen=command.is_frozen)
                target = layout.finish(target_id)
            with tree.opened(target.data) as data:
                return Recovered(lsn=format_lsn(control.read(data).checkpoint))

        async with self._hold(project_id) as mountpoint, self.lock(source_id, target_id):
            if self._is_running(source_id):
                raise ConflictError(f"a compute runs on {source_id}", public="the branch is running")
            return await self._in_thread(work)

    async def _delete(self, project_id: ProjectId, timeline_id: TimelineId) -> Done:
        if not self._has_volume(project_id):
            return Done()
        async with self._hold(project_id) as mountpoint, self.lock(timeline_id):
            if self._is_running(timeline_id):
                raise ConflictError(f"a compute runs on {timeline_id}", public="the branch is running")
            layout = Layout(mountpoint)

            def work(_abort: Abort) -> None:
                layout.abandon(timeline_id)
                with contextlib.suppress(FileNotFoundError):
                    layout.throw_away(layout.timeline(timeline_id).directory)

            await self._in_thread(work)
            self._empty_trash_later(project_id, layout)
        return Done()

    def _complete(self, timeline: Timeline, uid: int, *, is_frozen: bool = False) -> None:
        """What a new timeline needs beside its files. Blocking."""
        if self._has_own_space and not is_frozen:
            headroom.prepare_cluster(timeline.data, uid)

    def _empty_trash_later(self, project_id: ProjectId, layout: Layout) -> None:
        if layout.has_trash:
            self._begin(project_id, self._empty_trash(project_id))

    async def _empty_trash(self, project_id: ProjectId) -> None:
        async with self._hold(project_id) as mountpoint:
            try:
                await self._in_thread(Layout(mountpoint).empty_trash)
            except OSError as error:
                log.warning("what was deleted of %s is not removed yet: %s", project_id, error)

    async def _do(self, project_id: ProjectId, work: Coroutine[Any, Any, T]) -> T:
        """As a task that `end_work` can end; its caller is told to come again."""
        task = self._begin(project_id, work)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                task.cancel()
                await asyncio.wait({task})
                raise
            raise UnavailableError(f"work on {project_id} was ended", public="the project is being stopped") from None

    def _begin(self, project_id: ProjectId, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        tasks = self._work[project_id]
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def _in_thread(self, function: Callable[[Abort], T]) -> T:
        """A thread cannot be cancelled: it is asked to end at its next file, and its end is awaited."""
        abort = Abort()
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, abort)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            abort.ask()
            await asyncio.wait({call})
            raise
