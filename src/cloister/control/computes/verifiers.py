"""Which roles of a running branch may log in, and with which verifier: its server's word, at most a second old.

The whole list is read, not one role, so that strangers who try names cost one query a second, however many they try, and
a name that does not exist takes as long as one that does.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cloister.base.clock import Clock
from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.computes.sessions import Running, Sessions
from cloister.control.roles.server import RoleState

_log: Final = logging.getLogger(__name__)

FRESH_FOR: Final = timedelta(seconds=1)
# How long a password that was changed by SQL stays good at the gateway.

PATIENCE_S: Final = 10.0
# A server that is just starting answers in a tenth of a second; one that replays WAL may take longer than its clients wait.


@dataclass(frozen=True, slots=True)
class _Read:
    generation: int
    at: datetime
    roles: dict[str, RoleState]


class Verifiers:
    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock
        self._read: dict[EndpointId, _Read] = {}
        self._reading: dict[Running, asyncio.Lock] = {}

    async def of(self, running: Running, role: str) -> RoleState | None:
        """Raises UnavailableError: without the server's word nobody is let in."""
        lock = self._reading.setdefault(running, asyncio.Lock())
        try:
            async with asyncio.timeout(PATIENCE_S), lock:
                return (await self._roles_of(running)).get(role)
        except TimeoutError:
            raise UnavailableError(f"{running.endpoint_id} does not say who its roles are") from None
        finally:
            if not lock.locked():
                self._reading.pop(running, None)

    async def _roles_of(self, running: Running) -> dict[str, RoleState]:
        read = self._read.get(running.endpoint_id)
        now = self._clock.now()
        if read is None or read.generation != running.generation or now - read.at >= FRESH_FOR:
            async with self._sessions.lasting(running) as server:
                read = _Read(running.generation, now, {role.name: role for role in await server.roles()})
            self._tell_of_unchecked(running.endpoint_id, read)
            self._read[running.endpoint_id] = read
        return read.roles

    def _tell_of_unchecked(self, endpoint_id: EndpointId, read: _Read) -> None:
        """Once for each role: nothing should be able to store such a password, so somebody should know."""
        known = self._read.get(endpoint_id)
        for name, role in read.roles.items():
            if role.has_unchecked_password and not (
                known is not None and name in known.roles and known.roles[name].has_unchecked_password
            ):
                _log.warning("%s: the password of role %r was never checked, so it lets nobody in", endpoint_id, name)

    def forget(self, endpoint_id: EndpointId) -> None:
        """Something was changed, or the compute has ended."""
        self._read.pop(endpoint_id, None)
