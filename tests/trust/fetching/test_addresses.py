"""Where a URL of somebody else's may lead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.addresses import is_public
from cloister.base.ipallow import AllowList
from cloister.trust.fetching.addresses import Reach, parse

NOT_PUBLIC = (
    "127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.100.100.200"
    " 169.254.169.254 169.254.0.1 192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255"
    " 240.0.0.1 255.255.255.255 168.63.129.16 192.88.99.1"
    " :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1"
    " 2002:7f00:1:: 2002:a00:1:: 2001::1 2001:db8::1 100::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 4000::1"
).split()
PUBLIC = "1.1.1.1 8.8.8.8 93.184.216.34 172.15.255.255 172.32.0.1 2606:4700:4700::1111 2a00:1450:4001:830::200e".split()

ANYWHERE = Reach(AllowList(()))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_public(text: str) -> None:
    assert not is_public(parse(text))
    assert not ANYWHERE.permits(parse(text), 443)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address(text: str) -> None:
    assert ANYWHERE.permits(parse(text), 443)
    assert not ANYWHERE.permits(parse(text), 22), "no looking for open ports"


def test_what_the_operator_names_is_permitted_on_any_port() -> None:
    reach = Reach(AllowList.parse(["10.1.0.0/16", "::1"]))
    assert reach.permits(parse("10.1.2.3"), 8443)
    assert reach.permits(parse("::ffff:10.1.2.3"), 8443)
    assert reach.permits(parse("::1"), 443)
    assert not reach.permits(parse("10.2.0.1"), 443)
    assert not reach.permits(parse("127.0.0.1"), 443)


def test_an_address_of_one_link_is_none() -> None:
    with pytest.raises(ValueError, match="eth0"):
        parse("fe80::1%eth0")


@given(st.ip_addresses(v=4))
def test_an_address_in_disguise_is_no_more_public_than_without(address: object) -> None:
    for disguise in (f"::ffff:{address}", f"64:ff9b::{address}", f"::{address}"):
        assert not is_public(parse(disguise)) or is_public(parse(str(address)))
