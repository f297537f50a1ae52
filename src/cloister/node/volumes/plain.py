"""The `plain` driver: a directory per project, for laptops. **Nothing is encrypted**, nothing bounds its size.

It says so when it starts and in everything it reports.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from cloister.base.durable import sync_filesystem
from cloister.base.errors import NotFoundError, PreconditionError
from cloister.base.ids import ProjectId
from cloister.base.settings import Paths
from cloister.node.volumes.copying import Copy
from cloister.node.volumes.model import OpenVolume

log = logging.getLogger(__name__)

_UNFINISHED: Final = ".unfinished"


class PlainDriver:
    name = "plain"
    opener_name = "none"
    needs_key = False
    has_own_space = False

    def __init__(self, paths: Paths) -> None:
        self._directories = paths.volumes

    def prepare(self) -> None:
        log.warning(
            "storage is `plain`: NOTHING IS ENCRYPTED on this disk. Use `--storage luks` for anything that matters."
        )
        self._directories.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self._directories.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(unfinished)

    def exists(self, project_id: ProjectId) -> bool:
        return self._directory(project_id).exists()

    def create(
        self,
        project_id: ProjectId,
        size_bytes: int,  # noqa: ARG002
        key: int,  # noqa: ARG002
        fill: Callable[[Path], None],
        *,
        material: int = 1,  # noqa: ARG002
    ) -> None:
        unfinished = self._directories / f"{project_id}{_UNFINISHED}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        try:
            fill(unfinished)
            unfinished.rename(self._directory(project_id))
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def open(self, project_id: ProjectId, key: int) -> OpenVolume:  # noqa: ARG002
        if not self.exists(project_id):
            raise NotFoundError(f"no volume of {project_id}", public="the project's volume is not there")
        return OpenVolume(project_id=project_id, mountpoint=str(self._directory(project_id)), is_mounted=True)

    def close(self, volume: OpenVolume) -> None:
        """A directory is always open: closing it only writes out what was written, as with a real volume."""
        sync_filesystem(Path(volume.mountpoint))

    def discard(self, project_id: ProjectId) -> None:
        """Nothing is attached."""

    def interrupt(self, project_id: ProjectId) -> None:
        """Nothing waits."""

    def destroy(self, project_id: ProjectId) -> None:
        # Renamed first: a half-removed directory must not be taken for a volume.
        if self.exists(project_id):
            self._directory(project_id).rename(self._directories / f"{project_id}{_UNFINISHED}")
        shutil.rmtree(self._directories / f"{project_id}{_UNFINISHED}", ignore_errors=True)

    def adopt(self, project_id: ProjectId) -> OpenVolume | None:  # noqa: ARG002
        return None

    def leftovers(self) -> set[ProjectId]:
        return set()

    def is_healthy(self, volume: OpenVolume) -> bool:
        return Path(volume.mountpoint).is_dir()

    def cipher(self, project_id: ProjectId) -> str:  # noqa: ARG002
        return "none"

    def material(self, project_id: ProjectId) -> int:  # noqa: ARG002
        return 1

    def ciphers(self) -> str:
        return "none"

    def image_bytes(self, project_id: ProjectId) -> int:
        total = 0
        for directory, _directories, files in os.walk(self._directory(project_id)):
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by a server or with the trash
                    total += os.lstat(os.path.join(directory, file)).st_blocks * 512
        return total

    def copied_bytes(self, project_id: ProjectId) -> int:  # noqa: ARG002
        return 0

    def written_at(self, project_id: ProjectId) -> int:  # noqa: ARG002
        raise _not_encrypted()

    def require_copying(self) -> None:
        raise _not_encrypted()

    def copying(
        self,
        project_id: ProjectId,  # noqa: ARG002
        old_key: int,  # noqa: ARG002
        new_key: int,  # noqa: ARG002
        material: int,  # noqa: ARG002
    ) -> AbstractContextManager[Copy]:
        raise _not_encrypted()

    def interrupt_copy(self, project_id: ProjectId) -> None:
        """There is none."""

    def complete(self, project_id: ProjectId) -> None:  # noqa: ARG002
        raise _not_encrypted()

    def drop_copy(self, project_id: ProjectId) -> None:
        """There is none."""

    def _directory(self, project_id: ProjectId) -> Path:
        return self._directories / project_id


def _not_encrypted() -> PreconditionError:
    return PreconditionError(public="this platform's storage is plain: nothing is encrypted")
