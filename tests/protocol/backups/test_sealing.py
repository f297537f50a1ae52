"""A sealed object opens for the project, the name and the key that it was sealed for, and else not at all."""

import contextlib
import itertools
import os
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.backups import sealing
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import (
    NONCE_BYTES,
    OBJECT_BYTES_MAX,
    PLAIN_BYTES_MAX,
    BackupKey,
    material_of,
)

SECRET = bytes(range(32))
PROJECT = "calm-forest-12345678"
NAME = f"projects/{PROJECT}/chunks/ab/abcd"


def key(*, secret: bytes = SECRET, project: str = PROJECT, material: int = 1) -> BackupKey:
    return BackupKey(secret, project, material)


def sealed(plain: bytes = b"content", *, by: BackupKey | None = None, name: str = NAME) -> bytes:
    return (by or key()).seal(name, plain, os.urandom(NONCE_BYTES))


@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
def test_what_was_sealed_opens(plain: bytes, material: int) -> None:
    using = key(material=material)
    given_back = sealed(plain, by=using)
    assert material_of(given_back) == material
    assert using.open(NAME, given_back) == plain


ROWS = b"".join(b"%06d a row of a tenant, and what is in it\n" % number for number in range(60))


def inflated(content: bytes) -> Iterator[bytes]:
    """What comes of it as it is, and of all its ends where zlib made them, with a head or without."""
    yield content
    for start, bits in itertools.product(range(len(content)), (zlib.MAX_WBITS, -zlib.MAX_WBITS)):
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj(bits).decompress(content[start:], 10_000)


def test_a_store_sees_nothing_of_what_is_in_an_object() -> None:
    given_back = sealed(ROWS)
    for level in range(-1, 10):
        assert zlib.compress(ROWS, level)[2:-4] not in given_back
    assert not any(ROWS[:40] in found for found in inflated(given_back))
    assert any(ROWS[:40] in found for found in inflated(b"head" + zlib.compress(ROWS, sealing._LEVEL))), "it is found"


@pytest.mark.parametrize("plain", [bytes(PLAIN_BYTES_MAX), b"page" * 100_000, bytes(32)], ids=["zeros", "pages", "few"])
def test_what_repeats_in_an_object_does_not_show(plain: bytes) -> None:
    """Nor does what two have in common, in place."""
    one, other = sealed(plain)[sealing._HEAD.size :], sealed(plain)[sealing._HEAD.size :]
    blocks = [one[at : at + 8] for at in range(0, len(one), 8)]
    assert len(set(blocks)) == len(blocks)
    assert not any(other[at : at + 8] == one[at : at + 8] for at in range(0, len(one), 8))


@pytest.mark.parametrize("plain", [bytes(PLAIN_BYTES_MAX), os.urandom(PLAIN_BYTES_MAX)], ids=["zeros", "noise"])
def test_the_largest_object_fits(plain: bytes) -> None:
    given_back = sealed(plain)
    assert len(given_back) <= OBJECT_BYTES_MAX
    assert key().open(NAME, given_back) == plain


def test_nothing_larger_is_sealed() -> None:
    with pytest.raises(ValueError):
        sealed(bytes(PLAIN_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("by", "name"),
    [
        (key(secret=bytes(32)), NAME),
        (key(project="calm-forest-12345679"), NAME),
        (key(), NAME + "0"),
        (key(), ""),
        (key(material=2), NAME),
    ],
    ids=["another key", "another project", "another name", "no name", "another material"],
)
def test_elsewhere_it_does_not_open(by: BackupKey, name: str) -> None:
    with pytest.raises(BackupError):
        by.open(name, sealed())


def test_the_material_that_it_names_is_sealed_too() -> None:
    """A store cannot have an older key, which may be known, taken for the newer."""
    changed = bytearray(sealed())
    changed[8] = 2
    with pytest.raises(BackupError):
        key(material=2).open(NAME, bytes(changed))


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_byte_is_seen(at: int, by: int) -> None:
    changed = bytearray(sealed(bytes(200)))
    changed[at % len(changed)] ^= by
    with pytest.raises(BackupError):
        key().open(NAME, bytes(changed))


@given(st.integers(0, 200))
def test_a_cut_off_object_is_seen(size: int) -> None:
    whole = sealed(os.urandom(100))
    with pytest.raises(BackupError):
        key().open(NAME, whole[: min(size, len(whole) - 1)])


@given(st.binary(max_size=300))
def test_whatever_a_store_gives_is_a_value_or_an_error(given_back: bytes) -> None:
    with pytest.raises(BackupError):
        key().open(NAME, given_back)


def test_what_is_too_large_is_not_even_decrypted() -> None:
    with pytest.raises(BackupError, match="too large"):
        key().open(NAME, bytes(OBJECT_BYTES_MAX + 1))


def _sealed_as_is(compressed: bytes) -> bytes:
    """As one who holds the key would, and compresses what they like."""
    using = key()
    head = b"CLBK1" + (1).to_bytes(4, "big")
    nonce = bytes(NONCE_BYTES)
    cipher: AESGCM = using._cipher
    return head + nonce + cipher.encrypt(nonce, compressed, using._bound(head, NAME))


@pytest.mark.parametrize(
    "compressed",
    [
        zlib.compress(bytes(32 * 1024**2)),
        zlib.compress(bytes(1001)),
        zlib.compress(b"x") + b"more",
        zlib.compress(b"x" * 500)[:-5],
        b"",
        b"no zlib",
    ],
    ids=["a bomb", "one byte too many", "something behind", "cut off", "empty", "nonsense"],
)
def test_what_decompresses_to_too_much_is_given_up(compressed: bytes) -> None:
    with pytest.raises(BackupError):
        key().open(NAME, _sealed_as_is(compressed), 1000)


def test_equal_content_has_one_name_in_a_project_and_another_in_another() -> None:
    assert key().chunk_id(b"page") == key().chunk_id(b"page") != key().chunk_id(b"pagf")
    assert key(secret=bytes(32)).chunk_id(b"page") != key().chunk_id(b"page")


def test_a_closed_key_gives_no_names_of_its_own() -> None:
    using = key()
    using.close()
    assert using.chunk_id(b"page") != key().chunk_id(b"page")


def test_a_bomb_takes_no_more_memory_than_its_limit() -> None:
    bomb = _sealed_as_is(zlib.compress(bytes(64 * 1024**2)))
    tracemalloc.start()
    try:
        with pytest.raises(BackupError):
            key().open(NAME, bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2
    finally:
        tracemalloc.stop()
