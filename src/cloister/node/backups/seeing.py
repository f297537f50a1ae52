"""What is in the store is opened, by chance: a backup that nobody reads is a hope."""

import random
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.node.backups.dumps import Dumps
from cloister.node.backups.fetching import Listed, Source, entries_of
from cloister.node.backups.finding import Finding
from cloister.node.backups.objects import side_by_side
from cloister.node.backups.restoring import snapshot_of
from cloister.node.commands import Seen
from cloister.node.timelines.history import first_after
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import Contents
from cloister.protocol.backups.errors import BackupError
from cloister.trust.keys.commands import DumpKeyInfo

DAMAGED_MAX: Final = 100
# That are told. Whoever sees the first looks at all.


@dataclass(frozen=True, slots=True)
class Look:
    seen: Seen
    chunks: list[str]
    """Ids of those that are damaged."""


@dataclass(frozen=True, slots=True)
class _Sampled:
    is_whole: bool
    """Its lists have what it counted, as far as they open."""
    chunks: int
    bytes: int
    damaged: list[str]
    """Ids."""


async def see(finding: Finding, sample: int) -> Look:
    """1. Every base; of the newest, all its lists, read as a restoration reads them, and some of the chunks that they name.
    2. The newest WAL behind it.
    """
    # 1.
    bases = await finding.bases()
    damaged = list(bases.damaged)
    if not bases.opened:
        if damaged:
            return Look(Seen(base="", chunks=0, bytes=0, damaged=damaged[:DAMAGED_MAX]), [])
        raise NotFoundError(f"no base of {finding.timeline_id}", public="the store has no backup of the branch")
    base = bases.opened[0]
    sampled = await _sampled(f"base {base.name}", base, finding, sample)
    if not sampled.is_whole:
        damaged.append(names.base(finding.project_id, finding.timeline_id, base.object_name))
    # 2.
    found = await finding.wal_names(base.wal_timeline, first_after(snapshot_of(base)), base.label)
    newest = max((*found.whole, *found.beginnings), default=None)
    if newest is not None:
        name = [*found.beginnings.get(newest, ()), *found.whole.get(newest, ())][0]
        try:
            await finding.segments(name, base.wal_timeline)
        except (NotFoundError, UnprocessableError):
            damaged.append(names.wal_object(finding.project_id, finding.timeline_id, name))
    return _look(base.name, finding.project_id, sampled, damaged)


async def see_dump(dumps: Dumps, name: str, key: DumpKeyInfo, sample: int) -> Look:
    """1. The key that opens it, as the root key wrapped it: nobody here can open that, but it is known.
    2. The dump, all its lists, and some of the chunks that they name.
    """
    damaged: list[str] = []

    async def same(content: bytes) -> None:
        if content != key.envelope:
            raise BackupError("is another key")

    # 1.
    try:
        await dumps.store.read(names.platform_key(key.material), same)
    except (NotFoundError, UnprocessableError):
        damaged.append(names.platform_key(key.material))
    # 2.
    try:
        dump = await dumps.head(name)
    except (NotFoundError, UnprocessableError):
        return Look(Seen(base=name, chunks=0, bytes=0, damaged=[*damaged, names.dump(name)]), [])
    sampled = await _sampled(f"dump {name}", dump, dumps, sample)
    if not sampled.is_whole:
        damaged.append(names.dump(name))
    return _look(name, names.PLATFORM, sampled, damaged)


def _look(name: str, owner: str, sampled: _Sampled, damaged: list[str]) -> Look:
    told = [*damaged, *(names.chunk(owner, it) for it in sampled.damaged)]
    seen = Seen(base=name, chunks=sampled.chunks, bytes=sampled.bytes, damaged=told[:DAMAGED_MAX])
    return Look(seen, sampled.damaged)


async def _sampled(what: str, listed: Listed, source: Source, size: int) -> _Sampled:
    """1. All its lists, in order.
    2. Some of the chunks.
    """
    contents, chosen, damaged, is_whole, opened = Contents(), _Sample(size), list[str](), True, 0
    # 1.
    for list_id in listed.lists:
        try:
            for entry in await entries_of(what, source, contents, list_id):
                for piece in entry.pieces:
                    chosen.offer(piece.chunk)
        except (NotFoundError, UnprocessableError):
            damaged.append(list_id)
            break
    else:
        try:
            contents.end(listed)
        except BackupError:
            is_whole = False

    async def look(chunk_id: str) -> None:
        nonlocal opened
        try:
            plain = await source.chunk(chunk_id)
        except (NotFoundError, UnprocessableError):
            damaged.append(chunk_id)
        else:
            opened += len(plain)

    await side_by_side(chosen.ids, look)  # 2.
    return _Sampled(is_whole, len(chosen.ids), opened, damaged)


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
