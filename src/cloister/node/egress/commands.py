"""What the relay can be asked, by the API alone, and what it tells of who went through."""

import hashlib
from typing import ClassVar

import msgspec

from cloister.base.rpc.wire import Command
from cloister.node.commands import Done


class Way(msgspec.Struct, frozen=True):
    """One rule of a project."""

    target: str
    """As `base/egress.py` writes it."""
    ca_pem: str | None = None
    """Who signs the certificate at the other end; None: the authorities of this host."""


class SetWays(Command[Done], frozen=True, kw_only=True):
    """These are the project's ways out, and no others: connections through others end. Twice is once."""

    reply: ClassVar[type] = Done
    project_id: str
    uid: int
    """Of its computes: nobody else gets through."""
    ways: tuple[Way, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.msgpack.encode((self.project_id, self.uid, self.ways))).hexdigest()


class Standing(msgspec.Struct, frozen=True):
    digests: dict[str, str]
    """Project → digest of the SetWays that holds. After a start of the relay there is none."""


class KeepOnly(Command[Standing], frozen=True):
    """Every other project's ways out are closed."""

    reply: ClassVar[type] = Standing
    project_ids: tuple[str, ...]


AnyEgressCommand = SetWays | KeepOnly


class PassageOpened(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Sent before the first byte of the compute goes out."""

    project_id: str
    target: str
    host: str
    address: str


class PassageClosed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    project_id: str
    target: str
    host: str
    address: str
    bytes_out: int
    bytes_in: int


class PassageRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    project_id: str
    target: str
    host: str
    reason: str


AnyEgressEvent = PassageOpened | PassageClosed | PassageRefused
