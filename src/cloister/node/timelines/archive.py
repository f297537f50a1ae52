"""Finished WAL, taken out of the tenant's reach: from the outbox of a compute into an archive of root's.

The outbox is written by the tenant's server, so by whoever has taken that over: it may hold links, pipes, directories, files of
any size and any number. The archive is what recoveries and backups read. What must stay true:

(1) What is in the archive is a file of root's with the content that its line in the index says: it was copied by reflink, so
    that no descriptor and no second name of the tenant's leads to it.
(2) Nothing in it is ever overwritten.
(3) It leaves the outbox when it is in the archive, on disk, with its line in the index.
(4) There are no more of them than whole ones would fit into the volume: a file of nothing but a hole takes no room there, and its line
    takes some in the agent.

The index has a JSON object a line and is only ever added to, but for what is pruned. The files themselves say what is
there; a line that a crash took is written again.
"""

import contextlib
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_filesystem, write_durably
from cloister.base.errors import PreconditionError
from cloister.node.timelines import tree, wal
from cloister.node.timelines.tree import Abort, Budget

log = logging.getLogger(__name__)

COLLECTED_MAX: Final = 256
# Segments taken in one pass, some 2 ms each: a stop waits for one. What is left is taken in the next.

THROWN_AWAY_MAX: Final = 10_000
# Entries of directories in there, removed in one pass: some 100 ms. Nothing but a tenant that has taken its server over makes any,
# and it can make them as fast as they are removed.

_WAITING_MAX: Final = 4096
# Gigabytes that nobody took in; a tenant can put more there, and is not waited for.

INDEX: Final = "index"

_UNFINISHED: Final = ".unfinished"
_CHUNK: Final = 1024**2


class Segment(msgspec.Struct, frozen=True):
    """A line of the index."""

    name: str
    size: int
    sha256: str
    archived_at: float

    @property
    def number(self) -> int:
        parsed = wal.parse_segment_name(self.name)
        assert parsed is not None
        return parsed[1]


class Archive:
    """Of one timeline. Blocking; one caller at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._index = directory / INDEX
        self._segments: list[Segment] | None = None
        """As they were read last; None since the index was changed."""

    def collect(self, outbox: Path, now: float, abort: Abort) -> int:
        """Take in what is finished, throw away what nobody asked for. How many segments came."""
        names = _names(outbox, COLLECTED_MAX)
        if not names:
            return 0
        known = {segment.name: segment for segment in self.segments()}
        came: list[Segment] = []
        with tree.opened(outbox) as directory:
            room = _whole_ones(directory) - len(known)
            for name in sorted(names):
                abort.check()
                if name.startswith("."):  # Being written.
                    continue
                if wal.parse_segment_name(name) is not None:
                    if len(came) >= room:
                        log.warning(
                            "%s would hold more segments than its volume: no more are archived", self._directory
                        )
                        break
                    segment = self._take(name, directory, known, now)
                    if segment is not None and segment.name not in known:
                        came.append(segment)
        self._add(came)
        budget = Budget(abort, THROWN_AWAY_MAX)
        with tree.opened(outbox) as directory:
            try:
                for name in names:
                    if not name.startswith("."):
                        _throw_away(name, directory, outbox, budget)
            except PreconditionError:
                log.warning("the outbox %s holds more than can be removed at once", outbox)
        return len(came)

    def waiting(self, outbox: Path, wal_timeline: int) -> set[int]:
        """Numbers of segments that the next passes take in, by their names alone."""
        parsed = (wal.parse_segment_name(name) for name in _names(outbox, _WAITING_MAX))
        return {it[1] for it in parsed if it is not None and it[0] == wal_timeline}

    def segments(self) -> list[Segment]:
        """What is there, as it was indexed, in order. Read once, for nobody else changes it meanwhile: of a busy timeline the
        index has as many lines as its window has megabytes of WAL."""
        if self._segments is None:
            self._segments = self._read()
        return self._segments

    def _read(self) -> list[Segment]:
        try:
            lines = self._index.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = {}
        for line in lines:
            # The last one may be torn by a crash; its segment is still in the outbox.
            with contextlib.suppress(msgspec.DecodeError):
                segment = msgspec.json.decode(line, type=Segment)
                found[segment.name] = segment
        return sorted(found.values(), key=lambda segment: segment.name)

    def give_up_before(self, number: int) -> None:
        """Everything that ends where segment `number` begins, or before."""
        segments = self.segments()
        kept = [segment for segment in segments if segment.number >= number]
        if len(kept) == len(segments):
            return
        # First the index: a file without a line is removed below, a line without a file would be believed.
        self._segments = None
        write_durably(self._index, _lines(kept), mode=0o600)
        names = {segment.name for segment in kept}
        for path in self._directory.iterdir():
            parsed = wal.parse_segment_name(path.name)
            if parsed is not None and parsed[1] < number and path.name not in names:
                path.unlink()

    def give_up(self) -> None:
        """All of it."""
        self._segments = None
        write_durably(self._index, b"", mode=0o600)
        for path in self._directory.iterdir():
            if path.name != INDEX:
                path.unlink()

    def unharmed(self, names: Iterable[str]) -> list[str]:
        """Of these segments those before the first that is not what it was when it was taken in. A replay would take that for the end
        of all WAL, and say nothing."""
        known = {segment.name: segment.sha256 for segment in self.segments()}
        found = []
        with tree.opened(self._directory) as directory:
            for name in names:
                file = tree.open_regular(name, directory)
                if file is None:
                    break
                try:
                    if _digest(file) != known.get(name):
                        log.error("%s in %s is damaged", name, self._directory)
                        break
                finally:
                    os.close(file)
                found.append(name)
        return found

    def clone_into(self, names: Iterable[str], target: int, uid: int) -> None:
        """These segments, where they are, into the directory `target`."""
        with tree.opened(self._directory) as directory:
            for name in names:
                with contextlib.suppress(FileNotFoundError), tree.opened(name, tree.FILE, below=directory) as source:
                    _copy_new(source, name, target, uid)

    def _take(self, name: str, outbox: int, known: dict[str, Segment], now: float) -> Segment | None:
        source = tree.open_regular(name, outbox)
        if source is None:
            return None
        try:
            if os.fstat(source).st_size != wal.SEGMENT_BYTES:
                log.warning("a segment of %d bytes is not archived", os.fstat(source).st_size)
                return None
            with tree.opened(self._directory) as archive:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_UNFINISHED, dir_fd=archive)
                with tree.opened(_UNFINISHED, tree.NEW_FILE, below=archive) as copy:
                    tree.share(source, copy)
                    if os.fstat(copy).st_size != wal.SEGMENT_BYTES:  # Swapped or written to, meanwhile.
                        return None
                    segment = Segment(name, wal.SEGMENT_BYTES, _digest(copy), now)
                if (archived := known.get(name)) is not None:
                    if archived.sha256 != segment.sha256:
                        log.warning("%s was archived before, with another content: that one stays", name)
                    os.unlink(_UNFINISHED, dir_fd=archive)
                    return archived
                # Without a line in the index, a file of this name is one that a crash left.
                os.rename(_UNFINISHED, name, src_dir_fd=archive, dst_dir_fd=archive)
            return segment
        finally:
            os.close(source)

    def _add(self, segments: list[Segment]) -> None:
        if not segments:
            return
        sync_filesystem(self._directory)
        self._segments = None
        with open(os.open(self._index, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b") as index:
            end = index.seek(0, os.SEEK_END)
            is_torn = end > 0 and os.pread(index.fileno(), 1, end - 1) != b"\n"
            index.write((b"\n" if is_torn else b"") + _lines(segments))
            index.flush()
            os.fsync(index.fileno())


def _names(outbox: Path, at_most: int) -> list[str]:
    """Of what is there, if the tenant did not remove it: no more than that many."""
    try:
        with tree.opened(outbox) as directory, os.scandir(directory) as entries:
            return [entry.name for entry in itertools.islice(entries, at_most)]
    except FileNotFoundError:
        return []


def _whole_ones(directory: int) -> int:
    """How many segments the file system would hold if it held nothing else."""
    found = os.fstatvfs(directory)
    return found.f_blocks * found.f_frsize // wal.SEGMENT_BYTES


def _lines(segments: list[Segment]) -> bytes:
    return b"".join(msgspec.json.encode(segment) + b"\n" for segment in segments)


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def _copy_new(source: int, name: str, target: int, uid: int) -> None:
    """Over what the target has under this name."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=target)
    with tree.opened(name, tree.NEW_FILE, below=target) as copy:
        os.fchown(copy, uid, uid)
        if not tree.share(source, copy):
            os.fsync(copy)


def _throw_away(name: str, outbox: int, path: Path, budget: Budget) -> None:
    try:
        os.unlink(name, dir_fd=outbox)
    except IsADirectoryError:
        log.warning("the outbox %s holds a directory: removed", path)
        tree.remove_below(name, outbox, budget)
    except FileNotFoundError:
        pass
