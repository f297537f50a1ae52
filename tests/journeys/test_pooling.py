"""`-pooler` hosts, end to end: many clients over few servers, asleep and awake, and PgBouncer killed under them."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloister.base.identities import POOLER_UID
from cloister.node.postgres.pooling import version_of
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

CLIENTS, AT_ONCE = 200, 8
PATIENCE_S = 30


def pooled(tenant: Tenant) -> Tenant:
    return replace(tenant, host=tenant.host.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler"))


@pytest.fixture(scope="module")
def own_tenant(shared_instance: Instance) -> Tenant:
    """Nobody else connects to it."""
    return shared_instance.create_project("pooling")


@pytest.fixture
def door(own_tenant: Tenant, instance: Instance) -> Tenant:
    return pooled(own_tenant)


def poolers(tenant: Tenant) -> list[int]:
    """The processes of the pooler beside this tenant's compute."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, groups = (entry / "status").read_text(), (entry / "cgroup").read_text()
            except OSError:
                continue
            if f"\nUid:\t{POOLER_UID}\t" in status and "\nState:\tZ" not in status and tenant.endpoint_id in groups:
                found.append(int(entry.name))
    return found


@asynccontextmanager
async def clients(tenant: Tenant, count: int) -> AsyncIterator[list[psycopg.AsyncConnection[Any]]]:
    async def connect() -> psycopg.AsyncConnection[Any]:
        async with gate:
            return await psycopg.AsyncConnection.connect(tenant.uri, autocommit=True, prepare_threshold=None)

    gate = asyncio.Semaphore(16)
    opened = await asyncio.gather(*(connect() for _ in range(count)))
    try:
        yield opened
    finally:
        for connection in opened:
            await connection.close()


def backends(tenant: Tenant) -> int:
    """Those of the tenant's own clients, this question's left out."""
    said = tenant.psql(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = current_user"
        " AND pid <> pg_backend_pid()"
    )
    return int(said.stdout)


def test_who_connects_directly_pays_for_no_pooler(own_tenant: Tenant) -> None:
    assert own_tenant.psql("SELECT 1").stdout == "1\n"
    assert poolers(own_tenant) == []


async def test_many_clients_share_few_servers(door: Tenant, own_tenant: Tenant) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(client: psycopg.AsyncConnection[Any], number: int) -> None:
        async with gate:
            answer = await (await client.execute("SELECT %s::int + 1, session_user", (number,))).fetchone()
            assert answer == (number + 1, door.role)

    async with clients(door, CLIENTS) as opened:
        for _ in range(2):
            await asyncio.gather(*(ask(client, number) for number, client in enumerate(opened)))
        # One server more may have been begun each time when one was not given back yet.
        assert await asyncio.to_thread(backends, own_tenant) <= 3 * AT_ONCE
    assert len(poolers(door)) == 1


async def test_a_client_keeps_its_server_for_a_transaction_and_no_longer(door: Tenant) -> None:
    async def pid(client: psycopg.AsyncConnection[Any]) -> int:
        answer = await (await client.execute("SELECT pg_backend_pid()")).fetchone()
        assert answer is not None
        return int(answer[0])

    async with clients(door, 60) as opened, asyncio.timeout(PATIENCE_S):
        first, *others = opened
        async with first.transaction():
            before = await pid(first)
            assert await pid(first) == before
        # The others take servers and keep them, until one has that of the first.
        for other in others:
            await other.execute("BEGIN")
            if await pid(other) == before:
                break
        else:
            pytest.fail("nobody got the server that was given back")
        assert await pid(first) != before


def keeps_named_statements() -> bool:
    """Of this host's PgBouncer: docs/pooling.md."""
    said = subprocess.run(["/usr/sbin/pgbouncer", "--version"], capture_output=True, text=True, check=True).stdout
    version = version_of(said)
    assert version is not None
    return version >= (1, 21)


async def test_named_statements_are_what_the_pooler_makes_of_them(door: Tenant) -> None:
    """Without names nothing is left on a server between two statements. With names, it depends on PgBouncer's version."""
    async with (
        await psycopg.AsyncConnection.connect(door.uri, autocommit=True) as first,
        clients(door, 60) as others,
        asyncio.timeout(PATIENCE_S),
    ):
        await first.execute("SELECT %s::int", (1,), prepare=True)
        for other in others:  # every server that there was is busy now
            await other.execute("BEGIN")
            await other.execute("SELECT 1")
        assert await (await first.execute("SELECT %s::int", (2,), prepare=False)).fetchone() == (2,)
        if await asyncio.to_thread(keeps_named_statements):
            assert await (await first.execute("SELECT %s::int", (3,), prepare=True)).fetchone() == (3,)
        else:
            with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                await first.execute("SELECT %s::int", (3,), prepare=True)


def test_what_a_pooler_cannot_keep_is_refused(door: Tenant, own_tenant: Tenant) -> None:
    for variables, what in (
        ({"PGOPTIONS": "-c search_path=elsewhere"}, "unsupported startup parameter in options: search_path"),
        ({"PGGEQO": "off"}, "unsupported startup parameter: geqo"),
    ):
        said = door.psql("SELECT 1", **variables)
        assert said.returncode != 0
        assert f"{what}. Please use unpooled connection or remove this parameter" in said.stderr
        assert own_tenant.psql("SELECT 1", **variables).stdout == "1\n"
    assert door.psql("SHOW timezone", PGTZ="Europe/Rome", PGAPPNAME="psql").stdout == "Europe/Rome\n"


def test_names_and_passwords_count_as_on_the_direct_host(door: Tenant, own_tenant: Tenant) -> None:
    for tenant in (door, own_tenant):
        said = tenant.psql("SELECT 1", PGPASSWORD="wrong")
        assert 'password authentication failed for user "neondb_owner"' in said.stderr
        said = tenant.psql("SELECT 1", PGDATABASE="nowhere")
        assert 'database "nowhere" does not exist' in said.stderr


async def test_cancel_reaches_the_query(door: Tenant) -> None:
    async with clients(door, 1) as (client,), asyncio.timeout(PATIENCE_S):
        query = asyncio.create_task(client.execute("SELECT pg_sleep(600)"))
        await asyncio.to_thread(await_sleeper, door)
        await client.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await query
        assert await (await client.execute("SELECT 1")).fetchone() == (1,)


def await_sleeper(tenant: Tenant) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (
        tenant.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        ).stdout
        != "1\n"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_pooler_is_there_again_for_the_next_client(door: Tenant) -> None:
    assert door.psql("SELECT 1").stdout == "1\n"
    (pid,) = poolers(door)
    os.kill(pid, signal.SIGKILL)
    assert door.psql("SELECT 1").stdout == "1\n"
    (other,) = poolers(door)
    assert other != pid


def test_a_new_agent_goes_on_with_the_pooler(door: Tenant, instance: Instance) -> None:
    with door.connect(prepare_threshold=None) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        before = poolers(door)
        instance.kill_and_await("agent")
        assert client.execute("SELECT 2").fetchone() == (2,)
        assert door.psql("SELECT 3").stdout == "3\n"
        assert poolers(door) == before


async def test_a_suspend_ends_the_clients_and_a_pooled_one_wakes(door: Tenant, instance: Instance) -> None:
    async with clients(door, 50) as opened:
        for client in opened[:5]:
            await client.execute("SELECT 1")
        await asyncio.to_thread(instance.suspend, door)
        assert poolers(door) == []
        for client in opened:
            with pytest.raises(psycopg.errors.AdminShutdown):
                await client.execute("SELECT 1")
    assert instance.endpoint(door)["current_state"] == "idle"
    said = await asyncio.to_thread(door.psql, "SELECT 42")
    assert said.stdout == "42\n", said.stderr
    assert len(poolers(door)) == 1


def test_idle_clients_of_a_pool_do_not_hold_the_compute(door: Tenant, instance: Instance) -> None:
    """The rule looks at states of backends: PgBouncer's are `idle` once nobody uses them."""
    with door.connect(prepare_threshold=None) as client:
        client.execute("SELECT 1")
        deadline = time.monotonic() + PATIENCE_S
        while (said := _states(door)) != "idle\n":
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        assert instance.endpoint(door)["current_state"] == "active"


def _states(door: Tenant) -> str:
    host = door.host.replace("-pooler", "")
    return door.psql(
        "SELECT DISTINCT state FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND usename = current_user",
        PGHOST=host,
    ).stdout
