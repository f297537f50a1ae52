"""What comes out of a store becomes the files of a data directory that nobody uses yet. Blocking.

Paths were read by `protocol/backups/bases.py`, which lets none out; here each is walked from the directory that is open, name by name and through
no link, and what is there already is never opened: a list cannot make root write anywhere else, whatever is in it.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cloister.node.timelines import clone, tree, wal
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups.bases import Entry, Piece

_FILE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Laying:
    """Into `data`, which is not there yet."""

    def __init__(self, data: Path, uid: int) -> None:
        self._data = data
        self._uid = uid

    def begin(self) -> None:
        self._data.mkdir(mode=0o700)
        os.chown(self._data, self._uid, self._uid)

    def make(self, entries: Iterable[Entry], abort: Abort) -> None:
        """Directories, and files of their size without content."""
        with tree.room_needed(str(self._data)):
            for entry in entries:
                abort.check()
                with self._parent(entry.path) as (parent, name):
                    if entry.size is None:
                        os.mkdir(name, 0o700, dir_fd=parent)
                        os.chown(name, self._uid, self._uid, dir_fd=parent, follow_symlinks=False)
                        continue
                    with tree.opened(name, tree.NEW_FILE, below=parent) as file:
                        os.fchown(file, self._uid, self._uid)
                        os.ftruncate(file, entry.size)

    def write(self, plain: bytes, places: Iterable[tuple[str, Piece]], abort: Abort) -> None:
        """What of a chunk goes where. Raises ValueError for a piece that is not in it."""
        with tree.room_needed(str(self._data)):
            for path, piece in places:
                abort.check()
                if piece.at + piece.length > len(plain):
                    raise ValueError(piece.chunk)
                part = memoryview(plain)[piece.at : piece.at + piece.length]
                with self._parent(path) as (parent, name), tree.opened(name, _FILE, below=parent) as file:
                    _write(file, part, piece.offset)

    def segment(self, name: str, content: bytes) -> None:
        """WAL, in place of what the base has of this segment. What is missing at its end is zeros, as PostgreSQL has them."""
        with (
            tree.room_needed(str(self._data)),
            tree.opened(self._data) as data,
            tree.opened(clone.WAL, below=data) as segments,
        ):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=segments)
            with tree.opened(name, tree.NEW_FILE, below=segments) as file:
                os.fchown(file, self._uid, self._uid)
                _write(file, memoryview(content), 0)
                os.ftruncate(file, wal.SEGMENT_BYTES)

    def written(self, wal_timeline: int, number: int) -> int:
        """How much of a segment the base has itself; 0 where it has none."""
        with tree.opened(self._data) as data, tree.opened(clone.WAL, below=data) as segments:
            content = tree.read_small(wal.segment_name(wal_timeline, number), segments, wal.SEGMENT_BYTES)
        return 0 if content is None else wal.written(content, number)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        *parents, name = path.split("/")
        with contextlib.ExitStack() as opened:
            here = opened.enter_context(tree.opened(self._data))
            for parent in parents:
                here = opened.enter_context(tree.opened(parent, below=here))
            yield here, name


def _write(file: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
