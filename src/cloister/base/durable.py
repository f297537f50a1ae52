"""Files that are there whole or not at all, and on disk when the call returns."""

import ctypes
import os
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def write_durably(path: Path, content: bytes, *, mode: int = 0o644, gid: int = -1) -> None:
    """Replace `path`, with its mode and group from the first moment. `gid` -1 leaves the group to the file system."""
    temporary = unfinished(path)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(descriptor, -1, gid)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def unfinished(path: Path) -> Path:
    """Where it is made. What lies there was cut off."""
    return path.with_name(f".{path.name}.new")


def sync_directory(directory: Path) -> None:
    """What was created, renamed or removed in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(directory: Path) -> None:
    """Write everything of the file system that `directory` is on: one call instead of thousands, which waits for what
    others wrote, too (syncfs(2)). Raises OSError if any of it could not be written."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)
