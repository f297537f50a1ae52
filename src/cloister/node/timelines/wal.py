"""Places in the write-ahead log, and the names of its segments. Pure arithmetic.

An LSN is a number of bytes since the cluster began. Segments have one size, set when the template was made; their names say
the WAL timeline (PostgreSQL's, a number that grows with every recovery to a point), then the position.
"""

import re
import struct
from collections.abc import Iterable
from typing import Final

from cloister.base.errors import BadRequestError

SEGMENT_BYTES: Final = 1024**2
# `initdb --wal-segsize=1`, see postgres/template.py.

PAGE_BYTES: Final = 8192
# XLOG_BLCKSZ.

PAGE_HEADER_BYTES: Final = 24
# Enough of the first page for `begins_at`.

PAGE_HEADER_BYTES_MAX: Final = 40
# Between the end of a record that fills a page and the next one: both are the same place.

SEGMENT_NAME: Final = re.compile(r"[0-9A-F]{24}")
HISTORY_NAME: Final = re.compile(r"[0-9A-F]{8}\.history")

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_PER_HIGH: Final = 0x1_0000_0000 // SEGMENT_BYTES
_SEGMENTS: Final = 2**64 // SEGMENT_BYTES
_PAGE_HEADER: Final = struct.Struct("=HHIQ")
# XLogPageHeaderData: magic, flags, WAL timeline, address of the page.


def parse_lsn(text: str) -> int:
    """`0/15E9A30`. Raises BadRequestError."""
    if (match := _LSN.fullmatch(text)) is None:
        raise BadRequestError(f"not an LSN: {text[:80]!r}", public="an LSN looks like 0/15E9A30")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFF_FFFF:X}"


def segment_number(lsn: int) -> int:
    return lsn // SEGMENT_BYTES


def segment_name(wal_timeline: int, number: int) -> str:
    return f"{wal_timeline:08X}{number // _PER_HIGH:08X}{number % _PER_HIGH:08X}"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """WAL timeline and number; None if it is no name of a segment."""
    if not SEGMENT_NAME.fullmatch(name):
        return None
    wal_timeline, high, low = (int(name[start : start + 8], 16) for start in (0, 8, 16))
    number = high * _PER_HIGH + low
    # Where the last one of all ends is no LSN any more.
    return (wal_timeline, number) if low < _PER_HIGH and number + 1 < _SEGMENTS else None


def unbroken(numbers: Iterable[int], start: int) -> int:
    """The number after the last of those that follow each other from `start` on; `start` if that is missing itself."""
    present = set(numbers)
    while start in present:
        start += 1
    return start


def written(segment: bytes, number: int) -> int:
    """How many bytes of a whole segment's file are its own: pages that say where they are, up to the last byte that is not zero. What
    is behind them was another segment's, under whose name the file was kept."""
    pages = 0
    while pages < SEGMENT_BYTES // PAGE_BYTES and _address(segment, pages * PAGE_BYTES) == (
        number * SEGMENT_BYTES + pages * PAGE_BYTES
    ):
        pages += 1
    return len(segment[: pages * PAGE_BYTES].rstrip(b"\0"))


def _address(segment: bytes, offset: int) -> int | None:
    if len(segment) < offset + _PAGE_HEADER.size:
        return None
    return int(_PAGE_HEADER.unpack_from(segment, offset)[3])


def begins_at(header: bytes, number: int) -> bool:
    """Whether a segment's first bytes say that it is this one. One that was kept for later use still holds, under its
    new name, what it was."""
    return _address(header, 0) == number * SEGMENT_BYTES
