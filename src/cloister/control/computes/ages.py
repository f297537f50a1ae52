"""How far a compute's server is from the end of its transaction ids, told long before.

PostgreSQL has 2^31 of them between the oldest row that is not frozen and now, and as many multixacts; at the end it refuses
whatever would take another. Autovacuum freezes from a tenth of that on (of multixacts, a fifth), whatever a tenant sets. So an age that is far beyond
means that something holds it up: a transaction left open for days, a prepared one, a replication slot, or a compute that never
runs for long enough.

A server that its tenant has taken over may say here what it likes. It is about that tenant alone.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Protocol

from msgspec import Meta

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.control.computes.tallies import Place
from cloister.trust.audit import Action, Event, record

IDS: Final = 2**31
TOLD_PERCENT: Final = 25
# More than twice the age at which autovacuum begins; at ten thousand transactions a second the end is two days away.

LOOK_EVERY: Final = timedelta(hours=1)
# The fastest server that we know of ages by some percent within it.


@dataclass(frozen=True, slots=True)
class Ages:
    """Of the oldest database of a server."""

    xids: Annotated[int, Meta(ge=0, le=IDS)]
    multixacts: Annotated[int, Meta(ge=0, le=IDS)]

    @property
    def percent(self) -> int:
        """Of all that there are, of whichever is older."""
        return max(self.xids, self.multixacts) * 100 // IDS


class Server(Protocol):
    async def ages(self) -> Ages: ...


class AgeWatch:
    """Asks every running compute, and tells of it as often, while it is too old."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asked: dict[str, datetime] = {}
        """Endpoints, within the last hour. Lost at a restart of ours: then it is told once more."""

    async def look(self, server: Server, place: Place) -> None:
        """Raises UnavailableError."""
        now = self._clock.now()
        self._asked = {each: at for each, at in self._asked.items() if now - at < LOOK_EVERY}
        if place.id in self._asked:
            return
        found = await server.ages()
        if found.percent >= TOLD_PERCENT:
            await self._tell(found, place)
        self._asked[place.id] = now

    async def _tell(self, found: Ages, place: Place) -> None:
        event = Event(
            action=Action.COMPUTE_AGED,
            actor="platform:api",
            outcome="failed",
            project_id=place.project_id,
            branch_id=place.branch_id,
            endpoint_id=place.id,
            details={"percent": found.percent, "xids": found.xids, "multixacts": found.multixacts},
        )
        async with self._database.transaction() as tx:
            await record(tx, event)
