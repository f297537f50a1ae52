"""Addresses that are not allowed: refused before anything else, on every path, and when in doubt."""

import asyncio

import pytest

from cloister.base.directory import Freeze, Invalidate, LookUp, Thaw, Wake
from cloister.edge.gateway import limits
from cloister.protocol.pgwire.messages import cancel_request, startup_message
from tests.fix_gateway import ENDPOINT, PASSWORD, GatewayWorld
from tests.raw_client import RawClient, answer_in_clear


@pytest.mark.parametrize(
    "allowed",
    [["192.0.2.1"], ["192.0.2.0/24", "2001:db8::/32"], ["127.0.0.2-127.0.0.9"], ["::/0"], [], ["127.0.0.1", "typo"]],
)
async def test_an_address_outside_the_list(gateway_world: GatewayWorld, allowed: list[str]) -> None:
    gateway_world.directory.allowed_ips = allowed
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    for password in (None, "wrong"):
        options = {} if password is None else {"password": password}
        told = await gateway_world.refusal(**options)
        assert "This IP address 127.0.0.1 is not allowed to connect to this endpoint." in told
    assert gateway_world.directory.wakes == []
    denied = await gateway_world.directory.until("connection.denied", 2)
    assert {event.reason for event in denied} == {"ip_not_allowed"}


@pytest.mark.parametrize("allowed", [["127.0.0.1"], ["127.0.0.0/8"], ["127.0.0.1-127.0.0.3"], ["::ffff:127.0.0.1"]])
async def test_an_address_inside_the_list(gateway_world: GatewayWorld, allowed: list[str]) -> None:
    gateway_world.directory.allowed_ips = allowed
    await gateway_world.start()
    await (await gateway_world.connect()).close()


async def test_a_cancel_request_from_outside_the_list_is_ignored(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    client = await RawClient.open(gateway_world)
    pid, secret = await _key(client)
    gateway_world.directory.allowed_ips = ["192.0.2.1"]
    await asyncio.sleep(1.05)  # a running compute's route is believed for a second
    assert await answer_in_clear(gateway_world, cancel_request(pid, secret)) == b""
    (event,) = await gateway_world.directory.until("connection.cancel")
    assert event.reason == "ip_not_allowed"
    await client.close()


async def test_an_address_removed_while_it_waits_for_the_compute(gateway_world: GatewayWorld) -> None:
    directory = gateway_world.directory
    directory.is_asleep = True
    directory.may_wake.clear()
    await gateway_world.start()
    knocking = asyncio.create_task(gateway_world.refusal())
    await directory.until_asked(Wake)
    looked_up = len(directory.asked)
    directory.allowed_ips = ["192.0.2.1"]
    directory.send(Invalidate(endpoint_id=ENDPOINT))
    async with asyncio.timeout(10), directory.changed:
        await directory.changed.wait_for(lambda: len(directory.asked) > looked_up)
    directory.may_wake.set()
    assert "is not allowed to connect" in await knocking
    assert not [event for event in directory.events if event.action == "connection.opened"]


async def test_an_address_removed_while_it_waits_at_a_gate_that_is_shut(gateway_world: GatewayWorld) -> None:
    """Whoever waits there is not among those that run yet, and so not among those that are looked at again when a list
    changes: what holds them is that the list is looked at behind the gate once more."""
    directory = gateway_world.directory
    directory.set_password("bob", PASSWORD)
    await gateway_world.start()
    await (await gateway_world.connect(role="bob")).close()  # so that the gateway hears what it is told
    directory.send(Freeze(endpoint_id=ENDPOINT, token=1))
    await directory.until_frozen(1)
    directory.asked.clear()
    knocking = asyncio.create_task(gateway_world.refusal())
    await directory.until_asked(LookUp)
    directory.allowed_ips = ["192.0.2.1"]
    directory.send(Invalidate(endpoint_id=ENDPOINT))
    directory.send(Thaw(endpoint_id=ENDPOINT, token=1))
    assert "is not allowed to connect" in await knocking


async def test_an_address_outside_the_list_that_keeps_trying_is_held_by_the_limit_of_its_network(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on nobody asks for it what the list says, and it is written down as what it is."""
    monkeypatch.setattr(limits, "ATTEMPTS_PER_NETWORK_BURST", 3)
    monkeypatch.setattr(limits, "ATTEMPTS_PER_NETWORK_PER_S", 0.0)
    gateway_world.directory.allowed_ips = ["192.0.2.1"]
    await gateway_world.start()
    told = [await gateway_world.refusal() for _ in range(5)]
    assert ["is not allowed to connect" in each for each in told] == [True, True, True, False, False]
    denied = await gateway_world.directory.until("connection.denied", 5)
    assert [event.reason for event in denied] == 3 * ["ip_not_allowed"] + 2 * ["rate_limited"]


async def test_addresses_outside_the_list_cannot_use_up_an_endpoints_attempts(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before they count there: a stranger shuts nobody out."""
    monkeypatch.setattr(limits, "ATTEMPTS_PER_ENDPOINT_BURST", 1)
    monkeypatch.setattr(limits, "ATTEMPTS_PER_ENDPOINT_PER_S", 0.0)
    gateway_world.directory.allowed_ips = ["127.0.0.1"]
    await gateway_world.start()
    for _ in range(3):
        stranger = await RawClient.open(gateway_world, source="127.0.0.2")
        stranger.send(startup_message({"user": "ada", "database": "app"}))
        assert b"This IP address 127.0.0.2 is not allowed" in await stranger.rest()
        await stranger.close()
    await (await gateway_world.connect()).close()


async def _key(client: RawClient) -> tuple[int, bytes]:
    client.send(startup_message({"user": "ada", "database": "app"}))
    assert await client.prove(PASSWORD)
    (key,) = [body for kind, body in await client.until(b"Z") if kind == b"K"]
    return int.from_bytes(key[:4], "big"), key[4:]
