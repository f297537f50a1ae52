"""Frames and messages of the internal protocol. Pure: bytes in, messages out."""

import struct
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from cloister.base.errors import CloisterError, Kind, from_kind
from cloister.base.limits import RPC_FRAME_BYTES_MAX

R = TypeVar("R")

LENGTH: Final = struct.Struct(">I")


class Command(msgspec.Struct, Generic[R], frozen=True, kw_only=True, tag=True):
    """A question with a typed answer. Subclasses are concrete: `class Ping(Command[Pong]): reply = Pong`."""

    reply: ClassVar[Any] = None
    """The type of the answer, for decoding: the same as the type argument."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    id: int
    """Chosen by the client, unique among its open calls. 0 asks for no answer."""
    body: msgspec.Raw


class Failure(msgspec.Struct, array_like=True, frozen=True):
    kind: Kind
    detail: str
    public: str
    code: str = ""

    @classmethod
    def of(cls, error: CloisterError) -> "Failure":
        return cls(error.kind, str(error)[:2000], error.public, error.code)

    def error(self) -> CloisterError:
        return from_kind(self.kind, self.detail, self.public, self.code)


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """An answer to the request of the same id; id 0 is an event the server sends by itself."""

    id: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    """MessagePack's nil where there is none: a Raw is not optional, msgspec would take `Raw | None` for None alone."""
    failure: Failure | None = None


class FrameTooLongError(Exception):
    """The peer announced more than RPC_FRAME_BYTES_MAX. Ours never do: the connection is closed."""


def frame(document: bytes) -> bytes:
    if len(document) > RPC_FRAME_BYTES_MAX:
        raise FrameTooLongError(str(len(document)))
    return LENGTH.pack(len(document)) + document


def frame_length(header: bytes) -> int:
    (length,) = LENGTH.unpack(header)
    if length > RPC_FRAME_BYTES_MAX:
        raise FrameTooLongError(str(length))
    return int(length)
