"""Room kept back, so that a full volume is an error message and not an outage.

A tenant fills its volume: that is allowed, and must end in `53100 disk full` for the statement that did it. PostgreSQL
answers so when it cannot extend a table. When it cannot create a WAL segment it must stop (PANIC), and to come back it
needs room for more WAL: a volume that is filled to the last block would never start again. So two kinds of room are kept
back, both as *unwritten extents*: they belong to the file in the volume and take nothing on the host's disk.

- **WAL segments made ahead.** PostgreSQL takes a segment file that exists before it creates one, and recycles old ones to
  stay ahead (by `min_wal_size`, or twice what the last checkpoint took). While it is, running WAL needs no free block.
- **A reserve file.** Should WAL still run out, the compute stops, and before its next start the reserve is given up: recovery
  has its room. It is taken back as soon as the volume has room again; until then it is the tenant's to delete with.
"""

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError

WAL_AHEAD_BYTES: Final = 64 * 1024**2
# Covers what is written between two checkpoints at the smallest `max_wal_size` that computes have.

RESERVE_BYTES: Final = 64 * 1024**2
# Recovery ends with a checkpoint: at most one more `max_wal_size`.

SHARE: Final = 16
# Of a small volume, no more than a sixteenth for either.

RELEASE_SHARE: Final = 4
# Given up when less than a quarter of it is free: a compute that died of anything else leaves more.

_RESERVE: Final = "reserve"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEGMENT_SIZES: Final = frozenset(1024**2 << shift for shift in range(11))
# What initdb --wal-segsize allows: 1 MB to 1 GB.
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def hold(mountpoint: Path) -> bool:
    """Take the reserve, if it is not held and the volume has twice its size free. True if it is held afterwards."""
    path = mountpoint / _RESERVE
    if path.exists():
        return True
    space = os.statvfs(mountpoint)
    size = min(RESERVE_BYTES, space.f_blocks * space.f_frsize // SHARE)
    if space.f_bavail * space.f_frsize < 2 * size:
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


def release_if_full(mountpoint: Path) -> bool:
    """Give up the reserve if next to nothing else is free. True if that was done just now."""
    path = mountpoint / _RESERVE
    space = os.statvfs(mountpoint)
    with contextlib.suppress(FileNotFoundError):
        if space.f_bavail * space.f_frsize < path.stat().st_size // RELEASE_SHARE:
            path.unlink()
            return True
    return False


def make_wal_ahead(data: Path, uid: int) -> int:
    """Make the WAL segments that a cluster at rest will need next. Returns how many. Only for a cluster that is not
    running; calling it again only adds what is missing. For every new cluster and every new branch: a reflink copies no
    unwritten extents. Raises OSError, ENOSPC among others.

    The directory belongs to a tenant and this is root: no name in it is followed, and nothing in it is overwritten."""
    wal = _open_below(data, "pg_wal")
    try:
        present = sorted(name for name in os.listdir(wal) if _SEGMENT.fullmatch(name))  # noqa: PTH208 - a descriptor
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
