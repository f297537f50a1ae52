"""A base: what a data directory was at a place in its WAL, as lists of files and the pieces that they are made of.

The object with the base's name holds its facts and the ids of some chunks. In these are its lists, one after the other: every directory and
every file in one order, the files of a directory by their names, then the directories in it by theirs, each with all that is in it. So
whoever reads the lists sees with each entry alone that its directory was named before, and that nothing is named twice.

A piece is a part of a chunk that goes to an offset in a file; what no piece covers is zeros. Modes and owners are not listed: every
file is its owner's alone, and who that is, the project says that it is restored to.
"""

import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import msgspec

from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.keys import is_chunk_id, labelled

CHUNK_BYTES: Final = 1024**2
"""At most, before it is sealed. A change of one page sends a chunk anew; smaller ones cost more requests."""

FILES_MAX: Final = 1_000_000
"""Directories too. A database has some 300, a table with two indexes 5."""

FILE_BYTES_MAX: Final = 16 * 1024**3
"""PostgreSQL's end at 1 GiB, but for what extensions keep."""

BYTES_MAX: Final = 1024**4
"""Of all files. At 100 MB a second, reading that takes three hours; a base is to be taken each day."""

LISTS_MAX: Final = 1024
"""FILES_MAX files of two pieces, or BYTES_MAX in pieces of a mebibyte, take some 200."""

DEPTH_MAX: Final = 6
"""As `node/timelines/tree.py`: PostgreSQL's own directories are three deep."""

NAME: Final = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.,:;=@~+%#-]{1,255}")
"""Of a file or directory: what PostgreSQL and extensions call theirs. Nothing that means anything to a kernel or a terminal."""

_FORMAT: Final = 1
_LSN_MAX: Final = 2**64 - 1
_MOMENT_MAX: Final = 2**33


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its facts."""

    format: int = _FORMAT
    timeline: str
    pg_version: int
    start_lsn: int
    stop_lsn: int
    wal_timeline: int
    moment: float
    is_clean: bool
    """These five as the agent's `Snapshot` has them."""
    lists: list[str]
    """Ids of the chunks with its lists, in order."""
    files: int
    bytes: int
    label: str = ""
    """Of who sent it (`keys.py`)."""

    @property
    def name(self) -> str:
        return f"{self.stop_lsn:016X}"

    @property
    def object_name(self) -> str:
        return labelled(self.name, self.label)


class Piece(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    """Where in the file it goes."""
    length: int
    chunk: str
    at: int = 0
    """Where in the chunk it begins."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    path: str
    """Below the data directory, without a slash at either end."""
    size: int | None = None
    """None: a directory."""
    pieces: list[Piece] = []


_BASE: Final = msgspec.json.Decoder(Base)
_LIST: Final = msgspec.json.Decoder(list[Entry])
ENCODER: Final = msgspec.json.Encoder()


def encoded_base(base: Base) -> bytes:
    return ENCODER.encode(base)


def parse_base(plain: bytes, timeline: str, name: str) -> Base:
    """Raises BackupError."""
    try:
        base = _BASE.decode(plain)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BackupError("is no description of a base") from error
    if base.format != _FORMAT:
        raise BackupError(f"has the format {base.format}, which this Cloister does not know")
    if base.timeline != timeline or base.object_name != name:
        raise BackupError("describes another base than its name says")
    if not (
        0 <= base.start_lsn <= base.stop_lsn <= _LSN_MAX
        and 0 < base.wal_timeline < 2**32
        and math.isfinite(base.moment)
        and 0 <= base.moment < _MOMENT_MAX
        and 0 < base.pg_version < 1000
        and 0 <= base.files <= FILES_MAX
        and 0 <= base.bytes <= BYTES_MAX
    ):
        raise BackupError("has facts that cannot be")
    if not 0 < len(base.lists) <= LISTS_MAX or not all(map(is_chunk_id, base.lists)):
        raise BackupError("has no lists of files, or too many")
    return base


class _Open(NamedTuple):
    """A directory whose entries may follow: files while it is the innermost one, and then directories."""

    path: str
    last_directory: str
    """The last one in it that was named."""


class Counted(Protocol):
    """A base, or a dump."""

    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Contents:
    """Reads the lists of one base in order, and believes nothing in them."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self._open: list[_Open] = [_Open("", "")]
        self._last_file = ""

    def read(self, plain: bytes) -> list[Entry]:
        """The next list. Raises BackupError for what no agent lists."""
        try:
            entries = _LIST.decode(plain)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BackupError("is no list of files") from error
        for entry in entries:
            self._check(entry)
        return entries

    def end(self, base: Counted) -> None:
        """After the last one."""
        if (self.files, self.bytes) != (base.files, base.bytes):
            raise BackupError("has other files than it says")

    def _check(self, entry: Entry) -> None:
        """1. Its name is one, in a directory that is open, and comes after all that was named there.
        2. Its pieces lie in it and in their chunks, in order, and not over each other.
        3. There are not too many, and not too much.
        """
        # 1.
        parent, _, name = entry.path.rpartition("/")
        if NAME.fullmatch(name) is None:
            raise BackupError("lists a name that PostgreSQL does not give")
        if entry.size is None:
            self._enter(parent, name, entry)
        else:
            here = self._open[-1]
            if here.path != parent or name <= self._last_file:
                raise BackupError("lists files out of order, twice, or outside")
            self._last_file = name
            # 2.
            if not 0 <= entry.size <= FILE_BYTES_MAX:
                raise BackupError("lists a file of a size that cannot be")
            _check_pieces(entry.pieces, entry.size)
        # 3.
        self.files += 1
        self.bytes += sum(piece.length for piece in entry.pieces)
        if self.files > FILES_MAX or self.bytes > BYTES_MAX:
            raise BackupError("lists more than a project can have")

    def _enter(self, parent: str, name: str, entry: Entry) -> None:
        while len(self._open) > 1 and self._open[-1].path != parent:
            self._open.pop()
        above = self._open[-1]
        if above.path != parent or name <= above.last_directory or len(self._open) > DEPTH_MAX or entry.pieces:
            raise BackupError("lists directories out of order, twice, or outside")
        self._open[-1] = _Open(parent, name)
        self._open.append(_Open(entry.path, ""))
        self._last_file = ""


def _check_pieces(pieces: Iterable[Piece], size: int) -> None:
    end = 0
    for piece in pieces:
        if piece.offset < end or not 0 < piece.length <= CHUNK_BYTES or piece.offset + piece.length > size:
            raise BackupError("lists pieces that overlap, or that lie outside of their file")
        if not 0 <= piece.at <= CHUNK_BYTES - piece.length or not is_chunk_id(piece.chunk):
            raise BackupError("lists a piece of what is no chunk")
        end = piece.offset + piece.length
