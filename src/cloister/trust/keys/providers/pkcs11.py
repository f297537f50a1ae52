"""A root key in an HSM, over PKCS#11: an AES-256 key that the token never gives out.

Needs the package `python-pkcs11` (the extra `hsm`). Tried on SoftHSM 2. The library hands a key that was unwrapped to
Python as `bytes`, which nobody can overwrite: until that memory is used again, it may be found in the broker's.
"""

import os
import threading
from pathlib import Path
from typing import Any, Final

from cloister.base.errors import PreconditionError
from cloister.trust.keys.providers.file import open_private
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, ProviderUnavailableError, module

_FORMAT: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_PIN_BYTES_MAX: Final = 256

_DAMAGED: Final = {"EncryptedDataInvalid", "EncryptedDataLenRange", "DataInvalid", "DataLenRange", "SignatureInvalid"}
_REFUSED: Final = {"PinIncorrect", "PinLocked", "PinExpired", "NoSuchToken", "NoSuchKey", "KeyTypeInconsistent"}


class Pkcs11Provider:
    name = "pkcs11"
    is_remote = True

    def __init__(self, library: Path, token: str, key: str, pin_file: Path) -> None:
        """Reads nothing yet but the PIN: the token may be away. Raises PreconditionError."""
        self._pkcs11 = module("pkcs11", "hsm")
        self._library = library
        self._token = token
        self._label = key
        descriptor = open_private(pin_file)
        try:
            self._pin = os.read(descriptor, _PIN_BYTES_MAX).decode().strip()
        finally:
            os.close(descriptor)
        self._session: Any = None
        self._key: Any = None
        self._one_at_a_time = threading.Lock()  # a session is one thread's at a time

    @property
    def root_version(self) -> str:
        return f"{self._token}/{self._label}"

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return bytes([_FORMAT]) + nonce + self._call("encrypt", bytes(plaintext), nonce, context)

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        if len(wrapped) <= 1 + _NONCE_BYTES or wrapped[0] != _FORMAT:
            raise KeyDamagedError(f"{context}: not an envelope of format {_FORMAT}")
        nonce, sealed = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        plaintext = self._call("decrypt", sealed, nonce, context)
        if len(plaintext) != len(buffer):
            raise KeyDamagedError(f"{context}: {len(plaintext)} bytes were wrapped")
        buffer[:] = plaintext

    def close(self) -> None:
        with self._one_at_a_time:
            self._key = None

    def _call(self, what: str, data: bytes, nonce: bytes, context: Context) -> bytes:
        with self._one_at_a_time:
            try:
                if self._key is None:
                    self._key = self._found()
                parameters = self._pkcs11.GCMParams(nonce, context.encode(_FORMAT), _TAG_BITS)
                result: bytes = getattr(self._key, what)(
                    data, mechanism=self._pkcs11.Mechanism.AES_GCM, mechanism_param=parameters
                )
            except self._pkcs11.exceptions.PKCS11Error as error:
                raise self._failure(error, what, context) from error
            return result

    def _failure(self, error: Exception, what: str, context: Context) -> Exception:
        kind = type(error).__name__
        if kind in _REFUSED:
            return PreconditionError(f"{self.root_version}: {error!r}", public=f"the HSM refuses its key: {kind}")
        # SoftHSM says GeneralError of a tag that does not fit, as of everything: the token is there if the key is found anew.
        was_known, self._key = self._key is not None, None
        if what == "decrypt" and was_known and (kind in _DAMAGED or (kind == "GeneralError" and self._answers())):
            return KeyDamagedError(f"{context}: the envelope does not open: {kind}")
        return ProviderUnavailableError(f"{self.root_version}: {error!r}", public="the HSM does not answer")

    def _answers(self) -> bool:
        try:
            self._key = self._found()
        except self._pkcs11.exceptions.PKCS11Error:
            return False
        return True

    def _found(self) -> Any:
        """The key. Raises PreconditionError if the token would give it out."""
        attribute, secret = self._pkcs11.Attribute, self._pkcs11.ObjectClass.SECRET_KEY
        if self._session is None:
            self._session = self._opened()
        try:
            key = self._session.get_key(object_class=secret, label=self._label)
            is_kept = key[attribute.SENSITIVE] and not key[attribute.EXTRACTABLE]
        except self._pkcs11.exceptions.PKCS11Error:
            self._session = None  # the token may have been away: the next call begins anew
            raise
        if not is_kept:
            raise PreconditionError(public=f"the HSM's key {self._label} can be extracted: make one that cannot")
        return key

    def _opened(self) -> Any:
        try:
            token = self._pkcs11.lib(str(self._library)).get_token(token_label=self._token)
        except RuntimeError as error:  # the library could not be loaded
            raise PreconditionError(str(error), public=f"{self._library} is no PKCS#11 library") from error
        try:
            return token.open(user_pin=self._pin)
        except self._pkcs11.exceptions.UserAlreadyLoggedIn:  # the login is the process's, not the session's
            return token.open()
