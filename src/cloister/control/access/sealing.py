"""How a recording is kept: chunks of statements, each sealed with the recording's own key and hashing the one before it.

    chunk i  = nonce || AES-256-GCM(key, nonce, statements, additional data: recording's id, i, head before it)
    head i+1 = SHA-256(head i || i || chunk i)
    head 0   = SHA-256(recording's id)

So a chunk opens only at its place in its own recording, and whoever has the last head (the audit log has it, from the moment
the session ended) notices one that was changed, left out, moved or added. The key is random, and kept wrapped by the key
broker, which `KeyRing` asks. All else is pure; the randomness comes as an argument.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.base.directory import Spoken
from cloister.base.errors import ConflictError, UnprocessableError
from cloister.base.sealing import KEY_BYTES, NONCE_BYTES, Sealer, derived_key
from cloister.base.secret import Secret
from cloister.control.access.model import Recording
from cloister.trust.keys.commands import OnBehalf, RecordingEnvelope

_BEFORE_BYTES: Final = NONCE_BYTES + KEY_BYTES + 16
# A key that was wrapped by the control key. The broker's envelopes are longer: they begin with their format.

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Spoken])


class BrokenRecordingError(UnprocessableError):
    """It is not what was recorded."""


class Broker(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def make_recording_key(
        self, project_id: str, recording_id: UUID, by: OnBehalf
    ) -> tuple[RecordingEnvelope, bytes]: ...

    async def open_recording_key(
        self, project_id: str, recording_id: UUID, envelope: RecordingEnvelope, reason: str, by: OnBehalf
    ) -> bytes: ...


class KeyRing:
    """Gives the keys of recordings: the broker's, each bound to its recording, below the project's own key.

    Recordings from before have theirs under a key that is derived from the API's control key. It wraps nothing any more.
    """

    def __init__(self, broker: Broker, control_key: Secret[bytes]) -> None:
        self._broker = broker
        self._before = Sealer(derived_key(control_key.reveal(), b"cloister recording keys 1"))

    async def make(self, project_id: str, recording_id: UUID, by: OnBehalf) -> tuple[RecordingEnvelope, bytes]:
        """A new key: wrapped, and in clear. Raises PreconditionError where the project's keys may not be used."""
        return await self._broker.make_recording_key(project_id, recording_id, by)

    async def open(self, recording: Recording, reason: str, by: OnBehalf) -> bytes:
        """Recorded by the broker first. Raises UnprocessableError, PreconditionError; ConflictError for one that was erased."""
        wrapped = recording.wrapped_key
        if wrapped is None:
            raise ConflictError(
                public=f"this recording was kept for as long as was said, and erased on {recording.erased_at:%Y-%m-%d}"
            )
        if len(wrapped) != _BEFORE_BYTES:
            envelope = RecordingEnvelope(wrapped, recording.seal)
            return await self._broker.open_recording_key(recording.project_id, recording.id, envelope, reason, by)
        try:
            return self._before.open(wrapped, recording.id.bytes)
        except InvalidTag:
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
