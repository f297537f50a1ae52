"""`create`: from the request for a project to the first row out of it, from the pool and without one.

Baseline: what a script without templates does: initdb, start, first row, over a Unix socket.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.baselines import BarePostgres
from benchmarks.measure import Result, stopwatch
from benchmarks.wake import first_row
from tests.instance import Instance


def run(n: int = 15) -> Result:
    result = Result("create")
    pooled = result.add("from the pool → first row", _create(n, pool=4))
    alone = result.add("without a pool → first row", _create(n, pool=0))
    initdb: list[float] = []
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for number in range(n):
            server = BarePostgres(directory / str(number))
            with stopwatch(initdb):
                server.initialise()
                server.start()
                asyncio.run(server.first_row())
            server.stop()
            shutil.rmtree(server.directory)
    theirs = result.add("initdb, start → first row (no encryption, no sandbox)", initdb)
    result.ratio("from the pool ÷ initdb", pooled, theirs)
    result.ratio("without a pool ÷ initdb", alone, theirs)
    return result


def _create(n: int, *, pool: int) -> list[float]:
    taken: list[float] = []
    with Instance("--pool-volumes", str(pool)) as instance:
        for number in range(n):
            _await_pool(instance, pool)
            with stopwatch(taken):
                tenant = instance.create_project(f"create-{number}", wait=False)
                first_row(tenant)
            instance.settle(tenant.project_id)
            instance.suspend(tenant)
    return taken


def _await_pool(instance: Instance, pool: int) -> None:
    """Until the pool is full again: its refill is not part of what a user waits for. A volume of the pool is an image
    that belongs to no project yet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        taken = {project["id"] for project in instance.api("GET", "/projects?limit=400")["projects"]}
        images = {path.stem for path in instance.paths.volumes.glob("*.img")}
        if len(images - taken) >= pool:
            return
        time.sleep(0.05)
    raise RuntimeError("the pool does not fill")
