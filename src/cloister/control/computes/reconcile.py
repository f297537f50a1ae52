"""Makes what runs on the node what the rows want, and lets idle computes sleep. Holds no state that a crash could lose.

It acts on two occasions, and goes on from the second:

- The node agent says that a compute ended or a volume failed. The row follows, the gateways are told, and the compute is
  owed a start.
- The agent was connected (again): at our start, at its own restart, after the power came back; and every
  `idle_check_interval_s`, for what was said while nobody listened is lost. What the node runs is compared with the rows: a
  compute that the rows have and the node does not has died; one that the node has and the rows do not is adopted if its
  endpoint is alive, and stopped if not. For how long history is kept is said again where the agent does not know it.
  Standbys are looked after by `branches/standbys.py`.
- After each comparison: stops what nobody may run any more (whoever was to stop it gave up, or died), starts what is owed
  (with pauses for what keeps dying), and looks at every running compute whether it is idle (`idle.py` decides, `suspend.py`
  does it), what its guard refused (`refusals.py`) or saw given (`powers.py`), and how old its transaction ids are
  (`ages.py`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import CloisterError, InvalidIdError, NotFoundError, PreconditionError, UnavailableError
from cloister.base.ids import EndpointId, parse_endpoint_id
from cloister.control.computes import idle, standby_store, store
from cloister.control.computes.agent import Agent
from cloister.control.computes.ages import AgeWatch
from cloister.control.computes.backoff import Backoff
from cloister.control.computes.idle import Activity, Awake, Idle
from cloister.control.computes.model import Endpoint, State
from cloister.control.computes.powers import record_powers
from cloister.control.computes.refusals import record_refusals
from cloister.control.computes.runner import Cause, Runner, running_of
from cloister.control.computes.sessions import Sessions
from cloister.control.computes.suspend import Suspender
from cloister.control.computes.touched import Inside
from cloister.control.repeating import repeat
from cloister.node.commands import (
    AnyEvent,
    CloseVolume,
    ComputeExited,
    ComputeInfo,
    GetStatus,
    KeepHistory,
    NodeStatus,
    StopCompute,
    VolumeFailed,
)
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

LOOKS_AT_ONCE_MAX: Final = 4
# Looking at a compute takes a millisecond of it and of us; a suspend takes the node's attention.
LOOK_TIMEOUT_S: Final = 5.0
# What recovers after a crash takes its time; others want to be looked at too.
STARTS_AT_ONCE_MAX: Final = 4
# After a power cut a hundred may be owed. Clients that knock meanwhile go before them: they are started by their wake.

LAST_ACTIVE_PRECISION: Final = timedelta(seconds=30)
# How exactly `last_active_at` is kept in the row while a compute runs.

_IDLE: Final = Cause("platform:api", "idle")
_ADOPTED: Final = Cause("platform:api", "found running")
_OUTLIVED: Final = Cause("platform:api", "its endpoint is deleted, disabled or held")
_OWED: Final = Cause("platform:api", "was running, or must be asked for its roles")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Look:
    generation: int
    activity: Activity
    last_active_at: datetime


class Reconciler:
    def __init__(
        self,
        database: Database,
        agent: Agent,
        *,
        runner: Runner,
        suspender: Suspender,
        sessions: Sessions,
        inside: Inside,
        ages: AgeWatch,
        backoff: Backoff,
        clock: Clock,
        suspend_timeout_s: int,
        interval_s: float,
    ) -> None:
        self._database = database
        self._agent = agent
        self._runner = runner
        self._suspender = suspender
        self._sessions = sessions
        self._inside = inside
        self._ages = ages
        self._backoff = backoff
        self._clock = clock
        self._suspend_timeout_s = suspend_timeout_s
        self._interval_s = interval_s
        self._heard: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self._poked = asyncio.Event()
        self._looks: dict[EndpointId, _Look] = {}
        """The last look at each running compute. Lost at a restart of ours: then the next is the first."""

    # ── what the agent's client calls ──

    def heard(self, event: AnyEvent) -> None:
        self._heard.put_nowait(event)

    def connected(self) -> None:
        """The agent may have restarted, and its events before now are lost."""
        self._poked.set()

    def poke(self) -> None:
        """Something changed that a look tells computes, or is told by them."""
        self._poked.set()

    # ── the loops ──

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(repeat(self._round, self._interval_s, _log, "reconciling", poked=self._poked))

    async def _listen(self) -> None:
        while True:
            event = await self._heard.get()
            try:
                await self.follow(event)
            except Exception:  # one event's trouble must not end the hearing of others; the comparison repairs it
                _log.exception("could not follow %r", event)
            self._poked.set()

    async def _round(self) -> None:
        await self.compare()
        await self.stop_outliving()
        await self.start_owed()
        await self.look_at_all()

    # ── the agent's word ──

    async def follow(self, event: AnyEvent) -> None:
        match event:
            case ComputeExited():
                # One that we asked for has its row written by whoever asked, before this looks; one that the node itself
                # asked for (its disk is nearly full) is as much of a surprise to us as a crash.
                reason = "stopped by the node" if event.was_asked else f"exit status {event.exit_status}"
                await self._runner.died(EndpointId(event.endpoint_id), event.generation, reason)
            case VolumeFailed(project_id, reason):
                await self._volume_failed(project_id, reason)

    async def _volume_failed(self, project_id: str, reason: str) -> None:
        async with self._database.transaction() as tx:
            rows = [endpoint for endpoint in await store.running(tx) if endpoint.project_id == project_id]
            await record(
                tx,
                Event(
                    action=Action.VOLUME_FAILED,
                    actor="platform:agent",
                    outcome="failed",
                    project_id=project_id,
                    reason=reason,
                ),
            )
        for endpoint in rows:
            await self._runner.died(endpoint.id, endpoint.generation, "volume failed")

    async def compare(self) -> None:
        """Rows and node, after which they agree. Rows are read first: what is started meanwhile is in neither list."""
        async with self._database.reading() as tx:
            rows = {endpoint.id: endpoint for endpoint in await store.running(tx)}
        status = await self._agent.call(GetStatus())
        found = {EndpointId(compute.endpoint_id): compute for compute in status.computes}
        for endpoint in rows.values():
            compute = found.get(endpoint.id)
            if compute is None or compute.generation != endpoint.generation:
                await self._runner.died(endpoint.id, endpoint.generation, "not running on the node")
        async with self._database.reading() as tx:
            # Their rows come before their computes and go after them: read now, none of those that were found is missing.
            standbys = await standby_store.ids(tx)
        for compute in status.computes:
            if compute.endpoint_id in standbys:
                continue
            if (known := rows.get(EndpointId(compute.endpoint_id))) is None or known.generation != compute.generation:
                await self._adopt(compute)
        await self._keep_histories(status)
        await self._lock_leftovers(status)

    async def _keep_histories(self, status: NodeStatus) -> None:
        """An agent that was started anew does not know how long the history of what it found running is kept."""
        async with self._database.reading() as tx:
            wanted = await store.history_retentions(tx)
        for compute in status.computes:
            endpoint_id = EndpointId(compute.endpoint_id)
            retention_s = wanted.get(endpoint_id)
            if retention_s is not None and status.history_retentions_s.get(endpoint_id) != retention_s:
                await self._agent.call(KeepHistory(endpoint_id=endpoint_id, history_retention_s=retention_s))

    async def _adopt(self, compute: ComputeInfo) -> None:
        """A compute that no row knew of a moment ago: its start may have been cut short by a crash of ours, or is just
        being written down."""
        try:
            endpoint_id = parse_endpoint_id(compute.endpoint_id)
            await self._runner.adopt(endpoint_id, compute.generation, _ADOPTED)
        except (InvalidIdError, NotFoundError, PreconditionError):
            _log.warning("stopping a compute that should not run: %s", compute.endpoint_id)
            await self._agent.call(StopCompute(endpoint_id=compute.endpoint_id))
        except CloisterError as error:
            _log.warning("cannot adopt %s: %s", compute.endpoint_id, error)

    async def _lock_leftovers(self, status: NodeStatus) -> None:
        """A volume that is open while nothing of its project runs: its key must not stay in memory."""
        for volume in status.volumes:
            async with self._database.reading() as tx:
                endpoints = await store.ids_of_project(tx, volume.project_id)
                is_used = await store.project_has_compute(tx, volume.project_id)
            if not endpoints or is_used or any(self._runner.is_changing(endpoint_id) for endpoint_id in endpoints):
                continue
            try:
                await self._agent.call(CloseVolume(volume.project_id))
            except CloisterError as error:
                _log.info("volume of %s stays open: %s", volume.project_id, error)

    # ── what is owed, and what is idle ──

    async def stop_outliving(self) -> None:
        """While that of a deleted one runs, no other endpoint can serve its branch. Before its first configuration what a server
        says of its roles is not what our rows are to say."""
        async with self._database.reading() as tx:
            endpoints = await store.outliving(tx)
        for endpoint in endpoints:
            stop = self._runner.halt if endpoint.state is State.INIT else self._suspender.at_once
            try:
                await stop(endpoint.id, _OUTLIVED)
            except CloisterError as error:
                _log.warning("%s is not to run and cannot be stopped: %s", endpoint.id, error)

    async def start_owed(self) -> None:
        async with self._database.reading() as tx:
            owed = await store.owed_starts(tx)
        now = self._clock.now()
        due = [endpoint_id for endpoint_id in owed if not self._backoff.wait(endpoint_id, now)]
        await _each(due, self._start_one, at_once=STARTS_AT_ONCE_MAX)

    async def _start_one(self, endpoint_id: EndpointId) -> None:
        try:
            await self._runner.start(endpoint_id, _OWED)
        except CloisterError as error:
            _log.warning("cannot start %s: %s", endpoint_id, error)
        except Exception:  # the others are owed theirs all the same
            _log.exception("cannot start %s", endpoint_id)

    async def look_at_all(self) -> None:
        async with self._database.reading() as tx:
            endpoints = await store.awake(tx)
        for gone in self._looks.keys() - {endpoint.id for endpoint in endpoints}:
            del self._looks[gone]
        self._inside.keep_only({endpoint.id for endpoint in endpoints})
        await _each(endpoints, self._look_at, at_once=LOOKS_AT_ONCE_MAX)

    async def _look_at(self, endpoint: Endpoint) -> None:
        try:
            await self._look(endpoint)
        except CloisterError as error:
            # Not our business to stop it: what does not answer us may well answer its tenant.
            _log.warning("cannot look at %s: %s", endpoint.id, error)
        except Exception:  # what one tenant's server can bring about must not keep the others from being looked at
            _log.exception("cannot look at %s", endpoint.id)

    async def _look(self, endpoint: Endpoint) -> None:
        async with self._database.reading() as tx:
            placed = await store.placed(tx, endpoint.id)
        if placed.endpoint.socket_dir is None or placed.endpoint.generation != endpoint.generation:
            return
        try:
            async with (
                asyncio.timeout(LOOK_TIMEOUT_S),
                self._sessions.lasting(running_of(placed.endpoint, placed.pg_version)) as server,
            ):
                activity = await server.activity()
                await record_refusals(self._database, server, endpoint)
                await record_powers(self._database, server, endpoint)
                await self._inside.look(server, endpoint, endpoint.generation)
                await self._ages.look(server, endpoint)
        except TimeoutError:
            raise UnavailableError(f"{endpoint.id} does not say what it does") from None

        before = self._looks.get(endpoint.id)
        if before is not None and before.generation != endpoint.generation:
            before = None
        last_active_at = endpoint.last_active_at or endpoint.started_at or self._clock.now()
        if before is not None:
            last_active_at = max(last_active_at, before.last_active_at)
        match self._decide(endpoint, activity, None if before is None else before.activity, last_active_at):
            case Awake(last_active_at=at):
                self._looks[endpoint.id] = _Look(endpoint.generation, activity, at)
                if endpoint.last_active_at is None or at - endpoint.last_active_at >= LAST_ACTIVE_PRECISION:
                    async with self._database.transaction() as tx:
                        await store.was_active(tx, endpoint.id, at)
            case Idle(since=since):
                self._looks[endpoint.id] = _Look(endpoint.generation, activity, since)
                await self._suspender.if_idle(
                    endpoint.id,
                    endpoint.generation,
                    lambda again: isinstance(self._decide(endpoint, again, activity, since), Idle),
                    _IDLE,
                )

    def _decide(
        self, endpoint: Endpoint, activity: Activity, before: Activity | None, last_active_at: datetime
    ) -> Awake | Idle:
        return idle.decide(
            activity,
            before,
            last_active_at=last_active_at,
            suspend_timeout=idle.suspend_timeout(endpoint.suspend_timeout_seconds, self._suspend_timeout_s),
            now=self._clock.now(),
        )


async def _each(things: Iterable[T], do: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    slots = asyncio.Semaphore(at_once)

    async def one(thing: T) -> None:
        async with slots:
            await do(thing)

    async with asyncio.TaskGroup() as tasks:
        for thing in things:
            tasks.create_task(one(thing))
