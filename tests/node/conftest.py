"""A real file system for whoever needs no whole volume."""

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cloister.node import children
from cloister.node.volumes import loop, mounts

MIB: Final = 1024**2

_GOINGDOWN: Final = 0x8004587D
_NOTHING_MORE: Final = struct.pack("=I", 2)
# XFS_IOC_GOINGDOWN of <xfs/xfs_fs.h>, and that not even the log is written.


def cut_power(mountpoint: Path) -> None:
    """What XFS has not written by now it never writes; and it is mounted again."""
    [mounted] = [it for it in mounts.mounts_under(mountpoint.parent) if it.mountpoint == mountpoint]
    with open(mounted.source, "rb"):  # keeps the loop device
        directory = os.open(mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _GOINGDOWN, _NOTHING_MORE)
        finally:
            os.close(directory)
        mounts.unmount(mountpoint, patience_s=5)
        mounts.mount(mounted.source, mountpoint, "xfs", mounts.NOATIME, "nouuid")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """An empty XFS of 256 MB."""
    image, mountpoint = tmp_path / "image", tmp_path / "volume"
    mountpoint.mkdir()
    with image.open("wb+") as file:
        file.truncate(256 * MIB)
        device, path = loop.attach(file.fileno())
    try:
        children.run(["mkfs.xfs", "-q", "--unsupported", "-l", "size=16m", str(path)])
        mounts.mount(str(path), mountpoint, "xfs", mounts.NOATIME, "nouuid")
    finally:
        os.close(device)
    try:
        yield mountpoint
    finally:
        mounts.detach(mountpoint)
