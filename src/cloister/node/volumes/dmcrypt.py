"""The opener in the kernel: dm-crypt, by cryptsetup, where the kernel has device-mapper.

cryptsetup makes the loop device under the mapping itself, with autoclear. There is no process to watch: the kernel
holds the key, and forgets it when the mapping is closed.
"""

import os
import stat
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.base.ids import ProjectId, parse_project_id
from cloister.base.settings import Paths
from cloister.node import children
from cloister.node.volumes.luks import KEY_FD
from cloister.node.volumes.model import Attached, Note

_MAPPER: Final = Path("/dev/mapper")

PROGRAMS: Final = ("cryptsetup", "mkfs.xfs")


def missing(mapper: Path = _MAPPER, misc: Path = Path("/proc/misc")) -> list[str]:
    """What this host lacks for this opener."""
    lacking = [program for program in PROGRAMS if children.find(program) is None]
    if "device-mapper" not in misc.read_text().split() or not (mapper / "control").exists():
        lacking.append("device-mapper in the kernel")
    return lacking


def open_command(image: Path, name: str) -> list[str]:
    """Queues of its own only delay requests that the caller's CPU can encrypt at once; discards keep the image sparse."""
    return [
        *("cryptsetup", "open", "--type", "luks", "--batch-mode", "--key-file", f"/proc/self/fd/{KEY_FD}"),
        *("--allow-discards", "--perf-no_read_workqueue", "--perf-no_write_workqueue"),
        *(str(image), name),
    ]


def close_command(name: str) -> list[str]:
    return ["cryptsetup", "close", name]


class DmCryptOpener:
    name = "dm-crypt"

    def __init__(self, paths: Paths, mapper: Path = _MAPPER) -> None:
        self._instance = paths.instance
        self._mapper = mapper

    def prepare(self) -> None:
        """Nothing is kept outside the kernel."""

    def attach(self, project_id: ProjectId, image: Path, key: int, note: Note) -> tuple[Attached, int]:
        name = self._name(project_id)
        device = self._mapper / name
        attached = Attached(device=str(device))
        note(attached)
        children.run(open_command(image, name), {KEY_FD: key})
        return attached, os.open(device, os.O_RDWR | os.O_CLOEXEC)

    def detach(self, project_id: ProjectId, attached: Attached) -> None:  # noqa: ARG002 - the name says all
        name = self._name(project_id)
        if (self._mapper / name).exists():
            children.run(close_command(name))
        if (self._mapper / name).exists():
            raise InternalError(f"the mapping {name} is still there")

    def is_intact(self, project_id: ProjectId, attached: Attached) -> bool:
        device = self._mapper / self._name(project_id)
        return str(device) == attached.device and device.exists() and stat.S_ISBLK(device.stat().st_mode)

    def leftovers(self) -> set[ProjectId]:
        prefix = f"cloister-{self._instance}-"
        return {parse_project_id(entry.name.removeprefix(prefix)) for entry in self._mapper.glob(f"{prefix}*")}

    def _name(self, project_id: ProjectId) -> str:
        return f"cloister-{self._instance}-{project_id}"
