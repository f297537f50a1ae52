"""Threats to logins: answers that are forged, replayed, of another login, of another issuer, for another client, and people
who may not come in any more. Of each, nothing is left: no account, no role, no session."""

import dataclasses
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.control.people.logins import LOGIN_LASTS, LoginRefusedError
from cloister.control.people.model import SESSION_DEFAULT
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import Permission
from tests.control.people.company import CALLER, COMPANY, HERE, Company
from tests.control.people.conftest import company
from tests.edge.api.world import World
from tests.openid_issuer import URL, at_hash
from tests.token_issuer import KEYS, RSA, base64url, forged, public, token

__all__ = ["company"]


async def refused(company: Company, brought: dict[str, str], **more: Any) -> str:
    """Why."""
    before = [await company.count(table) for table in ("account", "membership", "identity", "api_key")]
    with pytest.raises(LoginRefusedError) as caught:
        await company.finish(brought, **more)
    assert before == [await company.count(table) for table in ("account", "membership", "identity", "api_key")]
    assert await company.events("session.create") == []
    return caught.value.why


async def answered(company: Company) -> dict[str, str]:
    return company.issuer.authorize((await company.start()).url)


# ── the answer ──


async def test_a_state_that_was_never_given_out(company: Company) -> None:
    assert await refused(company, await answered(company) | {"state": "made up"}) == "login_unknown"
    assert company.issuer.forms == [], "the issuer is not even asked"


async def test_the_state_of_somebody_elses_login(company: Company) -> None:
    """Login CSRF: the victim's client is given the attacker's answer, and the other way round."""
    stolen = company.issuer.authorize((await company.start(secret="theirs")).url)
    assert await refused(company, stolen, secret="mine") == "login_unknown"
    mine = await company.start(secret="mine")
    assert await refused(company, {**stolen, "state": mine.state.reveal()}, secret="theirs") == "login_unknown"
    assert company.issuer.forms == []
    assert (await company.finish(stolen, secret="theirs")).email == "eve@example.com", (
        "who is refused takes nothing away"
    )


async def test_an_answer_is_good_once(company: Company) -> None:
    brought = await answered(company)
    await company.finish(brought)
    with pytest.raises(LoginRefusedError) as caught:
        await company.finish(brought)
    assert caught.value.why == "login_unknown"


async def test_a_code_that_was_used_is_not_good_for_another_login(company: Company) -> None:
    first = await answered(company)
    await company.finish(first)
    second = await answered(company)
    with pytest.raises(LoginRefusedError) as caught:
        await company.finish({**second, "code": first["code"]})
    assert caught.value.why == "login_issuer"


async def test_a_code_of_another_login_of_the_same_client(company: Company) -> None:
    """Code injection: PKCE binds the code to the login for which it was asked."""
    first, second = await answered(company), await answered(company)
    assert await refused(company, {**second, "code": first["code"]}) == "login_issuer"


async def test_a_login_that_took_too_long(company: Company) -> None:
    brought = await answered(company)
    company.clock.advance(LOGIN_LASTS)
    assert await refused(company, brought) == "login_unknown"


async def test_an_answer_of_another_issuer(company: Company) -> None:
    """Mix-up: the code is sent to nobody."""
    for iss in ("https://another.example", "", URL + "/"):
        assert await refused(company, await answered(company) | {"iss": iss}) == "login_other_issuer"
    assert company.issuer.forms == []


async def test_an_answer_that_does_not_say_whose_it_is_of_an_issuer_that_always_does(company: Company) -> None:
    brought = await answered(company)
    del brought["iss"]
    assert await refused(company, brought) == "login_other_issuer"


async def test_the_client_cannot_name_where_the_browser_goes() -> None:
    """Only a port of the loopback interface: what else a body says is not read."""
    world = World()
    async with world.client(None) as client:
        body = {"port": 40_000, "challenge": "A" * 43, "redirect_uri": "https://evil.example/"}
        answer = await client.post("/cloister/logins", json=body)
    assert answer.json()["redirect_uri"] == "http://127.0.0.1:40000/login/company"


# ── the token ──


def _hs256(claims: dict[str, Any]) -> str:
    """Signed with the issuer's public key as if it were a secret."""
    header = base64url(json.dumps({"alg": "HS256", "kid": "RS256", "typ": "JWT"}).encode())
    text = f"{header}.{base64url(json.dumps(claims).encode())}"
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{text}.{base64url(hmac.digest(pem, text.encode(), hashlib.sha256))}"


LIES: dict[str, tuple[str, Any]] = {
    "no signature at all": (
        "login_token_malformed",
        lambda c: forged({"alg": "none", "kid": "ES256"}, json.dumps(c).encode()),
    ),
    "HS256 with the public key": ("login_token_malformed", _hs256),
    "an algorithm that is not pinned": ("login_token_malformed", lambda c: token("PS256", **c)),
    "a key that the issuer does not publish": (
        "login_token_refused",
        lambda c: token("ES256", {"kid": "x"}, ec.generate_private_key(ec.SECP256R1()), **c),
    ),
    "a key of its own under a known name": (
        "login_token_refused",
        lambda c: token("ES256", None, ec.generate_private_key(ec.SECP256R1()), **c),
    ),
    "an unknown name of a key": ("login_token_refused", lambda c: token("ES256", headers={"kid": "x"}, **c)),
    "another key under a known name": (
        "login_token_refused",
        lambda c: token("EdDSA", headers={"kid": "ES256"}, **c),
    ),
    "a key that the token brings along": (
        "login_token_refused",
        lambda c: token("ES256", headers={"kid": "x", "jwk": public("ES256")}, **c),
    ),
    "no name of a key": ("login_token_malformed", lambda c: jwt.encode(c, KEYS["ES256"], algorithm="ES256")),
    "another issuer": ("login_token_refused", lambda c: token(**c | {"iss": "https://another.example"})),
    "another client": ("login_token_refused", lambda c: token(**c | {"aud": "another"})),
    "another client as well": ("login_token_refused", lambda c: token(**c | {"aud": ["cloister", "another"]})),
    "for another party": ("login_token_refused", lambda c: token(**c | {"azp": "another"})),
    "nobody's": ("login_token_refused", lambda c: token(**c | {"sub": ""})),
    "expired": ("login_token_refused", lambda c: token(**c | {"iat": c["iat"] - 500, "exp": c["iat"] - 60})),
    "without an end": ("login_token_refused", lambda c: token(**c | {"exp": None})),
    "made long ago": ("login_token_refused", lambda c: token(**c | {"iat": c["iat"] - 3600})),
    "made at no time": ("login_token_refused", lambda c: token(**c | {"iat": None})),
    "from the future": ("login_token_refused", lambda c: token(**c | {"iat": c["iat"] + 3600})),
    "of another login": ("login_nonce", lambda c: token(**c | {"nonce": "another"})),
    "of no login": ("login_nonce", lambda c: token(**c | {"nonce": None})),
    "of another access token": ("login_token_refused", lambda c: token(**c | {"at_hash": at_hash("another")})),
    "without groups": ("login_no_groups", lambda c: token(**c | {"groups": None})),
    "with groups that are no list": ("login_no_groups", lambda c: token(**c | {"groups": "dba"})),
    "with too many groups": ("login_no_groups", lambda c: token(**c | {"groups": ["g"] * 1001})),
    "with groups elsewhere": (
        "login_no_groups",
        lambda c: token(**c | {"groups": None, "_claim_names": {"groups": "src1"}}),
    ),
    "of nobody with a role": ("login_no_role", lambda c: token(**c | {"groups": ["dba ", "DBA", 7]})),
    "without an address": ("login_no_address", lambda c: token(**c | {"email": None})),
    "with an address that is not verified": ("login_no_address", lambda c: token(**c | {"email_verified": False})),
    "with an address of which nothing is known": ("login_no_address", lambda c: token(**c | {"email_verified": None})),
    "with the address of somebody here": ("login_taken", lambda c: token(**c | {"email": "ADA@example.com"})),
    "endless": ("login_token_malformed", lambda c: token(**c | {"x": "x" * 40_000})),
    "no token": ("login_token_malformed", lambda _: "a.b.c"),
}


async def test_a_token_that_lies_opens_nothing(company: Company) -> None:
    found = {}
    for lie, (_, company.issuer.sign) in LIES.items():
        found[lie] = await refused(company, await answered(company))
    assert found == {lie: why for lie, (why, _) in LIES.items()}


# ── the person ──


async def test_who_is_disabled_here_does_not_come_in_by_the_issuer(company: Company) -> None:
    await company.log_in()
    await company.issuers.disable(CALLER, "eve@example.com", is_disabled=True)
    with pytest.raises(LoginRefusedError) as caught:
        await company.log_in()
    assert caught.value.why == "account_disabled"


async def test_who_leaves_the_company_is_out_when_the_session_is(company: Company) -> None:
    """The issuer tells nobody. There is no key that would outlive the session with what the groups gave."""
    session = await company.log_in()
    principal = await company.who(session)
    decider = Decider()
    for permission in (Permission.API_KEY_CREATE, Permission.ORGANIZATION_KEY_CREATE, Permission.ISSUER_MANAGE):
        with pytest.raises(Exception, match="may not"):
            decider.authorize(principal, permission, org_id=HERE)
    company.clock.advance(SESSION_DEFAULT)
    with pytest.raises(Exception, match="key_expired"):
        await company.who(session)


async def test_an_identity_is_not_taken_over_by_a_link(company: Company) -> None:
    """Ada logs in as Eve's browser would, to get Eve's identity: it stays Eve's."""
    eve = await company.log_in()
    with pytest.raises(LoginRefusedError) as caught:
        await company.log_in(links=company.adas_key)
    assert caught.value.why == "login_taken"
    assert (await company.log_in()).account_id == eve.account_id


async def test_a_key_that_was_taken_back_links_nobody(company: Company) -> None:
    """Whoever stole it began to link themselves to its account, and finishes after the theft was found."""
    brought = company.issuer.authorize((await company.start(links=company.adas_key)).url)
    await company.api_keys.revoke(CALLER, company.adas_key)
    assert await refused(company, brought) == "login_unknown"
    assert await company.events("identity.link") == []


async def test_a_refusal_says_whom_the_issuer_named(company: Company) -> None:
    """For whoever reads the log: the account where there is one, the subject where the token was good, and of a forged one nothing."""

    async def refusal(**claims: Any) -> tuple[str, str]:
        with pytest.raises(LoginRefusedError) as caught:
            await company.log_in(**claims)
        return caught.value.actor, caught.value.subject

    assert await refusal(groups=[]) == ("", "company/u-1")
    assert await refusal(groups=None) == ("", "company/u-1")
    assert await refusal(groups=["dba"], nonce="another") == ("", "")
    company.issuer.claims.pop("nonce", None)
    eve = f"user:{(await company.log_in(groups=['dba'])).account_id}"
    assert await refusal(groups=[]) == (eve, "company/u-1")
    await company.issuers.disable(CALLER, "eve@example.com", is_disabled=True)
    assert await refusal(groups=["dba"]) == (eve, "company/u-1")


async def test_an_issuer_speaks_for_its_own_domains_alone(company: Company) -> None:
    """Addresses are how people here name each other: one that an issuer may not give would be somebody else's."""
    await company.issuers.remove(CALLER, company.registered.id)
    await company.issuers.add(CALLER, dataclasses.replace(COMPANY, domains=("example.com",)))
    await company.map("dba", "editor")
    for email, is_verified in (
        ("eve@example.com", False),
        ("eve@elsewhere.example", True),
        ("eve@sub.example.com", True),
        ("eve@example.com@elsewhere.example", True),
    ):
        company.issuer.claims |= {"email": email, "email_verified": is_verified}
        assert await refused(company, await answered(company)) == "login_no_address", email
    assert (await company.log_in(email="eve@Example.com", email_verified=None)).email == "eve@Example.com"


async def test_nothing_of_a_login_under_way_can_be_used_by_who_reads_the_database(company: Company) -> None:
    begun = await company.start()
    brought = company.issuer.authorize(begun.url)
    (asked,) = company.issuer.codes.values()
    async with company.database.reading() as tx:
        text = str(await tx.fetch("SELECT * FROM login"))
    await company.finish(brought)
    (form,) = company.issuer.forms
    for secret in (begun.state.reveal(), asked["nonce"], form["code_verifier"], brought["code"]):
        assert secret not in text
