"""What clients read on a server of its own: a branch as it was at a point, and as it is, through a read-only endpoint. Made for the
first who asks, shared by all, gone with the last.

A standby is a timeline with a read-only compute on it: recovered to the point, as for a branch of that point; or made of the
branch's head, whose WAL the agent gives it from then on. To make one wakes nobody. In order:

1. Its row, with the ids of both. From here on a crash of ours loses nothing: what is made is found by its row.
2. The timeline. A point outside the history is found out here at the latest, told with the window, and leaves nothing.
3. The compute; then the row tells its socket.

It goes when what it shows is gone (its branch or endpoint was deleted, its branch is other data by now), when nobody has used it for
as long as a compute may idle, when it cannot follow any more, when its compute ended, and when its making was cut short and
nobody asked again: the row says that it is ending, then compute and timeline go, then the row.
Both directions can be gone twice, so whoever comes next, a client or the next round, goes on where the last one stopped.

At a place one thing happens at a time. Nothing here is asked of the server but what it is busy with: its roles are those of the
past, and who may log in is decided by the branch as it is now (`computes/directory.py`).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from weakref import WeakValueDictionary

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.directory import Compute
from cloister.base.errors import CloisterError, ExhaustedError, PreconditionError, UnavailableError, UnprocessableError
from cloister.base.ids import (
    BranchId,
    EndpointId,
    ProjectId,
    new_endpoint_id,
    new_timeline_id,
    parse_branch_id,
    parse_endpoint_id,
)
from cloister.base.limits import COMPUTE_STOP_CALL_TIMEOUT_S, SUSPEND_TIMEOUT_DEFAULT_S, WAKE_TIMEOUT_S
from cloister.base.past import Past, split
from cloister.control.branches import making, store, timelines
from cloister.control.branches.children import origin_of
from cloister.control.branches.making import BranchesWorld, Recipe
from cloister.control.branches.model import Point
from cloister.control.claims import hold_project
from cloister.control.computes import holds, idle, standby_store
from cloister.control.computes import store as computes
from cloister.control.computes.gateways import Stillness
from cloister.control.computes.idle import Activity, Awake, Idle
from cloister.control.computes.limits import memory_bytes
from cloister.control.computes.refusals import record_refusals
from cloister.control.computes.standby_store import Standby
from cloister.control.computes.touched import Inside
from cloister.control.repeating import repeat
from cloister.node.commands import ComputeSpec, DeleteTimeline, GetStatus, StartCompute, StopCompute
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

STANDBYS_PER_PROJECT_MAX: Final = 8
# Each has the memory of a compute of its branch's size, and any role of a project may ask for as many points as it can name.

LOOK_TIMEOUT_S: Final = 5.0
DELETE_TIMEOUT_S: Final = 60.0
# To delete a timeline is to rename it, but its volume may have to be opened first.

LAST_ACTIVE_PRECISION: Final = timedelta(seconds=30)
# How exactly `last_active_at` is kept in the row.

ATTEMPTS: Final = 20
RETRY_S: Final = 0.1
# A branch that is being made, or whose writer starts or stops at this moment, is another one a moment later.

_ACTOR: Final = "platform:gateway"
_WHY: Final = "connection to a point in the past"
_WHY_READER: Final = "read-only endpoint"


class Ending(StrEnum):
    """Why a standby goes, for the audit log."""

    IDLE = "idle"
    CRASHED = "not running on the node"
    ORPHAN = "what it shows is gone"
    STUCK = "it cannot follow its branch any more"
    ASKED = "asked for"
    UNFINISHED = "its making was cut short"
    REFUSED = "it cannot be made"


def ending(standby: Standby, generation_on_node: int | None) -> Ending | None:
    """What is wrong with one that nobody is working on, by what the node runs. None: it runs, idle perhaps. Pure."""
    if standby.is_orphan:
        return Ending.ORPHAN
    if standby.socket_dir is None:
        return Ending.UNFINISHED
    if generation_on_node != standby.generation:
        return Ending.CRASHED
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    activity: Activity
    last_active_at: datetime


class Standbys:
    def __init__(
        self,
        world: BranchesWorld,
        *,
        clock: Clock,
        suspend_timeout_s: int,
        interval_s: float,
        inside: Inside,
    ) -> None:
        self._world = world
        self._inside = inside
        self._database: Database = world.database
        self._agent = world.agent
        self._sessions = world.sessions
        self._gateways = world.gateways
        self._clock = clock
        self._default_s = suspend_timeout_s
        # A platform whose computes never sleep keeps what clients wrote to; this they can ask for again.
        self._timeout = timedelta(seconds=suspend_timeout_s if suspend_timeout_s > 0 else SUSPEND_TIMEOUT_DEFAULT_S)
        self._interval_s = interval_s
        self._flights: dict[tuple[str, int], asyncio.Task[Compute]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._looks: dict[tuple[str, int], _Look] = {}
        self._poked = asyncio.Event()

    # ── for clients ──

    async def wake(self, place: str, *, stale_generation: int = 0) -> Compute:
        """For an authenticated client. Raises UnprocessableError for a point that cannot be reached, UnavailableError,
        NotFoundError, ExhaustedError."""
        key = place, stale_generation
        flight = self._flights.get(key)
        if flight is None:
            # Of no single caller: a long replay goes on for the one who comes again.
            flight = asyncio.create_task(self._wake(place, stale_generation))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    async def put_to_sleep(self, endpoint_id: EndpointId) -> None:
        """The compute of a read-only endpoint, whatever its clients are doing. Asleep already is success."""
        async with self._alone(endpoint_id):
            async with self._database.reading() as tx:
                standby = await standby_store.of_endpoint(tx, endpoint_id)
            if standby is not None:
                await self._take_away(standby, Ending.ASKED)

    async def close(self) -> None:
        """End what is under way; the next process finds its rows."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _landed(self, key: tuple[str, int], flight: asyncio.Task[Compute]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # whoever still waits gets it

    async def _wake(self, place: str, stale_generation: int) -> Compute:
        async with self._alone(place):
            async with self._database.reading() as tx:
                standby = await _find(tx, place)
            if standby is not None and (standby.is_ending or standby.is_orphan):
                await self._take_away(standby, Ending.ORPHAN if standby.is_orphan else Ending.UNFINISHED)
                standby = None
            if standby is not None and standby.socket_dir is not None and standby.generation != stale_generation:
                return _compute(standby, standby.socket_dir, was_cold=False)
            try:
                return await self._made(place, standby, stale_generation)
            except CloisterError as error:
                if not error.may_retry:
                    await self._give_up(place)
                if split(place)[1] is not None and isinstance(error, PreconditionError):
                    # The agent's word about the history: for the client it is the point that is wrong.
                    raise UnprocessableError(str(error), public=error.public) from error
                raise

    async def _made(self, place: str, known: Standby | None, stale_generation: int) -> Compute:
        standby, recipe = await self._planned(place, known)  # (1)
        async with self._database.reading() as tx:
            volume = await timelines.place_of(tx, standby.project_id)
            max_cu, settings = await computes.size_of_reader(tx, standby.project_id, standby.branch_id, standby.id)
            level = await computes.audit_level(tx, standby.project_id)
            is_made = await timelines.state_of(tx, standby.timeline_id) == "ready"
        if not is_made:
            await self._make(standby, recipe, volume)  # (2)
            async with self._database.transaction() as tx:
                await timelines.is_made(tx, standby.timeline_id)
        info = await self._agent.call(  # (3)
            StartCompute(
                spec=ComputeSpec(
                    endpoint_id=standby.id,
                    project_id=standby.project_id,
                    branch_id=standby.branch_id,
                    timeline_id=standby.timeline_id,
                    pg_version=volume.pg_version,
                    uid=volume.uid,
                    cpu_cores=max_cu,
                    memory_bytes=memory_bytes(max_cu),
                    settings=settings,
                    audit_level=level,
                    is_read_only=True,
                    follows_id=standby.follows_id,
                )
            ),
            timeout_s=WAKE_TIMEOUT_S,
        )
        if info.generation == stale_generation:
            raise UnavailableError(f"{standby.place} runs and does not accept connections yet")
        async with self._database.transaction() as tx:
            await standby_store.started(tx, standby.id, info.generation, info.socket_dir, self._clock.now())
            why = _WHY if standby.past is not None else _WHY_READER
            await record(tx, _event(Action.COMPUTE_START, standby, info.generation, why))
        return Compute(endpoint_id=standby.place, socket_dir=info.socket_dir, generation=info.generation, was_cold=True)

    async def _planned(self, place: str, known: Standby | None) -> tuple[Standby, Recipe]:
        name, past = split(place)
        if past is not None:
            async with self._database.transaction() as tx:
                return await self._plan(tx, parse_branch_id(name), past, known)
        endpoint_id = parse_endpoint_id(name)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._database.transaction() as tx:
                    return await self._plan_reader(tx, endpoint_id, known)
            except UnavailableError:
                if attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(RETRY_S)
        raise AssertionError

    async def _make(self, standby: Standby, recipe: Recipe, volume: timelines.Place) -> None:
        if standby.past is not None:
            await making.recover(self._agent, recipe, volume)
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await making.make(self._world, standby.project_id, recipe)
            except UnavailableError:
                if attempt == ATTEMPTS:
                    raise
            else:
                return
            await asyncio.sleep(RETRY_S)

    async def _plan_reader(
        self, tx: Transaction, endpoint_id: EndpointId, known: Standby | None
    ) -> tuple[Standby, Recipe]:
        """Of the head of the endpoint's branch as it is now. Raises UnavailableError for one that is still being made."""
        endpoint = (await computes.placed(tx, endpoint_id)).endpoint
        await hold_project(tx, endpoint.project_id)
        endpoint = (await computes.placed(tx, endpoint_id)).endpoint
        if endpoint.is_disabled:
            raise PreconditionError(f"{endpoint_id} is disabled", public="endpoint is disabled")
        await _refuse_held(tx, endpoint.project_id, endpoint_id)
        branch = await store.get(tx, endpoint.project_id, endpoint.branch_id)
        if branch.state == "init" or await computes.is_from_template(tx, branch.id):
            raise UnavailableError(f"{branch.id} is being made", public="branch not ready yet")
        if known is None:
            timeline_id = new_timeline_id()
            await timelines.add(tx, timeline_id, branch.project_id, branch_id=None, source_id=branch.timeline_id)
            await standby_store.add(
                tx,
                endpoint_id,
                timeline_id,
                project_id=branch.project_id,
                branch_id=branch.id,
                past=None,
                now=self._clock.now(),
            )
            known = await standby_store.of_endpoint(tx, endpoint_id)
            assert known is not None
        recipe = Recipe(
            source_branch_id=branch.id,
            sources=[branch.timeline_id],
            target_id=known.timeline_id,
            is_frozen=True,
            is_followed=True,
        )
        return known, recipe

    async def _plan(
        self, tx: Transaction, branch_id: BranchId, past: Past, known: Standby | None
    ) -> tuple[Standby, Recipe]:
        """The row, and what the timeline is to be made of: also for one whose making was cut short."""
        branch = await store.load(tx, branch_id)
        await hold_project(tx, branch.project_id)
        branch = await store.get(tx, branch.project_id, branch_id)
        await _refuse_held(tx, branch.project_id, EndpointId(""))
        now = self._clock.now()
        origin = await origin_of(tx, branch, Point(lsn=past.lsn, at=past.at), now)
        if known is None:
            if await standby_store.count(tx, branch.project_id) >= STANDBYS_PER_PROJECT_MAX:
                raise ExhaustedError(
                    f"{STANDBYS_PER_PROJECT_MAX} standbys of {branch.project_id}",
                    public=f"connections to more than {STANDBYS_PER_PROJECT_MAX} points in the past at a time",
                )
            timeline_id = new_timeline_id()
            await timelines.add(tx, timeline_id, branch.project_id, branch_id=None, source_id=origin.sources[0])
            await standby_store.add(
                tx,
                new_endpoint_id(),
                timeline_id,
                project_id=branch.project_id,
                branch_id=branch_id,
                past=past,
                now=now,
            )
            known = await standby_store.find(tx, branch_id, past)
            assert known is not None
        return known, origin.recipe(known.timeline_id, is_frozen=True)

    async def _give_up(self, place: str) -> None:
        """Best effort: what is left is found by the next round."""
        with contextlib.suppress(CloisterError):
            async with self._database.reading() as tx:
                standby = await _find(tx, place)
            if standby is not None:
                await self._take_away(standby, Ending.REFUSED)

    # ── by and by ──

    def poke(self) -> None:
        """Something ended on the node, or the agent is back."""
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.look_after_all, self._interval_s, _log, "looking after standbys", poked=self._poked)

    async def look_after_all(self) -> None:
        async with self._database.reading() as tx:
            standbys = await standby_store.all_of_them(tx)
        alive = {(standby.id, standby.generation) for standby in standbys}
        self._looks = {key: look for key, look in self._looks.items() if key in alive}
        self._inside.keep_only({standby.id for standby in standbys})
        if not standbys:
            return
        # Rows first: what was there then and is not now, has ended.
        status = await self._agent.call(GetStatus())
        found = {compute.endpoint_id: compute.generation for compute in status.computes}
        for standby in standbys:
            if not self._is_busy(standby.place):
                try:
                    await self._look_after(standby, found.get(standby.id))
                except CloisterError as error:
                    _log.warning("%s is left for later: %s", standby.place, error)

    async def _look_after(self, standby: Standby, generation_on_node: int | None) -> None:
        if (why := ending(standby, generation_on_node)) is not None:
            async with self._unchanged(standby) as is_unchanged:
                if is_unchanged:
                    await self._take_away(standby, why)
            return
        activity, is_stuck = await self._seen(standby)
        if is_stuck:
            async with self._unchanged(standby) as is_unchanged:
                if is_unchanged:
                    await self._take_away(standby, Ending.STUCK)
            return
        key = standby.id, standby.generation
        before = self._looks.get(key)
        last_active_at = standby.last_active_at if before is None else before.last_active_at
        match self._decide(standby, activity, None if before is None else before.activity, last_active_at):
            case Awake(last_active_at=at):
                self._looks[key] = _Look(activity, at)
                if at - standby.last_active_at >= LAST_ACTIVE_PRECISION:
                    async with self._database.transaction() as tx:
                        await standby_store.was_active(tx, standby.id, at)
            case Idle(since=since):
                self._looks[key] = _Look(activity, since)
                await self._end_if_idle(standby, activity, since)

    async def _end_if_idle(self, standby: Standby, activity: Activity, since: datetime) -> None:
        """As `computes/suspend.py` does it, with nothing to keep."""
        async with self._unchanged(standby) as is_unchanged:
            if not is_unchanged:
                return
            token, stillness = await self._gateways.freeze(standby.place)
            try:
                now, _is_stuck = await self._seen(standby)
                is_idle = stillness is Stillness.QUIET and isinstance(self._decide(standby, now, activity, since), Idle)
                if is_idle:
                    await self._take_away(standby, Ending.IDLE)
            finally:
                # Of one that was taken away nothing is left to thaw: its clients were told.
                self._gateways.thaw(standby.place, token)

    async def _seen(self, standby: Standby) -> tuple[Activity, bool]:
        """What it does (what its guard refused goes into the log), and whether it has stopped following: PostgreSQL pauses a standby whose primary was started with more
        connections or locks than it has itself, and no client may pause one."""
        running = standby.running
        assert running is not None
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S), self._sessions.lasting(running) as server:
                await record_refusals(self._database, server, standby)
                await self._inside.look(server, standby, standby.generation)
                return await server.activity(), standby.past is None and await server.is_replay_paused()
        except TimeoutError:
            raise UnavailableError(f"{standby.place} does not say what it does") from None

    def _decide(
        self, standby: Standby, activity: Activity, before: Activity | None, last_active_at: datetime
    ) -> Awake | Idle:
        timeout: timedelta | None = self._timeout
        if standby.past is None:
            timeout = idle.suspend_timeout(standby.suspend_timeout_seconds, self._default_s)
        return idle.decide(
            activity,
            before,
            last_active_at=last_active_at,
            suspend_timeout=timeout,
            now=self._clock.now(),
        )

    # ── the end ──

    async def _take_away(self, standby: Standby, why: Ending) -> None:
        """Alone at its place. Twice is once."""
        async with self._database.transaction() as tx:
            await standby_store.is_ending(tx, standby.id)
            if standby.socket_dir is not None:
                outcome = "failed" if why is Ending.CRASHED else "ok"
                action = Action.COMPUTE_CRASHED if why is Ending.CRASHED else Action.COMPUTE_STOP
                await record(tx, _event(action, standby, standby.generation, why, outcome=outcome))
        await self._sessions.close(standby.id)
        await self._agent.call(
            StopCompute(endpoint_id=standby.id, close_volume=False), timeout_s=COMPUTE_STOP_CALL_TIMEOUT_S
        )
        self._gateways.close(standby.place, "suspended" if why is Ending.IDLE else "stopped")
        # The volume is closed by this, if nothing else needs it.
        await self._agent.call(
            DeleteTimeline(project_id=standby.project_id, timeline_id=standby.timeline_id),
            timeout_s=DELETE_TIMEOUT_S,
        )
        async with self._database.transaction() as tx:
            await standby_store.forget(tx, standby.id, self._clock.now())
            await timelines.is_deleted(tx, standby.timeline_id)

    # ── one at a time ──

    @contextlib.asynccontextmanager
    async def _alone(self, place: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(place, asyncio.Lock()):
            yield

    def _is_busy(self, place: str) -> bool:
        lock = self._locks.get(place)
        return lock is not None and lock.locked()

    @contextlib.asynccontextmanager
    async def _unchanged(self, standby: Standby) -> AsyncIterator[bool]:
        """Alone, and whether it is still what was looked at."""
        async with self._alone(standby.place):
            async with self._database.reading() as tx:
                now = await _find(tx, standby.place)
            yield (
                now is not None
                and (now.id, now.generation, now.socket_dir) == (standby.id, standby.generation, standby.socket_dir)
            )


async def _refuse_held(tx: Transaction, project_id: ProjectId, endpoint_id: EndpointId) -> None:
    if await holds.keeps_down(tx, project_id, endpoint_id):
        raise PreconditionError(f"{endpoint_id or project_id} is held", public="it is held by the platform's operator")


async def _find(tx: Transaction, place: str) -> Standby | None:
    name, past = split(place)
    if past is None:
        return await standby_store.of_endpoint(tx, parse_endpoint_id(name))
    return await standby_store.find(tx, parse_branch_id(name), past)


def _compute(standby: Standby, socket_dir: str, *, was_cold: bool) -> Compute:
    return Compute(endpoint_id=standby.place, socket_dir=socket_dir, generation=standby.generation, was_cold=was_cold)


def _event(action: Action, standby: Standby, generation: int, why: str, *, outcome: str = "ok") -> Event:
    return Event(
        action=action,
        actor=_ACTOR if action is Action.COMPUTE_START else "platform:api",
        outcome=outcome,
        project_id=standby.project_id,
        branch_id=standby.branch_id,
        endpoint_id="" if standby.past is not None else standby.id,
        resource="" if standby.past is None else str(standby.past),
        reason=why,
        details={"generation": generation, "compute": standby.id},
    )
