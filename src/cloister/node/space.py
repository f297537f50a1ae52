"""The host's disk, on which every volume's image grows.

Images are sparse, so the disk can be promised many times over. Three limits say what is no longer begun or gone on with as
it fills; below the last, what is left belongs to the control database and its audit log, without which nothing can be repaired.
"""

import os
from pathlib import Path
from typing import Final

from cloister.base.errors import ExhaustedError

FREE_TO_CREATE_BYTES: Final = 2 * 1024**3
# A new volume is refused while there is still room for those that exist to grow.

FREE_TO_START_BYTES: Final = 1 * 1024**3
# A compute is not started towards a disk that is about to be full.

FREE_TO_WRITE_BYTES: Final = 512 * 1024**2
# Below this the computes whose images still grow are stopped in good order.

_MIB: Final = 1024**2


class HostSpace:
    """What is free on the file system of `directory`. What requires room raises ExhaustedError where there is none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def free_bytes(self) -> int:
        space = os.statvfs(self._directory)
        return space.f_bavail * space.f_frsize

    def is_short(self) -> bool:
        """Nothing that can wait should write now."""
        return self.free_bytes() < FREE_TO_START_BYTES

    def is_out(self) -> bool:
        """Nobody should write."""
        return self.free_bytes() < FREE_TO_WRITE_BYTES

    def require_to_create(self) -> None:
        self._require(FREE_TO_CREATE_BYTES)

    def require_to_start(self) -> None:
        self._require(FREE_TO_START_BYTES)

    def require_for_copy(self, image_bytes: int) -> None:
        """For a second image that will take so much more, beside what is kept back for new volumes."""
        needed = image_bytes + FREE_TO_CREATE_BYTES
        if (free := self.free_bytes()) < needed:
            raise ExhaustedError(
                f"{free} bytes are free on the file system of {self._directory}, a copy needs {needed}",
                public=f"the server's disk has no room for a second image: {needed // _MIB} MiB must be free, "
                f"{free // _MIB} MiB are",
            )

    def _require(self, needed: int) -> None:
        if (free := self.free_bytes()) < needed:
            raise ExhaustedError(
                f"{free} bytes are free on the file system of {self._directory}, {needed} are kept back",
                public="the server's disk is almost full",
            )
