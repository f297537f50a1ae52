"""What a compute's guard refused, into the audit log: the guard counts (guard/src/refusals.c), and names no more than a
statement and a role. What was refused before a server was taken over by its tenant is in the log by then."""

from typing import Protocol

from cloister.base.database import Database
from cloister.control.computes.tallies import Counted, Place, Tally, write_down
from cloister.trust.audit import Action, Event


class Server(Protocol):
    async def refusals(self) -> Tally:
        """None of a server whose guard does not count."""
        ...

    async def forget_refusals(self, total: int) -> None: ...


async def record_refusals(database: Database, server: Server, place: Place) -> None:
    """Raises UnavailableError."""

    def event_of(each: Counted) -> Event:
        return Event(
            action=Action.STATEMENT_REFUSED,
            actor=f"role:{each.role}",
            outcome="denied",
            project_id=place.project_id,
            branch_id=place.branch_id,
            endpoint_id=place.id,
            reason=each.what,
            details={"count": each.count},
        )

    await write_down(database, await server.refusals(), event_of, server.forget_refusals)
