"""What a passkey's words are worth."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fido2 import cbor
from fido2.cose import ES384, RS256, EdDSA
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol import webauthn
from cloister.protocol.webauthn import Assertion, Credential, PasskeyError, Registration, registered, verified
from tests.soft_authenticator import (
    BACKED_UP,
    BOTH,
    ORIGIN,
    PRESENT,
    RP_ID,
    VERIFIED,
    SoftAuthenticator,
    client_data,
    cose,
)

CHALLENGE = b"c" * 32


def made(authenticator: SoftAuthenticator, **lies: Any) -> Credential:
    return registered(authenticator.make(CHALLENGE, **lies), challenge=CHALLENGE, rp_id=RP_ID)


def signed(authenticator: SoftAuthenticator, passkey: Credential, **lies: Any) -> int:
    return verified(authenticator.sign(CHALLENGE, **lies), passkey, challenge=CHALLENGE, rp_id=RP_ID)


@pytest.mark.parametrize("origin", [ORIGIN, f"{ORIGIN}:8443"])
def test_a_passkey_that_was_made_signs(origin: str) -> None:
    authenticator = SoftAuthenticator(counter=7)
    passkey = made(authenticator, origin=origin)
    assert (passkey.id, passkey.sign_count) == (authenticator.credential_id, 7)
    assert signed(authenticator, passkey, origin=origin) == 8
    assert webauthn.challenge_of(authenticator.sign(CHALLENGE).client_data) == CHALLENGE


def test_one_that_does_not_count_signs_again_and_again() -> None:
    authenticator = SoftAuthenticator(counter=None)
    passkey = made(authenticator)
    assert [signed(authenticator, passkey) for _ in range(2)] == [0, 0]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("passkey_type", {"kind": "webauthn.other"}),
    ("passkey_challenge", {"answers": b"d" * 32}),
    ("passkey_origin", {"origin": f"http://{RP_ID}"}),
    ("passkey_origin", {"origin": f"https://ep-calm-forest-12345678.{RP_ID}"}),
    ("passkey_origin", {"origin": "https://db.test.example"}),
    ("passkey_origin", {"origin": f"https://{RP_ID}@example.com"}),
    ("passkey_origin", {"origin": f"{ORIGIN}:no"}),
    ("passkey_origin", {"origin": f"{ORIGIN}/"}),
    ("passkey_origin", {"origin": 7}),
    ("passkey_origin", {"crossOrigin": True}),
    ("passkey_rp", {"rp_id": "example.com"}),
    ("passkey_presence", {"flags": VERIFIED}),
    ("passkey_verification", {"flags": PRESENT}),
    ("passkey_unreadable", {"flags": BOTH | BACKED_UP}),
]


@pytest.mark.parametrize(("why", "lies"), REFUSED, ids=str)
def test_what_is_refused_when_one_is_made_and_when_one_signs(why: str, lies: dict[str, Any]) -> None:
    authenticator = SoftAuthenticator()
    with pytest.raises(PasskeyError) as caught:
        made(authenticator, **lies)
    assert caught.value.why == why
    passkey = made(authenticator)
    with pytest.raises(PasskeyError) as caught:
        signed(authenticator, passkey, **lies)
    assert caught.value.why == why


def test_what_is_made_is_not_what_is_signed() -> None:
    authenticator = SoftAuthenticator()
    passkey = made(authenticator)
    with pytest.raises(PasskeyError, match=r"instead of webauthn\.get"):
        signed(authenticator, passkey, kind="webauthn.create")
    with pytest.raises(PasskeyError, match=r"instead of webauthn\.create"):
        made(authenticator, kind="webauthn.get")


@pytest.mark.parametrize("counter", [5, 4, 0])
def test_a_counter_that_does_not_grow_is_a_copy(counter: int) -> None:
    authenticator = SoftAuthenticator(counter=5)
    passkey = made(authenticator)
    authenticator.counter = counter
    with pytest.raises(PasskeyError) as caught:
        signed(authenticator, passkey)
    assert caught.value.why == "passkey_counter"


def test_the_signature_is_of_this_passkey_over_what_both_said() -> None:
    authenticator, other = SoftAuthenticator(), SoftAuthenticator()
    passkey = made(authenticator)
    assertion = authenticator.sign(CHALLENGE)
    forged = {
        "passkey_unknown": [other.sign(CHALLENGE)],
        "passkey_signature": [
            replace(other.sign(CHALLENGE), credential_id=passkey.id),
            replace(assertion, signature=assertion.signature[:-1]),
            replace(assertion, signature=b""),
            replace(assertion, client_data=client_data(CHALLENGE, "webauthn.get", more="said")),
            replace(assertion, authenticator_data=authenticator.sign(CHALLENGE).authenticator_data),
        ],
    }
    for why, assertions in forged.items():
        for it in assertions:
            with pytest.raises(PasskeyError) as caught:
                verified(it, passkey, challenge=CHALLENGE, rp_id=RP_ID)
            assert caught.value.why == why


def test_algorithms() -> None:
    """Those that were asked for, and no others."""
    for kind, key in ((EdDSA, ed25519.Ed25519PrivateKey.generate()), (RS256, rsa.generate_private_key(65_537, 2048))):
        made(SoftAuthenticator(), public_key=cose(kind, key))
    with pytest.raises(PasskeyError) as caught:
        made(SoftAuthenticator(), public_key=cose(ES384, ec.generate_private_key(ec.SECP384R1())))
    assert caught.value.why == "passkey_algorithm"


def test_an_id_longer_than_the_specification_allows() -> None:
    with pytest.raises(PasskeyError, match="too long"):
        made(SoftAuthenticator(credential_id=b"i" * 1024))
    made(SoftAuthenticator(credential_id=b"i" * 1023))


DEEP = b"\x81" * 15_000
"""An array in an array in an array …"""
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-100, 100), st.binary(max_size=40), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
)
JUNK = st.one_of(st.binary(max_size=200), VALUES.map(cbor.encode))
HONEST = SoftAuthenticator(counter=None)
PASSKEY = made(HONEST)


@given(JUNK, JUNK, st.integers(0, 400), st.integers(0, 255))
def test_whatever_the_bytes_the_outcome_is_an_error_of_ours(junk: bytes, more: bytes, place: int, byte: int) -> None:
    registration, assertion = HONEST.make(CHALLENGE), HONEST.sign(CHALLENGE)

    def bent(text: bytes) -> bytes:
        at = place % len(text)
        return text[:at] + bytes([byte]) + text[at + 1 :]

    for said in (
        Registration(junk, registration.attestation_object),
        Registration(registration.client_data, junk),
        Registration(registration.client_data, cbor.encode({"fmt": "none", "authData": junk, "attStmt": {}})),
        Registration(registration.client_data, bent(registration.attestation_object)),
        Registration(bent(registration.client_data), registration.attestation_object),
    ):
        with contextlib.suppress(PasskeyError):
            registered(said, challenge=CHALLENGE, rp_id=RP_ID)
    for it in (
        Assertion(junk, assertion.client_data, assertion.authenticator_data, assertion.signature),
        replace(assertion, client_data=junk),
        replace(assertion, authenticator_data=junk),
        replace(assertion, signature=more),
        replace(assertion, client_data=bent(assertion.client_data)),
        replace(assertion, authenticator_data=bent(assertion.authenticator_data)),
    ):
        if it != assertion:
            with pytest.raises(PasskeyError):
                verified(it, PASSKEY, challenge=CHALLENGE, rp_id=RP_ID)
    with pytest.raises(PasskeyError):
        verified(assertion, replace(PASSKEY, public_key=junk), challenge=CHALLENGE, rp_id=RP_ID)


def test_what_is_nested_deeply_is_unreadable() -> None:
    said = HONEST.make(CHALLENGE)
    for it in (Registration(said.client_data, DEEP), Registration(b"[" * 2_000, said.attestation_object)):
        with pytest.raises(PasskeyError, match="RecursionError"):
            registered(it, challenge=CHALLENGE, rp_id=RP_ID)
