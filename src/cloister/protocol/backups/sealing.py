"""Sealed objects: what a store holds, and what makes plaintext of it again.

    CLBK1  material (4 bytes)  nonce (12)  AES-256-GCM(zlib(plaintext)), bound to all before it, the project, and the object's key

What is moved to another name, or put into another project's place, does not open. Two keys are derived from a project's backup key:
one seals, one gives chunks their names. A chunk's name is a keyed digest of its plaintext, so that equal content of a project is one object,
and that whoever sees the name learns nothing of what is in it. What does show is how many objects there are, when they come, and how well
each compresses.

Nonces are random: a key seals far fewer objects than the 2^32 that it may (NIST SP 800-38D).
"""

import hashlib
import hmac
import struct
import zlib
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.protocol.backups.errors import BackupError

PLAIN_BYTES_MAX: Final = 3 * 1024**2
"""In one object: `keys.SEGMENTS_MAX` segments of WAL."""

OBJECT_BYTES_MAX: Final = PLAIN_BYTES_MAX + 4096
"""What does not compress grows by some 800 bytes, a head and a tag. It must fit one message (base/limits.RPC_FRAME_BYTES_MAX)."""

MAGIC: Final = b"CLBK1"
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32

_HEAD: Final = struct.Struct(">5sI")
_LEVEL: Final = 1
# Pages of tables to a third, 150 MB a second a core. Level 6 takes four times as long for a tenth less.

Buffer: TypeAlias = bytes | bytearray | memoryview


class BackupKey:
    """One of a project's backup keys. `close` when done with it: what is left then is OpenSSL's own copy, until it is collected."""

    def __init__(self, secret: Buffer, project: str, material: int) -> None:
        self.project = project
        self.material = material
        seal = bytearray(KEY_BYTES)
        _derive(secret, b"cloister backup 1 seal", seal)
        self._cipher = AESGCM(seal)
        seal[:] = bytes(KEY_BYTES)
        self._name = bytearray(KEY_BYTES)
        _derive(secret, b"cloister backup 1 name", self._name)

    def close(self) -> None:
        self._name[:] = bytes(KEY_BYTES)

    def chunk_id(self, plain: Buffer) -> str:
        return hmac.digest(self._name, plain, hashlib.sha256).hex()

    def seal(self, key: str, plain: Buffer, nonce: bytes) -> bytes:
        """`key` is the object's; a nonce is random, and used once."""
        if len(plain) > PLAIN_BYTES_MAX or len(nonce) != NONCE_BYTES:
            raise ValueError(len(plain))
        head = _HEAD.pack(MAGIC, self.material)
        return head + nonce + self._cipher.encrypt(nonce, zlib.compress(plain, _LEVEL), self._bound(head, key))

    def open(self, key: str, sealed: bytes, limit: int = PLAIN_BYTES_MAX) -> bytes:
        """The plaintext, of no more than `limit` bytes. Raises BackupError.

        1. It is one of ours, of a size that we make.
        2. It was sealed by this key, for this project and this name.
        3. What was compressed is whole, is all there is, and stays within the limit.
        """
        # 1.
        if material_of(sealed) != self.material:
            raise BackupError("is sealed with another key")
        head, rest = sealed[: _HEAD.size], sealed[_HEAD.size :]
        nonce, content = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        # 2.
        try:
            compressed = self._cipher.decrypt(nonce, content, self._bound(head, key))
        except (InvalidTag, ValueError) as error:
            raise BackupError("was not sealed for this place, or was changed since") from error
        # 3.
        inflating = zlib.decompressobj()
        try:
            plain = inflating.decompress(compressed, limit + 1)
        except zlib.error as error:
            raise BackupError("does not decompress") from error
        if len(plain) > limit or not inflating.eof or inflating.unused_data:
            raise BackupError("is not of the size that it should have")
        return plain

    def _bound(self, head: bytes, key: str) -> bytes:
        return b"\0".join((head, self.project.encode(), key.encode()))


def material_of(sealed: bytes) -> int:
    """Which of its project's backup keys it was sealed with, as it says itself. Raises BackupError for what is no object of ours."""
    if len(sealed) > OBJECT_BYTES_MAX:
        raise BackupError("is too large")
    if len(sealed) < _HEAD.size + NONCE_BYTES:
        raise BackupError("is cut off")
    magic, material = _HEAD.unpack_from(sealed)
    if magic != MAGIC:
        raise BackupError("is not one of ours")
    return int(material)


def _derive(secret: Buffer, info: bytes, into: bytearray) -> None:
    HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive_into(secret, into)
