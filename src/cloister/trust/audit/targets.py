"""Who is sent the audit log: a file that root writes and only the sentinel's user reads, for it holds secrets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloister.base.errors import BadRequestError
from cloister.trust.sending.s3 import Address, Bucket
from cloister.trust.sending.sigv4 import Credentials
from cloister.trust.sending.targets import Host, Name, Port, SigningSecret
from cloister.trust.sending.targets import target as parsed

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]
HeaderValue = Annotated[str, Meta(pattern=r"^[!-~]([ -~]{0,4094}[!-~])?\Z")]
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


class Otlp(msgspec.Struct, frozen=True, tag="otlp", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """OpenTelemetry's logs, as JSON over HTTP."""

    name: Name
    after: After
    url: str
    headers: dict[HeaderName, HeaderValue] = {}
    """Who we are, to the collector."""
    ca_file: str = ""
    private: bool = False

    @property
    def place(self) -> str:
        return self.url


class _Bucket(Address, frozen=True, kw_only=True):
    name: Name
    key_id: Annotated[str, Meta(min_length=1, max_length=128)]
    secret_key: Annotated[str, Meta(min_length=1, max_length=256)]

    @property
    def store(self) -> Bucket:
        credentials = Credentials(self.key_id, self.secret_key, self.region)
        return Bucket(self.url, credentials, ca_file=self.ca_file, private=self.private)


class S3(_Bucket, frozen=True, tag="s3", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """Events as objects, a line each, under `events/`."""

    after: After
    retain_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """That nobody can delete them; 0: whoever may delete there can."""


class Witness(_Bucket, frozen=True, tag="witness", tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """Checkpoints of the log as objects that nobody can delete, under `checkpoints/`."""

    after: Annotated[int, Meta(ge=0, le=0)] = 0
    retain_days: Annotated[int, Meta(ge=1, le=36_500)] = 400
    every_s: Annotated[int, Meta(ge=5, le=86_400)] = 300


Target = Webhook | Syslog | Otlp | S3 | Witness


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
        match each:
            case Webhook() | Otlp() | S3() | Witness():
                parsed(each.url)
            case Syslog():
                pass
    return found
