"""Messages at a glance: a stream of which only the outline and the beginnings matter.

`frames.py` takes whole messages out of a buffer and refuses long ones, which is right before a login. Afterwards a row may
have a gigabyte, and whoever only watches keeps of each message what it wants of that type.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cloister.protocol.pgwire.frames import UINT32, ProtocolViolationError

_HEAD_BYTES: Final = 5
# The type and the length.
_LENGTH_MAX: Final = 0x7FFFFFFF
# The protocol's own: a length is a signed 32-bit number.


class Glance(NamedTuple):
    kind: str
    body: bytes
    """As far as it is wanted."""
    length: int
    """Of the whole body."""
    digest: bytes
    """SHA-256 of the whole body, if not all of it is here and some was wanted."""


class Skimmer:
    """Of one direction of a session."""

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self._wanted = wanted
        """By type, how many bytes of a body to keep; of other types none."""
        self._head = bytearray()
        self._left = 0
        self._length = 0
        self._keep = 0
        self._body = bytearray()
        self._hash: hashlib._Hash | None = None

    @property
    def held_bytes(self) -> int:
        """Of a message that has begun."""
        return len(self._body)

    def feed(self, data: bytes) -> Iterator[Glance]:
        """The messages that end in this piece. Raises ProtocolViolationError, after which nothing more can be read."""
        view = memoryview(data)
        at, end = 0, len(data)
        while at < end or (len(self._head) == _HEAD_BYTES and not self._left):
            if not self._head and (glance := self._whole(data, at)) is not None:
                at += _HEAD_BYTES + glance.length
                yield glance
                continue
            if len(self._head) < _HEAD_BYTES:
                part = view[at : at + _HEAD_BYTES - len(self._head)]
                self._head += part
                at += len(part)
                if len(self._head) == _HEAD_BYTES:
                    self._begin()
                continue
            part = view[at : at + self._left]
            self._take(part)
            at += len(part)
            self._left -= len(part)
            if not self._left:
                digest = self._hash.digest() if self._hash is not None else b""
                yield Glance(chr(self._head[0]), bytes(self._body), self._length, digest)
                self._head.clear()
                self._body = bytearray()

    def _whole(self, data: bytes, at: int) -> Glance | None:
        """The message that begins here, if it lies in this piece with its end, as nearly all do: nothing is carried over."""
        if len(data) - at < _HEAD_BYTES:
            return None
        (length,) = UINT32.unpack_from(data, at + 1)
        begin, after = at + _HEAD_BYTES, at + 1 + length
        if after > len(data) or length < 4:
            return None
        kind = chr(data[at])
        keep = self._wanted.get(kind, 0)
        if after - begin <= keep:
            return Glance(kind, data[begin:after], after - begin, b"")
        if not keep:
            return Glance(kind, b"", after - begin, b"")
        return Glance(kind, data[begin : begin + keep], after - begin, hashlib.sha256(data[begin:after]).digest())

    def _begin(self) -> None:
        (length,) = UINT32.unpack_from(self._head, 1)
        if not 4 <= length <= _LENGTH_MAX:
            raise ProtocolViolationError("invalid message length")
        self._length = self._left = length - 4
        self._keep = self._wanted.get(chr(self._head[0]), 0)
        self._hash = None

    def _take(self, part: memoryview) -> None:
        room = self._keep - len(self._body)
        if self._hash is None and self._keep and len(part) > room:
            self._hash = hashlib.sha256(self._body)
        if self._hash is not None:
            self._hash.update(part)
        self._body += part[: max(room, 0)]
