"""What a provider is, and the envelope that those share whose root key we hold ourselves.

An envelope is `format (1) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, AES-256-GCM under the root key. The associated data names
what the key is for, so an envelope moved to another project, purpose or version does not open: nor does one with any bit
changed.
"""

import hmac
import importlib
import os
import struct
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.base.errors import InternalError, PreconditionError, UnavailableError
from cloister.trust.keys.memory import SecretPage

KEY_BYTES: Final = 32
FORMAT: Final = 1
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = 1 + _NONCE_BYTES + _TAG_BYTES
# Nonces are random: up to 2^32 envelopes under one root key, the chance that two meet stays under 2^-32 (SP 800-38D §8.3).

_DOMAIN: Final = b"cloister wrapped key"


class KeyDamagedError(InternalError):
    """A wrapped key does not open: it was changed, moved, or wrapped by another root key."""

    public = "the project's key cannot be unwrapped"


class ProviderUnavailableError(UnavailableError):
    """Whoever holds the root key does not answer. Worth another try, by the broker first."""

    public = "the key service does not answer"


def module(name: str, extra: str) -> Any:
    """A library that only some providers need. Raises PreconditionError with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PreconditionError(str(error), public=f"{name} is missing: install cloister[{extra}]") from error


@dataclass(frozen=True, slots=True)
class Context:
    """What a wrapped key is for. Authenticated with it, never encrypted."""

    project_id: str
    purpose: str
    version: int

    def encode(self, envelope_format: int = FORMAT) -> bytes:
        """Canonical: every field with its length, so that no two contexts share an encoding."""
        fields = (_DOMAIN, self.project_id.encode(), self.purpose.encode())
        return b"".join(struct.pack(">I", len(field)) + field for field in fields) + struct.pack(
            ">II", self.version, envelope_format
        )


class Provider(Protocol):
    """Wraps keys with a root key. Methods that fail raise a CloisterError and leave no plaintext behind."""

    @property
    def name(self) -> str:
        """The kind, for rows and reports: `file`, `passphrase`."""
        ...

    @property
    def root_version(self) -> str:
        """Which root key wraps now. Rows keep it, so that a key wrapped by another one is recognised, not guessed at."""
        ...

    @property
    def is_remote(self) -> bool:
        """Its calls may wait for somebody else: the broker makes them in a thread."""
        ...

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        """Raises ProviderUnavailableError."""
        ...

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        """Write the plaintext into `buffer`, which has its exact length. Raises KeyDamagedError, ProviderUnavailableError."""
        ...

    def close(self) -> None: ...


def fingerprint(key: memoryview | bytes) -> str:
    """A digest by which to recognise a root key; of 256 random bits it gives nothing away."""
    return hmac.digest(key, b"cloister root key fingerprint", "sha256")[:8].hex()


class RootKey:
    """32 bytes that we hold ourselves, and AES-256-GCM under them."""

    is_remote = False

    def __init__(self, page: SecretPage) -> None:
        """Takes the page over: it holds the key as long as this object lives."""
        if len(page.buffer) != KEY_BYTES:
            raise ValueError(len(page.buffer))
        self._page = page
        self._cipher = AESGCM(page.buffer)
        self.fingerprint = fingerprint(page.buffer)

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = bytearray(len(plaintext) + _TAG_BYTES)
        self._cipher.encrypt_into(nonce, plaintext, context.encode(), sealed)
        return bytes([FORMAT]) + nonce + sealed

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        if len(wrapped) != OVERHEAD_BYTES + len(buffer) or wrapped[0] != FORMAT:
            raise KeyDamagedError(f"{context}: not an envelope of format {FORMAT}")
        nonce, sealed = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        try:
            self._cipher.decrypt_into(nonce, sealed, context.encode(wrapped[0]), buffer)
        except InvalidTag:
            # GCM decrypts before it knows: what it wrote is not authentic and must not be read.
            buffer[:] = bytes(len(buffer))
            raise KeyDamagedError(f"{context}: the envelope does not open") from None

    def close(self) -> None:
        self._page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
