"""The files of a snapshot, in order, become chunks. Blocking, a chunk a call.

A large file's are its mebibytes, so that what changed in it is what is sent. Small files go together, those of one directory one after the
other; where a chunk of them ends depends on their names as well, so that one that grew does not move all that come after it.

A snapshot is root's directory, and what is in it the tenant's: names that PostgreSQL does not give and files that are too large are left out,
holes are not read, and how many and how much is bounded (`protocol/backups/bases.py`).
"""

import contextlib
import errno
import itertools
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cloister.base.errors import ConflictError, PreconditionError
from cloister.node.timelines import tree
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups import bases
from cloister.protocol.backups.bases import CHUNK_BYTES, DEPTH_MAX, ENCODER, Entry, Piece

SMALL_BYTES: Final = 256 * 1024
# Files up to this go together. Of a fresh database's 300, all but a handful.

_ENDS_AT: Final = 32
# One name in so many is the last in its chunk: some half a megabyte of a fresh database's files.

_PIECE_BYTES: Final = 100
_ENTRY_BYTES: Final = 40
# In a list, beside the path.


class Chunk(NamedTuple):
    id: str
    plain: bytes


class Reading:
    """`chunk_id` gives a chunk its name. After the last chunk, `lists` and the counts are whole."""

    def __init__(self, data: Path, chunk_id: Callable[[bytes], str]) -> None:
        self.lists: list[str] = []
        self.files = 0
        """Directories too."""
        self.bytes = 0
        self.left_out = 0
        self._chunk_id = chunk_id
        self._listed: list[Entry] = []
        self._listed_bytes = 0
        self._together: list[tuple[Entry, bytes]] = []
        self._together_bytes = 0
        self._abort = Abort()
        self._chunks = self._read(data)

    def next(self, abort: Abort) -> Chunk | None:
        """None: that was all. Raises ConflictError where the snapshot is being removed, PreconditionError for more than a base holds."""
        self._abort = abort
        try:
            return next(self._chunks, None)
        except FileNotFoundError as error:
            raise ConflictError(f"{error.filename} is gone", public="the snapshot was given up meanwhile") from error

    def close(self) -> None:
        """Of one that a thread still reads, which was asked to end, that thread closes the files."""
        with contextlib.suppress(ValueError):
            self._chunks.close()

    def _read(self, data: Path) -> Generator[Chunk]:
        with tree.opened(data) as directory:
            yield from self._directory(directory, "", DEPTH_MAX)
        yield from self._end_list()

    def _directory(self, directory: int, path: str, depth: int) -> Iterator[Chunk]:
        files, directories = self._names(directory)
        for name in files:
            yield from self._file(name, directory, path)
        yield from self._end_together()
        for name in directories:
            if depth == 0:
                raise _no_postgres("directories too deep")
            inner = f"{path}{name}/"
            yield from self._list(Entry(inner[:-1]), 0)
            with tree.opened(name, below=directory) as below:
                yield from self._directory(below, inner, depth - 1)

    def _names(self, directory: int) -> tuple[list[str], list[str]]:
        """Of files, and of directories."""
        files: list[str] = []
        directories: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                self._abort.check()
                is_directory = entry.is_dir(follow_symlinks=False)
                if not (is_directory or entry.is_file(follow_symlinks=False)) or not bases.NAME.fullmatch(entry.name):
                    self.left_out += 1
                    continue
                self.files += 1
                if self.files > bases.FILES_MAX:
                    raise _no_postgres("more files than can be backed up")
                (directories if is_directory else files).append(entry.name)
        return sorted(files), sorted(directories)

    def _file(self, name: str, directory: int, path: str) -> Iterator[Chunk]:
        self._abort.check()
        file = tree.open_regular(name, directory)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path + name)
        try:
            size = os.fstat(file).st_size
            if size > bases.FILE_BYTES_MAX:
                self.left_out += 1
                self.files -= 1
                return
            entry = Entry(path + name, size, [])
            yield from self._list(entry, -(-size // CHUNK_BYTES))
            if 0 < size <= SMALL_BYTES:
                yield from self._put_together(entry, _whole(file, 0, size))
            else:
                yield from self._pieces(entry, file, size)
        finally:
            os.close(file)

    def _pieces(self, entry: Entry, file: int, size: int) -> Iterator[Chunk]:
        for offset in _offsets(file, size):
            self._abort.check()
            plain = _whole(file, offset, min(CHUNK_BYTES, size - offset))
            if plain.count(0) == len(plain):  # As good as a hole.
                continue
            chunk = Chunk(self._chunk_id(plain), plain)
            self._count(len(plain))
            entry.pieces.append(Piece(offset, len(plain), chunk.id))
            yield chunk

    def _put_together(self, entry: Entry, plain: bytes) -> Iterator[Chunk]:
        if self._together_bytes + len(plain) > CHUNK_BYTES:
            yield from self._end_together()
        self._together.append((entry, plain))
        self._together_bytes += len(plain)
        self._count(len(plain))
        if zlib.crc32(entry.path.rpartition("/")[2].encode()) % _ENDS_AT == 0:
            yield from self._end_together()

    def _end_together(self) -> Iterator[Chunk]:
        if not self._together:
            return
        plain = b"".join(content for _, content in self._together)
        chunk = Chunk(self._chunk_id(plain), plain)
        ends = itertools.accumulate(len(content) for _, content in self._together)
        for (entry, content), end in zip(self._together, ends, strict=True):
            entry.pieces.append(Piece(0, len(content), chunk.id, end - len(content)))
        self._together, self._together_bytes = [], 0
        yield chunk

    def _list(self, entry: Entry, pieces: int) -> Iterator[Chunk]:
        """`pieces` are the most that it may come to have: what is listed must fit one object."""
        size = len(entry.path) + _ENTRY_BYTES + pieces * _PIECE_BYTES
        if self._listed_bytes + size > CHUNK_BYTES:
            yield from self._end_together()
            yield from self._end_list()
        self._listed.append(entry)
        self._listed_bytes += size

    def _end_list(self) -> Iterator[Chunk]:
        if not self._listed and self.lists:
            return
        plain = ENCODER.encode(self._listed)
        chunk = Chunk(self._chunk_id(plain), plain)
        self.lists.append(chunk.id)
        self._listed, self._listed_bytes = [], 0
        yield chunk

    def _count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > bases.BYTES_MAX:
            raise _no_postgres("more data than can be backed up")


def _offsets(file: int, size: int) -> Iterator[int]:
    """Of the mebibytes that are no hole."""
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(file, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # The rest is a hole.
                return
            raise
        offset -= offset % CHUNK_BYTES
        yield offset
        offset += CHUNK_BYTES


def _whole(file: int, offset: int, size: int) -> bytes:
    content = os.pread(file, size, offset)
    if len(content) != size:  # Nobody writes to a snapshot: the disk is damaged, and says so elsewhere.
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return content


def _no_postgres(what: str) -> PreconditionError:
    return PreconditionError(what, public=f"the branch's data has {what}")
