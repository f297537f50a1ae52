"""A planned stop: what was written since it was sent last goes to the store before the platform ends.

The api does it when its own loops have ended, while the node agent, the courier and the key broker run (`app/supervisor.py`):

1. Computes that owe something are stopped, all at once, for nothing must follow what is sent last. Their rows stay as they are: what
   runs now runs again after the next start.
2. The WAL of each is sent, and of what had stopped before and was not sent since, for LAST_SENDING_TIMEOUT_S.
3. What is not there then is named. It lies on this server alone, and goes with the first look after the next start.

Without a base there is nothing that WAL could follow, and a base takes as long as it takes: what has none is named as well.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.base.limits import COMPUTE_STOP_CALL_TIMEOUT_S, LAST_SENDING_TIMEOUT_S
from cloister.control.backups import store
from cloister.control.backups.keeper import WAL_AT_ONCE_MAX, BackupKeeper
from cloister.control.backups.model import Kept
from cloister.control.backups.owed import LEFT_MAX, PROBLEM_CHARS_MAX, Left, Owed
from cloister.control.computes.agent import Agent
from cloister.node.commands import StopCompute

_log = logging.getLogger(__name__)

NO_BASE: Final = "it has no base in the store yet"
TOO_LATE: Final = f"the store did not take it within {LAST_SENDING_TIMEOUT_S:.0f} s"
TOO_MUCH: Final = "there is more of it than can be sent in one go"
GAP: Final = "some of what was written before it is missing in the store"
FAILED: Final = "it failed here: see the log of the api"


class Parting:
    def __init__(self, keeper: BackupKeeper, database: Database, agent: Agent, clock: Clock) -> None:
        self._keeper = keeper
        self._database = database
        self._agent = agent
        self._clock = clock
        self._total = 0
        self._left: dict[str, Left] = {}
        """By the timeline."""
        self._turns = asyncio.Semaphore(WAL_AT_ONCE_MAX)

    async def send(self, tell: Callable[[Owed], None]) -> None:
        """`tell` hears how far it is, whenever that changes."""
        now = self._clock.now()
        async with self._database.reading() as tx:
            kept = await store.to_keep(tx)
        owing = [it for it in kept if it.base is None or it.is_running or it.owes_wal(now, timedelta(0))]
        self._total = len(owing)
        self._left = {it.timeline_id: Left(project_id=it.project_id) for it in owing}
        tell(self._owed())
        for it in owing:
            if it.base is None:
                self._keep(it, NO_BASE)
        # 1.
        await asyncio.gather(*(self._stop(it) for it in owing if it.base is not None))
        # 2.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SENDING_TIMEOUT_S):
                settled = [it for it in owing if not self._left[it.timeline_id].problem]
                await asyncio.gather(*(self._send(it, tell) for it in settled))
        # 3.
        for it in owing:
            if (left := self._left.get(it.timeline_id)) is not None:
                if not left.problem:
                    self._keep(it, TOO_LATE)
                _log.warning(
                    "the last of %s is not in the store: %s", it.timeline_id, self._left[it.timeline_id].problem
                )
        tell(self._owed(is_over=True))

    async def _stop(self, it: Kept) -> None:
        if it.endpoint_id is None:
            return
        try:
            await self._agent.call(
                StopCompute(endpoint_id=it.endpoint_id, close_volume=False), timeout_s=COMPUTE_STOP_CALL_TIMEOUT_S
            )
        except CloisterError as error:
            self._keep(it, f"its compute does not stop: {error.public}")

    async def _send(self, it: Kept, tell: Callable[[Owed], None]) -> None:
        try:
            async with self._turns:
                sent = await self._keeper.send_wal(it)
        except CloisterError as error:
            problem = error.public
        except Exception:
            _log.exception("sending the last of %s failed", it.timeline_id)
            problem = FAILED
        else:
            problem = TOO_MUCH if sent is None else GAP if sent.is_broken else ""
        if problem:
            self._keep(it, problem)
        else:
            del self._left[it.timeline_id]
        tell(self._owed())

    def _keep(self, it: Kept, problem: str) -> None:
        self._left[it.timeline_id] = Left(project_id=it.project_id, problem=problem[:PROBLEM_CHARS_MAX])

    def _owed(self, *, is_over: bool = False) -> Owed:
        left = list(self._left.values())
        return Owed(total=self._total, sent=self._total - len(left), left=left[:LEFT_MAX], is_over=is_over)
