"""What objects are called, and what a store's listing is read as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.backups import keys
from cloister.protocol.backups.keys import WalName

PROJECT, TIMELINE = "calm-forest-12345678", "0123456789abcdef" * 2
FIRST, LAST = "000000010000000000000005", "000000010000000000000007"
BASE = f"projects/{PROJECT}/{TIMELINE}/bases/00000000015E9A30"


@pytest.mark.parametrize("name", [WalName(FIRST, LAST), WalName(FIRST, FIRST), WalName(FIRST, FIRST, 8192)])
def test_a_name_of_wal_is_read_back(name: WalName) -> None:
    key = keys.wal_object(PROJECT, TIMELINE, name)
    assert keys.wal_name(key, PROJECT, TIMELINE) == name
    assert keys.KEY.fullmatch(key)


def test_a_name_of_a_base_is_read_back() -> None:
    assert keys.base(PROJECT, TIMELINE, "00000000015E9A30") == BASE
    assert keys.base_name(BASE, PROJECT, TIMELINE) == "00000000015E9A30"


def test_wal_is_listed_in_its_order() -> None:
    """A listing that begins behind a segment's name has every object that begins with it or later."""
    prefix = keys.wal(PROJECT, TIMELINE)
    for name in (WalName(FIRST, LAST), WalName(FIRST, FIRST, 1)):
        assert keys.wal_object(PROJECT, TIMELINE, name) > prefix + FIRST


@pytest.mark.parametrize(
    "key",
    [
        BASE.replace(PROJECT, "calm-forest-12345679"),
        BASE.replace(TIMELINE, "f" * 32),
        BASE + "0",
        BASE.lower(),
        BASE + "\n",
        f"projects/{PROJECT}/{TIMELINE}/bases/../../x",
        "",
    ],
)
def test_what_is_no_base_of_this_timeline_is_none(key: str) -> None:
    assert keys.base_name(key, PROJECT, TIMELINE) is None


@given(st.text())
def test_any_other_key_is_none(key: str) -> None:
    assert keys.base_name(key, PROJECT, TIMELINE) is None
    assert keys.wal_name(key, PROJECT, TIMELINE) is None


@pytest.mark.parametrize("text", ["ab" * 32, "AB" * 32, "ab" * 31, "../" * 21 + "a", "ab" * 32 + "\n"])
def test_an_id_of_a_chunk_is_64_digits(text: str) -> None:
    assert keys.is_chunk_id(text) is (text == "ab" * 32)


def test_a_name_of_a_dump_is_read_back() -> None:
    key = keys.dump("00065A3B9C000000")
    assert keys.dump_name(key) == "00065A3B9C000000"
    assert keys.KEY.fullmatch(key)
    assert keys.KEY.fullmatch(keys.platform_key(2**31 - 1))
    assert keys.KEY.fullmatch(keys.chunk(keys.PLATFORM, "ab" * 32))
    for other in (key + "0", key.lower(), key + "\n", "projects/" + key, BASE):
        assert keys.dump_name(other) is None


def test_what_is_the_platforms_is_below_no_project() -> None:
    assert keys.chunk(keys.PLATFORM, "ab" * 32).startswith("platform/chunks/ab/")
    assert keys.chunk(PROJECT, "ab" * 32).startswith(f"projects/{PROJECT}/chunks/ab/")
