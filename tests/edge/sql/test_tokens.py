"""A token in place of a password: who gets in, as whom, and what is written down about it."""

import asyncio
import time

import pytest

from cloister.base.directory import Invalidate, LookUpKeys
from cloister.edge.sql.limits import KEYS_FRESH_S
from tests.fix_gateway import ENDPOINT, GatewayWorld
from tests.sql_client import SqlClient, connection_string
from tests.token_issuer import KEYS, document, key_set, public, stored, token

WITHOUT_PASSWORD = f"postgresql://ada@{ENDPOINT}.db.localhost/app"
CLAIMS = "SELECT current_setting('request.jwt.claims')::json ->> 'sub' AS who, current_user AS role"


@pytest.fixture
async def world(gateway_world: GatewayWorld) -> GatewayWorld:
    gateway_world.directory.key_sets[ENDPOINT] = [key_set("ada")]
    await gateway_world.start(https=True)
    return gateway_world


async def who(client: SqlClient, text: str, to: str = WITHOUT_PASSWORD) -> object:
    answer = await client.query(CLAIMS, to=to, Authorization=f"Bearer {text}")
    assert answer.status == 200, answer.body
    return answer.json["rows"][0]


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_opens_what_its_issuer_was_registered_for(world: GatewayWorld, algorithm: str) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        assert await who(client, token(algorithm)) == {"who": "ada", "role": "ada"}


async def test_a_role_without_a_password_can_be_a_tokens(world: GatewayWorld) -> None:
    world.directory.may_log_in.add("bob")
    world.directory.key_sets[ENDPOINT] = [key_set("bob")]
    async with await SqlClient.open(world, name="apiauth") as client:
        to = WITHOUT_PASSWORD.replace("ada@", "bob@")
        assert await who(client, token(), to) == {"who": "ada", "role": "bob"}


async def test_a_password_beside_a_token_is_not_looked_at(world: GatewayWorld) -> None:
    """The driver sends the connection string as it is."""
    async with await SqlClient.open(world, name="apiauth") as client:
        assert await who(client, token(), connection_string(password="wrong")) == {"who": "ada", "role": "ada"}


async def test_a_batch_has_the_claims_in_each_statement(world: GatewayWorld) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        batch = {"queries": [{"query": CLAIMS}, {"query": CLAIMS}]}
        answer = await client.ask(batch, to=WITHOUT_PASSWORD, Authorization=f"Bearer {token()}")
        assert [it["rows"][0]["who"] for it in answer.json["results"]] == ["ada", "ada"]


async def test_the_audit_says_whose_token_it_was_and_of_whom(world: GatewayWorld) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        await who(client, token(sub="zoe"))
        await who(client, token(sub="zoe", jti="another"))
        await who(client, token(sub="bob"))
    opened = await world.directory.until("connection.opened", 3)
    assert [(it.role, it.subject) for it in opened] == [("ada", "zoe"), ("ada", "zoe"), ("ada", "bob")]
    assert {it.jwks_id for it in opened} == {key_set().id}
    closed = await world.directory.until("connection.closed", 3)
    assert [it.subject for it in closed] == ["zoe", "zoe", "bob"]


async def test_requests_with_the_same_token_are_one_visit(world: GatewayWorld) -> None:
    same = token()
    async with await SqlClient.open(world, name="apiauth") as client:
        for _ in range(3):
            await who(client, same)
    await world.directory.until("connection.closed")
    assert len([it for it in world.directory.events if it.action == "connection.opened"]) == 1
    assert len([it for it in world.directory.asked if isinstance(it, LookUpKeys)]) == 1


async def test_an_old_copy_of_the_keys_is_renewed_for_who_has_a_good_token(world: GatewayWorld) -> None:
    world.directory.key_sets[ENDPOINT] = [key_set("ada", fetched_at=time.time() - KEYS_FRESH_S - 1)]
    world.directory.refreshed_key_sets = {ENDPOINT: [key_set("ada")]}
    async with await SqlClient.open(world, name="apiauth") as client:
        assert await who(client, token()) == {"who": "ada", "role": "ada"}
        assert await who(client, token()) == {"who": "ada", "role": "ada"}
    assert [it.is_refresh for it in world.directory.asked if isinstance(it, LookUpKeys)] == [False, True]


async def test_a_key_that_is_new_at_its_issuer_is_known_in_a_moment(world: GatewayWorld) -> None:
    world.directory.key_sets[ENDPOINT] = [key_set("ada", keys=stored(document(public("EdDSA"))))]
    world.directory.refreshed_key_sets = {ENDPOINT: [key_set("ada")]}
    async with await SqlClient.open(world, name="apiauth") as client:
        assert (await client.query("SELECT 1", to=WITHOUT_PASSWORD, Authorization=f"Bearer {token()}")).status == 400
    changed = world.directory.changed
    async with asyncio.timeout(10), changed:
        await changed.wait_for(lambda: any(getattr(it, "is_refresh", False) for it in world.directory.asked))
    async with await SqlClient.open(world, name="apiauth") as client:
        assert await who(client, token()) == {"who": "ada", "role": "ada"}


async def test_a_set_that_was_taken_away_opens_nothing_any_more(world: GatewayWorld) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        await who(client, token())
        world.directory.key_sets = {}
        world.directory.send(Invalidate(project_id="calm-forest-12345678"))
        async with asyncio.timeout(10):
            while True:  # until the worker has heard it
                answer = await client.query("SELECT 1 AS n", to=WITHOUT_PASSWORD, Authorization=f"Bearer {token()}")
                if answer.status == 400:
                    break
        assert answer.json["message"] == 'token authentication failed for user "ada"'
