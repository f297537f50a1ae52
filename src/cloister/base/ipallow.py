"""IP allowlists: which addresses may knock.

An entry is one address (`192.0.2.7`, `2001:db8::1`), a range with both ends (`192.0.2.1-192.0.2.9`) or a network
(`192.0.2.0/24`; host bits are cleared). An IPv4 address inside IPv6 (`::ffff:192.0.2.7`) is the IPv4 address, in a list
and at the door. What cannot be read is refused when it is written; if it is found in a list all the same, that list
allows nobody.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

from cloister.base.errors import BadRequestError

IpAddress: TypeAlias = IPv4Address | IPv6Address

ENTRIES_MAX: Final = 1_000
# Every new connection walks the list: a thousand comparisons take 0.1 ms. Larger sets are networks.

_MAPPED: Final = ip_network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class IpRange:
    """All addresses of one family from `first` to `last`."""

    first: IpAddress
    last: IpAddress

    @classmethod
    def parse(cls, text: str) -> "IpRange":
        """Raises BadRequestError with a sentence that names the entry and what is wrong with it."""
        entry = text.strip()
        try:
            if "/" in entry:
                return cls._of_network(entry)
            if "-" in entry:
                first_text, _, last_text = entry.partition("-")
                first, last = parse_address(first_text.strip()), parse_address(last_text.strip())
            else:
                first = last = parse_address(entry)
        except ValueError:
            raise _refusal(text, "expected an IP address, a range A-B, or a network A/PREFIX") from None
        if first.version != last.version:
            raise _refusal(text, "a range needs both ends in IPv4 or both in IPv6")
        if int(first) > int(last):
            raise _refusal(text, "the range ends before it begins")
        return cls(first, last)

    @classmethod
    def _of_network(cls, entry: str) -> "IpRange":
        address, _, prefix = entry.partition("/")
        if not (prefix.isascii() and prefix.isdigit()) or "%" in address:
            raise ValueError(entry)  # ip_network would also read netmasks and hostmasks
        network = ip_network(entry, strict=False)
        first, last = network[0], network[-1]
        if network.version == 6 and first in _MAPPED and last in _MAPPED:
            return cls(normalised(first), normalised(last))
        return cls(first, last)

    def __contains__(self, address: IpAddress) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)


@dataclass(frozen=True, slots=True)
class AllowList:
    ranges: tuple[IpRange, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "AllowList":
        """At writing. Raises BadRequestError."""
        texts = list(entries)
        if len(texts) > ENTRIES_MAX:
            raise BadRequestError(public=f"an IP allowlist may have {ENTRIES_MAX} entries, not {len(texts)}")
        return cls(tuple(IpRange.parse(text) for text in texts))

    @classmethod
    def read(cls, entries: Iterable[str]) -> "AllowList":
        """At the door: a list with anything unreadable in it allows nobody."""
        try:
            return cls.parse(entries)
        except BadRequestError:
            return cls(())

    def __contains__(self, address: IpAddress) -> bool:
        return any(address in allowed for allowed in self.ranges)


def parse_address(text: str) -> IpAddress:
    """Raises ValueError. Zones (`fe80::1%eth0`) are refused: they mean something on one machine only."""
    if "%" in text:
        raise ValueError(text)
    return normalised(ip_address(text))


def normalised(address: IpAddress) -> IpAddress:
    """IPv4 inside IPv6 is IPv4."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _refusal(text: str, why: str) -> BadRequestError:
    return BadRequestError(public=f"invalid IP allowlist entry {text[:80]!r}: {why}")
