"""A stranger learns neither which endpoints nor which roles exist, and wakes nothing by trying."""

import asyncio
import re

import pytest

from cloister.edge.gateway import limits
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import startup_message
from cloister.protocol.scram.verifier import ITERATIONS_DEFAULT, Verifier
from tests.fix_gateway import ENDPOINT, OTHER_ENDPOINT, GatewayWorld
from tests.raw_client import RawClient

WHO = [("ada", ENDPOINT), ("ghost", ENDPOINT), ("ada", OTHER_ENDPOINT), ("ghost", OTHER_ENDPOINT)]


async def transcript(world: GatewayWorld, role: str, endpoint: str) -> list[tuple[bytes, bytes]]:
    """All that is said to a wrong password, with what is random taken out."""
    client = await RawClient.open(world, endpoint=endpoint)
    client.send(startup_message({"user": role, "database": "app"}))
    first = await client.challenge("n,,n=,r=clientnonce")
    nonce = first[1][4:].split(b",")[0]
    client.send(_final(nonce))
    last = await client.message()
    await client.close()
    return [(first[0], first[1].replace(nonce, b"r=NONCE")), last]


def _final(nonce: bytes) -> bytes:
    return message(b"p", b"c=biws," + nonce + b",p=" + b"A" * 43 + b"=")


async def test_every_refusal_looks_the_same(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    shapes = set()
    for role, endpoint in WHO:
        challenge, refusal = await transcript(gateway_world, role, endpoint)
        salt = re.search(rb"s=([^,]*)", challenge[1])
        assert salt is not None
        shapes.add((challenge[1].replace(salt[1], b"SALT"), len(salt[1]), refusal[1].replace(role.encode(), b"ROLE")))
    assert len(shapes) == 1


@pytest.mark.parametrize("password", ["right", "wrong"])
def test_a_password_in_clear_is_as_much_work_where_it_can_be_nobodys(
    iterations_asked: list[int], password: str
) -> None:
    """Whether a role is there, may log in, or was never made: the time of the answer must not tell."""
    somebodys = Verifier.of_password("right", salt=b"0123456789abcdef")
    of_one_without_login = Verifier.parse(str(somebodys), is_doomed=True)
    nobodys = Verifier.mock(ENDPOINT, "ghost", b"k" * 32)
    iterations_asked.clear()
    answers = [each.matches_password(password) for each in (somebodys, of_one_without_login, nobodys)]
    assert answers == [password == "right", False, False]
    assert iterations_asked == [ITERATIONS_DEFAULT] * 3


@pytest.mark.parametrize(("role", "endpoint"), WHO)
async def test_the_salt_is_the_same_at_every_try(gateway_world: GatewayWorld, role: str, endpoint: str) -> None:
    await gateway_world.start()
    first, _ = await transcript(gateway_world, role, endpoint)
    second, _ = await transcript(gateway_world, role, endpoint)
    assert first == second


async def test_salts_differ_between_those_who_do_not_exist(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    challenges = {(await transcript(gateway_world, *who))[0][1] for who in WHO}
    assert len(challenges) == len(WHO)


async def test_a_list_of_addresses_says_nothing_about_others(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_disabled = True
    await gateway_world.start()
    for role, endpoint in WHO:
        told = await gateway_world.refusal(role=role, endpoint=endpoint, password="wrong")
        assert f'password authentication failed for user "{role}"' in told


async def test_guessing_wakes_nothing_and_is_slowed_down(few_guesses: int, gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    told = [(await gateway_world.refusal(password="wrong")) for _ in range(few_guesses + 1)]
    assert all("password authentication failed" in each for each in told[:-1])
    assert "Too many connections attempts" in told[-1]
    assert gateway_world.directory.wakes == []
    # Another role of the same endpoint is not hindered.
    gateway_world.directory.set_password("bob", "right")
    await (await gateway_world.connect(role="bob", password="right")).close()


async def test_a_password_that_is_right_by_now_is_heard_again_after_a_moment(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FAILURES_BURST", 1)
    await gateway_world.start()
    await gateway_world.refusal(password="wrong")
    async with asyncio.timeout(60):
        while (await gateway_world.psql("-c", "SELECT 1"))[0] != 0:
            pass


async def test_an_unauthenticated_crowd_wakes_nothing(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.is_asleep = True
    await gateway_world.start()
    clients = await asyncio.gather(*(RawClient.open(gateway_world) for _ in range(50)))
    for client in clients:
        client.send(startup_message({"user": "ada", "database": "app"}))
        await client.message()
        await client.close()
    assert gateway_world.directory.wakes == []
