"""Where alerts go: what the operator wrote down, in a file that only the sentinel's user reads.

The file is written by `cloister alerts channels` as root, on the server. Which addresses a channel may lead to is
`trust/sending/targets.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cloister.base.errors import BadRequestError
from cloister.trust.sending.targets import Host, Name, Port, SigningSecret, target
from cloister.trust.sentinel.rules import Level

MailAddress = Annotated[str, Meta(pattern=r"^[!-?A-~]+@[A-Za-z0-9.-]{1,253}\Z", max_length=254)]


def is_mail_address(text: str) -> bool:
    try:
        msgspec.convert(text, MailAddress)
    except msgspec.ValidationError:
        return False
    return True


class Webhook(msgspec.Struct, frozen=True, tag="webhook", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    name: Name
    url: str
    secret: SigningSecret
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
    people: bool = False
    """Whoever a finding is about is told as well, whatever its level."""
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
