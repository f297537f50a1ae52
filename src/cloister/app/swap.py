"""Keeps the platform's memory from ever being written to a disk in clear.

Swap that is neither encrypted nor in memory is open: what the kernel puts there, somebody finds who has the disk. It may be on, for
fresh servers have one, as long as nothing of ours can get there: the control group that the platform was started in, and with it
every process of ours, may use none (`memory.swap.max`), as no compute may (`node/sandbox/cgroups.py`). Only version 2 can promise
that; version 1's swappiness is a wish, which the kernel passes over when all of memory is short. docs/adr/0048-swap.md has the reasons.

What must stay true: encrypted storage is not started beside open swap that it could get into, unless somebody said so by name.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError
from cloister.base.settings import Settings

_UNIFIED: Final = "0::"
_MAXIMUM: Final = "memory.swap.max"
_ENCRYPTED: Final = ("CRYPT-PLAIN-", "CRYPT-LUKS")
# cryptsetup calls others so that encrypt nothing: CRYPT-INTEGRITY, CRYPT-VERITY.


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel tells; others in tests."""

    proc: Path = Path("/proc")
    block: Path = Path("/sys/block")
    cgroups: Path = Path("/sys/fs/cgroup")


HERE: Final = Places()


def open_devices(places: Places = HERE) -> list[str]:
    """Swap that is on, and writes what it is given to a disk as it is."""
    try:
        lines = (places.proc / "swaps").read_text().splitlines()[1:]
    except FileNotFoundError:  # a kernel without swap
        return []
    # Spaces in a name are written as octal; what cannot be recognised is open.
    return sorted(device for line in lines if (device := line.split()[0]) and not _is_safe(device, places))


def keep_out(instance: str, places: Places = HERE) -> str:
    """Let this process, and all that it will start, use no swap. Empty: so it is, as was read back. Otherwise why it is not."""
    group = _group_of("self", places)
    if group is None:
        return "the control groups are of version 1"
    if not (group / _MAXIMUM).exists() and group == places.cgroups:
        # The root of all groups has no limits, so nothing of this machine's is there but what nobody put elsewhere.
        group = places.cgroups / f"cloister-{instance}-platform"
        try:
            (places.cgroups / "cgroup.subtree_control").write_text("+memory")
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            return f"a control group cannot be made: {error.strerror}"
    try:
        (group / _MAXIMUM).write_text("0")
    except OSError as error:
        return f"{_MAXIMUM} cannot be set: {error.strerror}"
    return "" if _is_none(group) else f"{_MAXIMUM} does not stay at 0"


def is_kept_out(pid: int, places: Places = HERE) -> bool:
    """Whether a process, as it is now, can have nothing swapped out: by its group's limit, or by that of one above."""
    group = _group_of(str(pid), places)
    while group is not None:
        if _is_none(group):
            return True
        group = group.parent if group != places.cgroups else None
    return False


def refuse(settings: Settings, places: Places = HERE) -> str:
    """Before anything is started. Says what has to be said; raises PreconditionError.

    1. Keep out of all swap, also where none is on: somebody may turn one on later.
    2. Plain storage has nothing that a disk may not have in clear.
    3. Open swap into which nothing of ours gets is no matter.
    4. Otherwise it is refused, unless a person has said by name that it is to go on.
    """
    # 1. Keep out.
    why = keep_out(settings.paths.instance, places)
    # 2. Plain.
    devices = open_devices(places)
    if settings.storage == "plain" or not devices:
        return ""
    # 3. Kept out.
    if not why:
        return ""
    # 4. The refusal.
    seen = (
        f"{', '.join(devices)} is swap that is not encrypted, and memory of the platform may be written there ({why})"
    )
    if settings.open_swap == "allow":
        return f"{seen}: --open-swap allow"
    raise PreconditionError(
        public=f"{seen}: swapoff -a, or encrypt it with a random key, or boot with control groups of version 2; "
        "to go on regardless, --open-swap allow"
    )


def _group_of(pid: str, places: Places) -> Path | None:
    """Of version 2. None: memory is limited by version 1 here, or the process is gone."""
    try:
        lines = (places.proc / pid / "cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if any("memory" in line.split(":", 2)[1].split(",") for line in lines):
        return None
    path = next((line.removeprefix(_UNIFIED) for line in lines if line.startswith(_UNIFIED)), None)
    if path is None or not (places.cgroups / "cgroup.controllers").exists():
        return None
    return places.cgroups / path.removeprefix("/")


def _is_none(group: Path) -> bool:
    try:
        return (group / _MAXIMUM).read_text().strip() == "0"
    except OSError:
        return False


def _is_safe(device: str, places: Places) -> bool:
    """Encrypted by dm-crypt, or zram, which is memory unless it was given a disk to write to. By the device's own directory: a file may
    be called as it likes."""
    name = os.path.basename(os.path.realpath(device))
    block = places.block / name
    if name.startswith("zram") and block.is_dir():
        backing = block / "backing_dev"  # none in a kernel that cannot write it anywhere
        return not backing.exists() or backing.read_text().strip() == "none"
    uuid = block / "dm" / "uuid"
    return uuid.exists() and uuid.read_text().startswith(_ENCRYPTED)
