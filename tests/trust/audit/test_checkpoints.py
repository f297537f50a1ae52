"""What the builder of the tree does when the notary refuses: it stops, and it says so where the sentinel reads."""

import asyncio
from collections.abc import Sequence

from cloister.base.errors import ConflictError
from cloister.protocol.merkle.notes import SignedTree
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.sentinel import rules
from cloister.trust.sentinel.watch import Watch
from tests.fix_database import DatabaseAs

PATIENCE_S = 60.0


class Refusing:
    """A notary that signed another log."""

    def __init__(self) -> None:
        self.asked = 0

    async def last_checkpoint(self) -> SignedTree:
        return SignedTree(size=0, peaks=[], note="", key="")

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        self.asked += 1
        raise ConflictError(public="the log does not extend the tree that was signed last")


async def test_a_refusal_ends_the_builder_and_becomes_a_finding(database_as: DatabaseAs) -> None:
    database, sentinel = await database_as("cloister_api"), await database_as("cloister_sentinel")
    watch = Watch(sentinel, rules.shipped())
    await watch.load()
    async with database.transaction() as tx:
        await record(tx, Event(action=Action.PROJECT_LIST, actor="user:x"))
    notary = Refusing()
    async with asyncio.timeout(PATIENCE_S):
        await Checkpoints(database, notary).run()
    assert notary.asked == 1
    await watch.step()
    async with sentinel.reading() as tx:
        (row,) = await tx.fetch("SELECT rule, summary FROM finding")
    assert tuple(row) == (
        "audit-mismatch",
        "The audit log does not extend its last checkpoint: the log does not extend the tree that was signed last",
    )
