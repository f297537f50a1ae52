"""Networks and half-open connections."""

from ipaddress import ip_address

import pytest

from cloister.edge.gateway.admission import HalfOpen, network_of


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("0.0.0.1", "::1", False),
    ],
)
def test_networks(one: str, other: str, is_same: bool) -> None:
    assert (network_of(ip_address(one)) == network_of(ip_address(other))) == is_same


def test_at_its_limit_a_network_loses_its_oldest() -> None:
    half_open: HalfOpen[str] = HalfOpen(total_max=100, per_network_max=2)
    assert half_open.add("first", (4, 1)) is None
    assert half_open.add("second", (4, 1)) is None
    assert half_open.add("elsewhere", (4, 2)) is None
    assert half_open.add("third", (4, 1)) == "first"
    assert len(half_open) == 3


def test_in_a_flood_the_largest_network_pays() -> None:
    half_open: HalfOpen[str] = HalfOpen(total_max=3, per_network_max=100)
    half_open.add("lonely", (4, 9))
    half_open.add("flood 1", (4, 1))
    half_open.add("flood 2", (4, 1))
    assert half_open.add("another", (4, 8)) == "flood 1"


def test_leaving_twice_is_leaving_once() -> None:
    half_open: HalfOpen[str] = HalfOpen(total_max=3, per_network_max=3)
    half_open.add("a", (4, 1))
    half_open.remove("a", (4, 1))
    half_open.remove("a", (4, 1))
    assert len(half_open) == 0
