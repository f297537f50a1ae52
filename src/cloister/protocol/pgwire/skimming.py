"""Messages at a glance: a stream of which only the outline and the beginnings matter.

`frames.py` takes whole messages out of a buffer and refuses long ones, which is right before a login. Afterwards a row may
have a gigabyte, and whoever only watches keeps of each message what it wants of that type.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.protocol.pgwire.frames import UINT32, ProtocolViolationError

_HEAD_BYTES: Final = 5
# The type and the length.
_LENGTH_MAX: Final = 0x7FFFFFFF
# The protocol's own: a length is a signed 32-bit number.


@dataclass(frozen=True, slots=True)
class Glance:
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

    def feed(self, data: bytes) -> Iterator[Glance]:
        """The messages that end in this piece. Raises ProtocolViolationError, after which nothing more can be read."""
        view = memoryview(data)
        while view or (len(self._head) == _HEAD_BYTES and not self._left):
            if len(self._head) < _HEAD_BYTES:
                part = view[: _HEAD_BYTES - len(self._head)]
                self._head += part
                view = view[len(part) :]
                if len(self._head) == _HEAD_BYTES:
                    self._begin()
                continue
            part = view[: self._left]
            self._take(part)
            view = view[len(part) :]
            self._left -= len(part)
            if not self._left:
                digest = self._hash.digest() if self._hash is not None else b""
                yield Glance(chr(self._head[0]), bytes(self._body), self._length, digest)
                self._head.clear()

    def _begin(self) -> None:
        (length,) = UINT32.unpack_from(self._head, 1)
        if not 4 <= length <= _LENGTH_MAX:
            raise ProtocolViolationError("invalid message length")
        self._length = self._left = length - 4
        self._keep = self._wanted.get(chr(self._head[0]), 0)
        self._body.clear()
        self._hash = None

    def _take(self, part: memoryview) -> None:
        room = self._keep - len(self._body)
        if self._hash is None and self._keep and len(part) > room:
            self._hash = hashlib.sha256(self._body)
        if self._hash is not None:
            self._hash.update(part)
        self._body += part[: max(room, 0)]
