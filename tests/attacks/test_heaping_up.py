"""Heaping up what the gateway must know of sessions that are recorded: names, texts, messages that nobody answers. One session has
limits of its own; a tenant has as many sessions as its compute lets in, and all of them have one budget."""

import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.edge.gateway import limits
from cloister.protocol.pgwire.frames import message
from tests.fix_gateway import GatewayWorld
from tests.raw_client import RawClient

SYNC = message(b"S", b"")
TEXT = b"SELECT 1" + b" " * 4_000
BUDGET = 60_000


@pytest.fixture(autouse=True)
def budget(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OBSERVED_PER_ENDPOINT_BYTES_MAX", BUDGET)
    gateway_world.directory.audit_level = AuditLevel.FULL


def parse(name: str) -> bytes:
    return message(b"P", name.encode() + b"\0" + TEXT + b"\0\0\0")


async def say(client: RawClient, *said: bytes) -> bytes:
    """What comes of it: empty where all went well, or the error."""
    client.send(b"".join(said) + SYNC)
    while True:
        kind, body = await client.message()
        if kind in (b"Z", b"E"):
            return body if kind == b"E" else b""


async def test_prepared_statements_of_all_sessions_have_one_budget(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    prepare = [parse(f"s{n}") for n in range(6)]
    first, second, third = [await RawClient.logged_in(gateway_world) for _ in range(3)]
    assert await say(first, *prepare) == b""
    assert await say(second, *prepare) == b""
    assert b"C53200\0" in await say(third, *prepare)
    assert await third.rest() == b""
    (closed,) = await gateway_world.directory.until("connection.closed")
    assert closed.reason == "out_of_memory"
    # Who had room goes on, and what one gives up is another's.
    assert await second.ask("SELECT 2") == [b"2"]
    await first.close()
    await gateway_world.directory.until("connection.closed", 2)
    fourth = await RawClient.logged_in(gateway_world)
    assert await say(fourth, *prepare) == b""
    for client in (second, fourth):
        await client.close()


async def test_portals_are_counted_where_the_compute_says_that_they_are_there(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    client = await RawClient.logged_in(gateway_world)
    await client.ask("BEGIN")
    bind = [message(b"B", f"p{n}\0s\0".encode() + bytes(6)) for n in range(20)]
    assert await say(client, parse("s"), *bind) == b""  # what had come is passed on whole
    assert b"C53200\0" in await client.rest()


async def test_messages_that_nobody_answers_are_counted(gateway_world: GatewayWorld) -> None:
    """Five bytes each for whoever sends them, and a hundred times as many for whoever waits for the reply."""
    await gateway_world.start()
    holder, client = [await RawClient.logged_in(gateway_world) for _ in range(2)]
    await holder.ask("SELECT pg_advisory_lock(53200)")
    client.send(message(b"Q", b"SELECT 'under way', pg_advisory_lock(53200)\0"))
    client.send(SYNC * (BUDGET // 500))
    assert b"C53200\0" in await client.rest()
    told = await gateway_world.directory.until_told("under way")
    assert told.outcome == "unknown"
    await holder.close()


async def test_a_session_that_is_not_recorded_has_no_part_in_it(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.audit_level = AuditLevel.OFF
    await gateway_world.start()
    client = await RawClient.logged_in(gateway_world)
    assert await say(client, *(parse(f"s{n}") for n in range(40))) == b""
    await client.close()
