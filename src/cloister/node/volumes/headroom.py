"""Room kept back, so that a full volume is an error message and not an outage.

A tenant may fill its volume, and that must end in `53100 disk full` for the statement that did it. PostgreSQL answers so
when it cannot extend a table. But when it cannot make a WAL segment, or a checkpoint cannot create a file of 16 bytes, it
must stop (PANIC), and a volume filled to its last block would never come up again. So tables must run out of room before
the server does:

- **A margin.** Files below `base/` get an *extent size hint*: XFS lets them grow only while a whole hint's worth of blocks
  is free, though they use only what they need. What lies outside `base/` (WAL, transaction status, checkpoints) has
  the last blocks to itself. One small file inside it is the server's as well: see `keep_margin`.
- **WAL segments made ahead.** PostgreSQL takes a segment file that exists before it creates one, and recycles old ones to
  stay ahead. While it does, WAL needs no free block.
- **A reserve file.** A burst of WAL can still use up the margin, for `max_wal_size` is not a hard limit. The reserve is then
  given up, so that recovery ends, and taken back once the volume has room again.

Segments and reserve are *unwritten extents*: they belong to their file in the volume and take nothing on the host's disk.
"""

import errno
import fcntl
import itertools
import logging
import os
import re
import struct
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError

log = logging.getLogger(__name__)

WAL_AHEAD_BYTES: Final = 64 * 1024**2
# Covers what is written between two checkpoints at the smallest `max_wal_size` that computes have.

RESERVE_BYTES: Final = 64 * 1024**2
# Recovery ends with a checkpoint: at most one more `max_wal_size`.

SHARE: Final = 16
# Of a small volume, no more than a sixteenth for either.

MARGIN_BYTES: Final = 4 * 1024**2
# Seen: checkpoints and crash recovery succeed with 1 MB left; every further MB is a WAL segment in a burst.

MARGIN_SHARE: Final = 64
# Of a small volume, no more than a 64th.

LOW_MARGINS: Final = 2
# A volume with less than so many margins free is almost full.

ENTRIES_MAX: Final = 20_000
# Looked at in a tenant's directory: the databases, or the WAL segments of 16 GB. A tenant that runs code as its server can
# make millions, and root would hold all their names at once, or mind no other volume meanwhile.

_RESERVE: Final = "reserve"
_FSXATTR: Final = struct.Struct("=5I8x")
_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_EXTENT_SIZE_INHERIT: Final = 0x1000
# struct fsxattr and its ioctls, of <linux/fs.h>: flags, extent size hint, extents, project, copy-on-write hint.

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEGMENT_SIZES: Final = frozenset(1024**2 << shift for shift in range(11))
# What initdb --wal-segsize allows: 1 MB to 1 GB.
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def _free_bytes(path: Path) -> int:
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def margin_bytes(mountpoint: Path) -> int:
    space = os.statvfs(mountpoint)
    blocks = min(MARGIN_BYTES, space.f_blocks * space.f_frsize // MARGIN_SHARE) // space.f_frsize
    return blocks * space.f_frsize


def hold(mountpoint: Path) -> bool:
    """Take the reserve, if it is not held and the volume has twice its size free. True if it is held afterwards."""
    path = mountpoint / _RESERVE
    if path.exists():
        return True
    space = os.statvfs(mountpoint)
    size = min(RESERVE_BYTES, space.f_blocks * space.f_frsize // SHARE)
    if _free_bytes(mountpoint) < 2 * size:
        return False
    directory = os.open(mountpoint, _DIRECTORY)
    try:
        _allocate(_RESERVE, size, 0, directory=directory)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    finally:
        os.close(directory)
    return True


def release_if_needed(mountpoint: Path, *, has_crashed: bool) -> bool:
    """Give up the reserve if the server itself has used up the margin (most of it, while it still runs). True if that was
    done just now."""
    margin = margin_bytes(mountpoint)
    if _free_bytes(mountpoint) >= (margin if has_crashed else margin // 4):
        return False
    try:
        (mountpoint / _RESERVE).unlink()
    except FileNotFoundError:
        return False
    return True


def prepare_cluster(data: Path, uid: int) -> None:
    """All that a cluster at rest needs before its next start: margin and segments. For every new cluster and every new
    branch (a reflink copies neither hints of directories nor unwritten extents), and harmless again. Raises OSError."""
    keep_margin(data, is_running=False)
    make_wal_ahead(data, uid)


def mind(mountpoint: Path) -> None:
    """What a running server needs from time to time, once a second: keep the margin of a volume that is almost full,
    give up the reserve where the server has used the margin up, take it back when there is room. Raises OSError."""
    if _free_bytes(mountpoint) < LOW_MARGINS * margin_bytes(mountpoint):
        for data in mountpoint.glob("timelines/*/data"):
            keep_margin(data, is_running=True)
        if release_if_needed(mountpoint, has_crashed=False):
            log.warning("%s is full: its reserve was given up", mountpoint)
    else:
        hold(mountpoint)


def keep_margin(data: Path, *, is_running: bool) -> None:
    """Put the hint on `base/` and on each database's directory: files that are made in them inherit it.

    Each database's first session after a start writes its relation cache's init file there, and cannot go on without. So
    in a volume that is almost full a directory gets its hint when that file is there, and is without it until then. (A
    server that starts removes the one of its last run.)"""
    hint = margin_bytes(data)
    is_low = _free_bytes(data) < LOW_MARGINS * hint
    base = _open_below(data, "base")
    try:
        _set_extent_size(base, hint)
        for name in _names(base):
            if not name.isdecimal():
                continue
            database = os.open(name, _DIRECTORY, dir_fd=base)
            try:
                has_init_file = is_running and _exists("pg_internal.init", database)
                _set_extent_size(database, hint if has_init_file or not is_low else 0)
            finally:
                os.close(database)
    finally:
        os.close(base)


def make_wal_ahead(data: Path, uid: int) -> int:
    """Make the WAL segments that a cluster at rest will need next. Returns how many. Only for a cluster that is not
    running; calling it again only adds what is missing. Raises OSError, ENOSPC among others.

    The directory belongs to a tenant and this is root: no name in it is followed, and nothing in it is overwritten."""
    wal = _open_below(data, "pg_wal")
    try:
        present = sorted(name for name in _names(wal) if _SEGMENT.fullmatch(name))
        if not present:
            return 0
        size = os.stat(present[0], dir_fd=wal, follow_symlinks=False).st_size
        if size not in _SEGMENT_SIZES:
            raise PreconditionError(f"a WAL segment of {size} bytes")
        space = os.fstatvfs(wal)
        ahead = min(WAL_AHEAD_BYTES, space.f_blocks * space.f_frsize // SHARE)
        missing = next_segments(present[-1], size, ahead // size + 1 - len(present))
        for name in missing:
            _allocate(name, size, uid, directory=wal)
        return len(missing)
    finally:
        os.close(wal)


def next_segments(last: str, size: int, count: int) -> list[str]:
    """The names of the `count` segments after `last`: timeline, then the position in units of 4 GiB and of segments."""
    timeline, high, low = (int(part, 16) for part in (last[:8], last[8:16], last[16:]))
    per_high = 0x1_0000_0000 // size
    number = high * per_high + low
    return [f"{timeline:08X}{n // per_high:08X}{n % per_high:08X}" for n in range(number + 1, number + 1 + count)]


def _set_extent_size(directory: int, size: int) -> None:
    flags, found, extents, project, cow = _FSXATTR.unpack(fcntl.ioctl(directory, _FSGETXATTR, bytes(_FSXATTR.size)))
    wanted = flags | _EXTENT_SIZE_INHERIT if size else flags & ~_EXTENT_SIZE_INHERIT
    if (flags, found) != (wanted, size):
        fcntl.ioctl(directory, _FSSETXATTR, _FSXATTR.pack(wanted, size, extents, project, cow))


def _names(directory: int) -> list[str]:
    """Of the first ENTRIES_MAX entries."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, ENTRIES_MAX)]


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_below(directory: Path, name: str) -> int:
    outer = os.open(directory, _DIRECTORY)
    try:
        return os.open(name, _DIRECTORY, dir_fd=outer)
    finally:
        os.close(outer)


def _allocate(name: str, size: int, uid: int, *, directory: int) -> None:
    """A new file of unwritten extents. Raises OSError(ENOSPC), and leaves none then."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.fchown(descriptor, uid, uid)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)
