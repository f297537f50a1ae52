"""What the control plane does to running sessions, what a worker does when it is told to stop, and what outages do."""

import asyncio
import contextlib
import ssl

import psycopg
import pytest

from cloister.base.directory import Close, Freeze, Invalidate, LookUp, Thaw
from cloister.edge.gateway.session import Session
from cloister.protocol.pgwire.messages import ssl_request, startup_message
from tests.fix_gateway import DOMAIN, ENDPOINT, GatewayWorld, write_certificate


async def test_freeze_holds_what_comes_and_thaw_lets_it_go(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    directory = gateway_world.directory
    async with await gateway_world.connect() as connection:
        await connection.execute("SELECT 1")
        directory.send(Freeze(endpoint_id=ENDPOINT, token=1))
        assert not (await directory.until_frozen(1)).has_unanswered
        asking = asyncio.create_task(_ask(connection))
        knocking = asyncio.create_task(gateway_world.connect())
        done, _ = await asyncio.wait([asking, knocking], timeout=0.2)
        assert not done
        directory.send(Thaw(endpoint_id=ENDPOINT, token=1))
        assert await asking == (2,)
        await (await knocking).close()


async def test_freeze_sees_a_query_under_way(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    directory = gateway_world.directory
    async with await gateway_world.connect() as connection, await gateway_world.connect() as watcher:
        asking = asyncio.create_task(_wait_for_lock(connection))
        await watcher.execute("SELECT pg_advisory_lock(7)")
        async with asyncio.timeout(10):
            while not await _has_waiter(watcher):
                pass  # each look is a round trip
        directory.send(Freeze(endpoint_id=ENDPOINT, token=2))
        assert (await directory.until_frozen(2)).has_unanswered
        directory.send(Thaw(endpoint_id=ENDPOINT, token=2))
        await watcher.execute("SELECT pg_advisory_unlock(7)")
        await asking


async def test_an_older_thaw_does_not_undo_a_newer_freeze(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    directory = gateway_world.directory
    async with await gateway_world.connect() as connection:
        directory.send(Freeze(endpoint_id=ENDPOINT, token=3))
        directory.send(Freeze(endpoint_id=ENDPOINT, token=4))
        directory.send(Thaw(endpoint_id=ENDPOINT, token=3))
        await directory.until_frozen(4)
        asking = asyncio.create_task(_ask(connection))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        directory.send(Thaw(endpoint_id=ENDPOINT, token=4))
        assert await asking == (2,)


async def test_close_ends_sessions_and_lets_held_clients_wake_it_again(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    directory = gateway_world.directory
    connection = await gateway_world.connect()
    await connection.execute("SELECT 1")
    directory.send(Freeze(endpoint_id=ENDPOINT, token=5))
    await directory.until_frozen(5)
    knocking = asyncio.create_task(gateway_world.connect())
    directory.is_asleep = True
    directory.generation = 2
    directory.send(Close(endpoint_id=ENDPOINT, reason="suspended"))
    with pytest.raises(psycopg.OperationalError, match="terminating connection due to administrator command"):
        await connection.execute("SELECT 1")
    await connection.close()
    await (await knocking).close()
    assert len(directory.wakes) == 1
    closed = await directory.until("connection.closed", 2)
    assert "suspended" in {event.reason for event in closed}


async def test_a_removed_address_loses_its_running_session(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    connection = await gateway_world.connect()
    await connection.execute("SELECT 1")
    gateway_world.directory.allowed_ips = ["192.0.2.1"]
    gateway_world.directory.send(Invalidate(project_id="calm-forest-12345678"))
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "ip_not_allowed"
    with pytest.raises(psycopg.OperationalError, match=r"This IP address 127\.0\.0\.1 is not allowed"):
        await connection.execute("SELECT 1")
    await connection.close()


async def test_other_sessions_are_left_alone_by_an_invalidation(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as connection:
        gateway_world.directory.send(Invalidate())
        gateway_world.directory.allowed_ips = ["127.0.0.0/8"]
        gateway_world.directory.send(Invalidate(endpoint_id=ENDPOINT))
        assert await _ask(connection) == (2,)
        await (await gateway_world.connect()).close()


async def test_a_stopped_worker_finishes_its_sessions_and_takes_no_new_ones(gateway_world: GatewayWorld) -> None:
    first = await gateway_world.start(worker=1, drain_timeout_s=20)
    async with await gateway_world.connect() as connection:
        ending = gateway_world.begin_stop(first)
        await gateway_world.start(worker=2)
        await (await gateway_world.connect()).close()
        assert await _ask(connection) == (2,)
        assert not ending.done()
    async with asyncio.timeout(5):
        await ending
    assert len(await gateway_world.directory.until("connection.closed", 2)) == 2


async def test_a_drain_has_a_limit(gateway_world: GatewayWorld) -> None:
    first = await gateway_world.start(drain_timeout_s=0.1)
    connection = await gateway_world.connect()
    await connection.execute("SELECT 1")
    async with asyncio.timeout(5):
        await gateway_world.begin_stop(first)
    with pytest.raises(psycopg.OperationalError, match="administrator command"):
        await connection.execute("SELECT 1")
    await connection.close()
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "gateway_stopped"


async def test_a_new_certificate_is_used_and_running_sessions_do_not_notice(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    certificates = gateway_world.state_dir / "certificates"
    async with await gateway_world.connect() as connection:
        write_certificate(certificates)
        async with asyncio.timeout(10):
            while True:
                try:
                    await (await gateway_world.connect()).close()
                except psycopg.OperationalError:
                    await asyncio.sleep(0.1)
                else:
                    break
        assert await _ask(connection) == (2,)


async def test_a_broken_certificate_file_keeps_the_old_one_in_use(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    trusted = gateway_world.state_dir / "trusted.pem"
    trusted.write_bytes(gateway_world.ca_file.read_bytes())
    gateway_world.ca_file.write_text("not a certificate")
    await asyncio.sleep(1.2)  # one look at the files
    await (await gateway_world.connect(sslrootcert=trusted)).close()


async def test_with_the_control_plane_away_known_routes_serve_on(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    async with await gateway_world.connect() as connection:
        await gateway_world.directory.stop()
        assert await _ask(connection) == (2,)
        await asyncio.sleep(1.1)  # the route of a running compute is fresh for a second
        async with await gateway_world.connect() as another:
            assert await _ask(another) == (2,)
        await gateway_world.directory.start()
    assert len(await gateway_world.directory.until("connection.closed", 2)) == 2


async def test_a_new_client_waits_for_a_control_plane_that_restarts(gateway_world: GatewayWorld) -> None:
    await gateway_world.directory.stop()
    await gateway_world.start()
    knocking = asyncio.create_task(gateway_world.connect())
    done, _ = await asyncio.wait([knocking], timeout=0.3)
    assert not done
    await gateway_world.directory.start()
    await (await knocking).close()


async def _ask(connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> object:
    return await (await connection.execute("SELECT 2")).fetchone()


async def _wait_for_lock(connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
    await asyncio.sleep(0.05)
    await connection.execute("SELECT pg_advisory_lock(7)")


async def _has_waiter(connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> bool:
    rows = await connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return await rows.fetchone() == (1,)


async def test_a_client_that_breaks_its_tls_while_it_is_refused_ends_nobody_else(gateway_world: GatewayWorld) -> None:
    """It cannot be told any more, and trying to was an exception that ended the worker."""
    await gateway_world.start()
    directory = gateway_world.directory
    async with await gateway_world.connect() as connection:
        directory.asked.clear()
        directory.may_look_up.clear()
        reader, writer = await gateway_world.open_raw()
        writer.write(ssl_request())
        assert await reader.readexactly(1) == b"S"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = gateway_world.client_tls().wrap_bio(incoming, outgoing, server_hostname=f"{ENDPOINT}.{DOMAIN}")
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
        tls.write(startup_message({"user": "eve"}))
        writer.write(outgoing.read())
        await directory.until_asked(LookUp)
        writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await reader.read(1) == b"\x17"  # its alert, so it has been read
        directory.allowed_ips = ["192.0.2.1"]
        directory.may_look_up.set()
        await reader.read()
        writer.close()
        await directory.until("connection.denied")
        assert await _ask(connection) == (2,)


async def test_what_goes_wrong_with_one_client_ends_nobody_else(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway_world.start()

    async def fail(session: Session) -> None:
        session.abort()
        raise ZeroDivisionError

    async with await gateway_world.connect() as connection:
        monkeypatch.setattr(Session, "run", fail)
        with pytest.raises(psycopg.OperationalError):
            await gateway_world.connect()
        assert await _ask(connection) == (2,)
