"""Which WAL of a timeline there is to send, and its content. Blocking.

Finished segments are in the archive, which is root's. Those that are not there yet, and the one that is being written, are the tenant's
files: opened as such, and of one size (`timelines/following.py` has the reasons for what is held to be whole).
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import ConflictError
from cloister.node.timelines import clone, control, tree, wal
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.tree import Abort

log = logging.getLogger(__name__)

PASSES_MAX: Final = 4
# Over the outbox, 256 segments each. A stop waits for them, and the tenant can fill it faster than it is emptied.


@dataclass(frozen=True, slots=True)
class Ahead:
    """What there is, as seen under the timeline's lock."""

    wal_timeline: int
    archived: Mapping[int, str]
    """With the SHA-256 of each, as it was taken in."""
    begins: int
    """The first that there is of this WAL timeline."""
    is_all: bool
    """Nothing finished lies in the outbox any more."""


@dataclass(frozen=True, slots=True)
class Found:
    content: bytes
    is_whole: bool


def look(history: History, timeline: Timeline, now: float, abort: Abort) -> Ahead:
    """Takes what is finished into the archive first: between there and what is being written nothing may be missing."""
    passes = 0
    while passes < PASSES_MAX and history.collect(now, abort):
        passes += 1
    found = control.of(timeline.data)
    archived = {
        it.number: it.sha256
        for it in history.archive.segments()
        if it.name == wal.segment_name(found.wal_timeline, it.number)
    }
    return Ahead(
        found.wal_timeline,
        archived,
        min(archived, default=wal.segment_number(found.redo)),
        is_all=passes < PASSES_MAX,
    )


def read(timeline: Timeline, ahead: Ahead, number: int) -> Found | None:
    """None where it is nowhere, or damaged: what is restored from the store would end there, and say nothing. Raises ConflictError if it was given up since it was seen."""
    name = wal.segment_name(ahead.wal_timeline, number)
    if number in ahead.archived:
        with tree.opened(timeline.archive) as directory:
            content = tree.read_small(name, directory, wal.SEGMENT_BYTES)
        if content is None or len(content) != wal.SEGMENT_BYTES:
            raise ConflictError(f"{name} is gone from the archive", public="WAL was given up meanwhile")
        if hashlib.sha256(content).hexdigest() != ahead.archived[number]:
            log.error("%s in %s is damaged", name, timeline.archive)
            return None
        return Found(content, is_whole=True)
    with tree.opened(timeline.data) as data, tree.opened(clone.WAL, below=data) as written:
        # Before it is read: what is read afterwards is whole, if the next one has begun by now.
        is_over = clone.begins_as_named(wal.segment_name(ahead.wal_timeline, number + 1), number + 1, written)
        content = _content(name, written)
    if content is None or not wal.begins_at(content, number):
        return None
    if not is_over:
        content = content[: wal.written(content, number)]
    return Found(content, is_whole=is_over)


def _content(name: str, written: int) -> bytes | None:
    file = tree.open_regular(name, written)
    if file is None:
        return None
    with open(file, "rb") as opened:
        content = opened.read(wal.SEGMENT_BYTES)
    return content if len(content) == wal.SEGMENT_BYTES else None
