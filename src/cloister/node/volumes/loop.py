"""Loop devices by the kernel's own calls: a block device whose sectors are a file.

Devices are attached with *autoclear*: the kernel takes one apart when its last user lets go, so that an unmounted (or
crashed) volume leaves none behind; and with *direct I/O*, so that decrypted pages are cached once, in XFS.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from cloister.base.errors import UnavailableError

_LOOP_CLR_FD: Final = 0x4C01
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
# <linux/loop.h>

_SYSFS: Final = Path("/sys/block")

_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16

_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt type, its key size, flags; file name,
# crypt name, key; two words unused.
_CONFIG: Final = struct.Struct(f"=2I{_INFO.size}s64x")
# struct loop_config: descriptor, block size, loop_info64, reserved.

_ATTEMPTS_MAX: Final = 100
# Between asking for a free number and taking it somebody else may take it: as often as volumes open at once.


def attach(file: int) -> tuple[int, Path]:
    """A loop device over the open file `file`: its descriptor, which keeps it until it is mounted, and its path."""
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR | _DIRECT_IO, b"", b"", b"", 0, 0)
    for _ in range(_ATTEMPTS_MAX):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
        path = Path(f"/dev/loop{number}")
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(file, 0, info))
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:
                raise
        else:
            return device, path
    raise UnavailableError("no free loop device")


def backing(path: Path) -> Path | None:
    """The file that the loop device at `path` stands on; None when it is free. Asked of sysfs, for LOOP_GET_STATUS64
    would ask the file's own file system, and wait for a daemon that hangs."""
    try:
        return Path((_SYSFS / path.name / "loop" / "backing_file").read_text().rstrip("\n"))
    except OSError:
        return None


def standing_on(file: Path) -> list[Path]:
    """Every loop device that stands on `file`."""
    devices = (Path("/dev") / entry.parent.name for entry in _SYSFS.glob("loop*/loop"))
    return [device for device in devices if backing(device) == file]


def release(path: Path) -> None:
    """Take the device apart, or have the kernel do so when its last user lets go. Free already is success."""
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(device)
