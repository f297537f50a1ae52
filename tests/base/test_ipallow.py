"""The allowlist's grammar, against the standard library as an oracle."""

import contextlib
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import BadRequestError
from cloister.base.ipallow import ENTRIES_MAX, AllowList, IpRange, normalised, parse_address


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        (" 192.0.2.7 ", "192.0.2.7", "192.0.2.6"),
        ("2001:db8::1", "2001:DB8:0::1", "2001:db8::2"),
        ("192.0.2.1-192.0.2.9", "192.0.2.9", "192.0.2.10"),
        ("192.0.2.1 - 192.0.2.9", "192.0.2.1", "192.0.2.0"),
        ("192.0.2.9-192.0.2.9", "192.0.2.9", "192.0.2.8"),
        ("2001:db8::-2001:db8::ff", "2001:db8::ff", "2001:db8::100"),
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("192.0.2.77/24", "192.0.2.0", "192.0.1.255"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "ffff::1", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.8"),
        ("::ffff:192.0.2.0/120", "192.0.2.200", "192.0.3.1"),
        ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
        ("::ffff:192.0.2.1-::ffff:192.0.2.4", "192.0.2.3", "192.0.2.5"),
    ],
)
def test_what_an_entry_allows(entry: str, inside: str, outside: str) -> None:
    allowed = IpRange.parse(entry)
    assert parse_address(inside) in allowed
    assert parse_address(outside) not in allowed


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "-", "/", "1.2.3", "300.1.1.1", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/", "/24", "::/129",
        "1.2.3.4/255.255.255.0", "1.2.3.9-1.2.3.1", "::-1.2.3.4", "1.2.3.4-::1", "1.2.3.4-", "-1.2.3.4",
        "1.2.3.4-1.2.3.9-1.2.3.12", "1.2.3.4/24-1.2.3.9", "example.com", "01.2.3.4", "fe80::1%eth0", "fe80::%1/64",
        "1.2.3.4,1.2.3.5", "*", "1.2.3.4\n5.6.7.8", "１.2.3.4", "1.2.3.4/２4", "0x7f.1", "2130706433",
    ],
)  # fmt: skip
def test_what_is_refused_at_writing(entry: str) -> None:
    with pytest.raises(BadRequestError, match="IP allowlist entry"):
        AllowList.parse(["192.0.2.1", entry])


def test_the_refusal_names_the_entry() -> None:
    with pytest.raises(BadRequestError) as raised:
        IpRange.parse("1.2.3.9-1.2.3.1")
    assert raised.value.public == "invalid IP allowlist entry '1.2.3.9-1.2.3.1': the range ends before it begins"


def test_an_unreadable_entry_closes_the_door() -> None:
    assert ip_address("192.0.2.1") not in AllowList.read(["192.0.2.1", "1.2.3.4/33"])
    assert ip_address("192.0.2.1") in AllowList.read(["192.0.2.1"])


def test_an_empty_list_allows_nobody() -> None:
    assert ip_address("192.0.2.1") not in AllowList.read([])


def test_a_list_has_a_limit() -> None:
    AllowList.parse(["192.0.2.1"] * ENTRIES_MAX)
    with pytest.raises(BadRequestError):
        AllowList.parse(["192.0.2.1"] * (ENTRIES_MAX + 1))


addresses = st.ip_addresses()


@settings(max_examples=150)
@given(address=addresses, knocking=addresses, prefix=st.integers(0, 128))
def test_a_network_is_what_the_standard_library_says(address: object, knocking: object, prefix: int) -> None:
    base = normalised(ip_address(str(address)))
    bits = prefix % (base.max_prefixlen + 1)
    network = ip_network(f"{base}/{bits}", strict=False)
    door = normalised(ip_address(str(knocking)))
    if network.version == 6 and network.overlaps(ip_network("::ffff:0:0/96")):
        return  # the library knows nothing of mapped addresses
    assert (door in IpRange.parse(f"{base}/{bits}")) == (door in network)


@settings(max_examples=150)
@given(ends=st.tuples(addresses, addresses), knocking=addresses)
def test_a_range_is_its_ends_and_what_lies_between(ends: tuple[object, object], knocking: object) -> None:
    first, last, door = (normalised(ip_address(str(one))) for one in (*ends, knocking))
    if first.version != last.version or int(first) > int(last):
        with pytest.raises(BadRequestError):
            IpRange.parse(f"{first}-{last}")
        return
    allowed = IpRange.parse(f"{first}-{last}")
    assert first in allowed
    assert last in allowed
    assert (door in allowed) == (door.version == first.version and int(first) <= int(door) <= int(last))


@settings(max_examples=150)
@given(text=st.text(max_size=40))
def test_garbage_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequestError):
        IpRange.parse(text)
