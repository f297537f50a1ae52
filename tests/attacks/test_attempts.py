"""Trying without end: connections of one network, connections to one endpoint, passwords that cost us a hash each."""

import asyncio
import threading

import pytest

from cloister.base.directory import LookUp
from cloister.edge.gateway import limits
from cloister.protocol.pgwire.messages import ssl_request
from cloister.protocol.scram import Verifier
from tests.fix_gateway import DOMAIN, ENDPOINT, OTHER_ENDPOINT, PASSWORD, GatewayWorld
from tests.raw_client import answer_in_clear
from tests.sql_client import SqlClient, connection_string

TOO_MANY = "Too many connections attempts"


@pytest.fixture
def two_at_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, and no more while the test runs, however slow the machine is."""
    monkeypatch.setattr(limits, "ATTEMPTS_PER_ENDPOINT_BURST", 2)
    monkeypatch.setattr(limits, "ATTEMPTS_PER_ENDPOINT_PER_S", 0.0)


@pytest.fixture
def two_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ATTEMPTS_PER_NETWORK_BURST", 2)
    monkeypatch.setattr(limits, "ATTEMPTS_PER_NETWORK_PER_S", 0.0)


# -- at an endpoint


@pytest.mark.usefixtures("two_at_an_endpoint")
async def test_an_endpoint_that_is_tried_too_often_is_shut_and_no_other(gateway_world: GatewayWorld) -> None:
    """Also to the right password, and by the pooler's name, which is no second endpoint."""
    gateway_world.directory.set_password("ada", PASSWORD, OTHER_ENDPOINT)
    await gateway_world.start()
    await (await gateway_world.connect()).close()
    await (await gateway_world.connect(endpoint=f"{ENDPOINT}-pooler")).close()
    assert TOO_MANY in await gateway_world.refusal()
    assert TOO_MANY in await gateway_world.refusal(endpoint=f"{ENDPOINT}-pooler")
    await (await gateway_world.connect(endpoint=OTHER_ENDPOINT)).close()
    denied = await gateway_world.directory.until("connection.denied", 2)
    assert {(event.reason, event.endpoint_id) for event in denied} == {("rate_limited", ENDPOINT)}


@pytest.mark.usefixtures("two_at_an_endpoint")
async def test_both_doors_count_into_one_and_a_connection_that_proved_itself_counts_once(
    gateway_world: GatewayWorld,
) -> None:
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as client:
        for _ in range(3):
            assert (await client.query("SELECT 1 AS n")).status == 200
    await (await gateway_world.connect()).close()
    async with await SqlClient.open(gateway_world) as client:
        answer = await client.query("SELECT 1 AS n")
    assert answer.status == 429, answer.body
    assert answer.json["message"] == TOO_MANY


# -- of a network


@pytest.mark.usefixtures("two_of_a_network")
@pytest.mark.parametrize("is_https", [False, True], ids=["PostgreSQL's port", "HTTPS"])
async def test_a_network_that_knocks_too_often_gets_no_tls_and_others_do(
    gateway_world: GatewayWorld, is_https: bool
) -> None:
    await gateway_world.start(https=True)
    port = gateway_world.https_port if is_https else gateway_world.port
    came_in = [await _gets_tls(gateway_world, port, f"127.0.0.{number}") for number in range(1, 5)]
    assert came_in == [True, True, False, False], "a /24 counts as one"
    assert await _gets_tls(gateway_world, port, "127.0.1.1")
    asked = [command for command in gateway_world.directory.asked if isinstance(command, LookUp)]
    assert asked == [], "nobody has said which endpoint is meant"


async def _gets_tls(world: GatewayWorld, port: int, source: str) -> bool:
    context = world.client_tls()
    context.set_alpn_protocols(["postgresql" if port == world.port else "http/1.1"])
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=f"{ENDPOINT}.{DOMAIN}", local_addr=(source, 0)
        )
    except OSError:
        return False
    writer.transport.abort()
    return True


@pytest.mark.usefixtures("two_of_a_network")
async def test_a_network_that_knocks_too_often_is_told_so_and_it_is_written_down(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    for _ in range(2):
        await (await gateway_world.connect()).close()
    answer = await answer_in_clear(gateway_world, ssl_request())
    assert answer.startswith(b"SE"), "in place of a ServerHello"
    assert TOO_MANY.encode() in answer
    (denied,) = await gateway_world.directory.until("connection.denied")
    assert (denied.reason, denied.address) == ("rate_limited", "127.0.0.1")


@pytest.mark.usefixtures("two_of_a_network")
@pytest.mark.parametrize("is_https", [False, True], ids=["PostgreSQL's port", "HTTPS"])
async def test_a_flood_of_a_network_is_written_down_and_does_not_fill_the_audit(
    gateway_world: GatewayWorld, is_https: bool
) -> None:
    """Whichever door it comes to; and the first of another network is not lost in it."""
    await gateway_world.start(https=True)
    port = gateway_world.https_port if is_https else gateway_world.port
    came_in = [await _gets_tls(gateway_world, port, f"127.0.0.{number}") for number in range(1, 31)]
    assert came_in == [True] * 2 + [False] * 28
    came_in = [await _gets_tls(gateway_world, port, "127.0.1.1") for _ in range(3)]
    assert came_in == [True, True, False]
    directory = gateway_world.directory
    async with asyncio.timeout(10), directory.changed:
        await directory.changed.wait_for(lambda: any(event.address == "127.0.1.1" for event in directory.events))
    assert {(event.action, event.reason) for event in directory.events} == {("connection.denied", "rate_limited")}
    told = [event.address for event in directory.events]
    assert told[:5] == [f"127.0.0.{number}" for number in range(3, 8)]
    assert (told[-1], len(told) < 15) == ("127.0.1.1", True), "one a second after the first five"


# -- passwords in clear


async def test_no_more_passwords_are_hashed_at_once_than_allowed(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes on top is not heard, also with the right one; and the place is free again afterwards."""
    monkeypatch.setattr(limits, "PASSWORD_CHECKS_MAX", 1)
    has_begun, may_end = threading.Event(), threading.Event()
    matches = Verifier.matches_password

    def slow(self: Verifier, password: str) -> bool:
        has_begun.set()
        may_end.wait(10)
        return matches(self, password)

    monkeypatch.setattr(Verifier, "matches_password", slow)
    await gateway_world.start(https=True)
    async with await SqlClient.open(gateway_world) as first, await SqlClient.open(gateway_world) as second:
        asking = asyncio.create_task(first.query("SELECT 1 AS n", to=connection_string(password="npg_wrong")))
        try:
            assert await asyncio.to_thread(has_begun.wait, 10)
            async with asyncio.timeout(5):
                answer = await second.query("SELECT 1 AS n")
        finally:
            may_end.set()
        assert (answer.status, answer.json["message"]) == (429, TOO_MANY)
        assert (await asking).json["code"] == "28P01"
    async with await SqlClient.open(gateway_world) as client:
        assert (await client.query("SELECT 1 AS n")).status == 200
