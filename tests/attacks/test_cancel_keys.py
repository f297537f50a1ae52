"""Cancelling somebody else's query: guessing, another session's key, another user on the host."""

import asyncio
import errno
import os
import secrets
import socket

import pytest

from cloister.edge.gateway import limits
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import cancel_request, startup_message
from tests.fix_gateway import PASSWORD, GatewayWorld
from tests.raw_client import RawClient, answer_in_clear


async def logged_in(world: GatewayWorld, minor: int = 0) -> tuple[RawClient, int, bytes]:
    client = await RawClient.open(world)
    client.send(startup_message({"user": "ada", "database": "app"}, minor))
    assert await client.prove(PASSWORD)
    (key,) = [body for kind, body in await client.until(b"Z") if kind == b"K"]
    return client, int.from_bytes(key[:4], "big"), key[4:]


async def test_keys_are_ours_and_long(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    seen = set()
    for minor, length in ((0, 4), (2, 32)):
        client, pid, secret = await logged_in(gateway_world, minor)
        assert len(secret) == length
        assert pid != int((await client.ask("SELECT pg_backend_pid()"))[0])
        seen.add((pid, secret))
        await client.close()
    assert len(seen) == 2


async def test_another_sessions_secret_and_near_misses_do_nothing(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    victim, pid, secret = await logged_in(gateway_world)
    attacker, attackers_pid, attackers_secret = await logged_in(gateway_world)
    victim.send(message(b"Q", b"SELECT pg_sleep(1)\0"))
    near_misses = [
        (pid, attackers_secret),
        (pid, secret[:3] + bytes((secret[3] ^ 1,))),
        (pid, secret + b"\0"),
        (pid + 1, secret),
        (attackers_pid, secret),
    ]
    for tried_pid, tried_secret in near_misses:
        assert await answer_in_clear(gateway_world, cancel_request(tried_pid, tried_secret)) == b""
    messages = await victim.until(b"Z")
    assert not [body for kind, body in messages if kind == b"E"]
    events = await gateway_world.directory.until("connection.cancel", len(near_misses))
    assert {event.reason for event in events} == {"unknown_key"}
    await attacker.close()
    await victim.close()


async def test_a_key_dies_with_its_session(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    client, pid, secret = await logged_in(gateway_world)
    client.send(message(b"X", b""))
    await client.close()
    await gateway_world.directory.until("connection.closed")
    await answer_in_clear(gateway_world, cancel_request(pid, secret))
    (event,) = await gateway_world.directory.until("connection.cancel")
    assert event.reason == "unknown_key"


async def test_guessing_is_limited(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CANCELS_PER_NETWORK_BURST", 10)
    monkeypatch.setattr(limits, "CANCELS_PER_NETWORK_PER_S", 0)
    await gateway_world.start()
    requests = [cancel_request(1 << 25 | secrets.randbits(25), secrets.token_bytes(4)) for _ in range(40)]
    answers = await asyncio.gather(*(answer_in_clear(gateway_world, request) for request in requests))
    assert set(answers) == {b""}
    events = await gateway_world.directory.until("connection.cancel", 15)
    reasons = [event.reason for event in events]
    assert reasons.count("unknown_key") == 10
    assert 5 <= reasons.count("rate_limited") <= 8  # a flood does not fill the audit


@pytest.mark.root
async def test_the_workers_socket_is_closed_to_other_users(gateway_world: GatewayWorld) -> None:
    await gateway_world.start(worker=3)
    os.chmod(gateway_world.state_dir, 0o711)  # noqa: S103 - only the socket's own mode shall be in the way
    child = os.fork()
    if child == 0:  # another user of the host; whatever happens, it ends here
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            outcome = socket.socket(socket.AF_UNIX).connect_ex(str(gateway_world.state_dir / "gateway-3.sock"))
        finally:
            os._exit(outcome)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == errno.EACCES
