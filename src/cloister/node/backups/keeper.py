"""Answers the commands about backups: a timeline's history goes to the store, and comes back from there.

What must stay true:

- A timeline's lock is held while it is chosen what goes, and not while it goes: computes start and stop meanwhile. What was chosen and
  is gone by then ends the work, and the next run takes something else.
- Nothing keeps what it has read for longer than its sending takes, and a piece of work has AT_ONCE objects under way: what a tenant writes
  costs time, and neither memory nor disk.
- A base's own object is put last: if it is there, all that it names was.
- What comes back is believed when it was opened by a key of the project's, for this project, under this name.

To ask for the same twice at a time is to ask once. Sending can be ended without ending restorations: a project that is deleted waits for neither,
and one that is put to sleep for what it is being restored from.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from cloister.base.clock import Clock, SystemClock
from cloister.base.errors import BadRequestError, CloisterError, ConflictError, PreconditionError, UnavailableError
from cloister.base.ids import ProjectId, TimelineId, parse_project_id, parse_timeline_id
from cloister.node.backups import segments
from cloister.node.backups.drilling import drilled, require_room, restoration
from cloister.node.backups.finding import Finding
from cloister.node.backups.keys import KeptKeys, KeySource, held
from cloister.node.backups.memory import Memory, Sent
from cloister.node.backups.objects import Courier, Store
from cloister.node.backups.platform import Dumping, PlatformSending
from cloister.node.backups.reading import Reading
from cloister.node.backups.restoring import Restoring
from cloister.node.backups.seeing import see
from cloister.node.backups.segments import Ahead
from cloister.node.backups.senders import Senders
from cloister.node.backups.sending import BaseRun, Sealing, WalRun
from cloister.node.commands import (
    AnyBackupCommand,
    Backed,
    BackUpPlatform,
    BackUpTimeline,
    Drilled,
    DrillRestore,
    GetStore,
    PlatformBacked,
    ReadBack,
    ReadBackPlatform,
    Recovered,
    RestoreTimeline,
    Seen,
    SendWal,
    SentWal,
    StoreState,
)
from cloister.node.timelines import wal
from cloister.node.timelines.history import History, first_after
from cloister.node.timelines.keeper import Engines, Hold
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.single import Clusters
from cloister.node.timelines.snapshots import Snapshot
from cloister.node.timelines.tree import Abort
from cloister.node.timelines.work import Locked, Work
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import Base, encoded_base

log = logging.getLogger(__name__)

T = TypeVar("T")

RETAIN_DAYS_MAX: Final = 365
# What is put for too long by mistake nobody can take back. The courier takes some days more, which `sending.py` adds.

BASES_AT_ONCE: Final = 2
SENDS_AT_ONCE: Final = 4
RESTORATIONS_AT_ONCE: Final = 2
# Of all projects. The first and the last take a core each, and every one some megabytes, whoever asks for how many. Others wait,
# but WAL for no base.

_PLATFORM: Final = ProjectId(names.PLATFORM)
# In a project's place: no project is ended with its name.

SAMPLE_MAX: Final = 10_000


class Lock(Protocol):
    """As `timelines/keeper.py` has it."""

    def __call__(self, *timeline_ids: TimelineId) -> AbstractAsyncContextManager[Locked]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """What this is done with, of the agent's."""

    engines: Engines
    clusters: Clusters
    hold: Hold
    lock: Lock
    is_running: Callable[[TimelineId], bool]
    dumping: Dumping
    """Of the control database."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What this reaches outside of the agent."""

    courier: Courier
    keys: KeySource


class Backups:
    def __init__(self, node: Node, outside: Outside, directory: Path, *, clock: Clock | None = None) -> None:
        """`directory` is for what is remembered, on the disk that volumes are on."""
        self._node = node
        self._directory = directory
        self._keys = outside.keys
        self._kept = KeptKeys(outside.keys)
        self._store = Store(outside.courier)
        self._memory = Memory(directory)
        self._clock = clock if clock is not None else SystemClock()
        self._senders = Senders(node.dumping, self._store, self._clock)
        self._platform = PlatformSending(
            node.dumping, self._store, outside.keys, self._memory, self._clock, senders=self._senders
        )
        self._dumps = asyncio.Lock()
        self._sending = Work()
        self._restoring = Work()
        self._under_way: dict[tuple[type[Any], str], asyncio.Task[Any]] = {}
        self._remembering: WeakValueDictionary[ProjectId, asyncio.Lock] = WeakValueDictionary()
        """Held by who reads a project's chunks and writes them again."""
        self._bases = asyncio.Semaphore(BASES_AT_ONCE)
        self._sends = asyncio.Semaphore(SENDS_AT_ONCE)
        self._restorations = asyncio.Semaphore(RESTORATIONS_AT_ONCE)
        self._drills = asyncio.Lock()

    async def stop(self) -> None:
        await self._sending.stop()
        await self._restoring.stop()
        self._kept.let_all_go()

    async def end_sending(self, project_id: ProjectId) -> None:
        """What was sent need not be sent again."""
        await self._sending.end(project_id)
        self.let_go(project_id)

    async def end_work(self, project_id: ProjectId) -> None:
        """Interrupt everything that needs the project's volume."""
        await self.end_sending(project_id)
        await self._restoring.end(project_id)

    def let_go(self, project_id: ProjectId) -> None:
        """No compute of the project runs any more."""
        self._kept.let_go(project_id)

    def forget(self, project_id: ProjectId) -> None:
        """Of a project that is deleted. What is in the store stays there until its locks end."""
        self._memory.forget(project_id)

    async def answer(self, command: AnyBackupCommand) -> Any:
        match command:
            case GetStore():
                return await self._look()
            case BackUpPlatform():
                return await self._sending.do(_PLATFORM, self._back_up_platform(command))
            case ReadBackPlatform():
                return await self._sending.do(_PLATFORM, self._read_back_platform(command))
        parse_project_id(command.project_id)
        parse_timeline_id(command.timeline_id)
        match command:
            case BackUpTimeline():
                return await self._once(self._sending, command, self._back_up(command))
            case SendWal():
                return await self._once(self._sending, command, self._send_wal(command))
            case ReadBack():
                return await self._once(self._sending, command, self._read_back(command))
            case RestoreTimeline():
                return await self._once(self._restoring, command, self._restore(command))
            case DrillRestore():
                return await self._once(self._restoring, command, self._drill(command))

    async def _once(
        self,
        work: Work,
        command: BackUpTimeline | SendWal | ReadBack | RestoreTimeline | DrillRestore,
        asked: Coroutine[Any, Any, T],
    ) -> T:
        """Whoever asks while it is under way waits for that. An asker that goes away does not end it."""
        what = (type(command), command.timeline_id)
        task: asyncio.Task[T] | None = self._under_way.get(what)
        if task is None:
            task = self._under_way[what] = work.begin(parse_project_id(command.project_id), asked)
            task.add_done_callback(lambda _: self._under_way.pop(what))
        else:
            asked.close()
        await asyncio.wait({task})
        if task.cancelled():
            raise UnavailableError(f"work on {command.project_id} was ended", public="the project is being stopped")
        return task.result()

    async def _back_up_platform(self, command: BackUpPlatform) -> PlatformBacked:
        retain_days = _days(command.retain_days)
        async with self._dumps:
            return await self._platform.send(retain_days, self._sending.in_thread)

    async def _read_back_platform(self, command: ReadBackPlatform) -> Seen:
        if names.dump_name(names.dump(command.name)) is None:
            raise BadRequestError(f"{command.name!r} is no dump's name")
        sample = _sample(command.sample)
        async with self._dumps:
            return await self._platform.read_back(command.name, sample)

    async def _look(self) -> StoreState:
        facts, taken = await self._store.look(), ""
        if not facts.problem:
            try:
                await self._senders.label()
            except ConflictError as error:
                taken = error.public
            except CloisterError as error:  # whoever sends is told
                log.info("who sends is not known: %s", error)
        return StoreState(
            name=facts.name,
            place=facts.place,
            has_versions=facts.has_versions,
            has_lock=facts.has_lock,
            problem=facts.problem,
            taken=taken,
        )

    async def _back_up(self, command: BackUpTimeline) -> Backed:
        """1. Choose the snapshot; of a timeline at rest, one of its head.
        2. Send each chunk of it that is not in the store, or not for long enough, and its lists.
        3. Its own object, which makes it a base, if no other platform has taken the store over.
        4. Remember it: from there on WAL is sent.
        """
        project_id, timeline_id = parse_project_id(command.project_id), parse_timeline_id(command.timeline_id)
        retain_days, store = _days(command.retain_days), await self._store.name()
        label = await self._senders.label()
        async with (
            self._one_of(project_id),
            self._bases,
            self._node.hold(project_id) as mountpoint,
            held(self._keys, project_id, "back_up") as keys,
        ):
            sealing = Sealing(self._store, await keys.newest(), project_id, self._now(), retain_days, label=label)
            # 1.
            history = History(Layout(mountpoint), _with_history(mountpoint, timeline_id))
            async with self._node.lock(timeline_id):
                snapshot = await self._sending.in_thread(lambda abort: self._choose(history, timeline_id, abort))
            # 2.
            chunks = await asyncio.to_thread(self._memory.chunks, project_id, store)
            reading = Reading(history.snapshots.data(snapshot), sealing.key.chunk_id)
            run = BaseRun(sealing, reading, chunks)
            try:
                await run.go(self._sending.in_thread)
            finally:
                await asyncio.to_thread(chunks.save, sealing.needed_until)
            # 3.
            await self._senders.require(label)
            base = Base(
                timeline=timeline_id,
                pg_version=command.pg_version,
                start_lsn=snapshot.start_lsn,
                stop_lsn=snapshot.stop_lsn,
                wal_timeline=snapshot.wal_timeline,
                moment=snapshot.moment,
                is_clean=snapshot.is_clean,
                lists=reading.lists,
                files=reading.files,
                bytes=reading.bytes,
                label=label,
            )
            await sealing.put(names.base(project_id, timeline_id, base.object_name), encoded_base(base))
            # 4.
            await asyncio.to_thread(self._join, project_id, timeline_id, _line(store, label), snapshot)
        if reading.left_out:
            log.warning("%d files of %s are no PostgreSQL's: not backed up", reading.left_out, timeline_id)
        return Backed(
            base=base.name,
            start_lsn=wal.format_lsn(base.start_lsn),
            stop_lsn=wal.format_lsn(base.stop_lsn),
            moment=base.moment,
            chunks=run.count,
            new_chunks=run.new,
            bytes=reading.bytes,
            new_bytes=sealing.bytes,
            left_out=reading.left_out,
            locked_until=run.locked_until,
        )

    def _choose(self, history: History, timeline_id: TimelineId, abort: Abort) -> Snapshot:
        if not self._node.is_running(timeline_id):
            history.take_head(0, self._now(), abort)
        taken = history.snapshots.all()
        if not taken:
            raise PreconditionError(f"{timeline_id} has no snapshot", public="the branch has no history to back up")
        return taken[-1]

    def _join(self, project_id: ProjectId, timeline_id: TimelineId, store: str, snapshot: Snapshot) -> None:
        joins = first_after(snapshot)
        sent = self._memory.sent(project_id, timeline_id, store)
        if sent is None or sent.wal_timeline != snapshot.wal_timeline:
            sent = Sent(wal_timeline=snapshot.wal_timeline, since=joins, next=joins)
        sent.base, sent.joins = snapshot.name, joins
        self._memory.remember(project_id, timeline_id, store, sent)

    async def _send_wal(self, command: SendWal) -> SentWal:
        """1. See what there is. What was committed by now is in there.
        2. Send what follows what was sent, some segments an object.
        3. Where one is missing: look again, for it may just have gone from one place to the next; if it is nowhere, go on from
           the base, where that is further.
        4. Remember how far that went, whatever happened.
        """
        project_id, timeline_id = parse_project_id(command.project_id), parse_timeline_id(command.timeline_id)
        retain_days, moment, label = _days(command.retain_days), self._now(), await self._senders.label()
        store = _line(await self._store.name(), label)
        kept = self._kept.taken(project_id, "back_up", moment, is_kept=lambda: self._node.is_running(timeline_id))
        async with self._sends, self._node.hold(project_id) as mountpoint, kept as keys:
            timeline = _with_history(mountpoint, timeline_id)
            ahead = await self._ahead(mountpoint, timeline_id)  # 1.
            sent = await asyncio.to_thread(self._memory.sent, project_id, timeline_id, store)
            if sent is None or sent.wal_timeline != ahead.wal_timeline:
                sent = Sent(wal_timeline=ahead.wal_timeline, since=ahead.begins, next=ahead.begins)
            sealing = Sealing(self._store, await keys.newest(), project_id, moment, retain_days, label=label)
            run = WalRun(sealing, timeline, timeline_id, sent)
            try:
                await run.go(ahead, self._sending.in_thread)  # 2.
                if run.is_missing:  # 3.
                    await run.go(await self._ahead(mountpoint, timeline_id), self._sending.in_thread)
                if run.is_missing and sent.joins > sent.next:
                    sent.skip()
                    await run.go(await self._ahead(mountpoint, timeline_id), self._sending.in_thread)
            finally:
                await asyncio.to_thread(self._memory.remember, project_id, timeline_id, store, sent)  # 4.
        return SentWal(
            end_lsn=wal.format_lsn(sent.next * wal.SEGMENT_BYTES + sent.length),
            moment=moment,
            segments=run.segments,
            bytes=sealing.bytes,
            is_broken=run.is_missing or sent.is_broken,
            is_behind=run.is_behind,
        )

    async def _ahead(self, mountpoint: Path, timeline_id: TimelineId) -> Ahead:
        timeline = _with_history(mountpoint, timeline_id)
        history = History(Layout(mountpoint), timeline)
        async with self._node.lock(timeline_id):
            return await self._sending.in_thread(lambda abort: segments.look(history, timeline, self._now(), abort))

    async def _restore(self, command: RestoreTimeline) -> Recovered:
        """1. Is it there already? Then it was made.
        2. Fetch what its recovery reads.
        3. Recover it, and give it its place, as any other that is made of history.
        """
        restoring = Restoring(command, await self._senders.line())
        timeline_id, engine = restoring.timeline_id, self._node.engines.get(command.pg_version)
        async with (
            self._restorations,
            self._node.hold(restoring.project_id, lingers=True) as mountpoint,
            self._node.lock(timeline_id),
        ):
            layout = Layout(mountpoint)
            # 1.
            if (known := layout.origin_of(timeline_id)) is not None:
                return known
            if layout.timeline(timeline_id).exists:
                raise ConflictError(f"{timeline_id} is there already")
            try:
                # 2. In all the room there is: an earlier attempt took as much.
                layout.abandon(timeline_id)
                await self._restoring.in_thread(layout.empty_trash)
                if restoring.source_id == timeline_id:
                    # It goes on in place of what was lost, on a WAL timeline of the number that an earlier restoration had, if nothing of
                    # that is in a base: what was sent of that is not what will be written.
                    store = _line(await self._store.name(), await self._senders.last_label())
                    await asyncio.to_thread(self._memory.remember, restoring.project_id, timeline_id, store, None)
                async with held(self._keys, restoring.project_id, "restore") as keys:
                    fetched = await restoring.fetch(self._store, keys, layout, self._restoring.in_thread)
                # 3.
                ran, has_missed = await self._node.clusters.replay(
                    engine, layout.unfinished(timeline_id), restoring.uid, restoring.target, fetched
                )

                def finish(abort: Abort) -> Recovered:
                    return restoring.finish(layout, fetched, ran.output, self._now(), abort, has_missed=has_missed)

                return await self._restoring.in_thread(finish)
            except BaseException:
                # Its room comes back when the trash is emptied next: by another attempt, or when the volume is opened.
                layout.abandon(timeline_id)
                raise

    async def _drill(self, command: DrillRestore) -> Drilled:
        """1. There is room for it.
        2. Fetch what its recovery reads, and recover it: as a restore does, up to here.
        3. Look at every table and index.
        4. Whatever came of it: it is thrown away, and its room is the tenant's again.
        """
        restoring = Restoring(restoration(command), await self._senders.line())
        timeline_id, engine = restoring.timeline_id, self._node.engines.get(command.pg_version)
        async with self._drills, self._node.hold(restoring.project_id) as mountpoint:
            await asyncio.to_thread(require_room, mountpoint, self._directory, command.bytes)  # 1.
            layout = Layout(mountpoint)
            timeline = layout.unfinished(timeline_id)
            try:
                async with held(self._keys, restoring.project_id, "drill") as keys:  # 2.
                    fetched = await restoring.fetch(self._store, keys, layout, self._restoring.in_thread)
                clusters = self._node.clusters
                _, has_missed = await clusters.replay(engine, timeline, restoring.uid, restoring.target, fetched)
                lsn = restoring.reached(layout, fetched, has_missed=has_missed)
                found = drilled(lsn, await clusters.look_through(engine, timeline, restoring.uid))  # 3.
            finally:
                layout.abandon(timeline_id)  # 4.
                await self._restoring.in_thread(layout.empty_trash)
        for damage in found.damaged:
            log.error("of the backup of %s: %s", command.timeline_id, damage)
        return found

    async def _read_back(self, command: ReadBack) -> Seen:
        """What is damaged is sent again with the next base."""
        project_id, timeline_id = parse_project_id(command.project_id), parse_timeline_id(command.timeline_id)
        sample = _sample(command.sample)
        async with self._bases, held(self._keys, project_id, "read_back") as keys:
            finding = Finding(self._store, keys, project_id, timeline_id, await self._senders.line())
            look = await see(finding, sample)
        if look.seen.damaged:
            log.error(
                "%d objects of %s in the store do not open: %s",
                len(look.seen.damaged),
                timeline_id,
                look.seen.damaged[0],
            )
        if look.chunks:
            store = await self._store.name()
            async with self._one_of(project_id):
                await asyncio.to_thread(self._memory.forget_chunks, project_id, store, look.chunks)
        return look.seen

    def _one_of(self, project_id: ProjectId) -> asyncio.Lock:
        return self._remembering.setdefault(project_id, asyncio.Lock())

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _with_history(mountpoint: Path, timeline_id: TimelineId) -> Timeline:
    timeline = Layout(mountpoint).existing(timeline_id)
    if timeline.frozen.exists():
        raise PreconditionError(f"{timeline_id} is frozen", public="the branch has no history to back up")
    return timeline


def _line(store: str, label: str) -> str:
    """Of one sender in one store: what another sent there, or what this one did before, does not go on from ours."""
    return f"{store} {label}" if label else store


def _days(retain_days: int) -> int:
    if not 1 <= retain_days <= RETAIN_DAYS_MAX:
        raise BadRequestError(f"to be kept for {retain_days} days")
    return retain_days


def _sample(size: int) -> int:
    if not 0 <= size <= SAMPLE_MAX:
        raise BadRequestError(f"a sample of {size}")
    return size
