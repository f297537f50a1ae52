"""Where something may be sent: what the operator wrote down, as root, on the server; looked at again at every call.

No tenant, and no call of the API, can name a target; and still none may be an address that only this host or its neighbours
reach, unless the operator said so for it: a name that somebody else controls could be pointed there later.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from typing import Annotated, Final

from msgspec import Meta

from cloister.base.addresses import is_public
from cloister.base.errors import BadRequestError, UnavailableError
from cloister.base.ipallow import normalised

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:-]{1,253}\Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
SigningSecret = Annotated[str, Meta(min_length=32, max_length=256)]
"""What the signature of each call is made with (docs/alerts.md)."""

_URL: Final = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:(?P<port>\d{1,5}))?(?P<path>/[!-~]*)?")


def target(url: str) -> tuple[str, int, str]:
    """Host, port and path. Only https, no user, no fragment. Raises BadRequestError."""
    match = _URL.fullmatch(url)
    if match is None or "#" in url or not 1 <= int(match["port"] or 443) <= 65535:
        raise BadRequestError(public=f"{url[:80]!r} is not https://HOST[:PORT]/PATH")
    return match["host"].strip("[]"), int(match["port"] or 443), match["path"] or "/"


async def resolved(host: str, port: int, *, private: bool) -> str:
    """An address of `host` that may be called; it, not the name, is what is connected to. Raises UnavailableError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"{host}: {error}", public=f"{host} has no address") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not is_allowed(address, private=private):
            hint = ", unless it is told with --private" if is_allowed(address, private=True) else ""
            raise UnavailableError(
                f"{host} is {address}", public=f"{host} is {address}, which this channel may not call{hint}"
            )
    return addresses[0]


def is_allowed(address: str, *, private: bool) -> bool:
    """Public ones; where `private` was said, those of this host and its networks, but never link-local ones, where clouds
    keep their hosts' credentials."""
    found = normalised(ipaddress.ip_address(address.partition("%")[0]))
    if found.is_link_local or found.is_multicast or found.is_unspecified or (found.version == 4 and found.is_reserved):
        return False
    return private or is_public(found)


def tls(ca_file: str) -> ssl.SSLContext:
    """Verifies host and chain, by this CA or the system's. Raises UnavailableError."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"{ca_file}: {error}", public=f"the CA file {ca_file} cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
