"""What the kernel and the machine offer."""

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Final

from cloister.app import swap as keeping_out
from cloister.cli import output
from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

DISK_BYTES_MIN: Final = 1_000_000_000
# A new project takes some tens of megabytes, the engines' templates some hundreds: below this creations soon fail.
DISK_BYTES_LOW: Final = 5_000_000_000
DISK_SHARE_LOW: Final = 0.10


def root(_subject: Subject) -> list[Finding]:
    if os.geteuid() == 0:
        return [ok("root", "run as root")]
    return [
        fail("root", f"run as uid {os.geteuid()}", "run it as root: most of what it must look at is closed to others")
    ]


def opener(subject: Subject) -> list[Finding]:
    """Whether a LUKS image can be opened here, and how."""
    wanted = subject.settings.opener if subject.settings else "auto"
    if subject.settings is not None and subject.settings.storage == "plain":
        return [warning("volumes", "storage is plain: nothing is encrypted", "for tenants' data use `--storage luks`")]
    return [
        decide_opener(
            wanted,
            has_mapper=_has_device_mapper(),
            has_fuse=_can_open("/dev/fuse"),
            has_loop=_can_open("/dev/loop-control"),
        )
    ]


def decide_opener(wanted: str, *, has_mapper: bool, has_fuse: bool, has_loop: bool) -> Finding:
    match wanted:
        case "auto" if has_mapper:
            return ok("volumes", "opened by dm-crypt")
        case "auto" | "qemu-storage-daemon" if has_fuse and has_loop:
            return ok("volumes", "opened by qemu-storage-daemon (FUSE and loop devices are here)")
        case "dm-crypt":
            if has_mapper:
                return ok("volumes", "opened by dm-crypt")
            return fail("volumes", "the kernel has no device-mapper", "modprobe dm-crypt, or start with --opener auto")
        case _:
            missing = " and ".join(
                name for name, has in (("/dev/fuse", has_fuse), ("loop devices", has_loop)) if not has
            )
            return fail(
                "volumes",
                f"neither device-mapper nor {missing}",
                "modprobe fuse loop; in a container, pass the devices in",
            )


def file_system(_subject: Subject) -> list[Finding]:
    listed = "xfs" in Path("/proc/filesystems").read_text().split()
    if listed or _is_module("xfs"):
        return [ok("XFS", "the kernel can mount it")]
    return [fail("XFS", "the kernel cannot mount it", "install the kernel's module xfs (often in linux-modules-extra)")]


def sandbox(_subject: Subject) -> list[Finding]:
    found = []
    missing = [name for name in ("mnt", "pid", "net", "ipc", "uts") if not Path(f"/proc/self/ns/{name}").exists()]
    if missing:
        found.append(fail("sandbox", f"no namespaces of kind {', '.join(missing)}", "use a kernel that has them"))
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.exists() or "errno" not in actions.read_text().split():
        found.append(fail("sandbox", "the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER"))
    return found or [ok("sandbox", "namespaces and seccomp filters")]


def cgroups(_subject: Subject) -> list[Finding]:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return [decide_cgroups("v2", set(unified.read_text().split()))]
    return [decide_cgroups("v1", {path.name for path in Path("/sys/fs/cgroup").glob("*") if path.is_dir()})]


def decide_cgroups(version: str, controllers: set[str]) -> Finding:
    missing = sorted({"memory", "pids", "cpu"} - controllers)
    disk = {"v1": "blkio", "v2": "io"}[version]
    if not missing and disk in controllers:
        return ok("limits", f"cgroup {version} with memory, pids, cpu and {disk}")
    if not missing:
        return warning(
            "limits",
            f"cgroup {version} with memory, pids and cpu, without {disk}",
            f"a tenant's reading and writing can slow the others down: enable {disk} for root's cgroup",
        )
    return warning(
        "limits",
        f"cgroup {version} without {', '.join(missing)}",
        "a tenant can take it all from the others: enable the controllers for root's cgroup",
    )


def swap(subject: Subject) -> list[Finding]:
    return [decide_swap(keeping_out.open_devices(), inside=_inside(subject))]


def decide_swap(devices: list[str], *, inside: list[str] | None) -> Finding:
    """`inside`: of what runs, the processes that could be swapped out; None: nothing runs."""
    if not devices:
        return ok("swap", "none, or encrypted, or in memory")
    named = f"{', '.join(devices)} is not encrypted"
    if inside is None:
        return warning(
            "swap", named, "`cloister up` keeps out of it or says that it cannot; better swapoff -a, or encrypt it"
        )
    if not inside:
        return ok("swap", f"{named}, and no process of the platform may use it")
    return fail(
        "swap",
        f"{named}, and memory of {', '.join(inside)} may be written there",
        "keys and tenants' data are in it: swapoff -a, or encrypt it with a random key, and start again",
    )


def _inside(subject: Subject) -> list[str] | None:
    if subject.settings is None or subject.settings.storage == "plain":
        return None
    try:
        status = json.loads(subject.platform.paths.status.read_text())
    except FileNotFoundError:
        return None
    pids = {"supervisor": status["pid"], **{name: it["pid"] for name, it in status["processes"].items()}}
    return sorted(name for name, pid in pids.items() if pid is not None and not keeping_out.is_kept_out(pid))


def core_dumps(_subject: Subject) -> list[Finding]:
    return [decide_core_dumps(Path("/proc/sys/kernel/core_pattern").read_text().strip())]


def decide_core_dumps(pattern: str) -> Finding:
    if not pattern.startswith("|"):
        return ok("core dumps", "to files, which the platform's limits forbid")
    handler = pattern[1:].split(maxsplit=1)[0] if pattern[1:].strip() else "a program"
    return warning(
        "core dumps",
        f"a crashed process's memory is piped to {handler}, whatever its limits say",
        "sysctl kernel.core_pattern=core",
    )


def disk(subject: Subject) -> list[Finding]:
    place = next(path for path in (subject.state_dir, *subject.state_dir.parents) if path.exists())
    usage = shutil.disk_usage(place)
    return [decide_disk(str(place), usage.free, usage.total)]


def decide_disk(place: str, free: int, total: int) -> Finding:
    seen = f"{output.size(free)} of {output.size(total)} free at {place}"
    if free < DISK_BYTES_MIN:
        return fail("disk", seen, "free some, or move the state directory: writes of tenants will fail")
    if free < DISK_BYTES_LOW or free < total * DISK_SHARE_LOW:
        return warning("disk", seen, "watch it: volumes grow with what tenants write")
    return ok("disk", seen)


def entropy(_subject: Subject) -> list[Finding]:
    try:
        os.getrandom(32, os.GRND_NONBLOCK)
    except BlockingIOError:
        return [fail("randomness", "the kernel's generator is not seeded", "wait, or add virtio-rng to this machine")]
    return [ok("randomness", "the kernel's generator is seeded")]


def _has_device_mapper() -> bool:
    return "device-mapper" in Path("/proc/misc").read_text().split() and _can_open("/dev/mapper/control")


def _can_open(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _is_module(name: str) -> bool:
    folder = Path("/lib/modules") / platform.release()
    return any(
        f"/{name}.ko" in list_.read_text()
        for list_ in (folder / "modules.dep", folder / "modules.builtin")
        if list_.exists()
    )
