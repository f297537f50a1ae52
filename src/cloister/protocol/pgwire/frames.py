"""Where one message ends and the next begins, and how long either may be.

A packet is a 4-byte length (which counts itself) and a body: the form of everything a client sends before it is
known. A message has a type byte before that.
"""

import struct
from typing import Final

INT32: Final = struct.Struct(">i")
UINT32: Final = struct.Struct(">I")

STARTUP_BYTES_MAX: Final = 10_000
# PostgreSQL refuses more (MAX_STARTUP_PACKET_LENGTH).
PASSWORD_BYTES_MAX: Final = 1_024
# The longest SCRAM message of a known client has some 300 bytes; a password inside TLS is shorter than both.
BACKEND_MESSAGE_BYTES_MAX: Final = 65_536
# From a compute before it is ready: parameters, a notice of a login trigger, an error. From it, so not trusted either.


class ProtocolViolationError(Exception):
    """The peer said what cannot be said here. `str(error)` may be shown to it."""


class InsecureConnectionError(ProtocolViolationError):
    """A client that would speak without TLS."""


def take_packet(buffer: bytearray, bytes_max: int) -> bytes | None:
    """Remove a whole packet from the buffer and return its body; None while it is incomplete."""
    if len(buffer) < 4:
        return None
    (length,) = UINT32.unpack_from(buffer)
    if not 8 <= length <= bytes_max:
        raise ProtocolViolationError("invalid length of startup packet")
    if len(buffer) < length:
        return None
    body = bytes(buffer[4:length])
    del buffer[:length]
    return body


def take_message(buffer: bytearray, bytes_max: int, allowed: bytes | None = None) -> tuple[int, bytes] | None:
    """Remove a whole message and return (type, body); None while it is incomplete. With `allowed`, a message of
    another type is refused at its first byte, before any of it is kept."""
    if not buffer:
        return None
    if allowed is not None and buffer[0] not in allowed:
        raise ProtocolViolationError("unexpected message type during authentication")
    if len(buffer) < 5:
        return None
    (length,) = UINT32.unpack_from(buffer, 1)
    if not 4 <= length <= bytes_max:
        raise ProtocolViolationError("invalid message length")
    if len(buffer) < length + 1:
        return None
    kind, body = buffer[0], bytes(buffer[5 : length + 1])
    del buffer[: length + 1]
    return kind, body


def message(kind: bytes, body: bytes) -> bytes:
    return kind + UINT32.pack(len(body) + 4) + body


def packet(body: bytes) -> bytes:
    return UINT32.pack(len(body) + 4) + body
