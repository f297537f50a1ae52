"""A branch as it was, read through `br-…` and `ep-…` hosts: exactly that point, read-only, beside the branch that goes on; and
nothing of it left when nobody looks any more, whoever died meanwhile.
"""

import contextlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from tests import branches
from tests.instance import Instance, Tenant, tail

pytestmark = pytest.mark.root

PATIENCE_S = 60

REFUSED = {
    "INSERT INTO log VALUES (9)": psycopg.errors.ReadOnlySqlTransaction,
    "CREATE TABLE another (n int)": psycopg.errors.ReadOnlySqlTransaction,
    "CREATE ROLE another": psycopg.errors.ReadOnlySqlTransaction,
    "SET transaction_read_only = off": psycopg.errors.ActiveSqlTransaction,
    "SELECT pg_promote()": psycopg.errors.InsufficientPrivilege,
    "SELECT pg_wal_replay_resume()": psycopg.errors.InsufficientPrivilege,
}


@pytest.fixture(scope="module")
def sleepy() -> Iterator[Instance]:
    """Nobody who is idle stays for long."""
    with Instance("--idle-check-interval", "0.3", "--suspend-timeout", "2") as instance:
        yield instance


@pytest.fixture
def instance(sleepy: Instance) -> Iterator[Instance]:
    with tail(sleepy):
        yield sleepy


@pytest.fixture
def tenant(instance: Instance) -> Tenant:
    tenant = instance.create_project("travelled")
    with branches.connected(tenant) as connection:
        connection.execute("CREATE TABLE log (n bigint PRIMARY KEY)")
    return tenant


def write(tenant: Tenant, number: int) -> None:
    with branches.connected(tenant) as connection:
        connection.execute("INSERT INTO log VALUES (%s)", (number,))


def lsn_now(tenant: Tenant) -> str:
    with branches.connected(tenant) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def in_the_past(tenant: Tenant, point: str, *, label: str = "") -> psycopg.Connection[Any]:
    """In a transaction, so that it is not found idle, however long its test does something else."""
    host = tenant.host.replace(tenant.endpoint_id, label or tenant.branch_id)
    connection = psycopg.connect(tenant.uri, host=host, options=f"neon_{point}", connect_timeout=60)
    connection.execute("SELECT")
    return connection


def numbers(connection: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM log ORDER BY n")]


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def leftovers(instance: Instance, tenant: Tenant) -> list[str]:
    """What the platform still has of the project's standbys: computes without an endpoint, and timelines without a branch."""
    computes = [
        path.name
        for path in (instance.paths.run / "compute-records").glob("ep-*.json")
        if tenant.project_id in path.read_text() and path.name != f"{tenant.endpoint_id}.json"
    ]
    mount = ["nsenter", "--mount", f"--target={instance.paths.supervisor_lock.read_text().strip()}"]
    with branches.connected(tenant):  # so that its volume is open
        listed = subprocess.run(
            [*mount, "find", str(instance.paths.state_dir), str(instance.paths.run), "-maxdepth", "6",
             "-path", f"*{tenant.project_id}*", "(", "-path", "*/timelines/*", "-o", "-path", "*/unfinished/*",
             "-o", "-path", "*/trash/*", ")", "-type", "d", "-prune"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    places = listed.stdout.split()
    timelines = [place for place in places if "/timelines/" in place]
    assert timelines, "the branch's own is there: " + listed.stderr
    return [*computes, *timelines[1:], *(place for place in places if place not in timelines)]


def over_https(instance: Instance, tenant: Tenant, point: str, sql: str) -> Any:
    """As the serverless driver asks: the point is in the options of its connection string."""
    host = tenant.host.replace(tenant.endpoint_id, tenant.branch_id)
    uri = f"postgresql://{tenant.role}:{tenant.password}@{host}/{tenant.database}?options={quote(f'neon_{point}', safe='')}"
    answer = httpx.post(
        f"https://api.{instance.domain}:{instance.https_port}/sql",
        headers={"Neon-Connection-String": uri},
        json={"query": sql, "params": []},
        verify=ssl.create_default_context(cafile=str(tenant.ca_file)),
        timeout=PATIENCE_S,
    )
    return answer.json()


def test_the_past_over_https(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    point = f"lsn:{lsn_now(tenant)}"
    write(tenant, 2)
    seen = over_https(instance, tenant, point, "SELECT n FROM log")
    assert seen.get("rows") == [{"n": "1"}], seen
    assert over_https(instance, tenant, point, "INSERT INTO log VALUES (9)")["code"] == "25006"
    assert "invalid point in the past" in over_https(instance, tenant, "lsn:0", "SELECT 1")["message"]


def test_the_rows_of_then_while_the_branch_goes_on_and_nothing_left(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    moment, lsn = datetime.now(UTC).isoformat().replace("+00:00", "Z"), lsn_now(tenant)
    write(tenant, 2)
    with (
        in_the_past(tenant, f"timestamp:{moment}") as then,
        in_the_past(tenant, f"lsn:{lsn}", label=f"{tenant.endpoint_id}-pooler") as there,
    ):
        assert numbers(then) == [1]
        assert numbers(there) == [1]
        write(tenant, 3)
        for connection in (then, there):
            assert numbers(connection) == [1]
            # Whatever a client says: it is the server that cannot write.
            connection.execute("SET default_transaction_read_only = off")
            for statement, refusal in REFUSED.items():
                with pytest.raises(refusal), connection.transaction():
                    connection.execute(statement)
        assert len(leftovers(instance, tenant)) == 2 * 2, "two computes, two timelines"
    with branches.connected(tenant) as connection:
        assert numbers(connection) == [1, 2, 3]
    until(lambda: leftovers(instance, tenant) == [], "the standbys do not end")


def test_a_branch_that_sleeps_sleeps_on(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    lsn = lsn_now(tenant)
    write(tenant, 2)
    instance.suspend(tenant)
    with in_the_past(tenant, f"lsn:{lsn}") as then:
        assert numbers(then) == [1]
        assert instance.endpoint(tenant)["current_state"] == "idle"


@pytest.mark.parametrize("process", ["agent", "api"])
def test_whoever_is_killed_the_past_stays_and_goes_in_the_end(instance: Instance, tenant: Tenant, process: str) -> None:
    write(tenant, 1)
    lsn = lsn_now(tenant)
    write(tenant, 2)
    with in_the_past(tenant, f"lsn:{lsn}") as then:
        assert numbers(then) == [1]
        instance.kill_and_await(process)
        assert numbers(then) == [1], "a session that was open goes on"
    until(lambda: leftovers(instance, tenant) == [], f"something is left over of a killed {process}")


def test_the_agent_is_killed_while_it_recovers(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    lsn = lsn_now(tenant)
    write(tenant, 2)
    killer = threading.Timer(0.15, instance.kill, args=["agent"])
    killer.start()
    with contextlib.suppress(psycopg.OperationalError):  # told to try again, or quicker than the killer
        in_the_past(tenant, f"lsn:{lsn}").close()
    killer.join()
    instance.await_ready()
    with branches.connected(tenant) as connection:
        assert numbers(connection) == [1, 2]
    until(lambda: leftovers(instance, tenant) == [], "something is left over")
    with in_the_past(tenant, f"lsn:{lsn}") as then:
        assert numbers(then) == [1]


def test_what_cannot_be_reached_is_refused_with_the_window(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    for point, words in [
        ("timestamp:2001-01-01T00:00:00Z", "the timestamp must lie between"),
        ("lsn:FFFFFF/0", "outside the history of the branch, which reaches from"),
        ("lsn:0/1", "outside the history of the branch, which reaches from"),
        ("timestamp:yesterday", "a timestamp looks like"),
    ]:
        with pytest.raises(psycopg.OperationalError, match=words):
            in_the_past(tenant, point)
    until(lambda: leftovers(instance, tenant) == [], "something is left over")
