"""A copy of the keystore, for the day on which its disk is gone: the seals, and the key of their epoch, which the root key wraps.

    {"format": 1, "made_at": "…", "epoch": 7, "provider": "file", "root_version": "…", "epoch_key": "…", "seals": {…}}

Whoever has it and the root key has what the keystore has; without the root key it shows which projects there are, and nothing else.
The envelope of the epoch key is bound to all the rest, so a seal that was added, taken out or exchanged is found. What must stay true:

- a copy is of one moment, in which seals and epoch key belong together;
- one from before the last erasure that is known is not put back: it has the seals of what was erased since.

The second is only worth what is known. So an old copy is to be destroyed with the erasure, as the epoch key is: docs/keys.md.
"""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import write_durably
from cloister.base.errors import ConflictError, PreconditionError
from cloister.trust.keys.keystore import SEALS_FILE, Keystore, Seals, epoch_file, known_epochs
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.file import read_key, write_private
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError
from cloister.trust.keys.roots import Roots

FORMAT: Final = 1

BYTES_MAX: Final = 256 * 1024 * 1024
# A seal has some 130 bytes here: two million of them.


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    made_at: str
    epoch: int
    provider: str
    root_version: str
    epoch_key: bytes
    seals: dict[str, bytes]

    @property
    def content(self) -> bytes:
        """Of the file of seals, byte for byte."""
        return msgspec.json.encode(Seals(epoch=self.epoch, seals=self.seals))


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """`secrets/key-backup.json`: that there is a copy, and of what. Nothing of it."""

    epoch: int
    sha256: str
    """Of the seals as they were."""
    seals: int
    made_at: float
    to: str
    drilled_at: float | None = None
    """When a copy was last seen to open projects' keys."""
    drilled_epoch: int = 0


def marked(path: Path) -> Marked | None:
    """None: no copy was made, or what was noted of it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Marked)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def mark(path: Path, it: Marked) -> None:
    write_durably(path, msgspec.json.encode(it) + b"\n", mode=0o600)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def context_of(epoch: int, made_at: str, seals_sha256: str) -> Context:
    """What the envelope of the epoch key is bound to: all the rest of the copy."""
    return Context("", f"keystore backup {digest(f'{made_at} {seals_sha256}'.encode())}", epoch)


def parse(content: bytes) -> Backup:
    """Raises PreconditionError."""
    try:
        found = msgspec.json.decode(content, type=Backup)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"this is no backup of a keystore: {error}") from error
    if found.format != FORMAT:
        raise PreconditionError(public=f"this backup is of format {found.format}: use the Cloister that made it")
    return found


def restore(backup: Backup, roots: Roots, directory: Path, epochs: Path, *, newest_known: int) -> int:
    """Put a copy in the place of a keystore that is gone. How many seals there are. `newest_known`: the newest epoch that somebody
    knows of. Raises PreconditionError, KeyDamagedError, ConflictError; then nothing was changed.

    1. The root key opens the epoch key, bound to every seal that the copy has.
    2. A keystore that is there is never replaced.
    3. Refuse an epoch before one that is known: what was erased since would be back. Their keys were destroyed; this copy has not
       heard of it.
    4. The epoch key, and then the seals: cut between, the start refuses, and this goes on.
    5. Every seal opens. Otherwise what was written goes.
    """
    with SecretPage(KEY_BYTES) as page:
        context = context_of(backup.epoch, backup.made_at, digest(backup.content))  # 1.
        roots.find(backup.provider, backup.root_version).unwrap_into(backup.epoch_key, context, page.buffer)
        path, key = directory / SEALS_FILE, epoch_file(epochs, backup.epoch)
        if path.exists():  # 2.
            raise ConflictError(public=f"{path} is there: a keystore is never replaced")
        known = max([newest_known, *known_epochs(epochs)])
        if backup.epoch < known:  # 3.
            raise PreconditionError(
                public=f"this backup is of epoch {backup.epoch}, and epoch {known} is known: what was erased since would be back"
            )
        if key.exists():  # 4.
            with read_key(key) as there:
                if not hmac.compare_digest(there.buffer, page.buffer):
                    raise ConflictError(public=f"{key} is there, and another one")
            is_new = False
        else:
            write_private(key, page.buffer, uid=os.geteuid(), gid=os.getegid())
            is_new = True
    write_durably(path, backup.content, mode=0o600)
    try:
        store = Keystore(directory, epochs, may_begin=False)  # 5.
        try:
            store.try_all()
        finally:
            store.close()
    except KeyDamagedError:
        path.unlink()
        if is_new:
            key.unlink()
        raise
    return len(backup.seals)
