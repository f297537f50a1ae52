"""Addresses that are not allowed: refused before anything else, on every path, and when in doubt."""

import asyncio

import pytest

from cloister.base.directory import Invalidate, Wake
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


async def _key(client: RawClient) -> tuple[int, bytes]:
    client.send(startup_message({"user": "ada", "database": "app"}))
    assert await client.prove(PASSWORD)
    (key,) = [body for kind, body in await client.until(b"Z") if kind == b"K"]
    return int.from_bytes(key[:4], "big"), key[4:]
