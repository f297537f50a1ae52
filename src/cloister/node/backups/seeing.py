"""What is in the store is opened, by chance: a backup that nobody reads is a hope."""

import random
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.node.backups.finding import Finding
from cloister.node.backups.objects import side_by_side
from cloister.node.commands import Seen
from cloister.node.timelines import wal
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import Contents
from cloister.protocol.backups.errors import BackupError

DAMAGED_MAX: Final = 100
# That are told. Whoever sees the first looks at all.


@dataclass(frozen=True, slots=True)
class Look:
    seen: Seen
    chunks: list[str]
    """Ids of those that are damaged."""


async def see(finding: Finding, sample: int) -> Look:
    """1. Every base; of the newest, all its lists, read as a restoration reads them.
    2. Some of the chunks that they name.
    3. The newest WAL behind it.
    """
    # 1.
    bases = await finding.bases()
    damaged, chunks = list(bases.damaged), list[str]()
    if not bases.opened:
        if damaged:
            return Look(Seen(base="", chunks=0, bytes=0, damaged=damaged[:DAMAGED_MAX]), [])
        raise NotFoundError(f"no base of {finding.timeline_id}", public="the store has no backup of the branch")
    base = bases.opened[0]
    contents, chosen = Contents(), _Sample(sample)
    for list_id in base.lists:
        try:
            for entry in await finding.entries(base, contents, list_id):
                for piece in entry.pieces:
                    chosen.offer(piece.chunk)
        except (NotFoundError, UnprocessableError):
            chunks.append(list_id)
            break
    else:
        try:
            contents.end(base)
        except BackupError:
            damaged.append(names.base(finding.project_id, finding.timeline_id, base.name))
    # 2.
    size = 0

    async def look(chunk_id: str) -> None:
        nonlocal size
        try:
            plain = await finding.chunk(chunk_id)
        except (NotFoundError, UnprocessableError):
            chunks.append(chunk_id)
        else:
            size += len(plain)

    await side_by_side(chosen.ids, look)
    # 3.
    found = await finding.wal_names(base.wal_timeline, wal.segment_number(base.stop_lsn))
    newest = max((*found.whole, *found.beginnings), default=None)
    if newest is not None:
        name = [*found.beginnings.get(newest, ()), *found.whole.get(newest, ())][0]
        try:
            await finding.segments(name, base.wal_timeline)
        except (NotFoundError, UnprocessableError):
            damaged.append(names.wal_object(finding.project_id, finding.timeline_id, name))
    told = [*damaged, *(names.chunk(finding.project_id, it) for it in chunks)]
    return Look(Seen(base=base.name, chunks=len(chosen.ids), bytes=size, damaged=told[:DAMAGED_MAX]), chunks)


class _Sample:
    """So many of all that are offered, each as likely as the other (reservoir sampling)."""

    def __init__(self, size: int) -> None:
        self.ids: list[str] = []
        self._size = size
        self._offered = 0
        self._last = ""

    def offer(self, chunk_id: str) -> None:
        if chunk_id == self._last:  # small files of one chunk
            return
        self._last = chunk_id
        self._offered += 1
        if len(self.ids) < self._size:
            self.ids.append(chunk_id)
        elif (at := random.randrange(self._offered)) < self._size:  # noqa: S311 - nobody gains by knowing which
            self.ids[at] = chunk_id
