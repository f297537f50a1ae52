"""Two files that share their blocks until one of them is written: FICLONE and FICLONERANGE of ioctl_ficlonerange(2).

Nobody reads or writes a file while its blocks are being shared, and each extent takes some 10 µs: of a table under random
updates, which is as many extents as pages were written since it was last shared, a second for each gigabyte. A file that others
use meanwhile is shared piece by piece.
"""

import errno
import fcntl
import os
import struct
from typing import Final, overload

_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
_RANGE: Final = struct.Struct("=qQQQ")
_FSGETXATTR: Final = 0x801C581F
_FSXATTR: Final = struct.Struct("=5I8x")
_CANNOT: Final = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV))

EXTENTS_AT_ONCE: Final = 1000
# For 10 ms at a time.

_PIECE_UNIT: Final = 1024**2
# Of pages and blocks a multiple, whatever their size.

TO_THE_END: Final = 0
# As FICLONERANGE has it: to where the file ends when it is done.


def reflink(source: int, target: int) -> bool:
    """Give the empty file `target` the blocks of `source`, both open. False where the file system cannot; raises OSError for
    anything else, a full one among it."""
    return _told(target, _FICLONE, source) is not None


def reflink_in_use(source: int, target: int) -> bool:
    """As `reflink`, of a file that somebody may be writing, who is held up for a piece and not for the whole. So it is no
    single moment of the file, and PostgreSQL's procedure for a base backup asks for none. False, too, for one that is cut off
    again and again: the target then holds some of it."""
    size = os.fstat(source).st_size
    piece = piece_bytes(size, _extents(source))
    if piece >= size:
        return reflink(source, target)
    for offset in range(0, size, piece):
        is_last = offset + piece >= size
        if not _share(source, target, offset, TO_THE_END if is_last else piece):
            # It became shorter. What is left may not end where a block does, which only the end of a file need not.
            return os.fstat(source).st_size <= offset or _share(source, target, offset, TO_THE_END)
    return True


def piece_bytes(size: int, extents: int) -> int:
    """How much of a file to share at a time."""
    pieces = max(1, -(-extents // EXTENTS_AT_ONCE))
    return -(-size // (pieces * _PIECE_UNIT)) * _PIECE_UNIT


def _share(source: int, target: int, offset: int, length: int) -> bool:
    return _told(target, _FICLONERANGE, _RANGE.pack(source, offset, length, offset)) is not None


def _extents(file: int) -> int:
    """0 where the file system does not tell."""
    answer = _told(file, _FSGETXATTR, bytes(_FSXATTR.size))
    return 0 if answer is None else int(_FSXATTR.unpack(answer)[2])


@overload
def _told(file: int, request: int, argument: int) -> int | None: ...
@overload
def _told(file: int, request: int, argument: bytes) -> bytes | None: ...
def _told(file: int, request: int, argument: int | bytes) -> int | bytes | None:
    """None where the file system cannot."""
    try:
        return fcntl.ioctl(file, request, argument)
    except OSError as error:
        if error.errno in _CANNOT:
            return None
        raise
