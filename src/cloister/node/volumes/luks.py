"""The LUKS image: how one is made, and what its header says about itself.

A volume's passphrase is 256 random bits, so the key derivation that protects guessable passphrases is turned down to
its minimum: it would cost every wake and protect nothing. Version 1 is taken because both openers read it, and
cryptsetup formats it in a plain file without device-mapper.

What we report about encryption is read from the header, never assumed from what we asked for.

The header also says which of the project's volume keys opens it (its *material*, in the broker's words). An image that
holds the data under a new key takes the old one's name by a rename; as each says for itself which key it wants, there is no
moment at which image and key could be told apart. It stands in the header's UUID: version 8, which RFC 9562 leaves to us.
"""

import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError

CIPHER: Final = "aes-xts-plain64"
KEY_BITS: Final = 512
# XTS takes two keys: AES-256.

KEY_FD: Final = 3
"""Where a child finds the passphrase: a descriptor, so that it is on no command line and in no file."""

_PBKDF_ITERATIONS: Final = 1000
# cryptsetup's minimum.

_MAGIC: Final = b"LUKS\xba\xbe"
_HEADER: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")
# LUKS1 phdr: magic, version, cipher name, cipher mode, hash, payload offset, key bytes; digest of the master key, its salt
# and iterations; UUID.

_SECTOR_BYTES: Final = 512

MATERIAL_MAX: Final = 2**48 - 1
# What the last group of a UUID holds.


@dataclass(frozen=True, slots=True)
class Header:
    cipher: str
    key_bits: int
    payload_offset: int
    """Where the data begins, in bytes. Before it: this header, and the key slots."""
    material: int
    """Which of the project's volume keys opens it; 1 where the header does not say."""

    def __str__(self) -> str:
        """As VolumeInfo.cipher shows it."""
        return f"{self.cipher} {self.key_bits}"


def format_command(image: Path, material: int = 1) -> list[str]:
    """The cryptsetup command that makes `image`, an existing file, a LUKS volume with the passphrase at KEY_FD. Each gets a
    volume key of its own, whatever the passphrase."""
    return [
        *("cryptsetup", "luksFormat", "--type", "luks1", "--batch-mode"),
        *("--key-file", f"/proc/self/fd/{KEY_FD}"),
        *("--pbkdf-force-iterations", str(_PBKDF_ITERATIONS)),
        *("--cipher", CIPHER, "--key-size", str(KEY_BITS)),
        *("--uuid", str(_uuid_of(material))),
        str(image),
    ]


def parse_header(data: bytes) -> Header:
    """The header at the start of an image. Raises InternalError if it is none: the volume must not be called encrypted."""
    if len(data) < _HEADER.size:
        raise InternalError("not a LUKS header")
    magic, version, name, mode, _hash, payload, key_bytes, _digest, _salt, _rounds, uuid_ = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != 1:
        raise InternalError("not a LUKS1 header")
    return Header(f"{_text(name)}-{_text(mode)}", key_bytes * 8, payload * _SECTOR_BYTES, _material_of(_text(uuid_)))


def read_header(image: Path) -> Header:
    with image.open("rb") as file:
        return parse_header(file.read(_HEADER.size))


def _uuid_of(material: int) -> uuid.UUID:
    if not 1 <= material <= MATERIAL_MAX:
        raise InternalError(f"material {material}")
    return uuid.UUID(bytes=os.urandom(6) + bytes((0x80, 0, 0x80, 0)) + material.to_bytes(6, "big"))


def _material_of(text: str) -> int:
    """Images from before hold a random UUID: there was one key."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        raise InternalError("not a LUKS1 header") from None
    return found.node if found.version == 8 else 1


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", errors="replace")
