"""Notices service accounts that nobody answers for any more, and says so once: the sentinel tells people (`orphaned-service-account`).

Holds no state; each pass is safe to repeat. Nothing of theirs is ended by it: what runs at night does not stop because somebody
changed teams. Who is to be told, and what to do then, docs/service-accounts.md says.
"""

import logging
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.control.repeating import repeat
from cloister.control.service_accounts import store
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

KEEP_EVERY_S: Final = 60.0
_BY: Final = "platform:service-accounts"


class ServiceAccountKeeper:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.pass_once, KEEP_EVERY_S, _log, "looking after service accounts")

    async def pass_once(self) -> None:
        async with self._database.transaction() as tx:
            orphans = await store.newly_orphaned(tx, self._clock.now())
            events = [
                Event(
                    action=Action.SERVICE_ACCOUNT_ORPHAN,
                    actor=_BY,
                    org_id=it.org_id,
                    resource=str(it.id),
                    details={"name": it.name, "role": it.role, "owner": it.owner, "keys": len(it.keys)},
                )
                for it in orphans
            ]
            if events:
                await record(tx, *events)
