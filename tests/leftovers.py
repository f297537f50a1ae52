"""What a platform has open or running for its projects, seen from outside: for tests that say "nothing is left".

It looks where the kernel looks, not at what the platform says: processes, loop devices, mounts of the private namespace,
control groups, and the records that the agent keeps for its successor.
"""

import contextlib
import time
from pathlib import Path

from tests.instance import Instance


def of_projects(instance: Instance) -> dict[str, list[str]]:
    """Kind → what there is of it; kinds with nothing are left out. With every project asleep it is empty."""
    run = instance.paths.run
    loops = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    mounts = Path(f"/proc/{instance.await_ready()['agent']}/mounts").read_text().splitlines()
    places = tuple(f"{place}/" for place in (instance.paths.mounts, run / "exports", instance.paths.computes))
    records = (
        run / directory
        for directory in ("volumes", "compute-records", "pooler-records", "exports", "mounts", "computes")
    )
    found = {
        "processes": processes(instance),
        "loop devices": [file for file in loops if file.startswith(str(run))],
        "mounts": [line for line in mounts if line.split()[1].startswith(places)],
        "control groups": [str(path) for path in instance.control_groups() if path.name.startswith("ep-")],
        "records": [str(path) for directory in records for path in directory.glob("*")],
        "half-made volumes": [str(path) for path in instance.paths.volumes.glob("*.unfinished")],
    }
    return {kind: things for kind, things in found.items() if things}


def await_none(instance: Instance, timeout_s: float = 30) -> None:
    """Until nothing is left: a volume may still be closing, and the pool may still be filling."""
    deadline = time.monotonic() + timeout_s
    while left := of_projects(instance):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes(instance: Instance) -> list[str]:
    """All but the platform's own: the supervisor, its children, and those of the control database, which must be up:
    what a killed server leaves behind for a moment has no parent to know it by."""
    own = instance.await_ready()
    known = {int(instance.paths.supervisor_lock.read_text()), *own.values()}
    lines = []
    for pid in instance.descendants():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            if pid not in known and parent != own["database"]:
                lines.append(f"{pid} " + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return lines
