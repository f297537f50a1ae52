"""A real file system for whoever needs no whole volume."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cloister.node import children
from cloister.node.volumes import loop, mounts

MIB: Final = 1024**2


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
