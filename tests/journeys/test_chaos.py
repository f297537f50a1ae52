"""Deaths and suspends at random moments, under load: no acknowledged row is lost, every operation ends, nothing leaks."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from tests import leftovers
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

CHAOS_S = 60


class Writer:
    """Inserts numbers, one commit at a time, and remembers which were acknowledged; connects anew whenever it must."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        with tenant.connect() as connection:
            connection.execute("CREATE TABLE log (n bigint PRIMARY KEY)")
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with self.tenant.connect(connect_timeout=20) as connection:
                    while not self._stop.is_set():
                        number += 1
                        connection.execute("INSERT INTO log VALUES (%s)", (number,))
                        self.acknowledged.append(number)
            except psycopg.Error:
                self._stop.wait(0.05)

    def await_progress(self, timeout_s: float = 90) -> None:
        goal, deadline = len(self.acknowledged) + 10, time.monotonic() + timeout_s
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, f"{self.tenant.endpoint_id} is not served"
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        with self.tenant.connect(connect_timeout=60) as connection:
            there = {row[0] for row in connection.execute("SELECT n FROM log")}
        lost = sorted(set(self.acknowledged) - there)
        assert not lost, f"{len(lost)} acknowledged rows are gone, the first is {lost[0]}"


@pytest.fixture(scope="module")
def shared_instance() -> Iterator[Instance]:
    """Of these alone, for they look whether all of it sleeps; the deaths, which wake some of it again, come last."""
    with Instance("--idle-check-interval", "1") as instance:
        yield instance


def test_connecting_while_suspends_are_asked_for(instance: Instance) -> None:
    """For ten seconds one side connects and the other suspends, both as fast as they can. Nobody who connects gets an error
    at the door, who was in gets 57P01 at most, and what was acknowledged stays."""
    tenant = instance.create_project("restless")
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE log (n bigint PRIMARY KEY)")
    ending = time.monotonic() + 10
    acknowledged: list[int] = []
    wrong: list[str] = []

    def connect(start: int) -> None:
        number = start
        while time.monotonic() < ending:
            try:
                connection = tenant.connect(connect_timeout=30)
            except psycopg.Error as error:
                wrong.append(f"connecting: {error}")
                continue
            with connection:
                number += 1
                try:
                    connection.execute("INSERT INTO log VALUES (%s)", (number,))
                    acknowledged.append(number)
                except psycopg.Error as error:
                    # A farewell that libpq reads together with the greeting, it takes for a notice; then it only
                    # knows that the connection was closed.
                    if error.sqlstate != "57P01" and "has been closed" not in str(error):
                        wrong.append(f"{error.sqlstate}: {error}")

    threads = [threading.Thread(target=connect, args=(start,)) for start in (0, 1_000_000)]
    for thread in threads:
        thread.start()
    suspends = 0
    while time.monotonic() < ending:
        answer = instance.http.post(f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}/suspend")
        assert answer.status_code in (200, 423), answer.text
        suspends += answer.status_code == 200
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    print(f"{suspends} suspends, {len(acknowledged)} commits, wrong: {len(wrong)}")
    instance.settle(tenant.project_id)
    with tenant.connect() as connection:
        there = {row[0] for row in connection.execute("SELECT n FROM log")}
    assert set(acknowledged) <= there
    assert wrong == []
    assert suspends > 10
    instance.suspend(tenant)
    leftovers.await_none(instance)


@pytest.mark.parametrize("duration_s", [8, pytest.param(CHAOS_S, marks=pytest.mark.soak)])
def test_random_deaths(instance: Instance, duration_s: float) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    chance = random.Random(seed)
    print(f"CHAOS_SEED={seed}")
    tenants = [instance.create_project(f"chaos-{number}") for number in range(3)]
    writers = [Writer(tenant) for tenant in tenants]
    done: list[str] = []
    try:
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            deed = chance.choice(DEEDS)
            done.append(deed.__name__)
            deed(instance, chance, tenants)
            time.sleep(chance.uniform(0, 0.6))
        instance.await_ready()
        for writer in writers:
            writer.await_progress()
    except BaseException as error:
        error.add_note(f"CHAOS_SEED={seed}: {' '.join(done)}")
        raise
    finally:
        for writer in writers:
            writer.stop()
    print(f"{len(done)} deeds, {sum(len(writer.acknowledged) for writer in writers)} rows: {' '.join(done)}")
    for writer in writers:
        writer.check()
    # Whatever was begun has ended by itself, and all projects, also those born meanwhile, can sleep.
    for project in instance.api("GET", "/projects?limit=100")["projects"]:
        instance.settle(project["id"], timeout_s=120)
        for endpoint in instance.api("GET", f"/projects/{project['id']}/endpoints")["endpoints"]:
            instance.api("POST", f"/projects/{project['id']}/endpoints/{endpoint['id']}/suspend")
        instance.settle(project["id"], timeout_s=120)
    leftovers.await_none(instance)
    for writer in writers:
        writer.check()
    verified = instance.cloister("audit", "verify", "--state-dir", str(instance.state_dir), check=False)
    assert verified.returncode == 0, verified.stdout


Deed = Callable[[Instance, random.Random, list[Tenant]], None]


def _a_process_dies(instance: Instance, chance: random.Random, _tenants: list[Tenant]) -> None:
    _kill(instance, chance.choice(sorted(instance.pids())))
    instance.await_ready()


def _two_die(instance: Instance, chance: random.Random, _tenants: list[Tenant]) -> None:
    for label in chance.sample(sorted(instance.pids()), 2):
        _kill(instance, label)
    instance.await_ready()


def _a_suspend_and_the_agent_dies(instance: Instance, chance: random.Random, tenants: list[Tenant]) -> None:
    tenant = chance.choice(tenants)
    _ask(instance, f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}/suspend")
    time.sleep(chance.uniform(0, 0.1))  # so that it dies at any moment of the work
    _kill(instance, chance.choice(("agent", "api")))
    instance.await_ready()


def _a_suspend(instance: Instance, chance: random.Random, tenants: list[Tenant]) -> None:
    tenant = chance.choice(tenants)
    _ask(instance, f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}/suspend")


def _a_birth_and_the_agent_dies(instance: Instance, chance: random.Random, _tenants: list[Tenant]) -> None:
    _ask(instance, "/projects", {"project": {"name": "born in chaos"}})
    time.sleep(chance.uniform(0, 0.3))  # so that it dies at any moment of the work
    _kill(instance, chance.choice(("agent", "api", "broker", "database")))
    instance.await_ready()


def _a_tenants_process_dies(instance: Instance, chance: random.Random, _tenants: list[Tenant]) -> None:
    if lines := leftovers.processes(instance):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(chance.choice(lines).split()[0]), signal.SIGKILL)


def _the_supervisor_dies(instance: Instance, _chance: random.Random, _tenants: list[Tenant]) -> None:
    os.kill(int(instance.paths.supervisor_lock.read_text()), signal.SIGKILL)
    instance.up()


DEEDS: tuple[Deed, ...] = (
    _a_process_dies,
    _two_die,
    _a_suspend,
    _a_suspend_and_the_agent_dies,
    _a_birth_and_the_agent_dies,
    _a_tenants_process_dies,
    _the_supervisor_dies,
)


def _kill(instance: Instance, label: str) -> None:
    """It may be dead already, and not yet started again."""
    if pid := instance.pids().get(label):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ask(instance: Instance, path: str, body: object = None) -> None:
    """What comes of it is not the question; that it ends is."""
    try:
        instance.http.post(path, json=body)
    except httpx.TransportError:
        instance.await_ready()
