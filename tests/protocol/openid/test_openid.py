"""What an issuer says of itself, where a login begins, and readers that take whatever comes. What a token must be:
tests/attacks/test_login.py."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.protocol.openid import (
    IdentityError,
    Metadata,
    MetadataError,
    authorization_url,
    challenge_of,
    groups_of,
    identify,
    is_challenge,
    metadata_url,
    read_answer,
    read_metadata,
)
from cloister.protocol.tokens import read_key_set
from tests.token_issuer import document, token

KEYS = read_key_set(document())
ISSUER = "https://issuer.test"
SAID = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}


def test_discovery_is_below_the_issuer_with_or_without_its_last_slash() -> None:
    """Discovery 1.0 §4: the slash belongs to the issuer's name, and not to the address."""
    assert metadata_url("https://a.test/realm") == "https://a.test/realm/.well-known/openid-configuration"
    assert metadata_url("https://a.test/") == "https://a.test/.well-known/openid-configuration"


def test_the_appendix_of_rfc_7636() -> None:
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert is_challenge("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
    assert not is_challenge("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\n")


@given(st.text(max_size=50), st.text(max_size=50))
def test_what_is_asked_arrives_as_it_was_meant(client_id: str, state: str) -> None:
    for endpoint in (f"{ISSUER}/auth", f"{ISSUER}/auth?tenant=1"):
        metadata = Metadata(ISSUER, endpoint, f"{ISSUER}/token", f"{ISSUER}/keys")
        url = authorization_url(
            metadata,
            client_id=client_id,
            redirect_uri="http://127.0.0.1:1/x",
            scope="openid",
            state=state,
            nonce="n",
            challenge="c",
        )
        parts = urlsplit(url)
        asked = parse_qs(parts.query, keep_blank_values=True)
        assert (asked["client_id"], asked["state"]) == ([client_id], [state])
        assert (parts.scheme, parts.netloc, parts.path, parts.fragment) == ("https", "issuer.test", "/auth", "")


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.text() | st.integers(), lambda it: st.dictionaries(st.sampled_from([*SAID, "x"]), it)
    ).map(lambda it: json.dumps(it).encode())
)
@example(json.dumps(SAID).encode())
@example(b"[" * 100_000)
def test_whatever_an_issuer_says_it_is_an_issuer_or_an_error(document: bytes) -> None:
    try:
        found = read_metadata(document, ISSUER)
    except MetadataError:
        return
    assert found.issuer == ISSUER
    assert all(
        url.startswith("https://") for url in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri)
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b'{"id_token": "a.b.c", "access_token": "a", "token_type": "DPoP"}',
        b'{"id_token": "a.b.c", "token_type": "Bearer"}',
        b'{"access_token": "a", "token_type": "Bearer"}',
        b'{"id_token": 7, "access_token": "a", "token_type": "Bearer"}',
    ],
)
def test_an_answer_without_a_token_is_none(answer: bytes) -> None:
    with pytest.raises(MetadataError):
        read_answer(answer)


@given(
    st.text(max_size=200)
    | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4).map(
        lambda it: token(**dict[str, Any](it))
    )
)
@example(token("RS256", aud="cloister", nonce="n"))
def test_whatever_comes_for_a_token_is_somebody_or_an_error(text: str) -> None:
    try:
        who = identify(text, KEYS, issuer=ISSUER, client_id="cloister", nonce="n", access_token="a", now=0.0)
    except IdentityError:
        return
    with pytest.raises(IdentityError):
        groups_of(who, "groups")
