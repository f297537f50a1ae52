"""A control group per compute: memory without swap, processes, CPU, and the disk's bandwidth.

Both hierarchies are written: version 2 (one tree) and version 1 (a tree per controller), whichever this host has. Where
it has neither, computes run without limits and `describe` says why; nothing here pretends. When memory runs out, the
kernel ends a process of that group only.

Bandwidth is limited where the kernel can do it, and `cloister doctor` says whether it can. Version 1 counts what a process
reads and what it syncs, as PostgreSQL does with all but temporary files; version 2 also what the kernel writes back later.

The names of groups are ids of ours: `cloister-INSTANCE/ENDPOINT`.
"""

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
DEVICES: Final = Path("/sys/dev/block")

HOST_CORES: Final = os.cpu_count() or 1
# A compute that may use every core needs no quota, and is spared its accounting.

PARENT_CORES: Final = 2 * HOST_CORES
# All computes together weigh like this many busy processes of the host. At the default of one, a single process outside
# would get as much as all tenants; much more, and the gateways that serve them would starve.

CPU_PERIOD_US: Final = 20_000
# A fifth of the kernel's default: a compute of a quarter CPU that used its share waits 15 ms, not 75.

REMOVE_TIMEOUT_S: Final = 1.0
# A group can be removed when its last process has been reaped, a moment after it has exited.


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    device: str
    """`MAJOR:MINOR` of the one that the files are on."""
    bytes_per_s: int
    """To be read, and as much to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    memory_bytes: int
    cpu_cores: float
    processes: int
    disk: Disk | None = None


class Group(Protocol):
    def attach(self, pid: int) -> None:
        """Move one process. Waits for the kernel, up to some 12 ms: not for an event loop."""
        ...

    def set_cpu(self, cores: float) -> None: ...

    def kill(self) -> None:
        """SIGKILL to every process in it."""
        ...

    def remove(self) -> None:
        """Once it is empty. Already gone is fine."""
        ...


class Cgroups(Protocol):
    def describe(self) -> str:
        """`v1`, `v2`, or why there are no limits."""
        ...

    def create(self, name: str, limits: Limits) -> Group:
        """The group with these limits, made or found."""
        ...

    def find(self, name: str) -> Group: ...

    def names(self) -> list[str]:
        """The groups there are."""
        ...

    def prime(self) -> None:
        """Make the next `attach` quick, if it follows within some milliseconds. Waits like one: not for an event loop.

        The first move of a process in a while makes the kernel wait for a grace period, 10 ms on an idle host, before
        it holds all forks; moves soon after it find the way prepared. So we move ourselves to where we are."""
        ...


def disk_number(device: int, devices: Path = DEVICES) -> str:
    """`MAJOR:MINOR` of the disk that a device is, or is a partition of: only a disk can be slowed down. What has no place in sysfs
    (a tmpfs, a Btrfs) is named as it is."""
    number = f"{os.major(device)}:{os.minor(device)}"
    place = devices / number
    if (place / "partition").exists():
        return (place.resolve().parent / "dev").read_text().strip()
    return number


def detect(instance: str, root: Path = CGROUP_ROOT) -> Cgroups:
    """The hierarchy of this host, with our parent group made in it."""
    parent = f"cloister-{instance}"
    reasons = []
    for kind in (_Unified, _PerController):
        try:
            return kind(root, parent)
        except _UnsuitableError as error:
            reasons.append(str(error))
    return _NoCgroups("none: " + "; ".join(reasons))


class _UnsuitableError(Exception):
    """Why a hierarchy cannot be used."""


class _UnifiedGroup:
    """Version 2."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def attach(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    def set_cpu(self, cores: float) -> None:
        quota = "max" if cores >= HOST_CORES else str(int(cores * CPU_PERIOD_US))
        (self._path / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
        (self._path / "cpu.weight").write_text(str(_between(1, int(cores * 100), 10_000)))

    def kill(self) -> None:
        try:
            (self._path / "cgroup.kill").write_text("1")
        except FileNotFoundError:  # Before Linux 5.14.
            _kill_all(self._path)

    def remove(self) -> None:
        _remove(self._path)


class _Unified:
    _CONTROLLERS: Final = ("memory", "pids", "cpu")
    _DISK: Final = "io"

    def __init__(self, root: Path, parent: str) -> None:
        try:
            available = (root / "cgroup.controllers").read_text().split()
        except FileNotFoundError:
            raise _UnsuitableError(f"{root} is not a version 2 tree") from None
        if missing := [name for name in self._CONTROLLERS if name not in available]:
            raise _UnsuitableError(f"version 2 without {' and '.join(missing)}")
        self._path = root / parent
        self._has_disk = self._DISK in available
        wanted = (*self._CONTROLLERS, self._DISK) if self._has_disk else self._CONTROLLERS
        try:
            for directory in (root, self._path):
                directory.mkdir(exist_ok=True)
                (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
            (self._path / "cpu.weight").write_text(str(_between(1, PARENT_CORES * 100, 10_000)))
        except OSError as error:
            raise _UnsuitableError(f"version 2 may not be written: {error.strerror}") from error

    def describe(self) -> str:
        return "v2"

    def create(self, name: str, limits: Limits) -> Group:
        path = self._path / name
        path.mkdir(exist_ok=True)
        (path / "memory.max").write_text(str(limits.memory_bytes))
        with contextlib.suppress(FileNotFoundError):  # A kernel without swap has no such file.
            (path / "memory.swap.max").write_text("0")
        (path / "pids.max").write_text(str(limits.processes))
        if limits.disk is not None and self._has_disk:
            rate = limits.disk.bytes_per_s
            _write_if_a_disk(path / "io.max", f"{limits.disk.device} rbps={rate} wbps={rate}")
        group = _UnifiedGroup(path)
        group.set_cpu(limits.cpu_cores)
        return group

    def find(self, name: str) -> Group:
        return _UnifiedGroup(self._path / name)

    def names(self) -> list[str]:
        return _directories(self._path)

    def prime(self) -> None:
        _move_to_own(self._path.parent, "")


class _PerControllerGroup:
    """Version 1: the same group in each of the trees."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths

    def attach(self, pid: int) -> None:
        for path in self._paths.values():
            (path / "cgroup.procs").write_text(str(pid))

    def set_cpu(self, cores: float) -> None:
        path = self._paths["cpu"]
        (path / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
        (path / "cpu.cfs_quota_us").write_text("-1" if cores >= HOST_CORES else str(int(cores * CPU_PERIOD_US)))
        (path / "cpu.shares").write_text(str(_between(2, int(cores * 1024), 262_144)))

    def kill(self) -> None:
        _kill_all(self._paths["pids"])

    def remove(self) -> None:
        for path in self._paths.values():
            _remove(path)


class _PerController:
    _FILES: Final = {"memory": "memory.limit_in_bytes", "pids": "cgroup.procs", "cpu": "cpu.cfs_quota_us"}
    _DISK: Final = "blkio"
    _DISK_FILES: Final = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")

    def __init__(self, root: Path, parent: str) -> None:
        if missing := [name for name, file in self._FILES.items() if not (root / name / file).exists()]:
            raise _UnsuitableError(f"version 1 without {' and '.join(missing)}")
        self._has_disk = (root / self._DISK / self._DISK_FILES[0]).exists()
        wanted = (*self._FILES, self._DISK) if self._has_disk else (*self._FILES,)
        self._parents = {name: root / name / parent for name in wanted}
        try:
            for path in self._parents.values():
                path.mkdir(exist_ok=True)
            (self._parents["cpu"] / "cpu.shares").write_text(str(_between(2, PARENT_CORES * 1024, 262_144)))
        except OSError as error:
            raise _UnsuitableError(f"version 1 may not be written: {error.strerror}") from error

    def describe(self) -> str:
        return "v1"

    def create(self, name: str, limits: Limits) -> Group:
        paths = self._paths(name)
        for path in paths.values():
            path.mkdir(exist_ok=True)
        memory = paths["memory"]
        # The sum of memory and swap must never be the smaller of the two: lift it, set memory, set it to the same.
        total = memory / "memory.memsw.limit_in_bytes"
        if total.exists():
            total.write_text("-1")
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        if total.exists():
            total.write_text(str(limits.memory_bytes))
        else:
            (memory / "memory.swappiness").write_text("0")
        (paths["pids"] / "pids.max").write_text(str(limits.processes))
        if limits.disk is not None and self._has_disk:
            for file in self._DISK_FILES:
                _write_if_a_disk(paths[self._DISK] / file, f"{limits.disk.device} {limits.disk.bytes_per_s}")
        group = _PerControllerGroup(paths)
        group.set_cpu(limits.cpu_cores)
        return group

    def find(self, name: str) -> Group:
        return _PerControllerGroup(self._paths(name))

    def names(self) -> list[str]:
        return sorted({name for path in self._parents.values() for name in _directories(path)})

    def prime(self) -> None:
        _move_to_own(self._parents["memory"].parent, "memory")

    def _paths(self, name: str) -> dict[str, Path]:
        return {controller: path / name for controller, path in self._parents.items()}


class _NoGroup:
    def attach(self, pid: int) -> None:
        """Nothing to join."""

    def set_cpu(self, cores: float) -> None:
        """Nothing to set."""

    def kill(self) -> None:
        """Its first process is process 1 of its namespace: the end of that one is the end of all."""

    def remove(self) -> None:
        """Nothing to remove."""


NO_GROUP: Final[Group] = _NoGroup()
"""For a program of our own that needs no limits."""


class _NoCgroups:
    def __init__(self, reason: str) -> None:
        self._reason = reason

    def describe(self) -> str:
        return self._reason

    def create(self, name: str, limits: Limits) -> Group:  # noqa: ARG002
        return NO_GROUP

    def find(self, name: str) -> Group:  # noqa: ARG002
        return NO_GROUP

    def names(self) -> list[str]:
        return []

    def prime(self) -> None:
        """Nothing to wait for."""


def _move_to_own(tree: Path, controller: str) -> None:
    """Move this process to the group it is in; `0` is whoever writes."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            (tree / group.removeprefix("/") / "cgroup.procs").write_text("0")


def _write_if_a_disk(path: Path, text: str) -> None:
    """A file system without a disk of its own (a tmpfs, a Btrfs) has none that could be slowed down."""
    try:
        path.write_text(text)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL):
            raise


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _directories(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def _kill_all(path: Path) -> None:
    """Until nothing is left that could fork again; a group that may hold N processes is empty after a few rounds."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            pids = (path / "cgroup.procs").read_text().split()
        except FileNotFoundError:
            return
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        time.sleep(0.005)


def _remove(path: Path) -> None:
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return
