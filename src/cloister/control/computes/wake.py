"""Wake a compute for whoever waits for it.

Joins the start under way or begins one; starting itself is `runner.py`'s work. However many clients knock, at most one
start of an endpoint is under way. A compute that was never started gets its first configuration before anybody may use it,
and what an operation is just changing (a new role, say) is there before its first client is let in.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from cloister.base.database import Database
from cloister.base.directory import Compute
from cloister.base.errors import BusyError, UnavailableError
from cloister.base.ids import EndpointId, OperationId
from cloister.base.limits import WAKE_TIMEOUT_S
from cloister.control.computes import store
from cloister.control.computes.model import Endpoint, State
from cloister.control.computes.operations import FIRST_START, submit
from cloister.control.computes.runner import Cause, MovedError, Runner, Started
from cloister.control.computes.sessions import Sessions
from cloister.control.computes.verifiers import Verifiers
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Status
from cloister.control.roles.operations import ACTION as ROLE_CHANGE
from cloister.control.roles.server import Server

_CONNECTION: Final = Cause("platform:gateway", "connection")
_CHANGE: Final = Cause("platform:operations", "change of roles or databases")

_Flight = tuple[EndpointId, int]


class Waker:
    """Also the `Servers` of the machines that change roles."""

    def __init__(
        self, database: Database, engine: Engine, runner: Runner, sessions: Sessions, verifiers: Verifiers
    ) -> None:
        self._database = database
        self._engine = engine
        self._runner = runner
        self._sessions = sessions
        self._verifiers = verifiers
        self._flights: dict[_Flight, asyncio.Task[Started]] = {}

    async def wake(self, endpoint_id: EndpointId, *, stale_generation: int = 0) -> Compute:
        """For an authenticated client. Raises NotFoundError, PreconditionError, UnavailableError, ExhaustedError."""
        started = await self._joined(endpoint_id, stale_generation)
        return Compute(
            endpoint_id=endpoint_id,
            socket_dir=started.running.socket_dir,
            generation=started.running.generation,
            was_cold=started.was_cold,
        )

    async def close(self) -> None:
        """End the starts under way; what the agent has begun is found by the next process."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    @contextlib.asynccontextmanager
    async def awake(self, endpoint_id: EndpointId) -> AsyncIterator[Server]:
        with self._runner.wanting(endpoint_id):
            await self._first_started(endpoint_id)
            started = await self._runner.start(endpoint_id, _CHANGE)
            async with self._sessions.fresh(started.running) as server:
                yield server

    def roles_changed(self, endpoint_id: EndpointId) -> None:
        self._verifiers.forget(endpoint_id)

    async def _joined(self, endpoint_id: EndpointId, stale_generation: int) -> Started:
        key = endpoint_id, stale_generation
        flight = self._flights.get(key)
        if flight is None:
            # Of no single caller: the first may give up while others still wait. `close` is the one that ends it.
            flight = asyncio.create_task(self._start(endpoint_id, stale_generation))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    async def _start(self, endpoint_id: EndpointId, stale_generation: int) -> Started:
        try:
            async with asyncio.timeout(WAKE_TIMEOUT_S):
                with self._runner.wanting(endpoint_id):
                    started = await self._started(endpoint_id, stale_generation)
                    if started.was_cold:
                        await self._changed(endpoint_id)
                    return started
        except TimeoutError:
            raise UnavailableError(f"{endpoint_id} did not start in {WAKE_TIMEOUT_S:g} s") from None

    async def _started(self, endpoint_id: EndpointId, stale_generation: int) -> Started:
        await self._first_started(endpoint_id)
        try:
            return await self._runner.start(endpoint_id, _CONNECTION, stale_generation=stale_generation)
        except MovedError:
            # The branch was restored in this moment: what it is now has its own first start.
            await self._first_started(endpoint_id)
            return await self._runner.start(endpoint_id, _CONNECTION, stale_generation=stale_generation)

    async def first_configured(self, endpoint_id: EndpointId) -> None:
        """Return when the first start that is under way has ended, however; begins none. Raises UnavailableError if there
        is none, or it takes long."""
        async with self._database.reading() as tx:
            under_way = await store.operations_under_way(tx, endpoint_id, FIRST_START.action)
        if not under_way:
            raise UnavailableError(f"{endpoint_id} was never started: its roles are not known")
        await self._engine.wait(under_way[-1], timeout_s=WAKE_TIMEOUT_S)

    async def _first_started(self, endpoint_id: EndpointId) -> None:
        """Return when the endpoint has its first configuration, or needs none; begin that if nobody does."""
        endpoint = await self._load(endpoint_id)
        if endpoint.state is not State.INIT:
            return
        operation_id = await self._first_start_of(endpoint)
        await self._engine.wait(operation_id, timeout_s=WAKE_TIMEOUT_S, past=FIRST_START.steps[0].name)
        if (await self._load(endpoint_id)).state is not State.INIT:
            return
        ended = await self._engine.wait(operation_id, timeout_s=WAKE_TIMEOUT_S)
        if ended.status is not Status.FINISHED:
            raise UnavailableError(f"first start of {endpoint_id}: {ended.status}, {ended.error}")

    async def _load(self, endpoint_id: EndpointId) -> Endpoint:
        async with self._database.reading() as tx:
            return (await store.placed(tx, endpoint_id)).endpoint

    async def _first_start_of(self, endpoint: Endpoint) -> OperationId:
        """The one under way, or a new one."""
        async with self._database.transaction() as tx:
            if under_way := await store.operations_under_way(tx, endpoint.id, FIRST_START.action):
                return under_way[-1]
            try:
                operation = await submit(tx, self._engine, FIRST_START, endpoint)
            except BusyError:
                # Somebody was quicker by a moment.
                if under_way := await store.operations_under_way(tx, endpoint.id, FIRST_START.action):
                    return under_way[-1]
                raise
        self._engine.kick(operation.id)
        return operation.id

    async def _changed(self, endpoint_id: EndpointId) -> None:
        """Return when the changes of roles and databases that were asked for are made, or have failed."""
        async with self._database.reading() as tx:
            under_way = await store.operations_under_way(tx, endpoint_id, ROLE_CHANGE)
        for operation_id in under_way:
            await self._engine.wait(operation_id, timeout_s=WAKE_TIMEOUT_S)
