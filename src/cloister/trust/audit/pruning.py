"""An end for the log's own events: the oldest go when the platform's retention says so, and what proves the others stays.

1. Announce. The control database decides up to where (migration 0029): what is too young, under a legal hold, not looked at or not
   exported yet, or vouches for something that can still be read, stays, and so does all after it. It keeps the hashes, and says in the
   log up to where, with these hashes.
2. Wait until the key broker has signed a checkpoint that covers this event.
3. Reach. The database looks again, and the events go, in one transaction.

Cut anywhere, the next pass goes on: what was announced is found there, and what went is gone. What must stay true: no event goes that a
signed event does not tell of.
"""

import asyncio
import logging
from typing import Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.trust.audit.checkpoints import INTERVAL_S, Signer

log = logging.getLogger(__name__)

EVERY_S: Final = 3600.0
# What was kept for more than a year does not wait for longer than that.

SIGNED_WITHIN_S: Final = 2 * INTERVAL_S

EVENTS_MAX: Final = 16_384 + 1
# At once: a transaction of a second or so. The last of them stays, as the proof that the others were old.


class Pruner:
    """`database` as the API's role. Holds no state."""

    def __init__(self, database: Database, signer: Signer) -> None:
        self._database = database
        self._signer = signer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.announce() and await self._reached():
                    pass
            except CloisterError as error:  # the database or the broker is away, or a hold was placed just now
                log.warning("old events stay for now: %s", error)
            except Exception:
                log.exception("old events stay for now")
            await asyncio.sleep(EVERY_S)

    async def announce(self) -> int | None:
        """(1) Up to which event all are to go; None: none are."""
        async with self._database.transaction() as tx:
            up_to: int | None = await tx.fetch_value("SELECT audit_announce($1)", EVENTS_MAX)
        return up_to

    async def reach(self) -> int | None:
        """(3) Up to which event all went; None: they stay for now, unsigned or kept by something."""
        signed = await self._signer.last_checkpoint()
        async with self._database.transaction() as tx:
            up_to: int | None = await tx.fetch_value("SELECT audit_reach($1)", signed.size)
        if up_to is not None:
            log.info("the events up to %d were pruned", up_to)
        return up_to

    async def _reached(self) -> bool:
        if await self.reach() is None:
            await asyncio.sleep(SIGNED_WITHIN_S)  # 2.
            return await self.reach() is not None
        return True
