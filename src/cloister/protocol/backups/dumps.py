"""A dump of the control database: the facts in its own object, and what is believed of them.

Its files are `pg_dump`'s directory format, in chunks and lists as those of a base are (`bases.py`). Beside them it has what the rows need
and the database does not hold.
"""

import math
from typing import Final

import msgspec

from cloister.protocol.backups.bases import BYTES_MAX, ENCODER, FILES_MAX, LISTS_MAX
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.keys import is_chunk_id, labelled
from cloister.protocol.merkle.notes import SignedTree

SECRET_BYTES_MAX: Final = 64
"""Each is 32 random bytes."""

_FORMAT: Final = 1
_MOMENT_MAX: Final = 2**33
_MICROSECONDS: Final = 1_000_000


class Dump(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = _FORMAT
    moment: float
    """Before it began: what was committed by then is in it."""
    version: str
    """Of the Cloister that made it."""
    epoch: int
    """The keystore's, then: a copy of the keystore from before that has what was erased since."""
    secrets: dict[str, bytes]
    """What encrypts what the rows hold only encrypted, by the name of its file."""
    checkpoint: SignedTree | None
    """The last of the audit log that was signed before it began: the log in it must go on from there."""
    lists: list[str]
    """Ids of the chunks with its lists of files, in order."""
    files: int
    bytes: int
    label: str = ""
    """Of who sent it (`keys.py`)."""
    line: list[str] | None = None
    """Labels of all whose history this is, the last one's last; None: not known."""
    number: int = 0
    """Of the claim that it was sent under."""

    @property
    def name(self) -> str:
        return labelled(name_of(self.moment), self.label)


_DUMP: Final = msgspec.json.Decoder(Dump)


def name_of(moment: float) -> str:
    """Names are in the order of moments."""
    return f"{int(moment * _MICROSECONDS):016X}"


def encoded_dump(dump: Dump) -> bytes:
    return ENCODER.encode(dump)


def parse_dump(plain: bytes, name: str) -> Dump:
    """Raises BackupError."""
    try:
        dump = _DUMP.decode(plain)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BackupError("is no description of a dump") from error
    if dump.format != _FORMAT:
        raise BackupError(f"has the format {dump.format}, which this Cloister does not know")
    if not (
        math.isfinite(dump.moment)
        and 0 <= dump.moment < _MOMENT_MAX
        and dump.epoch > 0
        and 0 < dump.files <= FILES_MAX
        and 0 < dump.bytes <= BYTES_MAX
        and all(0 < len(secret) <= SECRET_BYTES_MAX for secret in dump.secrets.values())
    ):
        raise BackupError("has facts that cannot be")
    if dump.name != name:
        raise BackupError("describes another dump than its name says")
    if not 0 < len(dump.lists) <= LISTS_MAX or not all(map(is_chunk_id, dump.lists)):
        raise BackupError("has no lists of files, or too many")
    return dump
