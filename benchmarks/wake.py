"""`wake`: from a suspended, locked, encrypted project to the first row, as a client sees it.

The client resolves the host, opens TCP and TLS 1.3, proves its password, and asks `SELECT 1`. Before each connect the
project is suspended and its volume is seen to be closed. Baseline: a bare `postgres` on the same kind of cluster, from
spawn to first row over its Unix socket: no TLS, no password, no volume to open. A second baseline is the same client
connecting while the compute is awake: what a wake adds is the difference.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.baselines import BarePostgres
from benchmarks.measure import Result, stopwatch
from tests.instance import Instance, Tenant


def run(n: int = 40) -> Result:
    result = Result("wake")
    asleep: list[float] = []
    awake: list[float] = []
    bare: list[float] = []
    with Instance() as instance, tempfile.TemporaryDirectory(prefix="cloister-bench-") as directory:
        Path(directory).chmod(0o755)
        tenant = instance.create_project("wake")
        server = BarePostgres(Path(directory) / "bare")
        server.initialise()
        for _ in range(3):  # the page cache and the interpreters are warm on both sides
            instance.suspend(tenant)
            first_row(tenant)
        for _ in range(n):
            instance.suspend(tenant)
            assert instance.endpoint(tenant)["current_state"] == "idle"
            _timed(tenant, asleep)
            first_row(tenant)  # the first look-up after a wake asks the compute for its verifiers
            _timed(tenant, awake)
            with stopwatch(bare):
                server.start()
                asyncio.run(server.first_row())
            server.stop()
            time.sleep(0.05)
        result.facts["storage"] = instance.status()["storage"]["opener"]
    ours = result.add("asleep → first row", asleep)
    result.add("awake → first row", awake)
    theirs = result.add("bare postgres: spawn → first row", bare)
    result.ratio("wake ÷ bare postgres start (target ≤ 4)", ours, theirs)
    return result


def first_row(tenant: Tenant) -> None:
    """libpq's whole way: name, TCP, TLS, SCRAM with channel binding, one row."""
    with tenant.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _timed(tenant: Tenant, into: list[float]) -> None:
    with stopwatch(into):
        connection = tenant.connect()
        connection.execute("SELECT 1").fetchone()
    connection.close()
