"""Answers the commands about timelines: who may touch which one, and when its volume must be open.

What is done to files is in `making.py` and below; it blocks and runs in threads. What must stay true:

- a volume stays open while anything here works on it, and is closed afterwards if no compute needs it (`hold`);
- one piece of work, or the start or the end of a compute, at a time per timeline: `lock`. Whoever needs both takes the
  timeline's lock before the project's, and long work never holds the project's: other computes wake meanwhile;
- a target is there as a whole or not at all, and then the command was done: twice is once.

A new timeline's first snapshot is most often taken after it was told of: see `firsts.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from cloister.base.clock import Clock, SystemClock
from cloister.base.errors import BadRequestError, CloisterError, ConflictError, UnavailableError
from cloister.base.identities import checked_compute_uid
from cloister.base.ids import ProjectId, TimelineId, parse_identifier, parse_project_id, parse_timeline_id
from cloister.base.limits import MASKING_RULES_MAX
from cloister.node.commands import (
    AnyTimelineCommand,
    CloneTimeline,
    CopySchema,
    CopyTimeline,
    CreateTimeline,
    DeleteTimeline,
    Done,
    DumpSchemaAt,
    FinishCopy,
    GetTimeline,
    MaskTimeline,
    PruneTimeline,
    Recovered,
    RecoverTimeline,
    SchemaDump,
    SchemaForm,
    ScrubTimeline,
    TimelineInfo,
)
from cloister.node.timelines import clone, following, wal
from cloister.node.timelines.firsts import Firsts
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.making import Assembled, Making
from cloister.node.timelines.masking import Rule
from cloister.node.timelines.recovery import Target, target_of
from cloister.node.timelines.single import Clusters, SingleUser
from cloister.node.timelines.tree import Abort
from cloister.node.timelines.work import Locked, Locks, Work

log = logging.getLogger(__name__)

LOOK_BACK_TIMEOUT_S: Final = 45.0
# A client waits for the answer, and most give up after a minute.

LOOKS_BACK_MAX: Final = 2
# Each recovers a cluster, starts a server and takes a core; the rest waits its turn.


class Engines(Protocol):
    """What is needed of `node/postgres`; an engine is only handed on."""

    def get(self, major: int) -> Any: ...
    async def ensure_template(self, engine: Any) -> None: ...
    async def ensure_root(self, engine: Any) -> None: ...
    def populate(self, engine: Any, data_dir: Path, uid: int) -> None: ...


class SchemaPrograms(Protocol):
    """pg_dump, psql and pg_restore on clusters that no compute works on: see `node/schemas.py`."""

    async def dump(self, engine: Any, timeline: Timeline, uid: int, database: str, form: SchemaForm) -> bytes: ...

    async def copy(
        self, engine: Any, source: Timeline, target: Timeline, uid: int, *, keeps_passwords: bool
    ) -> None: ...


class MaskPrograms(Protocol):
    """psql on a cluster that no compute works on: see `node/masks.py`."""

    async def mask(self, engine: Any, timeline: Timeline, uid: int, rules: Sequence[Rule]) -> None: ...


class Hold(Protocol):
    """Keeps a project's volume open for the time of a context, and gives where it is mounted. `lingers`: what is made there
    is most likely started next, so a moment longer, and the start is prepared for."""

    def __call__(self, project_id: ProjectId, *, lingers: bool = False) -> AbstractAsyncContextManager[Path]: ...


class Keeper:
    def __init__(
        self,
        engines: Engines,
        single_user: SingleUser,
        hold: Hold,
        is_running: Callable[[TimelineId], bool],
        has_volume: Callable[[ProjectId], bool],
        *,
        schemas: SchemaPrograms,
        masks: MaskPrograms,
        clock: Clock | None = None,
    ) -> None:
        self._engines = engines
        self._single_user = single_user
        self._clusters = Clusters(engines, single_user)
        self._schemas = schemas
        self._masks = masks
        self._hold = hold
        self._is_running = is_running
        self._has_volume = has_volume
        self._clock = clock if clock is not None else SystemClock()
        self._locks = Locks()
        self._work = Work()
        self._emptying: set[ProjectId] = set()
        self._firsts = Firsts()
        self._places: dict[TimelineId, following.Place] = {}
        """How far the standbys that run were given what they follow."""
        self._looks_back = asyncio.Semaphore(LOOKS_BACK_MAX)

    async def start(self) -> None:
        """Before any volume is looked at: what a killed agent left running holds them."""
        await asyncio.to_thread(self._single_user.sweep)

    async def stop(self) -> None:
        """End all work. What is half-made is swept when its volume is opened, and asked for again."""
        await self._work.stop()

    async def answer(self, command: AnyTimelineCommand) -> Any:
        project_id = parse_project_id(command.project_id)
        match command:
            case CreateTimeline():
                work: Coroutine[Any, Any, Any] = self._create(project_id, command)
            case CloneTimeline():
                return await self._work.do_ahead(project_id, lambda tell: self._clone(project_id, command, tell))
            case CopyTimeline():
                work = self._copy(project_id, command)
            case FinishCopy():
                return await self._work.do_ahead(project_id, lambda tell: self._finish_copy(project_id, command, tell))
            case RecoverTimeline():
                work = self._recover(project_id, command)
            case ScrubTimeline():
                work = self._scrub(project_id, command)
            case CopySchema():
                work = self._copy_schema(project_id, command)
            case MaskTimeline():
                work = self._mask(project_id, command)
            case DumpSchemaAt():
                work = self._dump_schema_at(project_id, command)
            case DeleteTimeline():
                work = self._delete(project_id, parse_timeline_id(command.timeline_id))
            case PruneTimeline():
                work = self._look(project_id, parse_timeline_id(command.timeline_id), keep_since=command.keep_since)
            case GetTimeline():
                work = self._look(project_id, parse_timeline_id(command.timeline_id), keep_since=None)
        return await self._work.do(project_id, work)

    @contextlib.asynccontextmanager
    async def lock(self, *timeline_ids: TimelineId) -> AsyncIterator[Locked]:
        """Nobody else works on these timelines, or starts or stops a compute on them."""
        while True:
            # Nothing is held meanwhile: whoever takes one wants its source's lock.
            await self._firsts.want(*timeline_ids)
            async with self._locks.of(*timeline_ids) as locked:
                if not self._firsts.are_missing(*timeline_ids):
                    yield locked
                    return

    def lock_to_start(self, timeline_id: TimelineId) -> AbstractAsyncContextManager[Locked]:
        """As `lock`, but its first snapshot may be under way, for that is not taken of it."""
        return self._locks.of(timeline_id)

    def is_locked(self, timeline_id: TimelineId) -> bool:
        return self._locks.is_held(timeline_id)

    async def end_work(self, project_id: ProjectId) -> None:
        """Interrupt everything that needs the project's volume. Not while holding one of the locks."""
        await self._work.end(project_id)

    def opened(self, project_id: ProjectId, mountpoint: Path) -> None:
        """A volume was opened, or found open: nothing is being made in it. Clears up what a crash left there."""
        layout = Layout(mountpoint)
        layout.sweep()
        for timeline_id in layout.owing():
            self._take_owed_later(project_id, timeline_id)
        self._empty_trash_later(project_id, layout)

    def fill(self, engine: Any, mountpoint: Path, timeline_id: TimelineId, uid: int) -> None:
        """A volume's first timeline, or another fresh one. Blocking."""
        making = self._making(mountpoint, uid, Abort())
        making.fresh(timeline_id, lambda data: self._engines.populate(engine, data, uid))

    async def collect(self, project_id: ProjectId, timeline_id: TimelineId, retention_s: int | None) -> None:
        """The WAL of a compute that runs, into the archive; give up what is older than it must be kept. A timeline that is
        being worked on is left for the next time."""
        if self.is_locked(timeline_id):
            return
        async with self.lock(timeline_id):
            # It cannot be stopped while this is locked, so its volume stays open.
            if self._is_running(timeline_id):
                async with self._hold(project_id) as mountpoint:
                    await self._work.in_thread(
                        lambda abort: self._making(mountpoint, 0, abort).collect(timeline_id, retention_s)
                    )
                    self._empty_trash_later(project_id, Layout(mountpoint))

    async def feed(self, project_id: ProjectId, timeline_id: TimelineId, source_id: TimelineId) -> None:
        """What is new in a timeline, to a standby that runs and follows it. One that is being worked on is left for the next
        time. Raises PreconditionError when it cannot follow any more."""
        if not self.is_locked(timeline_id):
            await self._work.do(project_id, self._feed(project_id, timeline_id, source_id))

    async def _feed(self, project_id: ProjectId, timeline_id: TimelineId, source_id: TimelineId) -> None:
        async with self.lock(timeline_id):
            if not self._is_running(timeline_id):
                self._places.pop(timeline_id, None)
                return
            async with self._hold(project_id) as mountpoint:
                layout, now_ns = Layout(mountpoint), int(self._clock.now().timestamp() * 1e9)
                source, standby = layout.existing(source_id), layout.existing(timeline_id)

                def work(abort: Abort) -> following.Place:
                    place = self._places.get(timeline_id) or following.begin(standby, abort)
                    return following.feed(source, standby, place, now_ns, abort)

                self._places[timeline_id] = await self._work.in_thread(work)

    async def after_stop(self, mountpoint: Path, timeline_id: TimelineId, retention_s: int | None) -> None:
        """A compute was stopped, and its volume is about to be closed. The caller holds the locks. Best effort: what is
        not done now is done after the next stop."""
        try:
            await self._work.in_thread(
                lambda abort: self._making(mountpoint, 0, abort).after_stop(timeline_id, retention_s)
            )
        except Exception as error:
            log.warning("the history of %s is not up to date: %s", timeline_id, error)

    async def _create(self, project_id: ProjectId, command: CreateTimeline) -> Done:
        timeline_id, uid = parse_timeline_id(command.timeline_id), checked_compute_uid(command.uid)
        engine = self._engines.get(command.pg_version)
        await self._engines.ensure_template(engine)
        async with self._hold(project_id) as mountpoint, self.lock(timeline_id):
            if not Layout(mountpoint).timeline(timeline_id).exists:
                await self._work.in_thread(lambda _abort: self.fill(engine, mountpoint, timeline_id, uid))
        return Done()

    async def _clone(
        self, project_id: ProjectId, command: CloneTimeline, tell: Callable[[Recovered], None]
    ) -> Recovered:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid = checked_compute_uid(command.uid)
        async with (
            self._hold(project_id, lingers=not command.is_frozen) as mountpoint,
            self.lock(source_id, target_id) as locked,
        ):
            if (known := Layout(mountpoint).origin_of(target_id)) is not None:
                return known
            self._require_rest(source_id)
            if command.is_followed and not clone.is_settled(Layout(mountpoint).existing(source_id).data):
                raise UnavailableError(
                    f"{source_id} was not shut down in order", public="the branch crashed; try again"
                )

            def begin(abort: Abort) -> int | None:
                return self._making(mountpoint, uid, abort).clone(source_id, target_id)

            # One that was not shut down in order is brought to rest, so that where it left its source is known.
            if (major := await self._work.in_thread(begin)) is not None:
                await self._clusters.bring_to_rest(
                    self._engines.get(major), Layout(mountpoint).unfinished(target_id), uid
                )
            is_first_later = major is None and not command.is_frozen

            def finish(abort: Abort) -> Recovered:
                making = self._making(mountpoint, uid, abort)
                if is_first_later:
                    return making.finish_clone(source_id, target_id)
                return making.finish(target_id, is_frozen=command.is_frozen)

            recovered = await self._work.in_thread(finish)
            if is_first_later:
                with self._firsts.taking(target_id):
                    locked.let_go(target_id)
                    tell(recovered)
                    await self._work.in_thread(
                        lambda abort: self._making(mountpoint, uid, abort).take_first_of(source_id, target_id)
                    )
            return recovered

    async def _copy(self, project_id: ProjectId, command: CopyTimeline) -> Done:
        source_id, target_id = parse_timeline_id(command.source_id), _optional(command.target_id)
        uid = checked_compute_uid(command.uid)
        async with self._hold(project_id) as mountpoint, self.lock(*_given(source_id, target_id)):
            if target_id is None or Layout(mountpoint).origin_of(target_id) is None:
                # The server that is held in backup mode would be another timeline's, which its endpoint has meanwhile: these files
                # with that one's label are no copy of either.
                if not self._is_running(source_id):
                    raise UnavailableError(
                        f"no compute runs on {source_id}", public="the branch went to sleep; try again"
                    )
                await self._work.in_thread(
                    lambda abort: self._making(mountpoint, uid, abort).copy(source_id, target_id)
                )
        return Done()

    async def _finish_copy(
        self, project_id: ProjectId, command: FinishCopy, tell: Callable[[Recovered], None]
    ) -> Recovered:
        source_id, target_id = parse_timeline_id(command.source_id), _optional(command.target_id)
        uid, stop_lsn = checked_compute_uid(command.uid), wal.parse_lsn(command.stop_lsn)
        lingers = target_id is not None and not command.is_frozen
        async with self._hold(project_id, lingers=lingers) as mountpoint, contextlib.AsyncExitStack() as later:
            async with self.lock(*_given(source_id, target_id)):
                if target_id is None:
                    return await self._work.in_thread(
                        lambda abort: self._making(mountpoint, uid, abort).finish_copy_for_history(
                            source_id, command.label, stop_lsn
                        )
                    )
                if (known := Layout(mountpoint).origin_of(target_id)) is not None:
                    return known
                recovered, copied = await self._work.in_thread(
                    lambda abort: self._making(mountpoint, uid, abort).finish_copy(
                        source_id, target_id, command.label, stop_lsn, is_frozen=command.is_frozen
                    )
                )
                if copied is None:
                    return recovered
                first = later.enter_context(self._firsts.taking(target_id))
            tell(recovered)
            await first.is_due()
            async with self.lock(source_id):
                await self._work.in_thread(
                    lambda abort: self._making(mountpoint, uid, abort).take_first_from(source_id, target_id, copied)
                )
            return recovered

    async def _recover(self, project_id: ProjectId, command: RecoverTimeline) -> Recovered:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid, target = checked_compute_uid(command.uid), target_of(command.lsn, command.at)
        engine = self._engines.get(command.pg_version)
        async with (
            self._hold(project_id, lingers=not command.is_frozen) as mountpoint,
            self.lock(source_id, target_id) as locked,
        ):
            if (known := Layout(mountpoint).origin_of(target_id)) is not None:
                return known
            is_running = self._is_running(source_id)

            def begin(abort: Abort) -> Assembled | None:
                return self._making(mountpoint, uid, abort).assemble(
                    source_id, target_id, target, is_running=is_running
                )

            # (1) Put together what is needed, or find that the point is the head.
            assembled = await self._work.in_thread(begin)
            if assembled is None:
                return await self._work.in_thread(
                    lambda abort: self._making(mountpoint, uid, abort).finish(target_id, is_frozen=command.is_frozen)
                )
            # (2) Replay. The source is free meanwhile.
            locked.let_go(source_id)
            ran, has_missed = await self._clusters.replay(
                engine, Layout(mountpoint).unfinished(target_id), uid, target, assembled
            )
            # (3) At rest, like any other.
            return await self._work.in_thread(
                lambda abort: self._making(mountpoint, uid, abort).finish_recovery(
                    target_id, target, assembled, ran.output, has_missed=has_missed, is_frozen=command.is_frozen
                )
            )

    async def _scrub(self, project_id: ProjectId, command: ScrubTimeline) -> Done:
        timeline_id, uid = parse_timeline_id(command.timeline_id), checked_compute_uid(command.uid)
        engine = self._engines.get(command.pg_version)
        async with self._hold(project_id, lingers=True) as mountpoint, self.lock(timeline_id):
            self._require_rest(timeline_id)
            timeline = Layout(mountpoint).existing(timeline_id)
            await self._clusters.take_secrets_out(engine, timeline, uid)
            await self._work.in_thread(lambda abort: self._making(mountpoint, uid, abort).begin_anew(timeline_id))
            self._empty_trash_later(project_id, Layout(mountpoint))
        return Done()

    async def _dump_schema_at(self, project_id: ProjectId, command: DumpSchemaAt) -> SchemaDump:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid, target = checked_compute_uid(command.uid), target_of(command.lsn, command.at)
        database = parse_identifier("database name", command.database)
        engine = self._engines.get(command.pg_version)
        try:
            async with (
                asyncio.timeout(LOOK_BACK_TIMEOUT_S),
                self._looks_back,
                self._was(project_id, engine, uid, (source_id, target_id), target) as timeline,
            ):
                return SchemaDump(await self._schemas.dump(engine, timeline, uid, database, command.form))
        except TimeoutError:
            raise UnavailableError(
                f"the schema of {source_id} at {target} took longer than {LOOK_BACK_TIMEOUT_S:.0f} s",
                public="reading the schema as it was takes too long: create a branch from that point and read its schema",
            ) from None

    @contextlib.asynccontextmanager
    async def _was(
        self, project_id: ProjectId, engine: Any, uid: int, ids: tuple[TimelineId, TimelineId], target: Target
    ) -> AsyncIterator[Timeline]:
        """What a timeline was at a point, for the time of the context."""
        source_id, target_id = ids
        await self._engines.ensure_root(engine)
        async with self._hold(project_id) as mountpoint, self.lock(source_id, target_id) as locked:
            layout, is_running = Layout(mountpoint), self._is_running(source_id)
            try:
                assembled = await self._work.in_thread(
                    lambda abort: self._making(mountpoint, uid, abort).assemble(
                        source_id, target_id, target, is_running=is_running
                    )
                )
                locked.let_go(source_id)
                timeline = layout.unfinished(target_id)
                if assembled is not None:
                    _ran, has_missed = await self._clusters.replay(engine, timeline, uid, target, assembled)
                    self._making(mountpoint, uid, Abort()).reached(target_id, target, assembled, has_missed=has_missed)
                yield timeline
            finally:
                # What is left, should this be interrupted too, is swept with the next opening of the volume.
                await self._work.in_thread(lambda _abort: layout.abandon(target_id))
                self._empty_trash_later(project_id, layout)

    async def _copy_schema(self, project_id: ProjectId, command: CopySchema) -> Done:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid = checked_compute_uid(command.uid)
        engine = self._engines.get(command.pg_version)
        await self._engines.ensure_template(engine)
        async with self._hold(project_id, lingers=True) as mountpoint, self.lock(source_id, target_id):
            layout = Layout(mountpoint)
            if layout.timeline(target_id).exists:
                return Done()
            self._require_rest(source_id)
            source, target = layout.existing(source_id), layout.unfinished(target_id)

            def begin(_abort: Abort) -> None:
                self._engines.populate(engine, layout.begin(target_id, uid).data, uid)

            await self._work.in_thread(begin)
            await self._schemas.copy(engine, source, target, uid, keeps_passwords=command.keeps_passwords)
            await self._work.in_thread(
                lambda abort: self._making(mountpoint, uid, abort).finish(target_id, is_frozen=False, is_on_disk=False)
            )
        return Done()

    async def _mask(self, project_id: ProjectId, command: MaskTimeline) -> Done:
        source_id, target_id = parse_timeline_id(command.source_id), parse_timeline_id(command.target_id)
        uid, rules = checked_compute_uid(command.uid), [Rule.of(it) for it in command.rules[: MASKING_RULES_MAX + 1]]
        if not 0 < len(rules) <= MASKING_RULES_MAX:
            raise BadRequestError(f"{len(command.rules)} rules", public=f"1 to {MASKING_RULES_MAX} rules at a time")
        engine = self._engines.get(command.pg_version)
        await self._engines.ensure_root(engine)
        async with self._hold(project_id, lingers=True) as mountpoint, self.lock(source_id, target_id):
            layout = Layout(mountpoint)
            if layout.timeline(target_id).exists:
                return Done()
            self._require_rest(source_id)

            def begin(abort: Abort) -> int | None:
                return self._making(mountpoint, uid, abort).clone_without_counters(source_id, target_id)

            if await self._work.in_thread(begin) is not None:
                await self._clusters.bring_to_rest(engine, layout.unfinished(target_id), uid)
            await self._masks.mask(engine, layout.unfinished(target_id), uid, rules)
            await self._work.in_thread(
                lambda abort: self._making(mountpoint, uid, abort).finish(target_id, is_frozen=False, is_on_disk=False)
            )
        return Done()

    async def _delete(self, project_id: ProjectId, timeline_id: TimelineId) -> Done:
        if not self._has_volume(project_id):
            return Done()
        async with self._hold(project_id) as mountpoint, self.lock(timeline_id):
            self._require_rest(timeline_id)
            layout = Layout(mountpoint)
            self._places.pop(timeline_id, None)

            def work(_abort: Abort) -> None:
                layout.abandon(timeline_id)
                with contextlib.suppress(FileNotFoundError):
                    layout.throw_away(layout.timeline(timeline_id).directory)

            await self._work.in_thread(work)
            self._empty_trash_later(project_id, layout)
        return Done()

    async def _look(self, project_id: ProjectId, timeline_id: TimelineId, *, keep_since: float | None) -> TimelineInfo:
        async with self._hold(project_id) as mountpoint, self.lock(timeline_id):
            is_running = self._is_running(timeline_id)

            def work(abort: Abort) -> TimelineInfo:
                making = self._making(mountpoint, 0, abort)
                if keep_since is not None:
                    making.prune(timeline_id, keep_since)
                return making.look(timeline_id, is_running=is_running)

            info = await self._work.in_thread(work)
            self._empty_trash_later(project_id, Layout(mountpoint))
        return info

    def _take_owed_later(self, project_id: ProjectId, timeline_id: TimelineId) -> None:
        """Nobody works on it before that, or has heard of an end of its own history."""
        taking = contextlib.ExitStack()
        taking.enter_context(self._firsts.taking(timeline_id))
        task = self._work.begin(project_id, self._take_owed(project_id, timeline_id))
        task.add_done_callback(lambda _task: taking.close())

    async def _take_owed(self, project_id: ProjectId, timeline_id: TimelineId) -> None:
        try:
            async with self._hold(project_id) as mountpoint:
                layout = Layout(mountpoint)
                if (owed := History(layout, layout.timeline(timeline_id)).owed()) is None:
                    return
                async with self.lock(owed.source_id):
                    # Most often it is its start that opened the volume.
                    source_runs = self._is_running(owed.source_id)
                    is_settled = await self._work.in_thread(
                        lambda abort: self._making(mountpoint, owed.uid, abort).take_owed(
                            timeline_id, source_runs=source_runs
                        )
                    )
                if not is_settled:
                    async with self.lock_to_start(timeline_id):
                        runs = self._is_running(timeline_id)
                        await self._work.in_thread(
                            lambda abort: self._making(mountpoint, owed.uid, abort).take_owed_of_itself(
                                timeline_id, runs=runs
                            )
                        )
        except (CloisterError, OSError) as error:
            log.warning("the first snapshot of %s is still owed: %s", timeline_id, error)

    def _making(self, mountpoint: Path, uid: int, abort: Abort) -> Making:
        return Making(Layout(mountpoint), uid, self._clock.now().timestamp(), abort)

    def _require_rest(self, timeline_id: TimelineId) -> None:
        if self._is_running(timeline_id):
            raise ConflictError(f"a compute runs on {timeline_id}", public="the branch is running")

    def _empty_trash_later(self, project_id: ProjectId, layout: Layout) -> None:
        if project_id not in self._emptying and layout.has_trash:
            self._emptying.add(project_id)
            self._work.begin(project_id, self._empty_trash(project_id)).add_done_callback(
                lambda _task: self._emptying.discard(project_id)
            )

    async def _empty_trash(self, project_id: ProjectId) -> None:
        """Until there is none. What is thrown away meanwhile is removed by the same work."""
        async with self._hold(project_id) as mountpoint:
            layout = Layout(mountpoint)
            try:
                while layout.has_trash:
                    await self._work.in_thread(layout.empty_trash)
            except OSError as error:
                log.warning("what was deleted of %s is not removed yet: %s", project_id, error)


def _optional(timeline_id: str | None) -> TimelineId | None:
    return None if timeline_id is None else parse_timeline_id(timeline_id)


def _given(*timeline_ids: TimelineId | None) -> list[TimelineId]:
    return [timeline_id for timeline_id in timeline_ids if timeline_id is not None]
