"""Whatever is killed, an acknowledged commit is there afterwards, and the platform comes back by itself."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


class Writer:
    """Inserts numbers one commit at a time and remembers which were acknowledged."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.acknowledged: list[int] = []
        self.failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._sent = 0

    def __enter__(self) -> Self:
        with self.tenant.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS log (n bigint PRIMARY KEY)")
        self._thread.start()
        self.await_progress()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self.tenant.connect(connect_timeout=20) as connection:
                    while not self._stop.is_set():
                        self._sent += 1
                        connection.execute("INSERT INTO log VALUES (%s)", (self._sent,))
                        self.acknowledged.append(self._sent)
            except psycopg.Error:
                self.failures += 1
                self._stop.wait(0.05)

    def await_progress(self, rows: int = 25, timeout_s: float = 60) -> None:
        """Until that many more rows were acknowledged."""
        goal = len(self.acknowledged) + rows
        deadline = time.monotonic() + timeout_s
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, "writing does not go on"
            time.sleep(0.01)

    def check(self) -> None:
        with self.tenant.connect() as connection:
            there = {row[0] for row in connection.execute("SELECT n FROM log")}
            lost = [number for number in self.acknowledged if number not in there]
            assert lost == [], f"{len(lost)} acknowledged rows are gone"


def test_one_kind_at_a_time(mortal: Instance) -> None:
    """kill -9 of each process kind under a write load."""
    tenant = mortal.create_project("survivor")
    with Writer(tenant) as writer:
        for label in ("api", "broker", "agent", "sentinel", "gateway-1", "gateway-2", "database"):
            mortal.kill_and_await(label)
            writer.await_progress()
        for victim in ("postgres", "qemu-storage-daemon"):
            _kill_by_name(mortal, victim)
            writer.await_progress()
    writer.check()
    # The platform is whole: it can suspend, wake, and create.
    mortal.suspend(tenant)
    writer.check()
    other = mortal.create_project("afterwards")
    assert other.psql("SELECT 1").stdout == "1\n"
    verify = mortal.cloister("audit", "verify", "--state-dir", str(mortal.state_dir))
    assert verify.returncode == 0


def test_all_at_once(mortal: Instance) -> None:
    """Power loss: everything dies in the same moment; `cloister up` brings it back."""
    tenant = mortal.create_project("phoenix")
    asleep = mortal.create_project("sleeper")
    assert asleep.psql("CREATE TABLE t AS SELECT 7 AS n; SELECT n FROM t").stdout == "7\n"
    mortal.suspend(asleep)
    with Writer(tenant) as writer:
        mortal.kill_everything()
        mortal.up()
        writer.await_progress()
    writer.check()
    assert asleep.psql("SELECT n FROM t").stdout == "7\n"


def test_sessions_outlive_the_rest_of_the_platform(mortal: Instance) -> None:
    """A session goes on while api, broker, agent and control database are killed and started again."""
    tenant = mortal.create_project("steady")
    with tenant.connect() as connection:
        connection.execute("CREATE TEMP TABLE mine AS SELECT 1 AS n")
        for label in ("api", "broker", "agent", "database"):
            mortal.kill(label)
            assert connection.execute("SELECT n FROM mine").fetchone() == (1,)
            mortal.await_ready()
            assert connection.execute("SELECT n FROM mine").fetchone() == (1,)


def _kill_by_name(instance: Instance, name: str) -> None:
    """SIGKILL to every process of that name that belongs to a compute or volume of the instance."""
    control = instance.await_ready()["database"]
    killed = 0
    for pid in instance.descendants():
        try:
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if name.startswith(comm) and control not in (pid, parent):
            with contextlib.suppress(ProcessLookupError):  # one of the pool's, say, that was just done
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert killed, f"no {name} to kill"
