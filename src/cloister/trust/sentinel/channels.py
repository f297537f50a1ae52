"""Where alerts go: what the operator wrote down, in a file that only the sentinel's user reads.

The file is written by `cloister alerts channels` as root, on the server. No tenant, and no call of the API, can name a
target; and still no target may be an address that only this host or its neighbours reach, unless the operator said so for
that channel: a name that somebody else controls could be pointed there later.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cloister.base.errors import BadRequestError, UnavailableError
from cloister.trust.sentinel.rules import Level

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:-]{1,253}\Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
MailAddress = Annotated[str, Meta(pattern=r"^[!-?A-~]+@[A-Za-z0-9.-]{1,253}\Z", max_length=254)]

_URL: Final = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:(?P<port>\d{1,5}))?(?P<path>/[!-~]*)?")


class Webhook(msgspec.Struct, frozen=True, tag="webhook", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    name: Name
    url: str
    secret: Annotated[str, Meta(min_length=32, max_length=256)]
    """What the signature of each call is made with (docs/alerts.md)."""
    level: Level = Level.LOW
    """The least that is told here."""
    ca_file: str = ""
    private: bool = False


class Mail(msgspec.Struct, frozen=True, tag="mail", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    name: Name
    host: Host
    port: Port = 587
    tls: Literal["starttls", "implicit"] = "starttls"
    sender: MailAddress
    to: Annotated[list[MailAddress], Meta(min_length=1, max_length=20)]
    username: str = ""
    password: str = ""
    level: Level = Level.MEDIUM
    ca_file: str = ""
    private: bool = False


class Syslog(msgspec.Struct, frozen=True, tag="syslog", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """RFC 5424 over TLS (RFC 5425)."""

    name: Name
    host: Host
    port: Port = 6514
    level: Level = Level.LOW
    ca_file: str = ""
    private: bool = False


class Heartbeat(
    msgspec.Struct, frozen=True, tag="heartbeat", tag_field="type", forbid_unknown_fields=True, kw_only=True
):
    """A dead man's switch: an address elsewhere that is called while all is well, and whose owner raises the alarm when it
    is not."""

    name: Name
    url: str
    every_s: Annotated[int, Meta(ge=10, le=86_400)] = 60
    ca_file: str = ""
    private: bool = False


Channel = Webhook | Mail | Syslog | Heartbeat


def read(path: Path) -> list[Channel]:
    """What is there; none if there is no file. Raises BadRequestError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Channel])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise BadRequestError(f"{path}: {error}", public=f"the channels of alerts cannot be read: {error}") from error


def checked(channels: Sequence[Channel]) -> list[Channel]:
    """Raises BadRequestError with what a person can act on."""
    try:
        found = msgspec.json.decode(msgspec.json.encode(channels), type=list[Channel])
    except msgspec.ValidationError as error:
        raise BadRequestError(public=f"this channel cannot be: {error}") from error
    names = [channel.name for channel in found]
    if len(set(names)) != len(names):
        raise BadRequestError(public=f"there is a channel {names[-1]} already")
    for channel in found:
        if isinstance(channel, Webhook | Heartbeat):
            target(channel.url)
    return found


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
            raise UnavailableError(
                f"{host} is {address}", public=f"{host} is {address}, which this channel may not call"
            )
    return addresses[0]


def is_allowed(address: str, *, private: bool) -> bool:
    """Public ones; where `private` was said, those of this host and its networks, but never link-local ones, where clouds
    keep their hosts' credentials."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_link_local or found.is_multicast or found.is_unspecified or (found.version == 4 and found.is_reserved):
        return False
    return private or found.is_global


def tls(ca_file: str) -> ssl.SSLContext:
    """Verifies host and chain, by this CA or the system's. Raises UnavailableError."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"{ca_file}: {error}", public=f"the CA file {ca_file} cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
