"""What a compute's guard refused, into the audit log: the guard counts (guard/src/refusals.c), the platform reads, writes
down, and then has it forgotten. Whoever dies in between causes an event twice, never none.

A server that its tenant has taken over may say here what it likes, also nothing. So its answer is parsed within bounds, and
names no more than a statement and a role; and what was refused before the server was taken over is in the log by then.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from cloister.base.database import Database
from cloister.base.errors import UnavailableError
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.trust.audit import Action, Event, record

KINDS_MAX: Final = 8
# As the guard has it. Each may be an event with every look at a compute.

_TOTAL: Final = re.compile(r"[0-9]{1,20}")
_KIND: Final = re.compile(r"(?P<count>[0-9]{1,18}) x(?P<role>(?:[0-9a-f]{2}){0,63}) (?P<what>[A-Za-z ]{1,31})")


@dataclass(frozen=True, slots=True)
class Refused:
    """So many times this statement, asked for by who logged in as this role."""

    statement: str
    role: str
    count: int


@dataclass(frozen=True, slots=True)
class Refusals:
    total: int
    """Of all there ever were: what to have forgotten once these are written down."""
    kinds: tuple[Refused, ...] = ()


class Place(Protocol):
    """An endpoint, or a standby of one."""

    @property
    def id(self) -> EndpointId: ...
    @property
    def project_id(self) -> ProjectId: ...
    @property
    def branch_id(self) -> BranchId: ...


class Server(Protocol):
    async def refusals(self) -> Refusals:
        """None of a server whose guard does not count."""
        ...

    async def forget_refusals(self, total: int) -> None: ...


async def record_refusals(database: Database, server: Server, place: Place) -> None:
    """Raises UnavailableError."""
    found = await server.refusals()
    if not found.kinds:
        return
    events = [
        Event(
            action=Action.STATEMENT_REFUSED,
            actor=f"role:{each.role}",
            outcome="denied",
            project_id=place.project_id,
            branch_id=place.branch_id,
            endpoint_id=place.id,
            reason=each.statement,
            details={"count": each.count},
        )
        for each in found.kinds
    ]
    async with database.transaction() as tx:
        await record(tx, *events)
    await server.forget_refusals(found.total)


def parse(text: str) -> Refusals:
    """`SHOW guard.refused`. Raises UnavailableError for what no guard says."""
    total, *lines = text.split("\n", KINDS_MAX + 1) if text else ["0"]
    kinds = [_KIND.fullmatch(line) for line in lines]
    if not _TOTAL.fullmatch(total) or len(kinds) > KINDS_MAX or None in kinds:
        raise UnavailableError("the branch's server answers something else than what it refused")
    return Refusals(
        int(total),
        tuple(
            Refused(it["what"], bytes.fromhex(it["role"]).decode(errors="replace"), int(it["count"]))
            for it in kinds
            if it is not None
        ),
    )
