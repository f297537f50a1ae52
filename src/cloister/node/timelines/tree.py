"""Root's hands in a directory tree that a tenant writes, while the tenant may be writing it.

What must stay true: every file is opened relative to a directory that is already open, never through a symbolic link;
only regular files and directories are entered; what a tenant can make many or deep of has a limit; nothing waits for a
pipe or a device.
"""

import contextlib
import errno
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cloister.base.errors import ConflictError, ExhaustedError, PreconditionError
from cloister.node.reflink import reflink, reflink_in_use

ENTRIES_MAX: Final = 2_000_000
# Files of one timeline: a hundred thousand tables with their indexes and forks. At 20 µs each that is 40 s of work.

DEPTH_MAX: Final = 6
# PostgreSQL's own directories are three deep.

_NAMES_AT_ONCE: Final = 1000
# Held in memory while a directory is emptied.

GONE: Final = frozenset((errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV))
# Removed since its name was read, or swapped: for a link, a socket, a device without a driver.
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_CHUNK: Final = 64 * 1024**2

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Abort:
    """Tells work in a thread to end early, for its volume is to be closed."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        self._asked.set()

    def check(self) -> None:
        """Raises ConflictError once it was asked for."""
        if self._asked.is_set():
            raise ConflictError("interrupted", public="the project is being stopped")


class Budget:
    """What one piece of work may touch."""

    def __init__(self, abort: Abort, entries: int = ENTRIES_MAX) -> None:
        self._abort = abort
        self._left = entries

    def take(self) -> None:
        """One more entry. Raises PreconditionError when there are too many, ConflictError when it is to end."""
        self._abort.check()
        self._left -= 1
        if self._left < 0:
            raise PreconditionError("too many files", public="the branch has more files than can be copied")


@contextlib.contextmanager
def opened(path: str | Path, flags: int = DIRECTORY, *, below: int | None = None) -> Iterator[int]:
    """A descriptor, for the time of the context."""
    descriptor = os.open(path, flags, 0o600, dir_fd=below)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(name: str, below: int) -> int | None:
    """A regular file to read; None if it is gone or something else. The caller closes it."""
    try:
        descriptor = os.open(name, FILE, dir_fd=below)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_small(name: str, below: int, limit: int) -> bytes | None:
    """A regular file of at most `limit` bytes; None if there is none. Raises PreconditionError for a longer one."""
    descriptor = open_regular(name, below)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise PreconditionError(f"{name} has more than {limit} bytes")
    return content


def share(source: int, target: int, *, in_use: bool = False) -> bool:
    """Give the empty file `target` the content of `source`, by reference where the file system can: True. `in_use`: somebody
    may be writing it, and is not to be held up for long."""
    # A sixth of a cluster's files are empty, and sharing nothing takes as long as sharing something.
    if os.fstat(source).st_size == 0 or (reflink_in_use if in_use else reflink)(source, target):
        return True
    _copy(source, target)
    return False


def _copy(source: int, target: int) -> None:
    """Byte by byte, holes left out, to the size that it has now."""
    size = os.fstat(source).st_size
    os.ftruncate(target, 0)  # Some may have been shared before it was seen that not all can be.
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # The rest is a hole.
                return
            raise
        end = min(os.lseek(source, offset, os.SEEK_HOLE), size)
        while offset < end:
            copied = os.copy_file_range(source, target, min(end - offset, _CHUNK), offset, offset)
            if copied == 0:  # It became shorter meanwhile.
                return
            offset += copied


@contextlib.contextmanager
def room_needed(what: str) -> Iterator[None]:
    """A full volume is told as that."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ExhaustedError(f"{what}: {error}", public="no space left in the project's volume") from error
        raise


def remove(path: Path, abort: Abort) -> None:
    """A tree below a directory of root's. Gone already is success; what is interrupted can be taken up again."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):  # Somebody else removes it as well, and was quicker.
        with opened(path) as directory:
            _Removal(directory, abort.check).run()
        path.rmdir()


def remove_below(name: str, parent: int, budget: Budget) -> None:
    """A tree in a tenant's own directory, where the tenant may be making more of it. Raises PreconditionError when there is more
    than the budget allows."""
    with opened(name, below=parent) as directory:
        _Removal(directory, budget.take).run()
    os.rmdir(name, dir_fd=parent)


def empty_below(name: str, parent: int, abort: Abort) -> None:
    """All that is in a directory in a tenant's own directory, while nothing of the tenant's runs there."""
    with opened(name, below=parent) as directory:
        _Removal(directory, abort.check).run()


class _Removal:
    """Empties a directory. A tenant may have nested as deep as it liked, and descriptors are few: a directory that is found
    too deep is moved up to where the work is, and takes its turn there."""

    def __init__(self, top: int, may_go_on: Callable[[], None]) -> None:
        """`may_go_on` is asked before each entry, and raises to end it."""
        self._top = top
        self._may_go_on = may_go_on

    def run(self) -> None:
        self._empty(self._top, DEPTH_MAX)

    def _empty(self, directory: int, depth: int) -> None:
        while names := _some_names(directory):
            for name in names:
                self._may_go_on()
                if not _unlink(name, directory):
                    self._remove_directory(name, directory, depth)

    def _remove_directory(self, name: str, parent: int, depth: int) -> None:
        if depth == 0:
            os.rename(name, f".{secrets.token_hex(8)}", src_dir_fd=parent, dst_dir_fd=self._top)
            return
        with contextlib.suppress(FileNotFoundError):
            with opened(name, below=parent) as directory:
                self._empty(directory, depth - 1)
            os.rmdir(name, dir_fd=parent)


def _unlink(name: str, parent: int) -> bool:
    """False if it is a directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        pass
    return True


def _some_names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, _NAMES_AT_ONCE)]


def write_whole(file: int, content: bytes) -> None:
    """All of it, or an error: a file system that becomes full takes a part of what it is given, and says how much."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def write_new(path: Path, content: bytes) -> None:
    """A file of root's in place of any that a cut-off attempt left, its content on disk. Its name is when the file system's
    log is: for many names one sync at the end is enough."""
    path.unlink(missing_ok=True)
    with opened(path, NEW_FILE) as file:
        write_whole(file, content)
        os.fsync(file)
