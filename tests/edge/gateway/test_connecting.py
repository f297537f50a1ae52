"""Real clients through a real gateway into a real PostgreSQL: who gets in, how, and what they are told."""

import asyncio
import errno
import hashlib
import signal
from typing import Any

import asyncpg
import psycopg
import pytest

from cloister.base.directory import Wake
from cloister.base.errors import NotFoundError, UnavailableError
from cloister.edge.gateway import compute
from cloister.edge.gateway.limits import ROUTE_TTL_RUNNING_S
from cloister.protocol.pgwire.messages import (
    cancel_request,
    error_response,
    gssenc_request,
    ssl_request,
    startup_message,
)
from tests.fix_gateway import BRANCH, DOMAIN, ENDPOINT, OTHER_ENDPOINT, PASSWORD, GatewayWorld


async def test_psycopg_with_verify_full_and_channel_binding(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect(application_name="a test") as connection:
        rows = await connection.execute(
            "SELECT current_user, current_database(), current_setting('application_name')",
        )
        assert await rows.fetchone() == ("ada", "app", "a test")
    (opened,) = await gateway_world.directory.until("connection.opened")
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert (opened.role, opened.database, opened.address, opened.endpoint_id) == ("ada", "app", "127.0.0.1", ENDPOINT)
    assert (opened.tls_version, opened.application_name) == ("TLSv1.3", "a test")
    assert (closed.session_id, closed.reason) == (opened.session_id, "client_left")
    assert closed.bytes_in > 0
    assert closed.bytes_out > 0


@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
async def test_psql(gateway_world: GatewayWorld, binding: str) -> None:
    await gateway_world.start()
    assert await gateway_world.psql("-c", "SELECT 40 + 2", channel_binding=binding) == (0, "42")


async def test_asyncpg(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    connection = await asyncpg.connect(
        host=f"{ENDPOINT}.{DOMAIN}", port=gateway_world.port, user="ada", password=PASSWORD, database="app",
        ssl=gateway_world.client_tls(),
    )  # fmt: skip
    try:
        assert await connection.fetchval("SELECT $1::int + 1", 41) == 42
    finally:
        await connection.close()


async def test_tls_1_2(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    assert (await gateway_world.psql("-c", "SELECT 1", ssl_max_protocol_version="TLSv1.2"))[0] == 0
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert opened.tls_version == "TLSv1.2"
    assert "GCM" in opened.tls_cipher or "CHACHA20" in opened.tls_cipher


async def test_direct_tls_with_alpn(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    context = gateway_world.client_tls()
    context.set_alpn_protocols(["postgresql"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway_world.port, ssl=context, server_hostname=f"{ENDPOINT}.{DOMAIN}",
    )  # fmt: skip
    writer.write(startup_message({"user": "ada"}))
    assert await reader.readexactly(1) == b"R"
    writer.close()


async def test_direct_tls_without_alpn_is_refused(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway_world.port, ssl=gateway_world.client_tls(), server_hostname=f"{ENDPOINT}.{DOMAIN}",
    )  # fmt: skip
    writer.write(startup_message({"user": "ada"}))
    answer = await reader.read()
    assert answer.startswith(b"E")
    assert b"C08P01\0" in answer
    writer.close()


async def test_gss_encryption_is_declined_and_tls_goes_on(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    reader, writer = await gateway_world.open_raw()
    writer.write(gssenc_request())
    assert await reader.readexactly(1) == b"N"
    writer.write(ssl_request())
    assert await reader.readexactly(1) == b"S"
    writer.close()


async def test_without_tls_nobody_gets_in(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    told = await gateway_world.refusal(sslmode="disable", channel_binding="disable", sslrootcert=None)
    assert "connection is insecure (try using `sslmode=require`)" in told
    reader, writer = await gateway_world.open_raw()
    writer.write(startup_message({"user": "ada", "database": "app"}))
    answer = await reader.read()
    assert answer.startswith(b"E")
    assert b"C28000\0" in answer
    writer.close()


async def test_a_wrong_password(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    assert 'password authentication failed for user "ada"' in await gateway_world.refusal(password="wrong")
    (denied,) = await gateway_world.directory.until("connection.denied")
    assert (denied.reason, denied.role, denied.address) == ("bad_password", "ada", "127.0.0.1")
    assert gateway_world.directory.wakes == []


async def test_a_password_changed_a_moment_ago(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    await (await gateway_world.connect()).close()
    gateway_world.directory.set_password("ada", "new one")
    await gateway_world.refusal(password="new one")  # the old verifier was remembered; now it is forgotten
    await (await gateway_world.connect(password="new one")).close()


async def test_the_databases_own_refusals_keep_their_words(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    told = await gateway_world.refusal(database="nope")
    assert 'database "nope" does not exist' in told
    (denied,) = await gateway_world.directory.until("connection.denied")
    assert denied.reason == "refused_by_postgres"


async def test_the_platforms_own_superuser_cannot_log_in_even_with_a_password(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.set_password("cloister_admin", PASSWORD)
    await gateway_world.start()
    assert "Peer authentication failed" in await gateway_world.refusal(role="cloister_admin", database="postgres")


# -- naming the endpoint


async def test_the_pooler_name_leads_to_the_same_endpoint(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    await (await gateway_world.connect(endpoint=f"{ENDPOINT}-pooler")).close()
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert opened.endpoint_id == ENDPOINT


async def test_the_endpoint_in_options(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    options = f"endpoint={ENDPOINT} -c work_mem=77MB neon_proxy_params_compat:true"
    async with await gateway_world.connect(sslmode="require", sslsni=0, options=options, host=None) as connection:
        assert await (await connection.execute("SHOW work_mem")).fetchone() == ("77MB",)


async def test_the_endpoint_in_the_password(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.set_password("ada", "has;$=in it")
    await gateway_world.start()
    without_sni = {"sslmode": "require", "sslsni": 0, "host": None, "channel_binding": "disable"}
    for separator in ";$":
        connection = await gateway_world.connect(password=f"endpoint={ENDPOINT}{separator}has;$=in it", **without_sni)
        await connection.close()
    told = await gateway_world.refusal(password=f"endpoint={ENDPOINT};wrong", **without_sni)
    assert 'password authentication failed for user "ada"' in told
    assert "Endpoint ID is not specified." in await gateway_world.refusal(password=PASSWORD, **without_sni)


async def test_two_different_endpoints_are_refused(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    told = await gateway_world.refusal(options=f"endpoint={OTHER_ENDPOINT}")
    expected = f"Inconsistent project name inferred from SNI ('{ENDPOINT}') and project option ('{OTHER_ENDPOINT}')."
    assert expected in told


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ("neon_timestamp:2026-03-01T11:00:00+01:00", f"{ENDPOINT}@timestamp:2026-03-01T10:00:00.000000Z"),
        ("neon_lsn:0/15e9a30", f"{ENDPOINT}@lsn:0/15E9A30"),
    ],
)
async def test_who_asks_for_the_past_is_not_given_the_present(
    gateway_world: GatewayWorld, options: str, place: str
) -> None:
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    await (await gateway_world.connect(options=options)).close()
    assert [wake.endpoint_id for wake in gateway_world.directory.wakes] == [place]
    (opened,) = await gateway_world.directory.until("connection.opened")
    assert (opened.endpoint_id, opened.point) == (ENDPOINT, place.partition("@")[2])


@pytest.mark.parametrize(
    ("is_read_only", "options", "reason"),
    [
        (False, "neon_endpoint_type:read_write", None),
        (False, "neon_endpoint_type:read_only", "other_endpoint_type"),
        (True, "neon_endpoint_type:read_only", None),
        (True, "neon_endpoint_type:read_write", "other_endpoint_type"),
        (False, "neon_endpoint_type:read_only neon_lsn:0/15E9A30", None),
        (False, "neon_endpoint_type:read_write neon_lsn:0/15E9A30", "other_endpoint_type"),
        (False, "neon_endpoint_type:read_only neon_endpoint_type:read_write", "other_endpoint_type"),
        (False, "neon_endpoint_type:", "malformed_endpoint_type"),
    ],
)
async def test_who_insists_on_one_kind_of_endpoint_is_not_led_to_the_other(
    gateway_world: GatewayWorld, is_read_only: bool, options: str, reason: str | None
) -> None:
    gateway_world.directory.is_read_only = is_read_only
    await gateway_world.start()
    if reason is None:
        await (await gateway_world.connect(options=options)).close()
    else:
        assert "read" in await gateway_world.refusal(options=options)
        (denied,) = await gateway_world.directory.until("connection.denied")
        assert denied.reason == reason


async def test_what_kind_an_endpoint_is_nobody_learns_before_the_proof(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    told = await gateway_world.refusal(options="neon_endpoint_type:read_only", password="wrong")
    assert "password authentication failed" in told


async def test_the_past_is_looked_up_again_after_a_second_though_it_sleeps(gateway_world: GatewayWorld) -> None:
    """Its roles are those of the branch, whose own compute may be running."""
    directory = gateway_world.directory
    directory.set_password("ada", PASSWORD, BRANCH)
    directory.is_asleep = True
    await gateway_world.start()
    await gateway_world.refusal(endpoint=BRANCH)
    await asyncio.sleep(ROUTE_TTL_RUNNING_S + 0.05)  # what is tested is that it is no longer believed
    directory.set_password("ada", "npg_another0123456789", BRANCH)
    directory.asked.clear()
    told = await gateway_world.refusal(endpoint=BRANCH)
    assert "password authentication failed" in told
    assert directory.asked, "asked anew"


# -- waking


async def test_a_sleeping_compute_is_woken_once_for_all_who_knock(gateway_world: GatewayWorld) -> None:
    directory = gateway_world.directory
    directory.is_asleep = True
    await gateway_world.start()
    directory.may_wake.clear()
    knocking = [asyncio.create_task(gateway_world.connect()) for _ in range(8)]
    await directory.until_asked(Wake)
    directory.may_wake.set()
    for connection in await asyncio.gather(*knocking):
        await connection.close()
    assert len(directory.wakes) == 1
    opened = await directory.until("connection.opened", 8)
    assert any(event.was_cold for event in opened)


async def test_a_session_that_was_ended_before_it_was_used_is_replaced(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compute was stopped between its greeting and the client's: libpq would take the farewell for a notice."""
    reached: list[compute.ComputeSession] = []

    async def ended_at_first(*arguments: Any) -> compute.ComputeSession:
        session = await compute.reach(*arguments)
        reached.append(session)
        if len(reached) == 1:
            session.login.rest += error_response("57P01", "terminating connection due to administrator command")
        return session

    monkeypatch.setattr("cloister.edge.gateway.visit.reach", ended_at_first)
    await gateway_world.start()
    async with await gateway_world.connect() as connection:
        assert await (await connection.execute("SELECT pg_backend_pid()")).fetchone() == (reached[1].login.pid,)
    assert len(reached) == 2
    assert reached[0].transport.is_closing()


async def test_a_compute_that_is_gone_is_asked_for_again(gateway_world: GatewayWorld) -> None:
    directory = gateway_world.directory
    directory.generation = 3
    directory.route_socket_dir = str(gateway_world.state_dir)  # where nobody listens
    await gateway_world.start()
    await (await gateway_world.connect()).close()
    assert [wake.stale_generation for wake in directory.wakes] == [3]


async def test_a_socket_without_its_mode_yet_is_waited_for(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL binds its socket before it opens it for others: a client that comes in between waits."""
    log_in, tries = compute._log_in, 0

    async def not_yet(*arguments: Any) -> compute.ComputeSession:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise PermissionError(errno.EACCES, "Permission denied")
        return await log_in(*arguments)

    monkeypatch.setattr(compute, "_log_in", not_yet)
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    await (await gateway_world.connect()).close()
    assert tries == 3


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnavailableError(public="the compute is being repaired"), "the compute is being repaired"),
        (NotFoundError(public="endpoint not found"), "endpoint not found"),
    ],
)
async def test_a_refused_wake_says_why(gateway_world: GatewayWorld, error: UnavailableError, text: str) -> None:
    gateway_world.directory.is_asleep = True
    gateway_world.directory.wake_error = error
    await gateway_world.start()
    assert text in await gateway_world.refusal()


async def test_a_disabled_endpoint_says_so_to_those_who_may_know(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_disabled = True
    await gateway_world.start()
    assert "password authentication failed" in await gateway_world.refusal(password="wrong")
    assert "the endpoint is disabled" in await gateway_world.refusal()


async def test_the_connection_limit(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.connection_limit = 1
    await gateway_world.start()
    async with await gateway_world.connect():
        assert "Too many connections to this endpoint" in await gateway_world.refusal()


# -- bytes


async def test_large_results_and_large_parameters_come_through_whole(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    text = "0123456789abcdef" * 500_000
    async with await gateway_world.connect() as connection:
        row = await (await connection.execute("SELECT md5(%s), repeat('x', 20000000)", [text])).fetchone()
        assert row is not None
        assert row[0] == hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        assert len(row[1]) == 20_000_000


async def test_copy_both_ways(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as connection:
        await connection.execute("CREATE TEMP TABLE t (n int)")
        async with connection.cursor() as cursor:
            async with cursor.copy("COPY t FROM STDIN") as copy:
                for start in range(0, 100_000, 1_000):
                    await copy.write("".join(f"{number}\n" for number in range(start, start + 1_000)))
            rows = await (await cursor.execute("SELECT count(*), sum(n) FROM t")).fetchone()
            assert rows == (100_000, 4_999_950_000)


async def test_a_client_that_does_not_read_makes_the_compute_wait(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    process = await asyncio.create_subprocess_exec(
        "psql", "-XAtq", gateway_world.dsn(), "-c", "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT",
        stdout=asyncio.subprocess.PIPE, limit=1024,
    )  # fmt: skip
    assert process.stdout is not None
    async with await gateway_world.connect() as watcher, asyncio.timeout(10):
        await process.stdout.read(1)  # it writes into a pipe that nobody empties
        while True:
            rows = await watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'")
            if await rows.fetchone() == (1,):
                break
        total = 1
        while chunk := await process.stdout.read(1_000_000):
            total += len(chunk)
    assert total == 100_000 * 1_001
    await process.wait()


async def test_a_client_that_vanishes_frees_its_backend(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    connection = await gateway_world.connect()
    pid = connection.info.backend_pid
    assert pid != 0
    connection.pgconn.finish()
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "client_left"


async def test_a_statement_does_not_outlive_its_client(gateway_world: GatewayWorld) -> None:
    """Nobody cancels it, and it has nothing to say that would fail."""
    await gateway_world.start()
    async with await gateway_world.connect() as watcher:
        connection = await gateway_world.connect()
        connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        connection.pgconn.flush()
        await _until_sleeping(watcher)
        connection.pgconn.finish()
        await _until_sleeping(watcher, 0)


# -- cancelling


async def test_a_query_is_cancelled_through_tls(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as connection, await gateway_world.connect() as watcher:
        waiting = asyncio.create_task(_sleep(connection))
        await _until_sleeping(watcher)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await waiting
    (event,) = await gateway_world.directory.until("connection.cancel")
    assert event.reason == "ok"


async def test_a_query_is_cancelled_in_clear_as_old_clients_do(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as watcher:
        process = await asyncio.create_subprocess_exec(
            "psql", "-Xq", gateway_world.dsn(), "-c", "SELECT pg_sleep(30)", stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await _until_sleeping(watcher)
        process.send_signal(signal.SIGINT)
        _, told = await process.communicate()
    assert b"canceling statement due to user request" in told
    (event,) = await gateway_world.directory.until("connection.cancel")
    assert event.reason == "ok"


async def test_a_cancel_that_lands_on_another_worker(gateway_world: GatewayWorld) -> None:
    first = await gateway_world.start(worker=1, drain_timeout_s=10)
    async with await gateway_world.connect() as connection:
        await gateway_world.start(worker=2)
        ending = gateway_world.begin_stop(first)  # it accepts no more: the cancel can only land on the other
        waiting = asyncio.create_task(_sleep(connection))
        async with await gateway_world.connect() as watcher:
            await _until_sleeping(watcher)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await waiting
    await ending


async def test_a_cancel_request_is_never_answered(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    reader, writer = await gateway_world.open_raw()
    writer.write(cancel_request(1 << 25 | 7, b"abcd"))
    assert await reader.read() == b""
    writer.close()
    (event,) = await gateway_world.directory.until("connection.cancel")
    assert event.reason == "unknown_key"


async def _sleep(connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
    await connection.execute("SELECT pg_sleep(30)")


async def _until_sleeping(watcher: "psycopg.AsyncConnection[tuple[object, ...]]", sleepers: int = 1) -> None:
    async with asyncio.timeout(10):
        while True:
            rows = await watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            if await rows.fetchone() == (sleepers,):
                return
