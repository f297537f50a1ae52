"""Where a URL of somebody else's may lead. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from cloister.base.ipallow import AllowList, IpAddress, normalised

HTTPS_PORT: Final = 443

_GLOBAL_UNICAST: Final = ip_network("2000::/3")
# All of IPv6 that is given out. An IPv4 address in disguise (mapped, NAT64) lies outside of it, but for the two below.

_NEVER_PUBLIC: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's platform: a public address that is each machine's own
        "192.88.99.0/24",  # 6to4 relays
        "2002::/16",  # 6to4: any IPv4 address, private ones too
        "2001::/23",  # Teredo and its kin: the same
    )
)
# What Python, or its version here, takes for global.


@dataclass(frozen=True, slots=True)
class Reach:
    """What the operator permits beyond the public internet."""

    networks: AllowList

    def permits(self, address: IpAddress, port: int) -> bool:
        """A public address, on 443 alone, so that nobody can look for open ports with our help; or one that the operator
        named, on any port."""
        address = normalised(address)
        return address in self.networks or (port == HTTPS_PORT and is_public(address))


def is_public(address: IpAddress) -> bool:
    """False for loopback, private, link-local (a cloud's metadata), multicast, shared and reserved addresses, for those that
    stand for an IPv4 address in disguise, and for what is not known to be public."""
    address = normalised(address)
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    if any(address.version == network.version and address in network for network in _NEVER_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def parse(text: str) -> IPv4Address | IPv6Address:
    """As a resolver says it. Raises ValueError."""
    if "%" in text:  # a zone: an address of this machine's own links
        raise ValueError(text)
    return ip_address(text)
