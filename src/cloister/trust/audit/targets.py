"""Who is sent the audit log: a file that root writes and only the sentinel's user reads, for it holds secrets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloister.base.errors import BadRequestError
from cloister.trust.sending.targets import Host, Name, Port, SigningSecret
from cloister.trust.sending.targets import target as parsed

After = Annotated[int, Meta(ge=0)]
"""The target gets the events after this one."""


class Webhook(msgspec.Struct, frozen=True, tag="webhook", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    name: Name
    after: After
    url: str
    secret: SigningSecret
    ca_file: str = ""
    private: bool = False

    @property
    def place(self) -> str:
        return self.url


class Syslog(msgspec.Struct, frozen=True, tag="syslog", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """RFC 5424 over TLS (RFC 5425)."""

    name: Name
    after: After
    host: Host
    port: Port = 6514
    ca_file: str = ""
    private: bool = False

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


Target = Webhook | Syslog


def read(path: Path) -> list[Target]:
    """What is there; none if there is no file. Raises BadRequestError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Target])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise BadRequestError(
            f"{path}: {error}", public=f"the targets of the audit log cannot be read: {error}"
        ) from error


def checked(targets: Sequence[Target]) -> list[Target]:
    """Raises BadRequestError with what a person can act on."""
    try:
        found = msgspec.json.decode(msgspec.json.encode(targets), type=list[Target])
    except msgspec.ValidationError as error:
        raise BadRequestError(public=f"this target cannot be: {error}") from error
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        raise BadRequestError(public=f"there is a target {names[-1]} already")
    for each in found:
        if isinstance(each, Webhook):
            parsed(each.url)
    return found
