"""Room kept back, so that a full volume is an error message and not an outage.

A tenant may fill its volume, and that must end in `53100 disk full` for the statement that did it. PostgreSQL answers so
when it cannot extend a table. But when it cannot make a WAL segment, or a checkpoint cannot create a file of 16 bytes, it
must stop (PANIC), and a volume filled to its last block would never come up again. So statements must run out of room before
the server does:

- **A gate.** The guard in each server (guard/src/space.c) stops statements while less than `gate_bytes` is free.
- **WAL segments made ahead.** PostgreSQL takes a segment file that exists before it creates one, and recycles old ones to
  stay ahead. While it does, and until they are shared with the archive, WAL needs no free block.
- **A reserve file.** A burst of WAL can still use up what the gate keeps, for `max_wal_size` is not a hard limit. The reserve
  is then given up, so that reading and recovery go on, and taken back once the volume has room again.

Segments and reserve are *unwritten extents*: they belong to their file in the volume and take nothing on the host's disk.
"""

import contextlib
import errno
import itertools
import logging
import os
import re
from collections.abc import Iterator
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

GATE_BYTES: Final = 128 * 1024**2
# Four sessions at once overshoot the gate by 20 to 50 MB before all of them are stopped; below three quarters of it history
# is no longer kept, below an eighth nothing that writes WAL goes on.
GATE_SHARE: Final = 50
GATE_BYTES_MAX: Final = 512 * 1024**2
# Larger volumes belong to larger servers, whose bursts are larger.
GATE_SHARE_MAX: Final = 6
# Of a small volume, no more than a sixth.

LOW_SHARE: Final = 2
# With less than half of it free, the reserve is needed.

ENTRIES_MAX: Final = 20_000
# Looked at in a tenant's directory: the WAL segments of 16 GB. A tenant that runs code as its server can
# make millions, and root would hold all their names at once, or mind no other volume meanwhile.

_RESERVE: Final = "reserve"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEGMENT_SIZES: Final = frozenset(1024**2 << shift for shift in range(11))
# What initdb --wal-segsize allows: 1 MB to 1 GB.
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def _free_bytes(place: Path | int) -> int:
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize


def gate_bytes(volume_bytes: int) -> int:
    """How much must be free in a volume for statements that take room: `guard.space_reserve`."""
    wanted = max(GATE_BYTES, min(volume_bytes // GATE_SHARE, GATE_BYTES_MAX))
    return min(wanted, volume_bytes // GATE_SHARE_MAX)


def size_of(place: Path | int) -> int:
    """Of the file system: what `gate_bytes` is a share of."""
    space = os.statvfs(place)
    return space.f_frsize * space.f_blocks


def hold(mountpoint: Path) -> bool:
    """Take the reserve, if it is not held and the gate stays open. True if it is held afterwards."""
    with _held_open(mountpoint) as root:
        return _hold(root)


def release_if_needed(mountpoint: Path) -> bool:
    """Give up the reserve if little is left of what the gate keeps. True if that was done just now."""
    with _held_open(mountpoint) as root:
        return _release_if_needed(root)


def _hold(root: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(_RESERVE, dir_fd=root, follow_symlinks=False)
        return True
    size = min(RESERVE_BYTES, size_of(root) // SHARE)
    if _free_bytes(root) < gate_bytes(size_of(root)) + 2 * size:
        return False
    try:
        _allocate(_RESERVE, size, 0, directory=root)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def _release_if_needed(root: int) -> bool:
    if _free_bytes(root) >= gate_bytes(size_of(root)) // LOW_SHARE:
        return False
    try:
        os.unlink(_RESERVE, dir_fd=root)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _held_open(mountpoint: Path) -> Iterator[int]:
    """The root of what is mounted there. While it is open, the same is; and nobody is led to the directory below it."""
    root = os.open(mountpoint, _DIRECTORY)
    try:
        yield root
    finally:
        os.close(root)


def prepare_cluster(data: Path, uid: int) -> None:
    """All that a cluster at rest needs before its next start. For every new cluster and every new branch (a reflink does
    not copy unwritten extents), and harmless again. Raises OSError."""
    make_wal_ahead(data, uid)


def mind(mountpoint: Path) -> None:
    """What a volume with a running server needs from time to time, once a second: give up the reserve where the server
    needs it, take it back when there is room. Nothing where the volume was unmounted meanwhile: a file that was made in the
    directory below would keep it from being removed, and the volume from being closed. Raises OSError."""
    with _held_open(mountpoint) as root:
        if os.fstat(root).st_dev == os.stat(mountpoint.parent).st_dev:
            return
        if _release_if_needed(root):
            log.warning("%s is full: its reserve was given up", mountpoint)
        else:
            _hold(root)


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


def _names(directory: int) -> list[str]:
    """Of the first ENTRIES_MAX entries."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, ENTRIES_MAX)]


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
