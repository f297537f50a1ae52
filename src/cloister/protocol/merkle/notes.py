"""What is signed of a tree: a checkpoint, as C2SP tlog-checkpoint and signed-note have it, with Ed25519.

cloister/3f2a…/audit              the origin: which log
1234                              how many entries
qINS1GRF…=                        the root of their tree

— cloister/3f2a…/audit Az3grl…    the key's name, its id (4 bytes) and the signature (64) over the lines above
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.protocol.merkle.tree import HASH_BYTES

ED25519: Final = b"\x01"
"""The type of a signature, by signed-note."""

_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = 64
_PUBLIC_KEY_BYTES: Final = 32

NOTE_CHARS_MAX: Final = 16_384
# A checkpoint has some hundred characters; witnesses may have added their signatures.

_NAME: Final = re.compile(r"[!-*,-~]{1,200}")  # printable, no space, no plus
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(ValueError):
    """A note that does not say what it should, or is not signed by the key that it must be signed by."""


class SignedTree(msgspec.Struct, frozen=True, kw_only=True):
    """A tree with its signature, as the notary keeps and gives it."""

    size: int
    peaks: list[bytes]
    note: str
    key: str
    """The key that verifies `note`, as text."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Lines after the third are extensions, which we do not write and pass over. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not lines[0] or not _SIZE.fullmatch(lines[1]):
            raise NoteError("not a checkpoint")
        root = _decoded(lines[2])
        if len(root) != HASH_BYTES:
            raise NoteError("the root of a checkpoint is not a hash")
        return cls(lines[0], int(lines[1]), root)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and an Ed25519 public key. As text `NAME+ID+KEY`, the form that other tools take."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.public) != _PUBLIC_KEY_BYTES:
            raise NoteError("not a verifier key")

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Raises NoteError."""
        name, _, rest = text.partition("+")
        digits, _, encoded = rest.partition("+")
        key = _decoded(encoded)
        if key[:1] != ED25519:
            raise NoteError("not an Ed25519 verifier key")
        parsed = cls(name, key[1:])
        if parsed.id.hex() != digits:
            raise NoteError("the id of a verifier key does not fit it")
        return parsed

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    def note(self, text: str, signature: bytes) -> str:
        """`text` with its signature by this key."""
        return f"{text}\n— {self.name} {base64.b64encode(self.id + signature).decode()}\n"

    def opened(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key has signed. Raises NoteError.

        1. Divide the text from the signatures at the last empty line.
        2. Pass over signatures of other keys; of ours there must be one, and it must verify.
        3. Only then read what the text says, and that it is about this key's log.
        """
        # 1.
        head, division, tail = note.rpartition("\n\n")
        if len(note) > NOTE_CHARS_MAX or not division or not tail.endswith("\n"):
            raise NoteError("not a signed note")
        text = head + "\n"
        # 2.
        if not any(self._has_signed(text, line) for line in tail[:-1].split("\n")):
            raise NoteError(f"not signed by {self.name}")
        # 3.
        checkpoint = Checkpoint.parse(text)
        if checkpoint.origin != self.name:
            raise NoteError(f"a checkpoint of {checkpoint.origin}, not of {self.name}")
        return checkpoint

    def _has_signed(self, text: str, line: str) -> bool:
        words = line.split(" ")
        if len(words) != 3 or words[0] != "—":
            raise NoteError("not a signature")
        if words[1] != self.name:
            return False
        blob = _decoded(words[2])
        if blob[:_ID_BYTES] != self.id:
            return False
        if len(blob) != _ID_BYTES + _SIGNATURE_BYTES:
            raise NoteError("not an Ed25519 signature")
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(blob[_ID_BYTES:], text.encode())
        except InvalidSignature:
            raise NoteError(f"the signature of {self.name} does not fit") from None
        return True


def split(text: str) -> list[str]:
    """The notes in a file to which one after the other was appended. Each ends with its lines of signatures."""
    notes: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if lines and lines[-1].startswith("— ") and not line.startswith("— "):
            notes.append("\n".join(lines) + "\n")
            lines = []
        if line or lines:
            lines.append(line)
    return [*notes, "\n".join(lines) + "\n"] if lines else notes


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None
