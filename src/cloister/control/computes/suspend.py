"""Putting a compute to sleep without breaking a session or losing a change.

The order, each step undone if a later one says no:

1. CHECKPOINT while clients still work: what the shutdown then has to write is little, and held clients wait for little.
2. Freeze: every gateway holds its clients' bytes.
3. Look again. What began between the first look and the freeze is seen now; nothing can begin any more. (Only when idle;
   a suspend that somebody asked for ends sessions instead, as Neon's does.)
4. Hold the catalog: a lock in the server itself on its roles and databases. From here to the end of the server nobody can
   commit a change of a role, whatever a gateway does. Read them.
5. Stop. The server ends with our lock still held.
6. The rows: idle, clean, and the copy, in one transaction. Then Close: the gateways end the sessions.

A wake that comes during 1 to 4 is seen in time: the suspend of an idle compute is given up. One that comes during 5 waits
for the end of it, and starts the compute again.
"""

import logging
from collections.abc import Callable
from enum import Enum, auto

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.base.ids import EndpointId
from cloister.control.computes import store
from cloister.control.computes.gateways import Gateways, Stillness
from cloister.control.computes.idle import Activity
from cloister.control.computes.model import Endpoint
from cloister.control.computes.powers import record_powers
from cloister.control.computes.refusals import record_refusals
from cloister.control.computes.runner import CatalogCopy, Cause, Runner, running_of
from cloister.control.computes.sessions import ComputeServer, Running, Sessions
from cloister.control.computes.touched import Inside

_log = logging.getLogger(__name__)

IsIdle = Callable[[Activity], bool]


class Suspended(Enum):
    YES = auto()
    """By us, or it was asleep already."""
    NOT_IDLE = auto()


class Suspender:
    def __init__(
        self, database: Database, runner: Runner, sessions: Sessions, gateways: Gateways, inside: Inside
    ) -> None:
        self._database = database
        self._inside = inside
        self._runner = runner
        self._sessions = sessions
        self._gateways = gateways

    async def if_idle(self, endpoint_id: EndpointId, generation: int, is_idle: IsIdle, cause: Cause) -> Suspended:
        """Suspend unless something speaks against it. Raises UnavailableError if the server or the agent does not
        answer; the compute is left as it was, as far as that is known."""
        async with self._runner.alone(endpoint_id):
            endpoint, running = await self._load(endpoint_id)
            if running is None:
                return Suspended.YES
            if running.generation != generation or self._runner.is_wanted(endpoint_id):
                return Suspended.NOT_IDLE
            async with self._sessions.lasting(running) as server:
                await server.checkpoint()
            token, stillness = await self._gateways.freeze(endpoint_id)
            try:
                copy = await self._copy_if_idle(running, is_idle) if stillness is Stillness.QUIET else None
                if copy is None:
                    self._gateways.thaw(endpoint_id, token)
                    return Suspended.NOT_IDLE
                await self._runner.stop(endpoint, cause, copy=copy)
            except BaseException:
                self._gateways.thaw(endpoint_id, token)
                raise
            self._gateways.close(endpoint_id, "suspended")
            return Suspended.YES

    async def at_once(self, endpoint_id: EndpointId, cause: Cause) -> None:
        """Suspend whatever its clients are doing. Asleep already is success.

        A server that does not let its catalog be read is stopped all the same: the endpoint stays unclean then.
        """
        async with self._runner.alone(endpoint_id):
            endpoint, running = await self._load(endpoint_id)
            if running is None:
                return
            token, _stillness = await self._gateways.freeze(endpoint_id)
            try:
                copy = await self._copy_by_force(endpoint, running)
                await self._runner.stop(endpoint, cause, copy=copy)
            except BaseException:
                self._gateways.thaw(endpoint_id, token)
                raise
            self._gateways.close(endpoint_id, "suspended")

    async def _load(self, endpoint_id: EndpointId) -> tuple[Endpoint, Running | None]:
        async with self._database.reading() as tx:
            placed = await store.placed(tx, endpoint_id, and_deleted=True)
        if placed.endpoint.socket_dir is None:
            return placed.endpoint, None
        return placed.endpoint, running_of(placed.endpoint, placed.pg_version)

    async def _copy_if_idle(self, running: Running, is_idle: IsIdle) -> CatalogCopy | None:
        async with self._sessions.lasting(running) as server:
            await server.hold_catalog()
            # The look comes after the lock: had the lock waited for somebody, that somebody is seen.
            if not is_idle(await server.activity()) or self._runner.is_wanted(running.endpoint_id):
                await server.release_catalog()
                return None
            return await _read(server)

    async def _copy_by_force(self, endpoint: Endpoint, running: Running) -> CatalogCopy | None:
        try:
            async with self._sessions.lasting(running) as server:
                await server.end_clients()
                # Nobody hides what was refused or done by a suspend before it was looked at.
                await record_refusals(self._database, server, endpoint)
                await record_powers(self._database, server, endpoint)
                await self._inside.look(server, endpoint, running.generation)
                await server.hold_catalog()
                return await _read(server)
        except CloisterError as error:
            _log.warning("%s is suspended without a copy of its catalog: %s", running.endpoint_id, error)
            return None


async def _read(server: ComputeServer) -> CatalogCopy:
    """With the catalog held. The lock lasts as long as the session, which `Runner.stop` closes after the server's end."""
    return CatalogCopy(await server.roles(), await server.databases())
