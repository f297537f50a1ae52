"""Who was made more powerful inside a compute, in SQL, into the audit log: the guard counts (guard/src/powers.c says what).
What is done through the API is recorded where it is done."""

from typing import Final, Protocol

from cloister.base.database import Database
from cloister.control.computes.tallies import Counted, Place, Tally, write_down
from cloister.trust.audit import Action, Event

_EVERYBODY: Final = " to PUBLIC"
_OTHERS: Final = "others"
# More kinds than the guard has room for, together.


class Server(Protocol):
    async def powers(self) -> Tally:
        """None of a server whose guard does not count."""
        ...

    async def forget_powers(self, total: int) -> None: ...


async def record_powers(database: Database, server: Server, place: Place) -> None:
    """Raises UnavailableError."""

    def event_of(each: Counted) -> Event:
        return Event(
            action=Action.ROLE_EMPOWER,
            actor=f"role:{each.role}",
            project_id=place.project_id,
            branch_id=place.branch_id,
            endpoint_id=place.id,
            reason=each.what,
            details={"count": each.count, "to": _whom(each.what, each.whom)},
        )

    await write_down(database, await server.powers(), event_of, server.forget_powers)


def _whom(what: str, whom: str) -> str:
    if what == _OTHERS:
        return "several"
    return "PUBLIC" if what.endswith(_EVERYBODY) else whom
