"""Which roles of a running branch may log in, and with which verifier: its server's word, read after the question came.

So a role that was made a moment ago by SQL may log in at once. The whole list is read, not one role, so that all who ask
meanwhile share one query, and a name that does not exist takes as long as one that does. Strangers who try names in
numbers cost a few queries a second: then the list may be a second old, for them and for everybody.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloister.base.buckets import Buckets
from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.computes.sessions import Running, Sessions
from cloister.control.roles.server import RoleState

_log: Final = logging.getLogger(__name__)

READS_BURST: Final = 20
READS_PER_S: Final = 5.0
# A reading takes the server about a millisecond. Gateways remember what they were told, so only new names cost one.
STALE_S_MAX: Final = 1.0
# With these used up: how long a password that was changed by SQL stays good.
ENDPOINTS_MAX: Final = 50_000

PATIENCE_S: Final = 10.0
# A server that is just starting answers in a tenth of a second; one that replays WAL may take longer than its clients wait.


@dataclass(frozen=True, slots=True)
class _Read:
    generation: int
    at: float
    """When it was begun."""
    roles: dict[str, RoleState]


class Verifiers:
    """`tell` hears of each endpoint whose roles are seen to be others than a moment ago: gateways remember verifiers."""

    def __init__(
        self, sessions: Sessions, tell: Callable[[EndpointId], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions = sessions
        self._tell = tell
        self._now = now
        self._read: dict[EndpointId, _Read] = {}
        self._reading: dict[Running, asyncio.Lock] = {}
        self._allowance = Buckets(per_s=READS_PER_S, burst=READS_BURST, keys_max=ENDPOINTS_MAX)

    async def of(self, running: Running, role: str) -> RoleState | None:
        """Raises UnavailableError: without the server's word nobody is let in."""
        asked_at = self._now()
        lock = self._reading.setdefault(running, asyncio.Lock())
        try:
            async with asyncio.timeout(PATIENCE_S), lock:
                return (await self._roles_of(running, asked_at)).get(role)
        except TimeoutError:
            raise UnavailableError(f"{running.endpoint_id} does not say who its roles are") from None
        finally:
            if not lock.locked():
                self._reading.pop(running, None)

    async def _roles_of(self, running: Running, asked_at: float) -> dict[str, RoleState]:
        read = self._read.get(running.endpoint_id)
        now = self._now()
        if read is not None and read.generation == running.generation:
            if read.at >= asked_at:
                return read.roles  # another asker's, begun after this one asked
            if now - read.at < STALE_S_MAX and not self._allowance.take(running.endpoint_id, now):
                return read.roles
        async with self._sessions.lasting(running) as server:
            read = _Read(running.generation, now, {role.name: role for role in await server.roles()})
        known = self._read.get(running.endpoint_id)
        _warn_of_unchecked(running.endpoint_id, read, known)
        self._read[running.endpoint_id] = read
        if known is not None and known.generation == read.generation and known.roles != read.roles:
            self._tell(running.endpoint_id)
        return read.roles

    def forget(self, endpoint_id: EndpointId) -> None:
        """Something was changed, or the compute has ended."""
        self._read.pop(endpoint_id, None)


def _warn_of_unchecked(endpoint_id: EndpointId, read: _Read, known: _Read | None) -> None:
    """Once for each role: nothing should be able to store such a password, so somebody should know."""
    for name, role in read.roles.items():
        if role.has_unchecked_password and not (
            known is not None and name in known.roles and known.roles[name].has_unchecked_password
        ):
            _log.warning("%s: the password of role %r was never checked, so it lets nobody in", endpoint_id, name)
