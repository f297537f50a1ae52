"""An event as rules see it: flat, with what can be derived from it, every text of a bounded length."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from cloister.trust.audit import Event

TEXT_CHARS_MAX: Final = 128
# Rules group by texts that strangers choose; names that mean something are shorter.

V4_BITS: Final = 24
V6_BITS: Final = 48
# What is usually one provider's or one office's: an address that changes inside it is nothing new.

_PROGRAM: Final = re.compile(r"\W*[^\W\d]+")
# `web-7d9f8b6c5d-x2v4q v1.8` is web: pods and versions are new with every release.

View = Mapping[str, Any]
"""Field → text, number, boolean, or a list of these."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lists = Mapping[str, Collection[Network]]
"""Name of a threat list → its networks."""


def view(event: Event, lists: Lists) -> dict[str, Any]:
    """Its own fields; `details.x` of each detail; of the actor `role` or `account`; of the application's name the `program`;
    of the address `network` and the threat lists it is `listed` on."""
    found: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name != "details" and value != "":
            found[name] = _text(value)
    for name, value in event.details.items():
        found[f"details.{name}"] = _text(value) if isinstance(value, str) else value
    program = found.get("details.application_name")
    if isinstance(program, str):
        match = _PROGRAM.match(program)
        found["program"] = match[0] if match else program
    kind, _, who = found.get("actor", "").partition(":")
    if kind == "role":
        found["role"] = who
    elif kind in ("user", "key"):
        found["account"] = f"{kind}:{who}"
    try:
        address = ipaddress.ip_address(event.address)
    except ValueError:
        return found
    address = getattr(address, "ipv4_mapped", None) or address
    bits = V4_BITS if address.version == 4 else V6_BITS
    found["network"] = str(ipaddress.ip_network((address, bits), strict=False))
    if names := [name for name, networks in lists.items() if _is_in(address, networks)]:
        found["listed"] = names
    return found


def moment(event: Event, otherwise: float) -> float:
    """When, in seconds; `otherwise` where it does not say."""
    try:
        return datetime.fromisoformat(event.at).timestamp()
    except ValueError:
        return otherwise


def weight(event: Event) -> int:
    """How many it stands for: refused calls are counted before they are written."""
    count = event.details.get("count", 1)
    return count if isinstance(count, int) and count > 0 else 1


def _text(value: str) -> str:
    """Cut, and such that a table can hold it: findings quote it."""
    return value[:TEXT_CHARS_MAX].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Collection[Network]) -> bool:
    bits = address.max_prefixlen
    # A set of networks is asked once for each length of a prefix, whatever its size.
    return any(ipaddress.ip_network((address, length), strict=False) in networks for length in range(bits, 7, -1))
