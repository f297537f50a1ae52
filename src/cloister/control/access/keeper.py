"""Ends what time ends: requests that nobody answered, access that is over, and what is left of it in a compute.

Holds no state. A pass, in order: (1) what is due is closed, and what is of somebody who has left, which no log-in survives; (2) of every access that is over, the
role's sessions are ended and the role is dropped, where its compute runs. One that sleeps has no sessions, and its role
opens nothing: it goes when the compute is next awake. (3) Recordings whose gateway died are closed. Each is safe to repeat.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.control.access import store
from cloister.control.access.guard import AccessGuard, finish
from cloister.control.access.model import State, Step, overdue
from cloister.control.access.service import close_overdue
from cloister.control.access.store import Leftover
from cloister.control.computes.sessions import Running, Sessions
from cloister.control.repeating import repeat

_log = logging.getLogger(__name__)

KEEP_EVERY_S: Final = 0.5
# Sessions end within a second of their time. Where nothing is due, a pass is three look-ups in small indexes.

DROP_TIMEOUT_S: Final = 30.0
# Of one role: a compute that does not answer must not keep others' sessions alive.

LAST_WORDS: Final = timedelta(seconds=30)
# How long a gateway may take to say that a session has ended, before it is taken for dead.


class AccessKeeper:
    def __init__(self, database: Database, sessions: Sessions, guard: AccessGuard, clock: Clock) -> None:
        self._database = database
        self._sessions = sessions
        self._guard = guard
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.pass_once, KEEP_EVERY_S, _log, "ending access that is over")

    async def pass_once(self) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:  # (1)
            due = [(it, step) for it in await store.overdue(tx, now) if (step := overdue(it, now)) is not None]
            closed = {it.id for it, _ in due}
            left = [it for it in await store.of_people_who_left(tx, now) if it.id not in closed]
            due += [(it, Step.REVOKE if it.state is State.ACTIVE else Step.EXPIRE) for it in left]
            await close_overdue(tx, now, due)
        async with self._database.reading() as tx:
            leftovers = await store.leftovers(tx)
        await asyncio.gather(*(self._drop(it) for it in leftovers))  # (2)
        async with self._database.transaction() as tx:  # (3)
            for recording in await store.left_open(tx, now - LAST_WORDS):
                await finish(tx, recording, "cut", now)
                self._guard.forget(recording.id)

    async def _drop(self, leftover: Leftover) -> None:
        running = Running(leftover.endpoint_id, leftover.generation, leftover.socket_dir, leftover.pg_version)
        try:
            async with asyncio.timeout(DROP_TIMEOUT_S), self._guard.alone(leftover.request_id):
                async with self._sessions.fresh(running) as server:
                    await server.close_access(leftover.role)
                async with self._database.transaction() as tx:
                    await store.role_dropped(tx, leftover.request_id, self._clock.now())
        except (CloisterError, TimeoutError) as error:
            _log.warning("%s of %s is not dropped yet: %r", leftover.role, leftover.endpoint_id, error)
