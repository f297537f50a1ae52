"""`reencryption`: how fast a project's data is encrypted anew, what a client notices meanwhile, and how long it is paused.

One project with some data, at full speed: pgbench -S beside the copy, over the same without it; then the pause, for two sizes.
"""

import time
from typing import Any

from benchmarks import pgbench
from benchmarks.measure import Result
from tests.instance import Instance, Tenant


def run(scales: tuple[int, ...] = (20, 60), seconds: int = 10) -> Result:
    result = Result("reencryption")
    with Instance(storage="luks") as instance:
        for scale in scales:
            tenant = instance.create_project(f"scale-{scale}")
            pgbench.initialise(tenant.environment, scale)
            path = f"/cloister/projects/{tenant.project_id}/keys/reencryption"
            if scale == scales[0]:
                alone = pgbench.throughput(tenant.environment, "-S", clients=4, seconds=seconds)[0]
                instance.api("POST", path, {"bytes_per_s": 50_000_000})
                beside = pgbench.throughput(tenant.environment, "-S", clients=4, seconds=seconds)[0]
                ours, theirs = (
                    result.add("-S beside a copy at 50 MB/s", [beside], "tps"),
                    result.add("-S", [alone], "tps"),
                )
                result.ratio("-S: beside a copy ÷ without", ours, theirs)
            began = time.monotonic()
            instance.api("POST", path, {"bytes_per_s": 10**12})
            it = _until(instance, path, "ready_at")
            megabytes = it["used_bytes"] / 1e6
            result.add(f"copied and read back, {megabytes:.0f} MB", [megabytes / (time.monotonic() - began)], "MB/s")
            instance.api("POST", path, {"bytes_per_s": 10**12, "now": True})
            it = _until(instance, path, "finished_at")
            result.add(f"pause, {megabytes:.0f} MB", [it["paused_ms"]], "ms")
            _require_data(tenant, scale)
    return result


def _until(instance: Instance, path: str, moment: str) -> Any:
    deadline = time.monotonic() + 600
    while not (it := instance.api("GET", path)).get(moment):
        assert time.monotonic() < deadline, it
        time.sleep(0.1)
    return it


def _require_data(tenant: Tenant, scale: int) -> None:
    assert tenant.psql("SELECT count(*) FROM pgbench_accounts").stdout == f"{scale * 100_000}\n"
