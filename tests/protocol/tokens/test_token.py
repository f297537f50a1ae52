"""What a token is worth: its form, its signature, its claims."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.protocol.tokens import Claims, TokenError, read_key_set, read_token, verify
from cloister.protocol.tokens.token import CLAIMS_BYTES_MAX, LEEWAY_S, TOKEN_BYTES_MAX
from tests.token_issuer import AUDIENCE, KEYS, base64url, claims, document, forged, public, signed, token

PUBLISHED = {key.kid: key for key in read_key_set(document())}


def verified(text: str, audience: str | None = AUDIENCE, issuer: str | None = None, now: float | None = None) -> Claims:
    read = read_token(text)
    at = time.time() if now is None else now
    return verify(read, PUBLISHED.get(read.kid), audience=audience, issuer=issuer, now=at)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_each_algorithm_says_who(algorithm: str) -> None:
    found = verified(token(algorithm, roles=["reader"], name="Zoë"))
    assert found.subject == "ada"
    assert found.json.isascii()
    assert json.loads(found.json)["name"] == "Zoë"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "malformed"),
        ("a.b", "malformed"),
        ("a.b.c.d.e", "malformed"),
        ("é.b.c", "malformed"),
        ("!.b.c", "malformed"),
        (f"{base64url(b'[]')}.b.c", "malformed"),
        (f"{base64url(b'[' * 5000)}.b.c", "malformed"),
        ("a" * (TOKEN_BYTES_MAX + 1) + ".b.c", "malformed"),
        (forged({"kid": "ES256"}), "algorithm"),
        (forged({"kid": "ES256", "alg": "none"}), "algorithm"),
        (forged({"kid": "ES256", "alg": "None"}), "algorithm"),
        (forged({"kid": "ES256", "alg": ""}), "algorithm"),
        (forged({"kid": "ES256", "alg": ["ES256"]}), "algorithm"),
        (forged({"kid": "RS256", "alg": "HS256"}), "algorithm"),
        (forged({"kid": "ES256", "alg": "ES256", "crit": ["exp"]}), "extensions"),
        (forged({"kid": "ES256", "alg": "ES256", "b64": False}), "extensions"),
        (forged({"kid": "ES256", "alg": "ES256", "typ": "dpop+jwt"}), "type"),
        (forged({"kid": "ES256", "alg": "ES256", "typ": None}), "type"),
        (forged({"alg": "ES256"}), "names no key"),
        (forged({"alg": "ES256", "kid": 1}), "names no key"),
        (forged({"alg": "ES256", "kid": "x" * 256}), "names no key"),
    ],
)
def test_what_is_wrong_with_a_token_anywhere_may_be_told(text: str, why: str) -> None:
    with pytest.raises(TokenError, match=why) as refused:
        read_token(text)
    assert refused.value.is_told


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_types_that_are_meant_for_this(kind: str) -> None:
    assert verified(token(headers={"typ": kind})).subject == "ada"


def refused(text: str, why: str, **asked: Any) -> None:
    with pytest.raises(TokenError, match=why) as error:
        verified(text, **asked)
    assert not error.value.is_told


SIGNATURE = "no registered key made the signature"


def test_signatures_that_are_not_the_keys() -> None:
    good = token("ES256")
    head, payload, signature = good.split(".")
    refused(f"{head}.{payload}.", SIGNATURE)
    refused(f"{head}.{base64url(json.dumps(claims(sub='eve')).encode())}.{signature}", SIGNATURE)
    refused(f"{head}.{payload}.{base64url(bytes(64))}", SIGNATURE)  # CVE-2022-21449: r = s = 0
    refused(token("ES256", key=_another_p256()), SIGNATURE)
    refused(token("ES256", headers={"kid": "unknown"}), SIGNATURE)


def _another_p256() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.derive_private_key(1, ec.SECP256R1())  # the decoy's: it opens nothing either


def test_a_key_is_for_its_own_algorithm_only() -> None:
    refused(token("PS256", headers={"kid": "RS256"}), SIGNATURE)
    refused(token("RS256", headers={"kid": "PS256"}), SIGNATURE)
    refused(token("ES256", headers={"kid": "EdDSA"}), SIGNATURE)


def test_the_decoy_verifies_nothing() -> None:
    unknown = token("ES256", headers={"kid": "unknown"}, key=_another_p256())
    refused(unknown, SIGNATURE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": None}, "never expires"),
        ({"exp": -LEEWAY_S - 1}, "expired"),
        ({"exp": True}, "exp is no time"),
        ({"exp": "tomorrow"}, "exp is no time"),
        ({"nbf": LEEWAY_S + 60}, r"not valid yet \(nbf\)"),
        ({"iat": LEEWAY_S + 60}, r"not valid yet \(iat\)"),
        ({"nbf": [1]}, "nbf is no time"),
        ({"aud": "bank"}, "another audience"),
        ({"aud": ["bank", "post"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": [AUDIENCE, 1]}, "audience is no text"),
        ({"aud": {"shop": 1}}, "audience is no text"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": 7}, "names nobody"),
        ({"sub": "x" * 256}, "names nobody"),
        ({"padding": "x" * CLAIMS_BYTES_MAX}, "malformed|too long"),
        ({"padding": "\U0001f512" * (CLAIMS_BYTES_MAX // 12)}, "too long"),
    ],
)
def test_claims_that_open_nothing(changes: dict[str, Any], why: str) -> None:
    """Whole numbers are seconds from now."""
    now = int(time.time())
    changes = {name: now + value if type(value) is int and name != "sub" else value for name, value in changes.items()}
    with pytest.raises(TokenError, match=why):
        verified(signed(json.dumps(claims(**changes), ensure_ascii=False).encode()))


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"\xff", b"[" * 4000, b'{"sub":"ada","exp":NaN}', b'{"sub":"ada","exp":1e400}'],
    ids=str,
)
def test_what_is_signed_and_no_claims(payload: bytes) -> None:
    with pytest.raises(TokenError):
        verified(signed(payload))


def test_the_leeway_ends() -> None:
    now = int(time.time())
    text = token(exp=now)
    assert verified(text, now=now + LEEWAY_S - 2).subject == "ada"
    refused(text, "expired", now=now + LEEWAY_S + 1)


def test_an_audience_that_nobody_registered_is_somebody_elses() -> None:
    refused(token(), "another audience", audience=None)
    assert verified(token(aud=None), audience=None).subject == "ada"
    assert verified(token(aud=["bank", AUDIENCE])).subject == "ada"


def test_an_issuer_that_was_registered_is_the_only_one() -> None:
    assert verified(token(), issuer="https://issuer.test").subject == "ada"
    for other in ("https://issuer.test/", "https://evil.test", None, ["https://issuer.test"]):
        refused(signed(json.dumps(claims(iss=other)).encode()), "another issuer", issuer="https://issuer.test")


def test_a_name_that_stands_twice_is_said_once() -> None:
    """Whoever reads the claims later cannot read another one than was looked at."""
    text = json.dumps(claims()).encode()[:-1] + b',"sub":"eve","sub":"bob"}'
    found = verified(signed(text))
    assert found.subject == "bob"
    assert found.json.count('"sub"') == 1


def test_a_key_inside_the_token_is_not_looked_at() -> None:
    ours = public("ES256")
    for extra in ({"jwk": ours}, {"jku": "https://evil.test/jwks"}, {"x5u": "https://evil.test/x"}):
        refused(token("ES256", headers={**extra, "kid": "unknown"}), SIGNATURE)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.lists(st.binary(max_size=40), min_size=3, max_size=3).map(
    lambda parts: ".".join(map(base64url, parts))
))  # fmt: skip
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        verified(text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 127))
def test_a_token_with_any_byte_changed_is_refused_or_says_the_same(at: int, by: int) -> None:
    good = token("EdDSA", exp=4_000_000_000, iat=None)
    at %= len(good)
    changed = good[:at] + chr((ord(good[at]) + by) % 128) + good[at + 1 :]
    try:
        found = verified(changed)
    except TokenError:
        return
    # Base64 has letters whose last bits mean nothing.
    assert found.subject == "ada"
    assert at in {len(part) + shift for part, shift in _ends(good)}


def _ends(text: str) -> list[tuple[str, int]]:
    head, payload, _ = text.split(".")
    return [(head, -1), (f"{head}.{payload}", -1), (text, -1)]
