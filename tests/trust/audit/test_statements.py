"""A segment of the statement log: its key opens it, nothing else does, and whoever sealed it cannot."""

import zlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.directory import StatementRecord
from cloister.base.errors import ConflictError
from cloister.base.secret import Secret
from cloister.trust.audit.segments import SHARE_BYTES, Former, key_of, open_sized, seal

PRIVATE = X25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def record(project: str, text: str = "SELECT 1") -> StatementRecord:
    return StatementRecord(
        at="2026-01-01T00:00:00.000000Z", session_id="s", project_id=project, branch_id="b", endpoint_id="e", role="ada",
        database="app", address="192.0.2.1", kind="simple", outcome="done", text=text,
    )  # fmt: skip


SOME = [record("p", "SELECT 'Bob'"), record("p", "line\nbreak")]


def test_a_segment_opens_with_the_private_half_of_its_project_and_generation() -> None:
    body = seal(PUBLIC, "p", 1, SOME)
    assert b"Bob" not in body
    share = body[:SHARE_BYTES]
    assert open_sized(key_of(PRIVATE, share, "p", 1), body)[0] == SOME
    another = X25519PrivateKey.generate()
    for key in (key_of(PRIVATE, share, "q", 1), key_of(PRIVATE, share, "p", 2), key_of(another, share, "p", 1)):
        with pytest.raises(ConflictError):
            open_sized(key, body)


def test_the_key_of_one_segment_opens_no_other() -> None:
    one, other = seal(PUBLIC, "p", 1, SOME), seal(PUBLIC, "p", 1, SOME)
    with pytest.raises(ConflictError):
        open_sized(key_of(PRIVATE, one[:SHARE_BYTES], "p", 1), other)


@given(st.binary(max_size=200), st.integers(min_value=0))
def test_what_was_changed_does_not_open(noise: bytes, at: int) -> None:
    body = seal(PUBLIC, "p", 1, SOME)
    key = key_of(PRIVATE, body[:SHARE_BYTES], "p", 1)
    at = SHARE_BYTES + at % (len(body) - SHARE_BYTES)
    for changed in (body[:at], body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], body + noise + b"x", noise):
        with pytest.raises(ConflictError):
            open_sized(key, changed)


@pytest.mark.parametrize("share", [b"", b"x" * 31, bytes(32), b"\1" + bytes(31)])
def test_a_share_that_would_give_a_key_everybody_knows_is_refused(share: bytes) -> None:
    with pytest.raises(ValueError):
        key_of(PRIVATE, share, "p", 1)


def test_segments_from_before_open_as_they_did() -> None:
    """Under a key derived from the API's control key, as they were sealed until there were keys for them."""
    key = HKDF(SHA256(), 32, salt=None, info=b"cloister statement log 1\0p").derive(b"k" * 32)
    plain = b"\n".join(msgspec.json.encode(each) for each in SOME)
    body = b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, zlib.compress(plain, 6), b"p")
    assert Former(Secret(b"k" * 32)).open_sized("p", body) == (SOME, len(plain))
    for project, byte, changed in (
        ("q", b"k", body),
        ("p", b"x", body),
        ("p", b"k", body[:-1] + b"\0"),
        ("p", b"k", b""),
    ):
        with pytest.raises(ConflictError):
            Former(Secret(byte * 32)).open_sized(project, changed)
