"""How a segment of the statement log is sealed: whoever writes it cannot read it. Pure, but for random bytes.

    segment  = ephemeral public key (32 bytes) ‖ AES-256-GCM(key, compressed records)
    key      = HKDF-SHA-256(X25519(ephemeral private, public), info = both public keys ‖ generation ‖ project)

`public` belongs to the project's key of this month; its private half is the key broker's, which gives out the key of one
segment at a time (`trust/keys/statements.py`). A key seals once, so its nonce is zero.
"""

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.base.directory import StatementRecord
from cloister.base.errors import ConflictError
from cloister.base.sealing import Sealer, derived_key
from cloister.base.secret import Secret

SHARE_BYTES: Final = 32
"""Of a segment's beginning, from which with the private key its key is made."""

_NONCE: Final = bytes(12)
_PLAIN_BYTES_MAX: Final = 64 * 1024 * 1024
# Of a segment, unpacked. A gateway's batch has at most a few megabytes.


def seal(public: bytes, project_id: str, generation: int, statements: Sequence[StatementRecord]) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    key = _derived(secret, share, public, project_id, generation)
    plain = b"\n".join(msgspec.json.encode(each) for each in statements)
    return share + AESGCM(key).encrypt(_NONCE, zlib.compress(plain, 6), None)


def key_of(private: X25519PrivateKey, share: bytes, project_id: str, generation: int) -> bytes:
    """The key of the segment that begins with `share`. Raises ValueError if nothing can begin with it."""
    secret = private.exchange(X25519PublicKey.from_public_bytes(share))
    return _derived(secret, share, private.public_key().public_bytes_raw(), project_id, generation)


def open_sized(key: bytes, body: bytes) -> tuple[list[StatementRecord], int]:
    """The statements, and how many bytes they were. Raises ConflictError if it is not what was sealed."""
    try:
        return _unpacked(AESGCM(key).decrypt(_NONCE, body[SHARE_BYTES:], None))
    except InvalidTag:
        raise _changed() from None


class Former:
    """Opens segments from before there were such keys: theirs was derived from the API's control key. Seals nothing."""

    def __init__(self, control_key: Secret[bytes]) -> None:
        self._key = control_key

    def open_sized(self, project_id: str, body: bytes) -> tuple[list[StatementRecord], int]:
        """Raises ConflictError."""
        info = b"cloister statement log 1\0" + project_id.encode()
        try:
            return _unpacked(Sealer(derived_key(self._key.reveal(), info)).open(body, project_id.encode()))
        except (InvalidTag, ValueError):
            raise _changed() from None


def _derived(secret: bytes, share: bytes, public: bytes, project_id: str, generation: int) -> bytes:
    info = b"cloister statement segment 2\0" + share + public + generation.to_bytes(4) + project_id.encode()
    return derived_key(secret, info)


def _unpacked(packed: bytes) -> tuple[list[StatementRecord], int]:
    try:
        plain = zlib.decompressobj().decompress(packed, _PLAIN_BYTES_MAX)
        return [msgspec.json.decode(line, type=StatementRecord) for line in plain.split(b"\n")], len(plain)
    except (zlib.error, msgspec.MsgspecError):
        raise _changed() from None


def _changed() -> ConflictError:
    return ConflictError(public="a segment of the statement log does not open: it was changed")
