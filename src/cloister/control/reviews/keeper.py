"""Begins reviews that a policy asks for, and ends those whose time is over. Holds no state; each pass is safe to repeat."""

import logging
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.control.repeating import repeat
from cloister.control.reviews import store
from cloister.control.reviews.service import PLATFORM, begin, end

_log = logging.getLogger(__name__)

KEEP_EVERY_S: Final = 60.0
# Reviews last days.

_BY: Final = "the organization's policy"


class ReviewKeeper:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.pass_once, KEEP_EVERY_S, _log, "looking after access reviews")

    async def pass_once(self) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            for review in await store.overdue(tx, now):
                await end(tx, PLATFORM, review, now)
        async with self._database.transaction() as tx:
            for org_id, policy, last_started_at in await store.policies(tx):
                if policy.is_due(last_started_at, now):
                    await begin(tx, PLATFORM, _BY, org_id, now, answer_days=policy.answer_days, lapses=policy.lapses)
