"""Where a URL of somebody else's may lead. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cloister.base.addresses import is_public
from cloister.base.ipallow import AllowList, IpAddress, normalised

HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True)
class Reach:
    """What the operator permits beyond the public internet."""

    networks: AllowList

    def permits(self, address: IpAddress, port: int) -> bool:
        """A public address, on 443 alone, so that nobody can look for open ports with our help; or one that the operator
        named, on any port."""
        address = normalised(address)
        return address in self.networks or (port == HTTPS_PORT and is_public(address))


def parse(text: str) -> IpAddress:
    """As a resolver says it. Raises ValueError."""
    if "%" in text:  # a zone: an address of this machine's own links
        raise ValueError(text)
    return ip_address(text)
