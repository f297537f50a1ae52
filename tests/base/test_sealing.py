"""What is sealed for the control database, and keys that are derived for one use."""

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.sealing import KEY_BYTES, NONCE_BYTES, Sealer, derived_key

KEY = bytes(range(KEY_BYTES))


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_opens_in_its_place(text: bytes, place: bytes) -> None:
    sealed = Sealer(KEY).seal(text, place)
    assert Sealer(KEY).open(sealed, place) == text
    assert len(sealed) == NONCE_BYTES + len(text) + 16


def test_it_opens_nowhere_else_and_not_when_changed() -> None:
    sealed = Sealer(KEY).seal(b"text", b"here")
    for sealer, changed, place in (
        (Sealer(bytes(KEY_BYTES)), sealed, b"here"),
        (Sealer(KEY), sealed, b"there"),
        (Sealer(KEY), sealed[:-1] + bytes([sealed[-1] ^ 1]), b"here"),
        (Sealer(KEY), bytes([sealed[0] ^ 1]) + sealed[1:], b"here"),
    ):
        with pytest.raises(InvalidTag):
            sealer.open(changed, place)


def test_no_nonce_is_used_twice() -> None:
    assert len({Sealer(KEY).seal(b"", b"")[:NONCE_BYTES] for _ in range(100)}) == 100


def test_a_key_is_for_one_use() -> None:
    """RFC 5869, appendix A.3: no salt, no info; 42 bytes there, of which these are the first."""
    secret = bytes([0x0B] * 22)
    assert derived_key(secret, b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derived_key(secret, b"one") != derived_key(secret, b"other")
