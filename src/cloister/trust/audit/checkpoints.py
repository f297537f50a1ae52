"""Building the log's Merkle tree, behind those who append.

Appending does not know of the tree: an event costs what it cost. Every `INTERVAL_S` the builder reads what was committed
since, hashes it, and has the new tree signed. It keeps the tree's right edge only, and after a restart it takes that from
the notary, which signed it: there is nothing to rebuild and no table to trust.

What must stay true: leaf n is the hash of event n + 1, in the order of commits; a tree that the notary refuses is never
asked for again in another guise: the builder stops, and says so.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from cloister.base.database import Database
from cloister.base.errors import CloisterError, ConflictError
from cloister.protocol.merkle.notes import SignedTree
from cloister.protocol.merkle.tiles import ENTRY_BYTES_MAX
from cloister.protocol.merkle.tree import Tree, consistency_proof, leaf_hash
from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event
from cloister.trust.audit.log import record
from cloister.trust.audit.minimum import pruned

log = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
# What may be lost unnoticed by who rolls back database and all, if a witness takes every checkpoint.

BATCH_ROWS: Final = 500
# Two milliseconds of hashing in the API's loop, and then others have their turn.

SIGN_ROWS_MAX: Final = 20 * BATCH_ROWS
# Leaves held in memory for a proof. A log that is far behind is signed in steps.


class Signer(Protocol):
    """The notary, as the key broker's client shows it."""

    async def last_checkpoint(self) -> SignedTree: ...

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        """Raises ConflictError if the tree is no extension of the last."""
        ...


def entry(body: str) -> bytes:
    """What the tree holds of an event: its text. A text too long for a tile (none of ours is) is there by its hash, in a
    form that is not JSON and so no event's text."""
    encoded = body.encode("utf-8", "replace")
    if len(encoded) <= ENTRY_BYTES_MAX:
        return encoded
    return b"sha256 " + hashlib.sha256(encoded).hexdigest().encode()


class Checkpoints:
    """`database` as a role that may read the log and append to it."""

    def __init__(self, database: Database, signer: Signer, *, interval_s: float = INTERVAL_S) -> None:
        self._database = database
        self._signer = signer
        self._interval_s = interval_s
        self._tree: Tree | None = None

    async def run(self) -> None:
        """Until cancelled, or until the notary refuses."""
        while True:
            try:
                await self.sign_new()
            except ConflictError as error:
                log.critical("no checkpoint of the audit log will be signed: %s", error.public)
                await self._tell(error.public)
                return
            except CloisterError as error:  # the broker or the database is away; both come back
                log.warning("the audit log has no new checkpoint: %s", error)
                self._tree = None
            except Exception:  # the API does not end with its log's builder
                log.exception("the audit log has no new checkpoint")
                self._tree = None
            await asyncio.sleep(self._interval_s)

    async def _tell(self, why: str) -> None:
        """The log itself, whoever changed it: what is appended now is followed by the sentinel, which tells people."""
        event = Event(action=Action.AUDIT_MISMATCH, actor="platform:api", outcome="failed", reason=why)
        try:
            async with self._database.transaction() as tx:
                await record(tx, event)
        except CloisterError as error:
            log.warning("this is not recorded: %s", error)

    async def sign_new(self) -> Tree:
        """Have everything signed that is committed by now. The tree that is signed then."""
        if self._tree is None:
            last = await self._signer.last_checkpoint()
            self._tree = await self._after_what_was_pruned(Tree(last.size, tuple(last.peaks)))
        while leaves := await self._leaves(self._tree.size):
            tree = self._tree.extended(leaves)
            await self._signer.sign_checkpoint(tree, consistency_proof(self._tree, leaves))
            self._tree = tree
        return self._tree

    async def _after_what_was_pruned(self, signed: Tree) -> Tree:
        """A new notary, which has signed nothing, begins with the hashes that stayed. To one that has signed less than what went,
        nothing proves any more that the tree extends it."""
        async with self._database.reading() as tx:
            gone = await pruned(tx)
        if gone is None or signed.size >= gone.seq:
            return signed
        tree = gone.tree()
        if signed.size or tree is None:
            raise ConflictError(
                public=f"{signed.size} events were signed, and the first {gone.seq} were pruned: it was rolled back"
            )
        await self._signer.sign_checkpoint(tree, [])
        return tree

    async def _leaves(self, size: int) -> list[bytes]:
        """The hashes of events behind the first `size`."""
        leaves: list[bytes] = []
        while len(leaves) < SIGN_ROWS_MAX:
            async with self._database.reading() as tx:
                if not leaves:
                    await self._refuse_a_shorter_log(await tx.fetch_value("SELECT seq FROM audit_head"), size)
                rows = await tx.fetch(
                    "SELECT seq, body FROM audit_event WHERE seq > $1 ORDER BY seq LIMIT $2",
                    size + len(leaves),
                    BATCH_ROWS,
                )
            for row in rows:
                if row["seq"] != size + len(leaves) + 1:
                    raise ConflictError(public=f"event {size + len(leaves) + 1} is missing")
                leaves.append(leaf_hash(entry(row["body"])))
            if len(rows) < BATCH_ROWS:
                break
        return leaves

    async def _refuse_a_shorter_log(self, seq: int | None, size: int) -> None:
        if (seq or 0) < size:
            raise ConflictError(public=f"the log ends at event {seq or 0}, and {size} were signed: it was rolled back")
