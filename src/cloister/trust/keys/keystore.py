"""The keystore: what an erased project's keys lack for ever, also where an old backup is put back.

Every project has a seal, a key of its own that lies here and not in the control database; its project key's envelope is
sealed with it. So has every month of its statement log and of its recordings, under names of their own (`PROJECT/statements/N`). Erasing a project takes
its seals away and begins a new epoch: the seals that stay are wrapped anew under a new epoch key, and the old epoch key is
destroyed.

    keystore/seals.json             the seals, each wrapped by the epoch key: `backup.py` copies it, after every erasure too
    epochs/epoch-000007.key         the epoch key: in no backup, on something that can forget

So a backup of the control database opens for whoever still has a seal today, and for nobody else; a backup of the seals
opens only under the epoch key of its day, which is gone after the next erasure. Everything rests on that: docs/keys.md says
where the epoch key must lie.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory, write_durably
from cloister.base.errors import PreconditionError
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.file import read_key, write_private
from cloister.trust.keys.providers.provider import KEY_BYTES, OVERHEAD_BYTES, Context, Provider, RootKey

log = logging.getLogger(__name__)

SEALS_FILE: Final = "seals.json"
_EPOCH_FILE: Final = re.compile(r"epoch-(\d{6,})\.key")


class ErasedError(PreconditionError):
    """A project without a seal: it was erased, whatever the control database says."""

    public = "the keys of this project were erased"


class Seals(msgspec.Struct, frozen=True, kw_only=True):
    epoch: int
    seals: dict[str, bytes]


class Keystore:
    """Opened once, by the broker. Changes wait for the disk and are made one at a time."""

    def __init__(self, directory: Path, epochs: Path, *, may_begin: bool = True) -> None:
        """`may_begin`: nobody has had a seal yet. Raises PreconditionError if the seals are missing otherwise, or if the
        epoch key and the seals do not belong together: nothing is begun anew then."""
        self.directory = directory
        self._path = directory / SEALS_FILE
        self._may_begin = may_begin
        self._epochs = epochs
        self._changing = threading.Lock()
        self._using = threading.Lock()
        """Held for a moment by who opens a seal, and by who puts the next epoch in place: the seals and the key that opens
        them are of one epoch for whoever looks, in whichever thread."""
        self._state = self._read()
        self._epoch_key = self._open(self._state.epoch)
        self._forget_other_epochs()

    @property
    def epoch(self) -> int:
        return self._state.epoch

    def project_ids(self) -> set[str]:
        """Everybody who has a seal."""
        return {name.partition("/")[0] for name in self._state.seals}

    def has(self, name: str) -> bool:
        return name in self._state.seals

    def ensure(self, *project_ids: str) -> None:
        """Give each project a seal that has none; on disk when this returns."""
        with self._changing:
            epoch, new = self._state.epoch, dict[str, bytes]()
            with SecretPage(KEY_BYTES) as page:
                for project_id in project_ids:
                    if project_id not in self._state.seals:
                        page.fill_randomly()
                        new[project_id] = self._epoch_key.wrap(page.buffer, Context(project_id, "seal", epoch))
            if new:
                seals = Seals(epoch=epoch, seals={**self._state.seals, **new})
                self._write(seals)
                self._state = seals

    def seal(self, envelope: bytes, context: Context) -> bytes:
        """Raises ErasedError."""
        with self._sealing(context.project_id) as seal:
            return seal.wrap(memoryview(envelope), context)

    def unseal(self, sealed: bytes, context: Context) -> bytes:
        """What `seal` was given: an envelope, no secret yet. Raises ErasedError, KeyDamagedError."""
        envelope = bytearray(max(len(sealed) - OVERHEAD_BYTES, 0))
        with self._sealing(context.project_id) as seal:
            seal.unwrap_into(sealed, context, memoryview(envelope))
        return bytes(envelope)

    def erase(self, project_ids: Collection[str]) -> bool:
        """Take the seals away, for good, and those of what is part of these projects. False if none of them was there: twice
        is once.

        1. A new epoch key, on disk, under a number that no other has had: of a roll whose writing failed nobody knows which
           seals are on disk, so both keys stay. Cut here, the next start finds it unused and removes it.
        2. The seals that stay, wrapped by it.
        3. The new seals replace the old in one step: from here on the old epoch key opens nothing that is in use.
        4. The old epoch key is overwritten and removed. Cut before, the next start does it.
        """
        with self._changing:
            if not any(_is_of(name, project_ids) for name in self._state.seals):
                self._forget_other_epochs()  # where that failed before
                return False
            old, epoch = self._epoch_key, max(self._known_epochs() | {self._state.epoch}) + 1
            # 1.
            _create(self._file(epoch))
            new = self._open(epoch)
            try:
                # 2.
                staying = {}
                with SecretPage(KEY_BYTES) as page:
                    for project_id, seal in self._state.seals.items():
                        if not _is_of(project_id, project_ids):
                            old.unwrap_into(seal, Context(project_id, "seal", self._state.epoch), page.buffer)
                            staying[project_id] = new.wrap(page.buffer, Context(project_id, "seal", epoch))
                # 3.
                seals = Seals(epoch=epoch, seals=staying)
                self._write(seals)
            except BaseException:
                new.close()
                raise
            with self._using:
                self._state, self._epoch_key = seals, new
                old.close()
            # 4.
            self._forget_other_epochs()
            return True

    def copied(self, provider: Provider, bind: Callable[[int, bytes], Context]) -> tuple[int, bytes, bytes]:
        """The epoch, the content of the seals' file, and the epoch's key, which `provider` wraps for what `bind` says of the two: all of
        one moment, in which nobody is erased. Of a roll whose writing failed, the epoch is the file's."""
        with self._changing:
            content = self._path.read_bytes()
            epoch = _parsed(self._path, content).epoch
            with read_key(self._file(epoch)) as page:
                return epoch, content, provider.wrap(page.buffer, bind(epoch, content))

    def try_all(self) -> None:
        """Open every seal. Raises KeyDamagedError for the first that the epoch's key does not open."""
        with self._using, SecretPage(KEY_BYTES) as page:
            for name, seal in self._state.seals.items():
                self._epoch_key.unwrap_into(seal, Context(name, "seal", self._state.epoch), page.buffer)

    def close(self) -> None:
        self._epoch_key.close()

    def _sealing(self, project_id: str) -> RootKey:
        page = SecretPage(KEY_BYTES)
        try:
            with self._using:
                seal, epoch = self._state.seals.get(project_id), self._state.epoch
                if seal is None:
                    raise ErasedError(f"the keystore has no seal of {project_id}")  # noqa: TRY301 - closes the page as well
                self._epoch_key.unwrap_into(seal, Context(project_id, "seal", epoch), page.buffer)
            return RootKey(page)
        except BaseException:
            page.close()
            raise

    def _read(self) -> Seals:
        """The seals, or the first epoch of a platform that has none. Half of it is refused."""
        try:
            return self._stored()
        except FileNotFoundError:
            if not self._may_begin or self._known_epochs() - {1}:
                raise PreconditionError(public=f"{self._path} is missing: restore the newest copy") from None
            if not self._known_epochs():
                _create(self._file(1))
            seals = Seals(epoch=1, seals={})
            self._write(seals)
            return seals

    def _stored(self) -> Seals:
        """Raises FileNotFoundError, PreconditionError."""
        return _parsed(self._path, self._path.read_bytes())

    def _open(self, epoch: int) -> RootKey:
        path = self._file(epoch)
        if not path.exists():
            raise PreconditionError(
                public=f"{self._path} is of epoch {epoch}, and {path} is not there. "
                "If this copy is older than the last erasure, its key was destroyed on purpose: restore a newer one"
            )
        return RootKey(read_key(path))

    def _write(self, seals: Seals) -> None:
        write_durably(self._path, msgspec.json.encode(seals), mode=0o600)

    def _file(self, epoch: int) -> Path:
        return epoch_file(self._epochs, epoch)

    def _known_epochs(self) -> set[int]:
        return known_epochs(self._epochs)

    def _forget_other_epochs(self) -> None:
        """Those before are over; one after was begun and never used. That of the seals on disk stays in any case."""
        for epoch in self._known_epochs() - {self._state.epoch, self._stored().epoch}:
            log.info("destroying the key of keystore epoch %d", epoch)
            _destroy(self._file(epoch))


def _parsed(path: Path, content: bytes) -> Seals:
    """Raises PreconditionError."""
    try:
        return msgspec.json.decode(content, type=Seals)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"{path}: {error}") from error


def epoch_file(epochs: Path, epoch: int) -> Path:
    return epochs / f"epoch-{epoch:06d}.key"


def known_epochs(epochs: Path) -> set[int]:
    """Whose keys are there."""
    found = (_EPOCH_FILE.fullmatch(entry.name) for entry in epochs.iterdir())
    return {int(match[1]) for match in found if match is not None}


def part_of(project_id: str, what: str, number: int) -> str:
    """The name of a seal that goes before its project's, or with it. No project's id has a slash."""
    return f"{project_id}/{what}/{number}"


def _is_of(name: str, ids: Collection[str]) -> bool:
    """A seal is a project's, `PROJECT`, or that of a part of it, `PROJECT/…`."""
    return name in ids or name.partition("/")[0] in ids


def _create(path: Path) -> None:
    """Raises FileExistsError."""
    with SecretPage(KEY_BYTES) as page:
        page.fill_randomly()
        write_private(path, page.buffer, uid=os.geteuid(), gid=os.getegid())


def _destroy(path: Path) -> None:
    """Overwritten in place and removed: what that is worth depends on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(descriptor, os.urandom(KEY_BYTES), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_directory(path.parent)
