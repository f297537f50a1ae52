"""Keeps the relay at what the rules say, and writes down who went through.

It compares, and keeps nothing: the relay says which rules it has, and is told those that differ. So a relay that was
started again, a change of rules and a project that is gone are one case.
"""

import asyncio
import logging
from collections import deque
from typing import Final

import msgspec

from cloister.base.database import Database
from cloister.base.rpc import Client
from cloister.base.settings import Paths
from cloister.control.egress import store
from cloister.control.repeating import repeat
from cloister.node.egress.commands import AnyEgressEvent, KeepOnly, PassageClosed, PassageOpened, PassageRefused
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

COMPARE_INTERVAL_S: Final = 2.0
# How long a relay that was started again has no doors.

EVENTS_MAX: Final = 10_000
# While the control database does not answer. Beyond it the oldest are lost, which the log says.

BATCH_MAX: Final = 200

_ACTIONS: Final = {
    PassageOpened: Action.EGRESS_OPENED,
    PassageClosed: Action.EGRESS_CLOSED,
    PassageRefused: Action.EGRESS_REFUSED,
}


class EgressWatch:
    def __init__(self, paths: Paths, database: Database) -> None:
        self._database = database
        self._relay = Client(
            paths.egress_socket, events=AnyEgressEvent, on_event=self._heard, on_connect=self.poke, connect_patience_s=1
        )
        self._events: deque[AnyEgressEvent] = deque()
        self._lost = 0
        self._wanted = asyncio.Event()

    def poke(self) -> None:
        """Something may have changed."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self._look, COMPARE_INTERVAL_S, _log, "egress", poked=self._wanted)

    async def _look(self) -> None:
        await self.compare()
        await self._write_down()

    async def close(self) -> None:
        await self._relay.close()

    async def compare(self) -> None:
        async with self._database.reading() as tx:
            wanted = await store.wanted(tx)
        standing = await self._relay.call(KeepOnly(tuple(each.project_id for each in wanted)))
        for each in wanted:
            if standing.digests.get(each.project_id) != each.digest:
                await self._relay.call(each)

    def _heard(self, event: AnyEgressEvent) -> None:
        self._events.append(event)
        if len(self._events) > EVENTS_MAX:
            self._events.popleft()
            self._lost += 1
        self._wanted.set()

    async def _write_down(self) -> None:
        while self._events:
            batch = [self._events[number] for number in range(min(BATCH_MAX, len(self._events)))]
            async with self._database.transaction() as tx:
                orgs = await store.organizations(tx, sorted({event.project_id for event in batch}))
                await record(tx, *(_recorded(event, orgs.get(event.project_id, "")) for event in batch))
            for _ in batch:
                self._events.popleft()
        if self._lost:
            _log.error("%d connections of computes to the outside were not recorded", self._lost)
            self._lost = 0


def _recorded(event: AnyEgressEvent, org_id: str) -> Event:
    fields = msgspec.structs.asdict(event)
    project_id, target = fields.pop("project_id"), fields.pop("target")
    return Event(
        action=_ACTIONS[type(event)],
        actor="platform:egress",
        org_id=org_id,
        project_id=project_id,
        resource=target,
        reason=fields.pop("reason", ""),
        details=fields,
    )
