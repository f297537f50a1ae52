"""How much room a timeline takes: what its files hold, and what deleting it would give back.

The second is what no other timeline shares, as the file system's own map of extents says (FIEMAP). The tenant writes the
tree, so entries, extents and time are bounded; what lies beyond is not counted.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.node.timelines import tree
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.tree import Abort

ENTRIES_MAX: Final = 200_000
PATIENCE_S: Final = 5.0
# For one timeline. A thousand files take some 30 ms.

_FIEMAP: Final = 0xC020660B
_HEADER: Final = struct.Struct("=QQIIII")
_EXTENT: Final = struct.Struct("=QQQ16xI12x")
_EXTENTS_AT_ONCE: Final = 256
_SHARED: Final = 0x2000
_UNWRITTEN: Final = 0x800
_LAST: Final = 0x1
# struct fiemap and its flags, of <linux/fiemap.h>.


@dataclass(frozen=True, slots=True)
class Usage:
    logical_bytes: int
    unique_bytes: int
    history_bytes: int


def measure(timeline: Timeline, abort: Abort, now: Callable[[], float] = time.monotonic) -> Usage:
    """Blocking, up to some PATIENCE_S."""
    count = _Count(abort, now, now() + PATIENCE_S)
    logical, data = count.tree(timeline.data)
    rest = count.tree(timeline.outbox)[1]
    history = count.tree(timeline.archive)[1] + count.tree(timeline.snapshots)[1]
    return Usage(logical, data + rest + history, history)


class _Count:
    def __init__(self, abort: Abort, now: Callable[[], float], deadline: float) -> None:
        self._abort = abort
        self._now = now
        self._deadline = deadline
        self._left = ENTRIES_MAX

    def tree(self, path: Path) -> tuple[int, int]:
        """Bytes in files, and of them those that no other file shares."""
        try:
            directory = os.open(path, tree.DIRECTORY)
        except FileNotFoundError:
            return 0, 0
        try:
            return self._directory(directory, tree.DEPTH_MAX + 2)
        finally:
            os.close(directory)

    def _directory(self, directory: int, depth: int) -> tuple[int, int]:
        size = unique = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                self._abort.check()
                self._left -= 1
                if self._left < 0 or self._now() > self._deadline:
                    break
                found = 0, 0
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if entry.is_dir(follow_symlinks=False):
                        if depth > 0:
                            with tree.opened(entry.name, below=directory) as inner:
                                found = self._directory(inner, depth - 1)
                    elif entry.is_file(follow_symlinks=False):
                        found = self._file(entry.name, directory)
                size, unique = size + found[0], unique + found[1]
        return size, unique

    def _file(self, name: str, directory: int) -> tuple[int, int]:
        file = tree.open_regular(name, directory)
        if file is None:
            return 0, 0
        try:
            found = os.fstat(file)
            assert stat.S_ISREG(found.st_mode)
            return min(found.st_size, found.st_blocks * 512), self._unshared(file, found)
        finally:
            os.close(file)

    def _unshared(self, file: int, found: os.stat_result) -> int:
        if found.st_blocks == 0:
            return 0
        total = start = 0
        while self._now() <= self._deadline:
            buffer = bytearray(_HEADER.size + _EXTENTS_AT_ONCE * _EXTENT.size)
            _HEADER.pack_into(buffer, 0, start, 2**64 - 1 - start, 0, 0, _EXTENTS_AT_ONCE, 0)
            try:
                fcntl.ioctl(file, _FIEMAP, buffer)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):  # A file system that shares nothing.
                    return found.st_blocks * 512
                raise
            mapped = _HEADER.unpack_from(buffer)[3]
            flags = _LAST
            for index in range(mapped):
                logical, _, length, flags = _EXTENT.unpack_from(buffer, _HEADER.size + index * _EXTENT.size)
                # What was set aside and never written, for WAL to come, takes nothing on the host.
                total += 0 if flags & (_SHARED | _UNWRITTEN) else length
                start = logical + length
            if flags & _LAST:
                break
        return total
