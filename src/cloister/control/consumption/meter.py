"""Counts once a minute what branches take. One transaction: the amounts, and up to when they are counted.

So a crash loses nothing and counts nothing twice: what was not committed is counted next time. Computes run on while nobody
counts, and are counted then.
"""

import logging
from datetime import timedelta
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.control.consumption import accounting, store
from cloister.control.repeating import repeat

_log = logging.getLogger(__name__)

COUNT_EVERY_S: Final = 60.0
# Runs that begin and end between two counts are missed: with a minute, those of a start, a query and an early end.

HOURS_KEPT: Final = timedelta(days=8)
DAYS_KEPT: Final = timedelta(days=400)
# A little more than can be asked for (frames.REACH).


class Meter:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.count, COUNT_EVERY_S, _log, "counting consumption")

    async def count(self) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            since = await store.take_turn(tx, now)
            if since is None or since >= now:
                return
            account = accounting.count(
                since,
                now,
                runs=await store.runs(tx, since),
                held=await store.held(tx),
                written=await store.written(tx),
            )
            if account:
                await store.add(tx, account)
            if accounting.beginning(since) != accounting.beginning(now):
                await store.fold(tx, hours_before=now - HOURS_KEPT, days_before=now - DAYS_KEPT)
