"""Sealed text for a column of the control database: AES-256-GCM under a key that is not there, bound to its place."""

import os
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""NIST SP 800-38D. Random: a key seals far fewer than the 2^32 texts that it may."""


class Sealer:
    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes."""
        self._cipher = AESGCM(key)

    def seal(self, text: bytes, place: bytes) -> bytes:
        """The nonce, and what only `open` with the same place makes text of again."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Raises cryptography's InvalidTag if it was sealed elsewhere, or under another key."""
        return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)


def derived_key(secret: bytes, info: bytes) -> bytes:
    """32 bytes for one use of a secret (RFC 5869, SHA-256, without salt): `info` names the use, and says its version."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)
