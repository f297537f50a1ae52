"""Who counts together, and how many may be half open at once. Pure."""

from collections import OrderedDict
from ipaddress import IPv4Address
from typing import Final, Generic, TypeVar

from cloister.base.ipallow import IpAddress

V4_NETWORK_BITS: Final = 24
V6_NETWORK_BITS: Final = 64
# What one customer of a provider usually has: limits on single IPv6 addresses would limit nobody.

Network = tuple[int, int]

T = TypeVar("T")


def network_of(address: IpAddress) -> Network:
    """The /24 or /64 of an address: what limits count by."""
    bits = V4_NETWORK_BITS if isinstance(address, IPv4Address) else V6_NETWORK_BITS
    return (address.version, int(address) >> (address.max_prefixlen - bits))


class HalfOpen(Generic[T]):
    """Connections that have not proved who they are, oldest first. `add` answers with the one that must go for it."""

    def __init__(self, *, total_max: int, per_network_max: int) -> None:
        self._total_max = total_max
        self._per_network_max = per_network_max
        self._by_network: dict[Network, OrderedDict[T, None]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, connection: T, network: Network) -> T | None:
        group = self._by_network.setdefault(network, OrderedDict())
        group[connection] = None
        self._total += 1
        if len(group) > self._per_network_max:
            return self._oldest(network)
        if self._total > self._total_max:
            # The largest network pays: a flood crowds out itself before it crowds out others.
            return self._oldest(max(self._by_network, key=lambda each: len(self._by_network[each])))
        return None

    def remove(self, connection: T, network: Network) -> None:
        """Proved, or gone. Twice is once."""
        group = self._by_network.get(network)
        if group is None or connection not in group:
            return
        del group[connection]
        self._total -= 1
        if not group:
            del self._by_network[network]

    def _oldest(self, network: Network) -> T:
        oldest = next(iter(self._by_network[network]))
        self.remove(oldest, network)
        return oldest
