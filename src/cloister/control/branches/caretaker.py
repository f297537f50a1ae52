"""What happens to branches without anybody asking: history is kept, and what has had its time goes.

Three loops, which hold no state that a crash could lose; each thing done is an operation or can be repeated.

- By the clock: branches and snapshots that expired are deleted, deleted branches that nobody recovered are purged, what a
  branch was before the window is given up, and scheduled snapshots are taken. What was to be deleted and could not be is tried
  again.
- By what it is said to hold: who has data that is tagged and no protection is told so (`advising.py`).
- By the volume of change: a running timeline gets a place to recover from every HISTORY_EVERY_BYTES of WAL, so that going
  back to any point replays at most that much, and another where some of that was lost; how many bytes everything takes is written down. A sleeping one is pruned
  once a day, until its whole window is past: retention holds for projects that sleep as well.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Final, TypeVar

from cloister.base.clock import Clock
from cloister.base.errors import BusyError, CloisterError, NotFoundError
from cloister.control.branches import advising, endings, rules, schedules, snapshot_store, timelines
from cloister.control.branches.making import BranchesWorld, hold_and_copy
from cloister.control.branches.operations import DELETE_TIMELINE, TIMELINE_RESOURCE
from cloister.control.branches.service import BranchService
from cloister.control.branches.snapshot_store import Scheduled
from cloister.control.branches.snapshots import SnapshotService
from cloister.control.branches.timelines import Lying, Working
from cloister.control.claims import hold_project
from cloister.control.operations.engine import Engine
from cloister.control.repeating import repeat
from cloister.node.commands import GetTimeline, PruneTimeline, TimelineInfo

_log = logging.getLogger(__name__)

_DOING: Final = "looking after branches"

CLOCK_EVERY_S: Final = 10.0
# An expiry is a matter of hours; a schedule's snapshot is due on the hour.
TAGS_EVERY_S: Final = 60.0
# Advice is a day late on purpose; that it was followed is seen within a minute.
HISTORY_EVERY_S: Final = 60.0
# Between two looks a busy server writes some gigabytes at worst: the replay of a minute.

HISTORY_EVERY_BYTES: Final = 256 * 1024**2
# Replayed in some seconds; a copy by reflink every so often costs a few MB of metadata.

PRUNE_EVERY: Final = timedelta(days=1)
# It opens the volume of a project that sleeps.

TRY_AGAIN_AFTER: Final = timedelta(hours=1)
# What could not be deleted for a day, or was refused: somebody was told.

AGENT_TIMEOUT_S: Final = 60.0

T = TypeVar("T")


class Caretaker:
    def __init__(
        self,
        world: BranchesWorld,
        engine: Engine,
        branches: BranchService,
        snapshots: SnapshotService,
        clock: Clock,
    ) -> None:
        self._world = world
        self._engine = engine
        self._branches = branches
        self._snapshots = snapshots
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat(self.by_the_clock, CLOCK_EVERY_S, _log, _DOING, at_once=False))
            tasks.create_task(repeat(self.by_the_tags, TAGS_EVERY_S, _log, _DOING, at_once=False))
            tasks.create_task(repeat(self.by_the_bytes, HISTORY_EVERY_S, _log, _DOING, at_once=False))

    # ── by the clock ──

    async def by_the_clock(self) -> None:
        now = self._clock.now()
        async with self._world.database.reading() as tx:
            expired = await endings.expired(tx, now)
            expired_snapshots = await snapshot_store.expired(tx, now)
            past_recovery = await endings.past_recovery(tx, now - rules.RECOVERABLE_FOR)
            out_of_window = await timelines.out_of_window(tx, now)
            left_lying = await timelines.left_lying(tx, now - TRY_AGAIN_AFTER)
            scheduled = await snapshot_store.scheduled(tx)
        await _each(expired, self._branches.expire)
        await _each(expired_snapshots, self._snapshots.expire)
        await _each(past_recovery, self._branches.purge)
        await _each((*out_of_window, *left_lying), self._give_up)
        await _each(scheduled, self._take_if_due)

    async def _take_if_due(self, branch: Scheduled) -> None:
        if (item := schedules.due(branch.items, branch.since, self._clock.now())) is not None:
            await self._snapshots.take_scheduled(branch.project_id, branch.branch_id, item)

    async def _give_up(self, timeline: Lying) -> None:
        async with self._world.database.transaction() as tx:
            await hold_project(tx, timeline.project_id)
            await timelines.is_going(tx, timeline.timeline_id)
            operation = await self._engine.submit(
                tx,
                machine=DELETE_TIMELINE.name,
                project_id=timeline.project_id,
                branch_id=timeline.branch_id,
                resource=TIMELINE_RESOURCE.format(timeline.timeline_id),
                input={"timeline_id": timeline.timeline_id},
            )
        self._engine.kick(operation.id)

    # ── by the tags ──

    async def by_the_tags(self) -> None:
        async with self._world.database.transaction() as tx:
            await advising.look(tx, self._clock.now())

    # ── by the bytes ──

    async def by_the_bytes(self) -> None:
        async with self._world.database.reading() as tx:
            running = await timelines.running(tx)
        await _each(running, self._look)
        async with self._world.database.reading() as tx:
            lying = await timelines.due_for_pruning(tx, self._clock.now() - PRUNE_EVERY)
        await _each(lying, self._prune)

    async def _look(self, timeline: Working) -> None:
        command = GetTimeline(project_id=timeline.lying.project_id, timeline_id=timeline.lying.timeline_id)
        info = await self._world.agent.call(command, timeout_s=AGENT_TIMEOUT_S)
        is_due = info.since is None or info.has_gap or info.wal_since_snapshot_bytes >= HISTORY_EVERY_BYTES
        if not is_due or timeline.lying.retention_s == 0:
            await self._note(info)
            return
        await hold_and_copy(
            self._world,
            timeline.server,
            project_id=timeline.lying.project_id,
            source_id=timeline.lying.timeline_id,
            uid=timeline.uid,
        )
        await self._prune(timeline.lying)

    async def _prune(self, timeline: Lying) -> None:
        keep_since = self._clock.now() - timedelta(seconds=timeline.retention_s)
        command = PruneTimeline(
            project_id=timeline.project_id, timeline_id=timeline.timeline_id, keep_since=keep_since.timestamp()
        )
        await self._note(await self._world.agent.call(command, timeout_s=AGENT_TIMEOUT_S))

    async def _note(self, info: TimelineInfo) -> None:
        async with self._world.database.transaction() as tx:
            await timelines.measured(tx, info, self._clock.now())


async def _each(things: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """One after the other: none of this is urgent. The trouble of one is not the others'."""
    for thing in things:
        try:
            await do(thing)
        except (BusyError, NotFoundError) as error:
            _log.info("left for later: %s: %s", thing, error)
        except CloisterError as error:
            _log.warning("left for later: %s: %s", thing, error)
        except Exception:  # whatever it is: what a tenant's files say is stored here
            _log.exception("left for later: %s", thing)
