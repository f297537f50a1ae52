"""Ways out of a compute: where one may lead, and where none ever does. Pure; `node/egress/` opens and walks them.

A compute has no network. A project may be given doors, each to one address or name and one port. What can be named is
parsed here; what it turns out to be when somebody goes through is held against `base/addresses.py` there, at every passage, for
a name that leads to a public address today may lead into the operator's network tomorrow.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, TypeAlias

from cloister.base.addresses import special
from cloister.base.errors import BadRequestError
from cloister.base.ipallow import IpAddress

IpNetwork: TypeAlias = IPv4Network | IPv6Network

NAME_BYTES_MAX: Final = 80
# A door's path inside, `/egress/NAME/.s.PGSQL.PORT`, must fit the 108 bytes that a socket's address has.

ADDRESSES_MAX: Final = 256
# Every address of a network has a door of its own, which is a listening socket. An IPv4 /24 has as many.

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")
_LOOKS_LIKE_ADDRESS: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
# The C library takes `127.1`, `2130706433` and `0x7f.1` for addresses.
_PREFIXED: Final = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a way out leads: a host name, or every address of a network; and one port."""

    host: str | IpNetwork
    port: int

    @classmethod
    def parse(cls, text: str) -> "Target":
        """`203.0.113.7:5432`, `203.0.113.0/24:5432`, `[2001:db8::7]:5432`, `[2001:db8::/120]:5432` or
        `db.example.com:5432`. Raises BadRequestError with a sentence that says what is wrong."""
        host, colon, port = text.strip().rpartition(":")
        if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5) or not 1 <= int(port) <= 65535:
            raise _refusal(text, "expected HOST:PORT, with HOST an address, a network like 203.0.113.0/24, or a name")
        is_bracketed = host.startswith("[") and host.endswith("]")
        inner = host[1:-1] if is_bracketed else host
        if ":" in inner and not is_bracketed:
            raise _refusal(text, "an IPv6 address is written in brackets: [2001:db8::7]:5432")
        return cls(_network(text, inner) if is_bracketed or _is_numeric(inner) else _name(text, inner), int(port))

    def __str__(self) -> str:
        if isinstance(self.host, str):
            return f"{self.host}:{self.port}"
        text = str(self.host.network_address) if self.host.num_addresses == 1 else str(self.host)
        return f"[{text}]:{self.port}" if self.host.version == 6 else f"{text}:{self.port}"

    @property
    def hosts(self) -> list[str]:
        """What clients in the compute may write for HOST in `host=/egress/HOST`."""
        return [self.host] if isinstance(self.host, str) else [str(address) for address in self.host]


def reason_against(address: IpAddress, allowed: Sequence[IpNetwork]) -> str | None:
    """What is at an address that nobody may be led to, unless the operator allows it (`Settings.egress_allow`); None where
    nothing is against it."""
    return None if _is_in(address, allowed) else special(address)


def is_allowed(address: IpAddress, allowed: Sequence[IpNetwork]) -> bool:
    """Whether the operator has allowed it, whatever it is."""
    return _is_in(address, allowed)


def parse_allowed(texts: Sequence[str]) -> tuple[IpNetwork, ...]:
    """The operator's exceptions. Raises BadRequestError."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError:
            raise BadRequestError(
                f"bad network {text!r}", public=f"{text!r} is not a network like 10.1.0.0/16 (host bits must be 0)"
            ) from None
    return tuple(networks)


def _is_in(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def _is_numeric(host: str) -> bool:
    return _LOOKS_LIKE_ADDRESS.fullmatch(host.partition("/")[0]) is not None


def _network(text: str, host: str) -> IpNetwork:
    # More than ip_network takes is refused here: netmasks, scopes.
    network = None
    if _PREFIXED.fullmatch(host):
        with contextlib.suppress(ValueError):
            network = ip_network(host)
    if network is None:
        raise _refusal(text, "expected an address or a network, whose bits after the prefix are 0")
    if network.num_addresses > ADDRESSES_MAX:
        raise _refusal(text, f"a network of at most {ADDRESSES_MAX} addresses can be allowed (IPv4 /24, IPv6 /120)")
    return network


def _name(text: str, host: str) -> str:
    name = host.lower().removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > NAME_BYTES_MAX:
        raise _refusal(text, f"a name has letters, digits, - and at least one dot, and up to {NAME_BYTES_MAX} bytes")
    return name


def _refusal(text: str, why: str) -> BadRequestError:
    return BadRequestError(f"bad egress target {text!r}: {why}", public=f"{text[:120]!r}: {why}")
