"""An hour in which nobody does anything wrong, as many minutes of it as one has: load, branches, people who mistype, computes
that sleep and wake, a deploy, a restart of the platform. It raises no finding; one wrong thing in the middle raises its own.

`CLOISTER_BENIGN_S=3600 scripts/soak -k benign` is the whole hour. What takes a week to learn has its day on the events' own
clock (`tests/trust/sentinel/test_office_day.py`).
"""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest

from tests import branches
from tests.instance import Instance, Tenant, tail

pytestmark = [pytest.mark.root, pytest.mark.soak]

DURATION_S: Final = float(os.environ.get("CLOISTER_BENIGN_S", "300"))
SHORT_S: Final = 40.0
PATIENCE_S: Final = 60.0
PEOPLE: Final = 6

TYPO_EVERY_S: Final = 30.0
BRANCH_EVERY_S: Final = 20.0
WAKE_EVERY_S: Final = 15.0
DEPLOY_EVERY_S: Final = 100.0
ADMIN_EVERY_S: Final = 60.0
PODS: Final = 30

Act = Callable[["Firm", int], None]


class Firm:
    """Two projects, some people, a pipeline."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.shop = instance.create_project("shop")
        self.blog = instance.create_project("blog")
        self.people = [self._hire(f"person_{number}") for number in range(PEOPLE)]
        self.gone = self._hire("gone")
        """Nobody logs in as that role."""
        self.passwords = threading.Lock()
        """Nobody logs in while a password changes: that would be a wrong one."""
        _run(self.shop, "pgbench", "-i", "-q", "-s", "2")
        self.pods: list[psycopg.Connection[Any]] = []

    def _hire(self, name: str) -> Tenant:
        path = f"/projects/{self.shop.project_id}/branches/{self.shop.branch_id}/roles"
        made = self.instance.api("POST", path, {"role": {"name": name}}, expect=201)
        self.instance.settle(self.shop.project_id)
        return replace(self.shop, role=name, password=made["role"]["password"])


def _run(tenant: Tenant, *words: str) -> None:
    done = subprocess.run(
        list(words), env=tenant.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr


def load(firm: Firm, turn: int) -> None:
    _run(firm.shop, "pgbench", "-n", "-c", "4", "-T", "8", *(["-S"] if turn % 2 else []))


def visit(firm: Firm, turn: int) -> None:
    """Somebody looks something up, now through the pooler and now not."""
    with firm.passwords:
        person = firm.people[turn % PEOPLE]
        pooled = person.host.replace(person.endpoint_id, f"{person.endpoint_id}-pooler")
        host = pooled if turn % 3 == 0 else person.host
        session = psycopg.connect(replace(person, host=host).uri, autocommit=True, application_name="psql")
    with session:
        session.execute("SELECT count(*) FROM pg_class")
        session.execute("SELECT pg_advisory_xact_lock(%s)", (turn,))


def mistype(firm: Firm, turn: int) -> None:
    with firm.passwords:
        person = firm.people[turn % PEOPLE]
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(replace(person, password=person.password[:-1] + "_").uri)
        with person.connect() as session:
            session.execute("SELECT 1")


def change(firm: Firm, turn: int) -> None:
    """The pipeline: a branch of its own for each change, tested and deleted."""
    child = branches.create_child(firm.instance, firm.shop, f"change-{turn}-{time.monotonic_ns()}")
    with branches.connected(child) as session:
        session.execute("CREATE TABLE changed AS SELECT * FROM pgbench_tellers")
    path = f"/projects/{child.project_id}/branches/{child.branch_id}"
    branches.finish(firm.instance, branches.ask(firm.instance, "DELETE", path))
    assert firm.instance.request("GET", path).status_code == 404, "which the pipeline looks for"


def wake(firm: Firm, _turn: int) -> None:
    """What sleeps is woken by whoever connects."""
    firm.instance.suspend(firm.blog)
    assert firm.blog.psql("SELECT 1").stdout.strip() == "1"


def deploy(firm: Firm, turn: int) -> None:
    """All pods of a release come at once, and those of the release before go."""
    old = firm.pods

    def pod(number: int) -> psycopg.Connection[Any]:
        return firm.shop.connect(application_name=f"web-{turn:06x}-{number}")

    with ThreadPoolExecutor(PODS) as starting:
        firm.pods = list(starting.map(pod, range(PODS)))
    with firm.shop.connect() as session:
        session.execute(f"ALTER TABLE pgbench_tellers ADD COLUMN IF NOT EXISTS extra_{turn % 8} int".encode())
        session.execute(
            f"CREATE ROLE release_{time.monotonic_ns()}; GRANT SELECT ON pgbench_tellers TO {firm.people[1].role}".encode()
        )
    for each in old:
        each.close()


def administer(firm: Firm, turn: int) -> None:
    """What administrators do: look, rename, rotate, dump, take a snapshot, cancel what takes too long."""
    instance, project = firm.instance, f"/projects/{firm.shop.project_id}"
    for path in ("/projects", project, f"{project}/branches", f"{project}/operations"):
        instance.api("GET", path)
    instance.api("PATCH", project, {"project": {"name": f"shop {turn}"}})
    instance.cloister("keys", "rotate", "--project-id", firm.blog.project_id)
    role = f"{project}/branches/{firm.shop.branch_id}/roles/{firm.people[0].role}/reset_password"
    with firm.passwords:
        answer = branches.ask(instance, "POST", role)
        branches.finish(instance, answer)
        firm.people[0] = replace(firm.people[0], password=answer["role"]["password"])
    _run(firm.shop, "psql", "-X", "-q", "-o", "/dev/null", "-c", "COPY pgbench_accounts TO STDOUT")
    branches.ask(instance, "POST", f"{project}/branches/{firm.shop.branch_id}/snapshot?name=s{turn}")
    with firm.shop.connect() as session, canceling(session), pytest.raises(psycopg.errors.QueryCanceled):
        session.execute("SELECT pg_sleep(60)")


@contextlib.contextmanager
def canceling(session: psycopg.Connection[Any]) -> Iterator[None]:
    """Once a second, for on a busy machine the first may come before there is anything to cancel."""
    is_over = threading.Event()

    def cancel() -> None:
        while not is_over.wait(1):
            session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def every(seconds: float, act: Act, firm: Firm, failures: list[BaseException]) -> Iterator[None]:
    """In a thread of its own, from now to the end."""
    stop = threading.Event()

    def run() -> None:
        turn = 0
        while not stop.is_set():
            began = time.monotonic()
            try:
                act(firm, turn)
            except BaseException as error:  # shown by whoever waits for the end
                failures.append(error)
                return
            turn += 1
            stop.wait(max(0.0, seconds - (time.monotonic() - began)))

    thread = threading.Thread(target=run, name=act.__name__)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def benign(firm: Firm, duration_s: float, malign: Act | None = None) -> None:
    """All of it side by side. What is malign happens once, half-way."""
    failures: list[BaseException] = []
    assert firm.instance.http is not None  # made once, before there are threads
    acts: dict[Act, float] = {
        load: 1.0, visit: 2.0, mistype: TYPO_EVERY_S, change: BRANCH_EVERY_S, wake: WAKE_EVERY_S,
        deploy: DEPLOY_EVERY_S, administer: ADMIN_EVERY_S,
    }  # fmt: skip
    with contextlib.ExitStack() as going_on:
        for act, seconds in acts.items():
            going_on.enter_context(every(seconds, act, firm, failures))
        middle, end = time.monotonic() + duration_s / 2, time.monotonic() + duration_s
        while time.monotonic() < end and not failures:
            time.sleep(0.1)
            if malign is not None and time.monotonic() > middle:
                malign(firm, 0)
                malign = None
    for each in firm.pods:
        each.close()
    firm.pods.clear()
    if failures:
        raise failures[0]


def found(instance: Instance) -> list[str]:
    """Every finding that is not resolved, once the sentinel has seen all there is."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        events = instance.api("GET", "/cloister/audit/events?limit=1")["events"][0]["seq"]
        pulse = instance.api("GET", "/cloister/sentinel")
        if pulse["events_behind"] <= 2:  # these two calls
            break
        assert time.monotonic() < deadline, (pulse, events)
        time.sleep(0.1)
    print(f"{events} events, {pulse}")
    return [f"{it['rule']}: {it['summary']}" for it in instance.api("GET", "/cloister/findings?limit=500")["findings"]]


@pytest.fixture(scope="module")
def firm() -> Iterator[Firm]:
    with Instance() as instance, tail(instance):
        yield Firm(instance)


def test_an_hour_in_which_nobody_does_anything_wrong_raises_no_finding(firm: Firm) -> None:
    benign(firm, DURATION_S)
    firm.instance.down()
    firm.instance.up()
    benign(firm, SHORT_S)
    assert found(firm.instance) == []


def guess(firm: Firm, _turn: int) -> None:
    for number in range(10):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(replace(firm.gone, password=f"npg_guess{number:011}").uri, hostaddr="127.0.0.1")


def break_out(firm: Firm, _turn: int) -> None:
    assert "not available" in firm.people[1].psql("COPY (SELECT 1) TO PROGRAM 'id'").stderr


def unlock(firm: Firm, _turn: int) -> None:
    allowed = {"allowed_ips": {"ips": ["127.0.0.1"], "protected_branches_only": True}}
    anybody: dict[str, Any] = {"allowed_ips": {"ips": []}}
    for settings in (allowed, anybody):
        firm.instance.api("PATCH", f"/projects/{firm.blog.project_id}", {"project": {"settings": settings}})


@pytest.mark.parametrize(
    ("malign", "rule"),
    [(guess, "failed-logins"), (break_out, "hostile-statement"), (unlock, "allow-list-widened")],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_one_wrong_thing_in_the_middle_raises_its_finding_and_no_other(firm: Firm, malign: Act, rule: str) -> None:
    benign(firm, SHORT_S, malign)
    raised = found(firm.instance)
    assert [each.partition(":")[0] for each in raised] == [rule], raised
    (finding,) = firm.instance.api("GET", "/cloister/findings?limit=500")["findings"]
    firm.instance.api("POST", f"/cloister/findings/{finding['id']}/resolve", {"note": "a control"})
