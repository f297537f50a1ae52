"""Addresses to which no word of a stranger may lead us: what a name resolves to, what a URL or a rule names. Pure.

One table for every way out: a compute's doors (`base/egress.py`), the URLs of members (`trust/fetching/`), where the operator has
alerts and events sent (`trust/sending/`). What each permits beyond it is its own to say.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from cloister.base.ipallow import IpAddress, normalised


@dataclass(frozen=True, slots=True)
class Special:
    network: IPv4Network | IPv6Network
    what: str
    """In the words that a tenant reads."""


def _table(*rows: tuple[str, str]) -> tuple[Special, ...]:
    return tuple(Special(ip_network(network), what) for network, what in rows)


SPECIAL: Final = _table(
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "a private network"),
    ("100.64.0.0/10", "a provider's network"),
    ("127.0.0.0/8", "the server itself"),
    ("168.63.129.0/24", "a cloud's own service, on each of its machines"),
    ("169.254.0.0/16", "a link-local network, where a cloud's metadata is"),
    ("172.16.0.0/12", "a private network"),
    ("192.0.0.0/24", "a protocol's own addresses"),
    ("192.88.99.0/24", "a relay to another network"),
    ("192.168.0.0/16", "a private network"),
    ("198.18.0.0/15", "a test network"),
    ("224.0.0.0/4", "a multicast group"),
    ("240.0.0.0/4", "reserved addresses"),
    # Every IPv6 address that holds an IPv4 one can lead to it.
    ("::/96", "an IPv4 address in disguise, or the server itself"),
    ("::ffff:0:0/96", "an IPv4 address in disguise"),
    ("::ffff:0:0:0/96", "an IPv4 address in disguise"),
    ("64:ff9b::/96", "a relay to another network"),
    ("64:ff9b:1::/48", "a relay to another network"),
    ("100::/64", "addresses that lead nowhere"),
    ("2001::/23", "a relay to another network"),
    ("2002::/16", "a relay to another network"),
    ("fc00::/7", "a private network"),
    ("fe80::/10", "a link-local network"),
    ("fec0::/10", "a private network"),
    ("ff00::/8", "a multicast group"),
    # All that is given out of IPv6 is 2000::/3.
    ("::/3", "reserved addresses"),
    ("4000::/2", "reserved addresses"),
    ("8000::/1", "reserved addresses"),
)
"""The first that fits says what it is."""


def special(address: IpAddress) -> str | None:
    """What is there, if it is nothing public."""
    for row in SPECIAL:
        if row.network.version == address.version and address in row.network:
            return row.what
    return None


def is_public(address: IpAddress) -> bool:
    """An address of the internet: the table has nothing against it, and neither has Python's own, which knows networks
    of documents besides."""
    address = normalised(address)
    return special(address) is None and address.is_global
