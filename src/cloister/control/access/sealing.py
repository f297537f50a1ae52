"""How a recording is kept: chunks of statements, each sealed with the recording's own key and hashing the one before it.

    chunk i  = nonce || AES-256-GCM(key, nonce, statements, additional data: recording's id, i, head before it)
    head i+1 = SHA-256(head i || i || chunk i)
    head 0   = SHA-256(recording's id)

So a chunk opens only at its place in its own recording, and whoever has the last head (the audit log has it, from the moment
the session ended) notices one that was changed, left out, moved or added. The key is random, and kept wrapped: `KeyRing` is
what wraps it. Pure, but for the randomness that comes as an argument.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.base.directory import Spoken
from cloister.base.errors import UnprocessableError
from cloister.base.secret import Secret

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Spoken])


class BrokenRecordingError(UnprocessableError):
    """It is not what was recorded."""


class KeyRing(Protocol):
    """Wraps the keys of recordings, each bound to its recording."""

    def wrap(self, recording_id: UUID, key: bytes, nonce: bytes) -> bytes: ...

    def unwrap(self, recording_id: UUID, wrapped: bytes) -> bytes:
        """Raises BrokenRecordingError."""
        ...


class ControlKeyRing:
    """Under a key derived from the API's control key, for this purpose alone."""

    def __init__(self, control_key: Secret[bytes]) -> None:
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"cloister recording keys 1").derive(control_key.reveal())
        self._cipher = AESGCM(derived)

    def wrap(self, recording_id: UUID, key: bytes, nonce: bytes) -> bytes:
        return nonce + self._cipher.encrypt(nonce, key, recording_id.bytes)

    def unwrap(self, recording_id: UUID, wrapped: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], recording_id.bytes)
        except (InvalidTag, ValueError):
            raise BrokenRecordingError(public="the recording's key does not open") from None


def first_head(recording_id: UUID) -> bytes:
    return hashlib.sha256(recording_id.bytes).digest()


def seal(
    key: bytes, recording_id: UUID, index: int, head: bytes, *, statements: Iterable[Spoken], nonce: bytes
) -> bytes:
    plain = _encoder.encode(list(statements))
    return nonce + AESGCM(key).encrypt(nonce, plain, _place(recording_id, index, head))


def head_after(head: bytes, index: int, sealed: bytes) -> bytes:
    return hashlib.sha256(head + index.to_bytes(8) + sealed).digest()


def opened(key: bytes, recording_id: UUID, head: bytes, chunks: Iterable[tuple[int, bytes]]) -> list[Spoken]:
    """Every statement of a recording whose last head is `head`. Raises BrokenRecordingError, which says where."""
    at, statements = first_head(recording_id), []
    for expected, (index, sealed) in enumerate(chunks):
        if index != expected:
            raise BrokenRecordingError(public=f"chunk {expected} is missing")
        try:
            plain = AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(recording_id, index, at))
            statements += _decoder.decode(plain)
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            raise BrokenRecordingError(public=f"chunk {index} is not what was recorded") from None
        at = head_after(at, index, sealed)
    if at != head:
        raise BrokenRecordingError(public="the recording does not end where it ended")
    return statements


def _place(recording_id: UUID, index: int, head: bytes) -> bytes:
    return recording_id.bytes + index.to_bytes(8) + head
