"""Read-only endpoints for real: what the branch is, a moment later, on a server of its own that writes nothing and wakes nobody."""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import branches
from tests.back_doors import superuser
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

PATIENCE_S = 120

REFUSED = {
    "INSERT INTO log VALUES (9)": psycopg.errors.ReadOnlySqlTransaction,
    "CREATE TABLE another (n int)": psycopg.errors.ReadOnlySqlTransaction,
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT 1": psycopg.errors.ReadOnlySqlTransaction,
    "SELECT nextval('numbers')": psycopg.errors.ReadOnlySqlTransaction,
    "SELECT pg_promote()": psycopg.errors.InsufficientPrivilege,
    "SELECT pg_wal_replay_pause()": psycopg.errors.InsufficientPrivilege,
}


@pytest.fixture
def instance(mortal: Instance) -> Instance:
    return mortal


@pytest.fixture
def tenant(instance: Instance) -> Tenant:
    tenant = instance.create_project("read")
    with branches.connected(tenant) as connection:
        connection.execute("CREATE TABLE log (n bigint PRIMARY KEY)")
        connection.execute("CREATE SEQUENCE numbers")
    return tenant


def reader_of(instance: Instance, tenant: Tenant) -> Tenant:
    body = {"endpoint": {"branch_id": tenant.branch_id, "type": "read_only"}}
    answer = branches.ask(instance, "POST", f"/projects/{tenant.project_id}/endpoints", body)
    branches.finish(instance, answer)
    return replace(tenant, endpoint_id=answer["endpoint"]["id"], host=answer["endpoint"]["host"])


def write(tenant: Tenant, number: int) -> None:
    with branches.connected(tenant) as connection:
        connection.execute("INSERT INTO log VALUES (%s)", (number,))


def numbers(connection: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM log ORDER BY n")]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def state_of(instance: Instance, tenant: Tenant) -> str:
    return str(instance.endpoint(tenant)["current_state"])


def test_it_shows_what_is_written_and_writes_nothing(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    reader = reader_of(instance, tenant)
    with branches.connected(reader) as connection:
        until(lambda: numbers(connection) == [1])
        write(tenant, 2)
        until(lambda: numbers(connection) == [1, 2])
        connection.execute("SET default_transaction_read_only = off")
        for sql, refusal in REFUSED.items():
            with pytest.raises(refusal):
                connection.execute(sql)
    pooled = replace(reader, host=reader.host.replace(reader.endpoint_id, f"{reader.endpoint_id}-pooler"))
    with branches.connected(pooled) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_neither_wakes_the_other_and_one_that_stays_awake_goes_on_when_the_writer_does(
    instance: Instance, tenant: Tenant
) -> None:
    reader = reader_of(instance, tenant)
    write(tenant, 1)
    instance.suspend(tenant)
    instance.suspend(reader)
    with branches.connected(reader) as connection:
        assert numbers(connection) == [1]
        assert (state_of(instance, tenant), state_of(instance, reader)) == ("idle", "active")
        write(tenant, 2)
        until(lambda: numbers(connection) == [1, 2])
        # Through a crash of the writer, too: its WAL goes on where it was.
        os.kill(_server(instance, tenant.endpoint_id), signal.SIGKILL)
        until(lambda: _has_written(tenant, 3))
        until(lambda: numbers(connection) == [1, 2, 3])


def _has_written(tenant: Tenant, number: int) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        write(tenant, number)
        return True
    return False


def test_what_the_writer_has_given_up_reaches_it_through_a_death_of_the_agent(
    instance: Instance, tenant: Tenant
) -> None:
    reader = reader_of(instance, tenant)
    with branches.connected(reader) as reading, branches.connected(tenant) as writing:
        instance.kill("agent")
        for _ in range(3):
            # More than the writer keeps of its WAL: what the reader needs next is in the outbox by now, or in the archive.
            writing.execute("INSERT INTO log SELECT (SELECT count(*) FROM log) + n FROM generate_series(1, 100000) n")
            superuser(instance, tenant, "CHECKPOINT")
        until(lambda: reading.execute("SELECT count(*) FROM log").fetchone() == (300_000,))
    instance.kill_and_await("agent")
    write(tenant, 0)
    with branches.connected(reader) as reading:
        until(lambda: reading.execute("SELECT count(*) FROM log").fetchone() == (300_001,))


def test_what_a_branch_was_before_a_restore_is_shown_no_more(instance: Instance, tenant: Tenant) -> None:
    write(tenant, 1)
    with branches.connected(tenant) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    write(tenant, 2)
    reader = reader_of(instance, tenant)
    path = f"/projects/{tenant.project_id}/branches/{tenant.branch_id}/restore"
    body = {"source_branch_id": tenant.branch_id, "source_lsn": row[0], "preserve_under_name": "before"}
    branches.finish(instance, branches.ask(instance, "POST", path, body))
    with branches.connected(reader) as connection:
        assert numbers(connection) == [1]


def test_whoever_insists_on_the_other_kind_is_told(instance: Instance, tenant: Tenant) -> None:
    reader = reader_of(instance, tenant)
    for place, kind in ((tenant, "read_only"), (reader, "read_write"), (reader, "neither")):
        with pytest.raises(psycopg.OperationalError, match=r"read-only|read-write|read_write"):
            psycopg.connect(place.uri, options=f"neon_endpoint_type:{kind}")
    for place, kind in ((tenant, "read_write"), (reader, "read_only")):
        with psycopg.connect(place.uri, options=f"neon_endpoint_type:{kind}") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_its_sandbox_has_nothing_of_the_writers(instance: Instance, tenant: Tenant) -> None:
    reader = reader_of(instance, tenant)
    with branches.connected(reader), branches.connected(tenant):
        seen = {
            endpoint_id: set(re.findall(r"/timelines/([0-9a-f]+)/", mounts))
            for endpoint_id, mounts in _mounts_of_computes(instance).items()
        }
    assert len(seen[reader.endpoint_id]) == len(seen[tenant.endpoint_id]) == 1
    assert not seen[reader.endpoint_id] & seen[tenant.endpoint_id]


def _mounts_of_computes(instance: Instance) -> dict[str, str]:
    """Endpoint → what its server sees mounted."""
    records = (instance.paths.run / "compute-records").glob("ep-*.json")
    return {path.stem: Path(f"/proc/{_server(instance, path.stem)}/mountinfo").read_text() for path in records}


def _server(instance: Instance, endpoint_id: str) -> int:
    """Its process, outside."""
    record = json.loads((instance.paths.run / "compute-records" / f"{endpoint_id}.json").read_text())
    return int(record["data"]["program"]["pid"])
