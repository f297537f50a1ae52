"""The PROXY protocol, version 2: how a load balancer tells whose connection it passes on.

Whoever may send a header may claim any address, so the rim reads one only from configured addresses, and there it must
be the first thing. Nothing in it but the source address is used.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = struct.Struct(">12sBBH")

HEADER_BYTES_MAX: Final = 16 + 2_048
# Addresses take 36 bytes (216 for Unix sockets); the rest are TLVs. Known balancers stay below 600.


class ProxyHeaderError(Exception):
    """No header, or none that can be read."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    address: IPv4Address | IPv6Address | None
    """None for LOCAL: the balancer speaks for itself (a health check)."""


def take_proxy_header(buffer: bytearray) -> ProxyHeader | None:
    """Remove the header from the head of the buffer; None while it is incomplete. Raises ProxyHeaderError."""
    if not SIGNATURE.startswith(bytes(buffer[:12])):
        raise ProxyHeaderError("no PROXY protocol v2 header where one is required")
    if len(buffer) < _FIXED.size:
        return None
    _signature, version_command, family, length = _FIXED.unpack_from(buffer)
    if _FIXED.size + length > HEADER_BYTES_MAX:
        raise ProxyHeaderError("PROXY protocol header too long")
    if len(buffer) < _FIXED.size + length:
        return None
    body = bytes(buffer[_FIXED.size : _FIXED.size + length])
    del buffer[: _FIXED.size + length]
    match version_command:
        case 0x20:
            return ProxyHeader(None)
        case 0x21:
            return ProxyHeader(_source(family, body))
        case _:
            raise ProxyHeaderError("unknown PROXY protocol version or command")


def _source(family: int, body: bytes) -> IPv4Address | IPv6Address:
    # Only TCP: the balancer passes on connections to us, which are nothing else.
    if family == 0x11 and len(body) >= 12:
        return IPv4Address(body[:4])
    if family == 0x21 and len(body) >= 36:
        address = IPv6Address(body[:16])
        return address.ipv4_mapped or address
    raise ProxyHeaderError("a PROXY protocol address that is not TCP over IPv4 or IPv6")
