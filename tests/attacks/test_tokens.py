"""Threats to tokens at the front: forged, stolen from elsewhere, expired, replayed where they do not belong; and what a stranger
may learn or cause by trying."""

import json
import time

import pytest

from cloister.base.directory import KeySet, LookUpKeys
from cloister.edge.sql.limits import KEYS_FRESH_S, KEYS_USABLE_S
from tests.fix_gateway import ENDPOINT, OTHER_ENDPOINT, GatewayWorld
from tests.sql_client import Answer, SqlClient, connection_string
from tests.token_issuer import KEYS, RSA, claims, document, forged, key_set, public, signed, stored, token

CLAIMS = "SELECT current_setting('request.jwt.claims', true) AS claims"


def to(role: str = "ada", endpoint: str = ENDPOINT, more: str = "") -> str:
    return f"postgresql://{role}@{endpoint}.db.localhost/app{more}"


@pytest.fixture
async def world(gateway_world: GatewayWorld) -> GatewayWorld:
    gateway_world.directory.key_sets[ENDPOINT] = [key_set("ada")]
    await gateway_world.start(https=True)
    return gateway_world


async def ask(world: GatewayWorld, text: str | None, where: str | None = None, *, name: str = "apiauth") -> Answer:
    async with await SqlClient.open(world, name=name) as client:
        headers = {} if text is None else {"Authorization": f"Bearer {text}"}
        return await client.query("SELECT 1 AS n", to=where or to(), **headers)


async def refused(world: GatewayWorld, text: str, where: str | None = None) -> str:
    answer = await ask(world, text, where)
    assert (answer.status, answer.json["code"]) == (400, "28000"), answer.body
    assert answer.headers["connection"] == "close"
    assert world.directory.wakes == []
    return str(answer.json["message"])


SAME = 'token authentication failed for user "ada"'


def hmac_with_public_key() -> str:
    """CVE-2015-9235: the public key, which everybody has, as an HMAC's secret."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    secret = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = forged({"alg": "HS256", "kid": "RS256", "typ": "JWT"}).rpartition(".")[0]
    from tests.token_issuer import base64url

    return f"{unsigned}.{base64url(hmac.new(secret, unsigned.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (forged({"alg": "none", "kid": "ES256"}), ": the token's algorithm is not allowed"),
        (hmac_with_public_key(), ": the token's algorithm is not allowed"),
        ("nonsense", ": the token is malformed"),
        (forged({"alg": "ES256", "kid": "ES256"}, signature=bytes(64)), ""),
        (token("ES256", headers={"kid": "RS256"}), ""),
        (token("ES256", headers={"kid": "nobodys"}), ""),
        (token("ES256", headers={"kid": "nobodys", "jwk": public("ES256")}), ""),
        (token("ES256", headers={"kid": "nobodys", "jku": "https://127.0.0.1/jwks"}), ""),
        (token(exp=int(time.time()) - 3600), ""),
        (token(exp=None), ""),
        (token(nbf=int(time.time()) + 3600), ""),
        (token(aud="bank"), ""),
        (token(aud=None), ""),
        (token(sub=None), ""),
        (signed(json.dumps(claims(sub=["ada"])).encode()), ""),
    ],
)
async def test_a_token_that_opens_nothing(world: GatewayWorld, text: str, told: str) -> None:
    assert await refused(world, text) == SAME + told
    (denied,) = await world.directory.until("connection.denied")
    assert denied.reason == "bad_token"


async def test_what_there_is_cannot_be_told_from_what_there_is_not(world: GatewayWorld) -> None:
    """No endpoint, no role, no issuer, no key, another signature: one answer, and as many questions."""
    world.directory.set_password("bob", "x")  # there, and no issuer may vouch for it
    told = set()
    for role, endpoint in [("ada", ENDPOINT), ("bob", ENDPOINT), ("ghost", ENDPOINT), ("ada", OTHER_ENDPOINT)]:
        for text in (token(aud="bank"), token(headers={"kid": "nobodys"}), token(key=KEYS["ES256"], exp=1)):
            message = await refused(world, text, to(role, endpoint))
            told.add(message.replace(f'"{role}"', "ROLE"))
    assert told == {SAME.replace('"ada"', "ROLE")}


async def test_an_issuer_vouches_for_its_roles_and_for_no_other(world: GatewayWorld) -> None:
    world.directory.set_password("bob", "x")
    assert await refused(world, token(), to("bob")) == SAME.replace("ada", "bob")


async def test_an_issuer_vouches_at_its_endpoint_and_at_no_other(world: GatewayWorld) -> None:
    world.directory.set_password("ada", "x", OTHER_ENDPOINT)
    assert await refused(world, token(), to(endpoint=OTHER_ENDPOINT)) == SAME


async def test_a_role_that_may_not_log_in_is_not_opened_by_a_token_either(world: GatewayWorld) -> None:
    world.directory.key_sets[ENDPOINT] = [key_set("nologin")]
    assert await refused(world, token(), to("nologin")) == SAME.replace("ada", "nologin")


async def test_each_issuer_has_its_own_audience(world: GatewayWorld) -> None:
    """One issuer's keys with the other's audience open nothing, though both are registered for the role."""
    first = key_set("ada", keys=stored(document(public("ES256"))), audience="shop")
    second = key_set("ada", keys=stored(document(public("EdDSA"))), audience="bank")
    world.directory.key_sets[ENDPOINT] = [first, second]
    assert (await ask(world, token("EdDSA", aud="bank"))).status == 200
    assert await refused_later(world, token("EdDSA", aud="shop")) == SAME


async def refused_later(world: GatewayWorld, text: str) -> str:
    answer = await ask(world, text)
    assert answer.status == 400
    return str(answer.json["message"])


async def test_a_registered_issuer_name_is_held_against_every_token(world: GatewayWorld) -> None:
    world.directory.key_sets[ENDPOINT] = [key_set("ada", issuer="https://issuer.test")]
    assert await refused(world, token(iss="https://another-customer.test")) == SAME


async def test_addresses_are_looked_at_before_tokens(world: GatewayWorld) -> None:
    world.directory.allowed_ips = ["192.0.2.0/24"]
    answer = await ask(world, token())
    assert (answer.status, answer.json["code"]) == (400, "28000")
    assert "is not allowed to connect" in answer.json["message"]
    assert not any(isinstance(it, LookUpKeys) for it in world.directory.asked)


async def test_guessing_is_slowed_down_and_wakes_nothing(few_guesses: int, world: GatewayWorld) -> None:
    world.directory.is_asleep = True
    bad = token(aud="bank")
    answers = [await ask(world, bad) for _ in range(few_guesses + 1)]
    assert [it.status for it in answers] == few_guesses * [400] + [429]
    assert world.directory.wakes == []


async def test_a_stranger_makes_nobody_wait_for_an_issuer(world: GatewayWorld) -> None:
    """A key that is not known is asked for, once in a while and behind the answer; a bad signature asks for nothing, old as
    the keys may be."""
    world.directory.key_sets[ENDPOINT] = [key_set("ada", fetched_at=time.time() - KEYS_FRESH_S - 1)]
    for _ in range(5):
        await refused(world, token(aud="bank"))
    assert [it.is_refresh for it in lookups(world)] == [False]
    for _ in range(5):
        await refused(world, token(headers={"kid": "nobodys"}))
    await world.directory.until("connection.denied", 10)
    assert [it.is_refresh for it in lookups(world)].count(True) <= 1


def lookups(world: GatewayWorld) -> list[LookUpKeys]:
    return [it for it in world.directory.asked if isinstance(it, LookUpKeys)]


@pytest.mark.parametrize("renewed", [None, [], [key_set("ada", keys=stored(document(public("EdDSA"))))]])
async def test_a_key_that_its_issuer_withdrew_opens_nothing(world: GatewayWorld, renewed: list[KeySet] | None) -> None:
    """None: the issuer has not answered for an hour."""
    age = KEYS_USABLE_S if renewed is None else KEYS_FRESH_S
    world.directory.key_sets[ENDPOINT] = [key_set("ada", fetched_at=time.time() - age - 1)]
    if renewed is not None:
        world.directory.refreshed_key_sets = {ENDPOINT: renewed}
    assert await refused(world, token()) == SAME


async def test_a_session_of_one_subject_is_never_anothers(world: GatewayWorld) -> None:
    """So often that sessions are kept for the next of their kind: claims are a part of the kind."""
    texts = [token(sub=name) for name in ("zoe", "bob")]
    async with await SqlClient.open(world, name="apiauth") as client:
        for _ in range(30):
            for name, text in zip(("zoe", "bob"), texts, strict=True):
                answer = await client.query(CLAIMS, to=to(), Authorization=f"Bearer {text}")
                assert json.loads(answer.json["rows"][0]["claims"])["sub"] == name
    async with await SqlClient.open(world) as client:
        for _ in range(3):  # nor one with a password's
            answer = await client.query(CLAIMS)
            assert answer.json["rows"][0]["claims"] in (None, "")


async def test_a_token_that_expires_on_an_open_connection(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloister.edge.sql import tokens

    text = token()
    async with await SqlClient.open(world, name="apiauth") as client:
        assert (await client.query("SELECT 1", to=to(), Authorization=f"Bearer {text}")).status == 200
        monkeypatch.setattr(tokens, "time", FakeTime(time.time() + 3600))
        answer = await client.query("SELECT 1", to=to(), Authorization=f"Bearer {text}")
        assert (answer.status, answer.json["message"]) == (400, SAME)
    (denied,) = await world.directory.until("connection.denied")
    assert (denied.role, denied.reason) == ("ada", "bad_token")


class FakeTime:
    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now


# -- beside the token


@pytest.mark.parametrize(
    "options",
    [
        "-c request.jwt.claims={}",
        "-crequest.jwt.claims={}",
        "--request.jwt.claims={}",
        "-c guard.has_token=off",
        r"-c re\quest.jwt.claims={}",
        "-c role=bob",
        "-c search_path=evil",
    ],
)
async def test_no_setting_comes_from_beside_a_token(world: GatewayWorld, options: str) -> None:
    from urllib.parse import quote

    answer = await ask(world, token(), to(more=f"?options={quote(options)}"))
    assert answer.status == 400
    assert world.directory.events == []


async def test_the_endpoint_may_be_named_in_the_options(world: GatewayWorld) -> None:
    assert (await ask(world, token(), to(more=f"?options=endpoint%3D{ENDPOINT}"))).status == 200


@pytest.mark.parametrize("name", ["api", ENDPOINT])
async def test_a_token_is_not_taken_where_passwords_are(world: GatewayWorld, name: str) -> None:
    answer = await ask(world, token(), connection_string(), name=name)
    assert answer.status == 400
    assert world.directory.asked == [] or not lookups(world)


async def test_a_password_is_not_taken_where_tokens_are(world: GatewayWorld) -> None:
    answer = await ask(world, None, connection_string())
    assert answer.status == 400
    assert "missing header: authorization" in answer.json["message"]


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YWRhOng=", "Bearer a b", "Bearer é", "Token abc"])
async def test_an_authorization_that_is_no_bearer_token(world: GatewayWorld, value: str) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        answer = await client.query("SELECT 1", to=to(), Authorization=value)
        assert answer.status == 400


async def test_two_tokens_are_none(world: GatewayWorld) -> None:
    async with await SqlClient.open(world, name="apiauth") as client:
        body = b'{"query":"SELECT 1"}'
        head = client.head(len(body), {"Neon-Connection-String": to(), "Authorization": f"Bearer {token()}"})
        second = f"\r\nauthorization: Bearer {token(sub='eve')}\r\n\r\n".encode()
        client.writer.write(head.removesuffix(b"\r\n\r\n") + second + body)
        assert (await client.answer()).status == 400
