"""The log's minimum index (C2SP tlog-tiles): up to where its events went, and the hashes that prove all others without them.

What goes are the oldest, in whole tiles of 256. What stays of them is the root of each tile, so the tree, every proof about a later
event, and every tile above the leaves are what they were; and the chain's hash at the last. All of that is beside the log, in tables
that whoever rules the control database can write to: it is believed as far as the log itself says the same (`Minima`).

1. The log says it, once, in an event that it has: up to where, with the chain's hash and the tree's root there.
2. The hashes that stay are those that it says.
3. The first event that stays was older than `DAYS_MIN` when it was said, and is now: so were those before it. An event that says so
   may lie about when; whoever verifies has a clock of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloister.base.database import Transaction
from cloister.protocol.merkle.tiles import WIDTH
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit.actions import Action
from cloister.trust.audit.faults import Fault

DAYS_MIN: Final = 400
"""As long as a witness keeps a checkpoint locked, unless it is told otherwise: while nobody can delete that, what it was signed over is
there. And longer than anything that events vouch for has to be kept (365 days)."""


@dataclass(frozen=True, slots=True)
class Gone:
    """For who asks for events, and finds none."""

    seq: int
    """The last event that went."""
    at: datetime

    def __str__(self) -> str:
        return f"the events up to {self.seq} were pruned on {self.at:%Y-%m-%d}"


async def gone(tx: Transaction) -> Gone | None:
    """None: every event is there."""
    row = await _reached(tx)
    return None if row is None else Gone(row["seq"], row["reached_at"])


async def _reached(tx: Transaction) -> Any:
    return await tx.fetch_row(
        """SELECT seq, hash, root, reached_at FROM cloister.audit_minimum
            WHERE reached_at IS NOT NULL ORDER BY seq DESC LIMIT 1"""
    )


@dataclass(frozen=True, slots=True)
class Pruned:
    """What the control database has of the events that went."""

    seq: int
    """The last of them."""
    hash: bytes
    root: bytes
    reached_at: datetime
    tiles: Sequence[bytes]

    def tree(self, size: int | None = None) -> Tree | None:
        """Of all that went; of the first `size` of them, if these are whole tiles."""
        count, rest = divmod(self.seq if size is None else size, WIDTH)
        return None if rest or count > len(self.tiles) else Tree.over(self.tiles[:count], WIDTH)

    def is_whole(self) -> bool:
        """The hashes make the tree that they are said to be of (2)."""
        tree = self.tree()
        return tree is not None and (tree.size, tree.root) == (self.seq, self.root)


async def pruned(tx: Transaction) -> Pruned | None:
    """None: every event is there."""
    row = await _reached(tx)
    if row is None:
        return None
    tiles = await tx.fetch(
        "SELECT root FROM cloister.audit_tile WHERE number < $1 ORDER BY number", row["seq"] // WIDTH
    )
    return Pruned(row["seq"], row["hash"], row["root"], row["reached_at"], tuple(each["root"] for each in tiles))


@dataclass(frozen=True, slots=True)
class _Told:
    at: object
    hash: object
    root: object


class Minima:
    """`feed` each event that is there, in order; then ask `first_wrong`."""

    def __init__(self, pruned: Pruned | None, now: datetime | None = None) -> None:
        """`now`: None is the clock's."""
        self._pruned = pruned
        self._now = now or datetime.now(UTC)
        self._told: dict[object, _Told] = {}
        self._first: tuple[int, object] | None = None

    def feed(self, seq: int, body: Any) -> None:
        fields = body if isinstance(body, dict) else {}
        if self._first is None:
            self._first = (seq, fields.get("at"))
        if fields.get("action") == Action.AUDIT_MINIMUM and isinstance(details := fields.get("details"), dict):
            told = _Told(fields.get("at"), details.get("hash"), details.get("root"))
            self._told.setdefault(details.get("up_to"), told)

    def first_wrong(self) -> tuple[int, Fault] | None:
        if self._pruned is None:
            return None
        told = self._told.get(self._pruned.seq)
        if told is None:  # 1.
            said = [each for each in self._told if isinstance(each, int) and each < self._pruned.seq]
            return max(said, default=0) + 1, Fault.PRUNED
        if (told.hash, told.root) != (self._pruned.hash.hex(), self._pruned.root.hex()):  # 2.
            return self._pruned.seq, Fault.UNPROVEN
        if self._first is not None and not all(  # 3.
            _is_old(self._first[1], then) for then in (told.at, self._now)
        ):
            return self._first[0], Fault.EARLY
        return None


def _is_old(at: object, then: object) -> bool:
    try:
        return datetime.fromisoformat(str(at)) <= datetime.fromisoformat(str(then)) - timedelta(days=DAYS_MIN)
    except (ValueError, TypeError):
        return False
