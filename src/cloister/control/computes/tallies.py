"""What a guard counted for the platform to read (guard/src/tally.c): a number of all there ever were, and a line for each
kind that is not forgotten yet. The platform reads, writes down, and then has it forgotten: whoever dies in between causes
an event twice, never none.

A server that its tenant has taken over may say here what it likes, also nothing. So its answer is parsed within bounds.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cloister.base.database import Database
from cloister.base.errors import UnavailableError
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.trust.audit import Event, record

KINDS_MAX: Final = 8
# As the guard has it. Each may be an event with every look at a compute.

_TOTAL: Final = re.compile(r"[0-9]{1,20}")
_NAME: Final = r"x((?:[0-9a-f]{2}){0,63})"
_KIND: Final = re.compile(rf"([0-9]{{1,18}}) {_NAME}(?: {_NAME})? ([A-Za-z_, ]{{1,159}})")


@dataclass(frozen=True, slots=True)
class Counted:
    """So many times this, by who logged in as this role."""

    what: str
    role: str
    count: int
    whom: str = ""
    """The role that it was about, where that is another one."""


@dataclass(frozen=True, slots=True)
class Tally:
    total: int = 0
    """Of all there ever were: what to have forgotten once these are written down."""
    kinds: tuple[Counted, ...] = ()


class Place(Protocol):
    """An endpoint, or a standby of one."""

    @property
    def id(self) -> EndpointId: ...
    @property
    def project_id(self) -> ProjectId: ...
    @property
    def branch_id(self) -> BranchId: ...


async def write_down(
    database: Database, found: Tally, event_of: Callable[[Counted], Event], forget: Callable[[int], Awaitable[None]]
) -> None:
    """In this order: see above. Raises UnavailableError."""
    if not found.kinds:
        return
    async with database.transaction() as tx:
        await record(tx, *map(event_of, found.kinds))
    await forget(found.total)


def parse(text: str) -> Tally:
    """What a `SHOW` of one answers. Raises UnavailableError for what no guard says."""
    total, *lines = text.split("\n", KINDS_MAX + 1) if text else ["0"]
    kinds = [_KIND.fullmatch(line) for line in lines]
    if not _TOTAL.fullmatch(total) or len(kinds) > KINDS_MAX or None in kinds:
        raise UnavailableError("the branch's server answers something else than what was counted")
    return Tally(int(total), tuple(_counted(*it.groups()) for it in kinds if it is not None))


def _counted(count: str, role: str, whom: str | None, what: str) -> Counted:
    return Counted(what, _name(role), int(count), _name(whom or ""))


def _name(digits: str) -> str:
    return bytes.fromhex(digits).decode(errors="replace")
