"""`density`: many projects asleep on one machine: what each costs, and whether the platform still answers as fast.

Counts processes and disk, times the API's list of projects, and compares a wake among many with a wake among ten.
"""

import os
from pathlib import Path

from benchmarks.measure import Result, stopwatch
from benchmarks.wake import first_row
from tests.instance import Instance, Tenant

FEW = 10


def run(projects: int = int(os.environ.get("CLOISTER_BENCH_PROJECTS", "100"))) -> Result:
    result = Result("density")
    with Instance("--pool-volumes", "4") as instance:
        tenants: list[Tenant] = []
        _grow(instance, tenants, FEW)
        few = result.add(f"wake among {FEW}", _wakes(instance, tenants[:5]))
        _grow(instance, tenants, projects)
        many = result.add(f"wake among {projects}", _wakes(instance, tenants[:5]))
        listing: list[float] = []
        for _ in range(50):
            with stopwatch(listing):
                instance.api("GET", "/projects?limit=100")
        result.add("GET /projects?limit=100 (target ≤ 50 ms)", listing)
        result.ratio("wake: many ÷ few (target 1)", many, few)
        storage = instance.status()["storage"]
        volumes = [path for path in instance.paths.volumes.iterdir() if path.suffix == ".img"]
        disk = sorted(path.stat().st_blocks * 512 / 2**20 for path in volumes)
        result.facts |= {
            "projects": projects,
            "running computes": storage["running_computes"],
            "open volumes": storage["open_volumes"],
            "processes per sleeping project": (len(instance.descendants()) - len(_platform(instance))) / projects,
            "MiB on disk per volume, median (target ≤ 40)": round(disk[len(disk) // 2], 1),
            "MiB of memory, the whole platform (PSS)": round(sum(map(pss, instance.descendants())), 1),
        }
    return result


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _grow(instance: Instance, tenants: list[Tenant], to: int) -> None:
    while len(tenants) < to:
        tenant = instance.create_project(f"tenant-{len(tenants)}")
        instance.suspend(tenant)
        tenants.append(tenant)


def _wakes(instance: Instance, tenants: list[Tenant], rounds: int = 4) -> list[float]:
    taken: list[float] = []
    for _ in range(rounds):
        for tenant in tenants:
            with stopwatch(taken):
                first_row(tenant)
            instance.suspend(tenant)
    return taken


def _platform(instance: Instance) -> list[int]:
    """The platform's own processes: the supervisor, its children, and what the control database forks."""
    computes = f"cloister-{instance.paths.instance}/"
    return [pid for pid in instance.descendants() if computes not in Path(f"/proc/{pid}/cgroup").read_text()]
