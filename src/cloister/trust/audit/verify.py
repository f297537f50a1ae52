"""Replaying the chain tells whether the log is what was appended, whole and in order.

`Replay` is the decision, pure: rows in, the first broken link out. `verify` feeds it from the database in batches, from
one snapshot, so that the log may grow meanwhile.

What this finds: a row edited, deleted, moved, added or cut off by anybody who cannot also recompute every later hash
and the head. A superuser of the control database can do that. What shows it lies elsewhere: checkpoints that the key
broker signed, and heads noted earlier; `verify` takes both and holds the log to them (docs/adr/0006, 0017). Where the oldest
events went, it begins after them, and holds the hashes that stay to the event that says so (`minimum.py`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cloister.base.database import Database
from cloister.protocol.merkle.notes import Checkpoint
from cloister.protocol.merkle.tree import Tree, leaf_hash
from cloister.trust.audit import minimum
from cloister.trust.audit.checkpoints import entry
from cloister.trust.audit.faults import Fault
from cloister.trust.audit.minimum import Minima, Pruned
from cloister.trust.audit.personal import Personal

GENESIS: Final = hashlib.sha256(b"cloister audit log 1").digest()
"""The hash before the first event, as migration 0001 writes it into `audit_head`."""

BATCH_ROWS: Final = 2000
# About 1 MB a round trip: larger batches are no faster.


@dataclass(frozen=True, slots=True)
class Head:
    """The last sequence number and hash of a log. Noted outside the database, it pins everything before it."""

    seq: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> "Head":
        """The inverse of `str`: `SEQ:HEX`. Raises ValueError."""
        seq, _, digest = text.partition(":")
        head = cls(int(seq), bytes.fromhex(digest))
        if head.seq < 0 or len(head.hash) != hashlib.sha256().digest_size:
            raise ValueError(text)
        return head

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Row:
    seq: int
    body: str
    hash: bytes
    filed: tuple[str | None, ...] | None = None
    """The derived columns `FILED` as the database has them; None where nobody looked."""
    personal: str | None = None


FILED: Final = ("at", "action", "project_id", "actor")


@dataclass(frozen=True, slots=True)
class Intact:
    """Every event up to `head` is there, as it was appended."""

    head: Head
    erased: int = 0
    """Of so many of them what is personal was erased, and events say so."""
    pruned: int = 0
    """The events up to this one went, and an event says so."""
    pruned_at: datetime | None = None
    older: int = 0
    """So many of the heads and checkpoints given are from among those: there is nothing any more that they could be held to."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The first event that is not as it was appended. Everything before `seq` is."""

    seq: int
    fault: Fault

    def __str__(self) -> str:
        return f"event {self.seq}: {self.fault}"


def link(previous: bytes, seq: int, body: str) -> bytes:
    """The hash of an event, given the one before it."""
    # A body that is not text cannot have been appended; "replace" gives it some hash, which will not fit.
    return hashlib.sha256(previous + seq.to_bytes(8, "big") + body.encode("utf-8", "replace")).digest()


class Replay:
    """The chain, one batch after another, and beside it the tree, if checkpoints are given to hold it to. `feed` rows in
    order of `seq`, then ask `finish`. `erasures`: which events each forgetting erased, as the database has it."""

    def __init__(
        self,
        head: Head,
        noted: Sequence[Head] = (),
        checkpoints: Sequence[Checkpoint] = (),
        erasures: Mapping[str, Sequence[int]] | None = None,
        pruned: Pruned | None = None,
    ) -> None:
        self._head = head
        self._noted = noted
        self._roots = [(each.size, each.root) for each in checkpoints]
        self._pruned = pruned
        self._tree = Tree()
        self._last = Head(0, GENESIS)
        self._personal = Personal(erasures or {}, after=pruned.seq if pruned else 0)
        self._minima = Minima(pruned)
        self._older = 0
        self._wrong = self._begin_after(pruned) if pruned else None

    def feed(self, rows: Sequence[Row]) -> Broken | None:
        """The first broken link among these rows, or None. After a broken link the replay is over."""
        if self._wrong is not None:
            return self._wrong
        for position, row in enumerate(rows):
            expected = self._last.seq + 1
            if row.seq > self._head.seq:
                # Rows behind the head do not excuse missing ones before it.
                return Broken(row.seq, Fault.ADDED) if expected > self._head.seq else self._truncated()
            if row.seq < expected:
                return Broken(row.seq, Fault.ADDED)
            if row.seq > expected:
                return Broken(expected, Fault.DELETED)
            if link(self._last.hash, row.seq, row.body) != row.hash:
                return Broken(row.seq, self._edited_or_reordered(row.seq, rows[position + 1 :]))
            fields = _decoded(row.body)
            if row.filed is not None and not _is_filed_as(row.filed, fields):
                return Broken(row.seq, Fault.MISFILED)
            if not self._personal.feed(row.seq, fields, row.personal):
                return Broken(row.seq, Fault.REPLACED)
            self._minima.feed(row.seq, fields)
            self._last = Head(row.seq, row.hash)
            if any(mark.seq == row.seq and mark != self._last for mark in self._noted):
                return Broken(row.seq, Fault.ROLLED_BACK)
        return self._grow(rows)

    def finish(self) -> Intact | Broken:
        if self._wrong is not None:
            return self._wrong
        if self._last.seq < self._head.seq:
            return self._truncated()
        if self._last != self._head:
            return Broken(self._head.seq, Fault.HEAD)
        ends = [mark.seq for mark in self._noted] + [size for size, _ in self._roots]
        if any(end > self._last.seq for end in ends):
            return Broken(self._last.seq + 1, Fault.ROLLED_BACK)
        if any(root != Tree().root for size, root in self._roots if size == 0):
            return Broken(0, Fault.ROLLED_BACK)
        if (wrong := self._minima.first_wrong() or self._personal.first_wrong()) is not None:
            return Broken(*wrong)
        if self._pruned is None:
            return Intact(self._last, self._personal.erased)
        return Intact(self._last, self._personal.erased, self._pruned.seq, self._pruned.reached_at, self._older)

    def _begin_after(self, pruned: Pruned) -> Broken | None:
        """Where events went: the chain and the tree go on from the hashes that stayed.

        1. The tiles' roots make the tree that they are said to be of.
        2. A checkpoint of whole tiles is held to them, a head at their end to the chain's hash; one between is older than what is there.
        3. One of the checkpoints given must be later: nothing went before it was signed.
        """
        if not pruned.is_whole():  # 1.
            return Broken(pruned.seq, Fault.UNPROVEN)
        self._last = Head(pruned.seq, pruned.hash)
        for size, root in self._roots:  # 2.
            if 0 < size <= pruned.seq and (tree := pruned.tree(size)) is not None and tree.root != root:
                return Broken(size, Fault.ROLLED_BACK)
        self._older = sum(1 for size, _ in self._roots if 0 < size < pruned.seq and pruned.tree(size) is None)
        for mark in self._noted:
            if mark.seq == pruned.seq and mark != self._last:
                return Broken(pruned.seq, Fault.ROLLED_BACK)
            self._older += mark.seq < pruned.seq
        signed = [size for size, _ in self._roots if size > 0]
        if signed and max(signed) < pruned.seq:  # 3.
            return Broken(pruned.seq, Fault.ROLLED_BACK)
        tree = pruned.tree()
        assert tree is not None
        self._tree = tree
        return None

    def _grow(self, rows: Sequence[Row]) -> Broken | None:
        """The tree with these rows, which the chain has found in order."""
        if not self._roots:
            return None
        leaves = [leaf_hash(entry(row.body)) for row in rows]
        for size in sorted({size for size, _ in self._roots if self._tree.size < size <= self._last.seq}):
            done = len(leaves) - (self._last.seq - self._tree.size)
            self._tree = self._tree.extended(leaves[done : done + size - self._tree.size])
            if any(each == size and root != self._tree.root for each, root in self._roots):
                return Broken(size, Fault.ROLLED_BACK)
        self._tree = self._tree.extended(leaves[len(leaves) - (self._last.seq - self._tree.size) :])
        return None

    def _truncated(self) -> Broken:
        return Broken(self._last.seq + 1, Fault.TRUNCATED)

    def _edited_or_reordered(self, seq: int, later: Iterable[Row]) -> Fault:
        """Reordered, if the row that belongs here stands further on (as far as this batch shows)."""
        moved = any(link(self._last.hash, seq, row.body) == row.hash for row in later)
        return Fault.REORDERED if moved else Fault.EDITED


async def verify(
    database: Database, noted: Sequence[Head] = (), checkpoints: Sequence[Checkpoint] = ()
) -> Intact | Broken:
    """Replay the whole log, and hold it to heads noted and checkpoints signed earlier, whose signatures the caller has
    verified. Any role that may read the log can do this."""
    async with database.transaction() as tx:
        # One snapshot: the head and the rows are of the same moment.
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        head = await tx.fetch_row("SELECT seq, hash FROM audit_head")
        if head is None:
            return Broken(0, Fault.HEAD)
        erasures = await tx.fetch("SELECT id::text AS id, events FROM audit_forgetting WHERE events IS NOT NULL")
        lists = {row["id"]: row["events"] for row in erasures}
        replay = Replay(Head(head["seq"], head["hash"]), noted, checkpoints, lists, await minimum.pruned(tx))
        after: int | None = None
        while True:
            found = await tx.fetch(
                """SELECT seq, body, personal, hash, at, action, project_id, actor FROM audit_event
                    WHERE $1::bigint IS NULL OR seq > $1 ORDER BY seq LIMIT $2""",
                after,
                BATCH_ROWS,
            )
            if broken := replay.feed([_row(row) for row in found]):
                return broken
            if len(found) < BATCH_ROWS:
                return replay.finish()
            after = found[-1]["seq"]


def _row(row: Any) -> Row:
    return Row(row["seq"], row["body"], row["hash"], tuple(row[name] for name in FILED), row["personal"])


def _decoded(body: str) -> Any:
    """It was jsonb when it was appended, and it is unchanged: its hash fits. What was not has no fields."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _is_filed_as(filed: tuple[str | None, ...], fields: Any) -> bool:
    """The derived columns are what `body::jsonb ->> name` gives."""
    values = [fields.get(name) if isinstance(fields, dict) else None for name in FILED]
    # Events of ours have texts there; how jsonb prints a number is not ours to repeat.
    return all(
        value == column for value, column in zip(values, filed, strict=True) if value is None or isinstance(value, str)
    )
