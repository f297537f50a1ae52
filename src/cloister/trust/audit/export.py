"""The log as tiles: what an outsider takes home to check, without us and without a database.

What a directory holds already is never replaced: a later export adds to it, or finds that the log says something else
now. So a directory that another host keeps is a witness by itself. The checkpoint is written last and names only what
lies there.

The tree has the events' bodies. What is personal in them, to which these commit, is a file beside it, and that one is replaced
each time: what was erased meanwhile goes from the directory, too.
"""

import json
from pathlib import Path
from typing import Final

from cloister.base.database import Database
from cloister.base.durable import write_durably
from cloister.base.errors import ConflictError
from cloister.protocol.merkle.notes import SignedTree, VerifierKey
from cloister.protocol.merkle.tiles import Tiler
from cloister.protocol.merkle.tree import Tree, leaf_hash
from cloister.trust.audit.checkpoints import BATCH_ROWS, entry
from cloister.trust.audit.minimum import Pruned, pruned

CHECKPOINT: Final = "checkpoint"
KEY: Final = "key"
PERSONAL: Final = "personal"
"""A line an event: `{"seq": …, "personal": "…"}`, the text to which its body commits."""

MINIMUM: Final = "minimum"
"""The index of the first entry that the log still has: bundles and tiles of leaves before it are there only from earlier exports."""


async def export(database: Database, signed: SignedTree, directory: Path) -> int:
    """Write every event that `signed` covers, the tiles, the checkpoint and its key. The number of files that are new.
    Raises ConflictError if the log is not what was signed, or not what was exported before."""
    checkpoint = VerifierKey.parse(signed.key).opened(signed.note)
    tiler, tree, written, personal = Tiler(), Tree(), 0, list[str]()
    async with database.reading() as tx:
        gone = await pruned(tx)
    if gone is not None:
        tree = _whole(gone)
        written += sum(_add(directory, *file) for root in gone.tiles for file in tiler.skip(root))
    while tree.size < checkpoint.size:
        async with database.reading() as tx:
            rows = await tx.fetch(
                "SELECT seq, body, personal FROM audit_event WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3",
                tree.size,
                checkpoint.size,
                BATCH_ROWS,
            )
        entries = [entry(row["body"]) for row in rows]
        if [row["seq"] for row in rows] != list(range(tree.size + 1, tree.size + 1 + len(rows))) or not rows:
            raise ConflictError(public=f"an event between {tree.size + 1} and {checkpoint.size} is missing")
        personal += [_line(row["seq"], row["personal"]) for row in rows if row["personal"] is not None]
        tree = tree.extended([leaf_hash(each) for each in entries])
        written += sum(_add(directory, *file) for each in entries for file in tiler.add(each))
    written += sum(_add(directory, *file) for file in tiler.finish())
    if (tree.size, tree.root) != (checkpoint.size, checkpoint.root):
        raise ConflictError(public=f"the first {checkpoint.size} events are not those that were signed")
    _add(directory, KEY, f"{signed.key}\n".encode())
    write_durably(directory / MINIMUM, f"{0 if gone is None else gone.seq}\n".encode())
    write_durably(directory / PERSONAL, "".join(personal).encode(), mode=0o600)
    write_durably(directory / CHECKPOINT, signed.note.encode())
    return written


def _whole(gone: Pruned) -> Tree:
    tree = gone.tree()
    if tree is None or not gone.is_whole():
        raise ConflictError(public=f"the hashes of the first {gone.seq} events, which were pruned, are not theirs")
    return tree


def _line(seq: int, personal: str) -> str:
    return json.dumps({"seq": seq, "personal": personal}, separators=(",", ":")) + "\n"


def _add(directory: Path, name: str, content: bytes) -> bool:
    """Whether the file is new."""
    path = directory / name
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(content)
        temporary.replace(path)
        return True
    if before != content:
        raise ConflictError(public=f"{path} was exported before and says something else: the log was changed")
    return False
