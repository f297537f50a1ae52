"""Where a way out may lead: what can be written, and what is forbidden whatever is written."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.addresses import SPECIAL
from cloister.base.egress import ADDRESSES_MAX, NAME_BYTES_MAX, Target, parse_allowed, reason_against
from cloister.base.errors import BadRequestError


@pytest.mark.parametrize(
    ("text", "written", "hosts"),
    [
        ("203.0.113.7:5432", "203.0.113.7:5432", ["203.0.113.7"]),
        ("203.0.113.8/30:6432", "203.0.113.8/30:6432", [f"203.0.113.{n}" for n in range(8, 12)]),
        ("203.0.113.7/32:5432", "203.0.113.7:5432", ["203.0.113.7"]),
        ("[2001:DB8::7]:5432", "[2001:db8::7]:5432", ["2001:db8::7"]),
        ("[2001:db8::6/127]:5432", "[2001:db8::6/127]:5432", ["2001:db8::6", "2001:db8::7"]),
        ("DB.Example.com.:5432", "db.example.com:5432", ["db.example.com"]),
        (" db-1.example.com:1 ", "db-1.example.com:1", ["db-1.example.com"]),
    ],
)
def test_a_target_is_read_and_written_in_one_form(text: str, written: str, hosts: list[str]) -> None:
    target = Target.parse(text)
    assert str(target) == written
    assert target.hosts == hosts
    assert Target.parse(written) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", ":5432", "db.example.com", "db.example.com:", "db.example.com:0", "db.example.com:65536"),
        *("db.example.com:5432:", "db.example.com:5_4", "db.example.com:٥٤٣٢", "db.example.com:-1"),
        *("localhost:5432", "db:5432", ".example.com:5432", "db..com:5432", "-a.com:5432", "a-.com:5432"),
        *("../../etc.x:1", "a/b.com:1", "db.example.com/24:1", "db.example.com\0:1", "db.exa mple.com:1", "dbé.com:1"),
        # The C library would take these for addresses.
        *("127.1:5432", "2130706433:5432", "0x7f.1:5432", "0177.0.0.1:5432", "1.2.3.4.5:1"),
        *("203.0.113.7/24:5432", "203.0.113.0/255.255.255.0:5432", "203.0.113.0/24/8:1", "203.0.112.0/23:1"),
        *("0.0.0.0/0:5432", "[::/0]:5432", "[2001:db8::/119]:5432", "2001:db8::7:5432", "[fe80::1%eth0]:5432"),
        *("[203.0.113.7:5432", "203.0.113.7]:5432", "[db.example.com]:5432", f"{'a.' * 41}com:5432"),
    ],
)
def test_what_is_no_target_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        Target.parse(text)
    assert len(refused.value.public) > 20


@given(st.text(max_size=130))
def test_whatever_is_read_stays_below_one_directory_and_within_a_sockets_address(text: str) -> None:
    try:
        target = Target.parse(text)
    except BadRequestError:
        return
    assert 1 <= len(target.hosts) <= ADDRESSES_MAX
    for host in target.hosts:
        assert "/" not in host
        assert host not in (".", "..")
        assert len(f"/egress/{host}/.s.PGSQL.{target.port}") < 108
    assert Target.parse(str(target)) == target


def test_the_longest_name_fits_a_sockets_address() -> None:
    assert len(f"/egress/{'a' * NAME_BYTES_MAX}/.s.PGSQL.65535") < 108


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_is_not_global_is_forbidden(address: IPv4Address | IPv6Address) -> None:
    """Python's own table of special addresses is the other opinion; ours knows no documentation networks."""
    is_documentation = any(
        address in ip_network(text)
        for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
    )
    if not address.is_global and not is_documentation and not _is_reserved_unallocated(address):
        assert reason_against(address, ()) is not None, address


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.100.100.200"),
        *("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.192"),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1"),
        # IPv4 in IPv6's clothes: mapped, translated, compatible, NAT64, 6to4, Teredo.
        *("::ffff:127.0.0.1", "::ffff:0:10.0.0.1", "::10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:a::"),
    ],
)
def test_private_metadata_and_disguised_addresses_are_forbidden(text: str) -> None:
    assert reason_against(ip_address(text), ())


def test_public_addresses_are_not_forbidden() -> None:
    for text in ("1.1.1.1", "203.0.113.7", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111"):
        assert reason_against(ip_address(text), ()) is None


def test_the_operator_allows_a_range_and_nothing_beside_it() -> None:
    allowed = parse_allowed(["10.1.0.0/16"])
    assert reason_against(ip_address("10.1.2.3"), allowed) is None
    assert reason_against(ip_address("10.2.0.1"), allowed)
    assert reason_against(ip_address("::ffff:10.1.2.3"), allowed)
    for text in ("10.1.2.3/16", "private", "10.0.0.0/33"):
        with pytest.raises(BadRequestError):
            parse_allowed([text])


def test_no_target_can_lie_half_in_a_forbidden_range() -> None:
    """The service looks at both ends of a network only: each range is a whole number of the largest targets."""
    assert all(row.network.num_addresses >= ADDRESSES_MAX for row in SPECIAL)


def _is_reserved_unallocated(address: IPv4Address | IPv6Address) -> bool:
    """IPv6 space that nobody has been given is not global to Python; nothing can be there."""
    return address.version == 6 and (address.is_reserved or address in ip_network("2001::/23"))
