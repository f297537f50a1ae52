"""Which keys of a set may verify a token, and with which algorithm."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from cloister.protocol.tokens import KeySetError, read_key_set
from cloister.protocol.tokens.keys import KEYS_MAX
from tests.token_issuer import KEYS, base64url, document, public


def test_each_key_has_one_algorithm() -> None:
    assert {(key.kid, key.alg) for key in read_key_set(document())} == {(name, name) for name in KEYS}


@pytest.mark.parametrize(("algorithm", "meant"), [("RS256", "RS256"), ("ES384", "ES384"), ("EdDSA", "EdDSA")])
def test_a_key_that_does_not_say_has_the_usual_one(algorithm: str, meant: str) -> None:
    (key,) = read_key_set(document(public(algorithm, alg=None, use=None)))
    assert key.alg == meant


def test_only_public_members_are_kept() -> None:
    (key,) = read_key_set(document(public("RS256", x5c=["MII"], x5u="https://elsewhere.test", note="x")))
    assert set(key.jwk) == {"kty", "n", "e"}


@pytest.mark.parametrize(
    "key",
    [
        public("RS256", kid=None),
        public("RS256", kid=""),
        public("RS256", kid="x" * 256),
        public("RS256", kid=7),
        public("RS256", kid="a\0b"),
        public("RS256", e="AQAB\0"),
        public("RS256", use="enc"),
        public("RS256", key_ops=["encrypt"]),
        public("RS256", alg="HS256"),
        public("RS256", alg="ES256"),
        public("RS256", alg="none"),
        public("RS256", alg="RSA1_5"),
        public("ES256", crv="P-521"),
        public("ES256", crv="secp256k1"),
        public("ES256", x="AA"),
        public("EdDSA", crv="X25519"),
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "RS256"},
        public("RS256", n=base64url((2**1023 + 1).to_bytes(128, "big"))),
        public("RS256", n=base64url((2**8191 + 1).to_bytes(1024, "big"))),
        public("RS256", e=base64url((2**64 + 1).to_bytes(9, "big"))),
        public("RS256", e=None),
    ],
    ids=str,
)
def test_a_key_that_is_not_for_this_is_passed_over(key: dict[str, Any]) -> None:
    with pytest.raises(KeySetError, match="none of its keys"):
        read_key_set(document(key))
    assert [it.kid for it in read_key_set(document(key, public("EdDSA", kid="good")))] == ["good"]


def test_a_set_that_shows_a_private_key_is_refused() -> None:
    private = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048)))
    with pytest.raises(KeySetError, match="private key"):
        read_key_set(document(public("EdDSA"), {**private, "kid": "mine"}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[1]}',
        b"\xff",
        b'{"keys":' + b"[" * 50_000,
        document(*[public("EdDSA", kid=str(number)) for number in range(KEYS_MAX + 1)]),
        document(public("EdDSA", kid="same"), public("ES256", kid="same")),
    ],
    ids=range(9),
)
def test_what_is_no_key_set_is_refused(text: bytes) -> None:
    with pytest.raises(KeySetError):
        read_key_set(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("RSA") | st.just("AQAB"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["keys", "kty", "kid", "n", "e", "crv", "x", "y", "alg", "use"]), inner, max_size=6
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_whatever_is_published_is_read_or_refused(value: Any) -> None:
    for text in (json.dumps(value), json.dumps({"keys": [value]})):
        try:
            keys = read_key_set(text.encode())
        except KeySetError:
            continue
        assert all(key.load().key for key in keys)
