"""mount(2), umount2(2) and what is mounted: the kernel's own calls, for forking mount(8) costs more than the mount.

Every call blocks; it is made in a thread of `Volumes`.
"""

import ctypes
import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NOSUID: Final = 2
NODEV: Final = 4
NOEXEC: Final = 8
NOATIME: Final = 1024
# MS_… of <sys/mount.h>.

_MNT_DETACH: Final = 2

_RETRY_S: Final = 0.0005

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    mountpoint: Path
    device: str
    """`major:minor` of the superblock."""
    filesystem: str
    source: str


def mount(source: str, target: Path, filesystem: str, flags: int, options: str = "") -> None:
    result = _LIBC.mount(
        source.encode(), os.fsencode(target), filesystem.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(result, target)


def unmount(target: Path, *, patience_s: float) -> None:
    """Unmount, retrying while it is busy. Not mounted is success. Raises OSError(EBUSY) when the patience ends."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            _check(_LIBC.umount2(os.fsencode(target), 0), target)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def detach(target: Path) -> None:
    """Take the mount out of the tree now; the kernel lets go of it when its last user does. Not mounted is success."""
    try:
        _check(_LIBC.umount2(os.fsencode(target), _MNT_DETACH), target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def mounts_under(directory: Path) -> list[Mount]:
    """What is mounted directly on an entry of `directory`, in this process's mount namespace."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return [found for found in parse_mountinfo(text) if found.mountpoint.parent == directory]


def parse_mountinfo(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        # 36 35 98:0 /root /mountpoint options optional… - filesystem source super-options   (proc(5))
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        found.append(Mount(Path(_unescape(fields[4])), fields[2], tail[0], _unescape(tail[1])))
    return found


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _check(result: int, path: Path) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
