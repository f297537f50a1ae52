"""Starts and stops computes: the only place that does.

Whoever wants a compute up or down comes through here: a client's wake, an operation, the reconciler. Per endpoint one
thing happens at a time, and rows follow what the agent has done:

- Started: a row says so before anybody is told the socket, so that whatever a tenant changes there is done on an endpoint
  that is marked as not clean. A crash before that row is written leaves a compute that nobody can reach; the reconciler
  adopts it.
- Stopped: a row says so, with the copy of the catalog that was read last, after the agent has stopped it. A crash before
  that leaves an endpoint marked as running and not clean; the reconciler starts it again and asks its server.

When to suspend, and how to do it without breaking a session, is `suspend.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import CloisterError, Kind, NotFoundError, PreconditionError, UnavailableError
from cloister.base.ids import EndpointId
from cloister.base.limits import COMPUTE_STOP_CALL_TIMEOUT_S, WAKE_TIMEOUT_S
from cloister.control.computes import holds, store
from cloister.control.computes.agent import Agent
from cloister.control.computes.backoff import Backoff
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.limits import spec_of
from cloister.control.computes.model import Endpoint, State
from cloister.control.computes.sessions import Running, Sessions
from cloister.control.roles import store as catalog
from cloister.control.roles.server import DatabaseState, RoleState
from cloister.node.commands import GetStatus, StartCompute, StopCompute
from cloister.trust.audit import Action, Event, record

STARTS_AT_ONCE_MAX: Final = 16
# A start takes some 80 ms of one core; more at once would only make all of them slow.


@dataclass(frozen=True, slots=True)
class Cause:
    """On whose behalf, for the audit log."""

    actor: str
    reason: str
    request_id: str = ""
    operation_id: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    running: Running
    was_cold: bool


@dataclass(frozen=True, slots=True)
class CatalogCopy:
    roles: list[RoleState]
    databases: list[DatabaseState]


class MovedError(UnavailableError):
    """The endpoint was deleted, disabled or held, or was to serve other data, while its compute was started: nobody has seen that
    compute, and it is gone."""


class Runner:
    def __init__(
        self,
        database: Database,
        agent: Agent,
        *,
        sessions: Sessions,
        gateways: Gateways,
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        self._database = database
        self._agent = agent
        self._sessions = sessions
        self._gateways = gateways
        self._clock = clock
        self._backoff = backoff
        self._locks: dict[EndpointId, asyncio.Lock] = {}
        self._wanted: dict[EndpointId, int] = {}
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE_MAX)

    @contextlib.asynccontextmanager
    async def alone(self, endpoint_id: EndpointId) -> AsyncIterator[None]:
        """Nothing is started or stopped at this endpoint inside the block but by the caller."""
        async with self._locks.setdefault(endpoint_id, asyncio.Lock()):
            yield

    @contextlib.contextmanager
    def wanting(self, endpoint_id: EndpointId) -> Iterator[None]:
        """Somebody needs the compute inside the block: it is not found idle."""
        self._wanted[endpoint_id] = self._wanted.get(endpoint_id, 0) + 1
        try:
            yield
        finally:
            self._wanted[endpoint_id] -= 1
            if not self._wanted[endpoint_id]:
                del self._wanted[endpoint_id]

    def is_wanted(self, endpoint_id: EndpointId) -> bool:
        return endpoint_id in self._wanted

    def is_changing(self, endpoint_id: EndpointId) -> bool:
        """Something is being started or stopped there right now."""
        lock = self._locks.get(endpoint_id)
        return lock is not None and lock.locked()

    async def settled(self, endpoint_id: EndpointId) -> None:
        """Return when what is going on at the endpoint now is over."""
        if self.is_changing(endpoint_id):
            async with self.alone(endpoint_id):
                pass

    async def start(self, endpoint_id: EndpointId, cause: Cause, *, stale_generation: int = 0) -> Started:
        """The endpoint's compute, started if it does not run. `stale_generation` is one whose socket refused somebody:
        it is given again only after the agent has said that another runs.

        Raises NotFoundError, PreconditionError (disabled), UnavailableError (it keeps dying; the agent does not answer),
        ExhaustedError.
        """
        with self.wanting(endpoint_id):
            async with self.alone(endpoint_id), self._slots:
                return await self._start(endpoint_id, cause, stale_generation)

    async def adopt(self, endpoint_id: EndpointId, generation: int, cause: Cause) -> None:
        """Write down a compute that the node runs and no row knows of: its start was cut short by a crash of ours. One
        that has a row by now, or has ended, is left alone. However often it died before: it is there, and may be in another's
        way. Raises what `start` raises."""
        async with self.alone(endpoint_id):
            async with self._database.reading() as tx:
                endpoint = (await store.placed(tx, endpoint_id)).endpoint
            if endpoint.socket_dir is not None:
                return
            status = await self._agent.call(GetStatus())
            if any(each.endpoint_id == endpoint_id and each.generation == generation for each in status.computes):
                await self._start(endpoint_id, cause, stale_generation=0, runs=True)

    async def _start(
        self, endpoint_id: EndpointId, cause: Cause, stale_generation: int, *, runs: bool = False
    ) -> Started:
        async with self._database.reading() as tx:
            placed = await store.placed(tx, endpoint_id)
            is_held = await holds.keeps_down(tx, placed.endpoint.project_id, endpoint_id)
        endpoint = placed.endpoint
        if endpoint.is_reader:
            # Two servers on one data directory would destroy it: whatever led here, it goes no further.
            raise PreconditionError(f"{endpoint_id} reads", public="a read-only endpoint does not write")
        if is_held:
            raise PreconditionError(f"{endpoint_id} is held", public="the endpoint is held by the platform's operator")
        if endpoint.is_disabled:
            raise PreconditionError(f"{endpoint_id} is disabled", public="endpoint is disabled")
        if endpoint.socket_dir is not None and endpoint.generation != stale_generation:
            return Started(running_of(endpoint, placed.pg_version), was_cold=False)
        if not runs and (pause := self._backoff.wait(endpoint_id, self._clock.now())):
            raise UnavailableError(
                f"{endpoint_id} keeps dying, next try in {pause}",
                public="the compute does not stay up; it is tried again in a moment",
            )

        try:
            info = await self._agent.call(StartCompute(spec=spec_of(placed)), timeout_s=WAKE_TIMEOUT_S)
        except CloisterError as error:
            # A key that is disabled is nobody's death: the next client is to be told the same, and the one after enabling let in.
            if not error.may_retry and error.kind is not Kind.PRECONDITION:
                self._backoff.died(endpoint_id, self._clock.now())
            raise
        if info.generation == stale_generation:
            # Its process lives: it may be replaying WAL after a crash. Starting it anew would only begin that again.
            raise UnavailableError(f"{endpoint_id} runs and does not accept connections yet")

        async with self._database.transaction() as tx:
            # Already running is success to the agent, whatever it runs on: a start of which no row ever told may have been
            # on what the branch was before.
            is_there = info.timeline_id == placed.timeline_id and await store.started(
                tx,
                endpoint_id,
                timeline_id=placed.timeline_id,
                generation=info.generation,
                socket_dir=info.socket_dir,
                now=self._clock.now(),
            )
            if is_there:
                await record(tx, _event(Action.COMPUTE_START, endpoint, cause, generation=info.generation))
        if not is_there:
            await self._agent.call(
                StopCompute(endpoint_id=endpoint_id, close_volume=False), timeout_s=COMPUTE_STOP_CALL_TIMEOUT_S
            )
            raise MovedError(f"{endpoint_id} was started on what it is not to serve any more")
        return Started(
            Running(endpoint_id, info.generation, info.socket_dir, placed.pg_version),
            was_cold=endpoint.socket_dir is None,
        )

    async def stop(
        self, endpoint: Endpoint, cause: Cause, *, copy: CatalogCopy | None, desired: State = State.IDLE
    ) -> None:
        """Stop the compute and lock the volume if nothing else of the project runs. The caller is `alone`.

        `copy` is the catalog as it will be found at the next start; None if nobody could read it: then the endpoint
        stays unclean, and the reconciler has its server asked. Our session outlives the server: it may hold the catalog.
        """
        try:
            await self._agent.call(StopCompute(endpoint_id=endpoint.id), timeout_s=COMPUTE_STOP_CALL_TIMEOUT_S)
        finally:
            await self._sessions.close(endpoint.id)
        async with self._database.transaction() as tx:
            if copy is not None:
                await store.hold(tx, endpoint.id)
                await catalog.keep_catalog(tx, endpoint.branch_id, copy.roles, copy.databases)
            await store.stopped(tx, endpoint.id, is_clean=copy is not None, desired=desired, now=self._clock.now())
            await record(tx, _event(Action.COMPUTE_STOP, endpoint, cause, generation=endpoint.generation))
        self._backoff.lived(endpoint.id)

    async def halt(self, endpoint_id: EndpointId, cause: Cause) -> None:
        """Stop without asking the server anything: its data is about to be destroyed. Not running is success."""
        async with self.alone(endpoint_id):
            self._gateways.close(endpoint_id, cause.reason)
            await self._sessions.close(endpoint_id)
            await self._agent.call(StopCompute(endpoint_id=endpoint_id), timeout_s=COMPUTE_STOP_CALL_TIMEOUT_S)
            async with self._database.transaction() as tx:
                endpoint = (await store.placed(tx, endpoint_id, and_deleted=True)).endpoint
                if endpoint.socket_dir is None:
                    return
                await store.stopped(tx, endpoint_id, is_clean=False, desired=State.IDLE, now=self._clock.now())
                await record(tx, _event(Action.COMPUTE_STOP, endpoint, cause, generation=endpoint.generation))

    def forgive(self, endpoint_id: EndpointId) -> None:
        """What it died of is mended: it may be started at once."""
        self._backoff.lived(endpoint_id)

    async def died(self, endpoint_id: EndpointId, generation: int, reason: str) -> None:
        """A compute ended that nobody had asked to. Its row says so, its clients are told, and it is owed a start."""
        async with self.alone(endpoint_id):
            async with self._database.transaction() as tx:
                try:
                    endpoint = (await store.placed(tx, endpoint_id, and_deleted=True)).endpoint
                except NotFoundError:
                    return
                if endpoint.socket_dir is None or endpoint.generation != generation:
                    return  # known already, or of a compute before the one that runs now
                await store.stopped(tx, endpoint_id, is_clean=False, desired=endpoint.desired, now=self._clock.now())
                cause = Cause("platform:api", reason)
                await record(
                    tx,
                    _event(Action.COMPUTE_CRASHED, endpoint, cause, generation=generation, outcome="failed"),
                )
            self._backoff.died(endpoint_id, self._clock.now())
            self._gateways.close(endpoint_id, "crashed")
            await self._sessions.close(endpoint_id)


def running_of(endpoint: Endpoint, pg_version: int) -> Running:
    assert endpoint.socket_dir is not None
    return Running(endpoint.id, endpoint.generation, endpoint.socket_dir, pg_version)


def _event(action: Action, endpoint: Endpoint, cause: Cause, *, generation: int, outcome: str = "ok") -> Event:
    return Event(
        action=action,
        actor=cause.actor,
        outcome=outcome,
        project_id=endpoint.project_id,
        branch_id=endpoint.branch_id,
        endpoint_id=endpoint.id,
        operation_id=cause.operation_id,
        request_id=cause.request_id,
        reason=cause.reason,
        details={"generation": generation},
    )
