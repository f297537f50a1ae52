"""Signatures as `ssh-keygen -Y sign` makes them (OpenSSH, PROTOCOL.sshsig), and the file that says whose are good. Pure.

Ed25519 alone: one algorithm, no parameters, and what teams have on their keyboards (`sk-`) and in their agents signs with something
else only where it was told to. What must stay true: what is not understood, in a signature or in the file, makes nothing good.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_BYTES_MAX: Final = 16_384
# In armour; one of Ed25519's has some 300.

_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_KIND: Final = b"ssh-ed25519"
_HASHES: Final = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
_ARMOUR: Final = re.compile(
    rb"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n?", re.DOTALL
)
_NAMESPACES: Final = re.compile(r'namespaces="([^"]*)"')


class SignatureError(ValueError):
    """It is no good signature, or the file cannot be read. The message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """As SSH writes one."""

    blob: bytes

    @property
    def fingerprint(self) -> str:
        """The SHA-256 that `ssh-keygen -l` shows in base64, in hexadecimal."""
        return hashlib.sha256(self.blob).hexdigest()


def verify(armoured: bytes, message: bytes, *, namespace: str) -> PublicKey:
    """Whose signature of this message it is. Whether theirs is good is another question. Raises SignatureError."""
    # (1) The armour, and within it exactly the fields that there are.
    match = _ARMOUR.fullmatch(armoured) if len(armoured) <= SIGNATURE_BYTES_MAX else None
    if match is None:
        raise SignatureError("it is no SSH signature")
    try:
        said = _Reader(base64.b64decode(match[1].replace(b"\n", b""), validate=True))
    except ValueError:
        raise SignatureError("it is no SSH signature") from None
    if said.take(len(_MAGIC)) != _MAGIC or said.number() != _VERSION:
        raise SignatureError("it is no SSH signature of version 1")
    blob, for_what, reserved, algorithm, signed = (said.text() for _ in range(5))
    said.end()
    # (2) A signature for another purpose is none for this one.
    if for_what != namespace.encode():
        raise SignatureError(f"it is a signature for something else than {namespace}")
    if algorithm not in _HASHES:
        raise SignatureError("it is of a hash that is not known here")
    # (3) The key and the signature, both Ed25519's.
    key = _ed25519(blob)
    value = _Reader(signed)
    if value.text() != _KIND:
        raise SignatureError("it is not Ed25519's")
    raw = value.text()
    value.end()
    # (4) What was signed is not the message, but this.
    parts = (for_what, reserved, algorithm, _HASHES[algorithm](message).digest())
    try:
        key.verify(raw, _MAGIC + b"".join(map(_text, parts)))
    except InvalidSignature:
        raise SignatureError("it is not a signature of this") from None
    return PublicKey(blob)


def allowed_signers(text: str, *, namespace: str) -> Mapping[PublicKey, str]:
    """Whose signatures are good, from a file as git and ssh-keygen have it: `PRINCIPAL[,…] [namespaces="git"] ssh-ed25519 KEY [comment]`.
    An option that is not understood here (`valid-before`, `cert-authority`) might take something away, so the file is refused.
    Raises SignatureError."""
    found: dict[PublicKey, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        principal, *rest = words
        if rest and (match := _NAMESPACES.fullmatch(rest[0])):
            rest = rest[1:]
            if namespace not in match[1].split(","):
                continue
        if len(rest) < 2 or rest[0] != _KIND.decode():
            raise SignatureError(
                f'line {number}: PRINCIPAL [namespaces="{namespace}"] {_KIND.decode()} KEY is understood, and no more'
            )
        try:
            blob = base64.b64decode(rest[1], validate=True)
        except ValueError:
            raise SignatureError(f"line {number}: the key is not base64") from None
        _ed25519(blob)
        found[PublicKey(blob)] = principal
    return found


def _ed25519(blob: bytes) -> Ed25519PublicKey:
    said = _Reader(blob)
    if said.text() != _KIND:
        raise SignatureError("it is not Ed25519's")
    raw = said.text()
    said.end()
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise SignatureError("it is not Ed25519's") from None


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _Reader:
    """SSH's encoding (RFC 4251): what is taken has to be there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise SignatureError("it breaks off")
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def text(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._at != len(self._data):
            raise SignatureError("something follows it")
