"""Where backups go: a bucket, and who we are there. A file of the courier's, which root writes, for it holds secrets.

Two credentials (docs/backups.md): the writer's puts objects and may nothing else, the reader's gets and lists them and may nothing
else. Neither is ever used in the other's place. The writer's can take nothing away, which object lock holds against both.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from cloister.base.errors import BadRequestError, PreconditionError
from cloister.trust.sending.https import Lines
from cloister.trust.sending.s3 import Address, Bucket
from cloister.trust.sending.sigv4 import Credentials
from cloister.trust.sending.targets import target


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
    secret_key: Annotated[str, Meta(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        return f"Key({self.key_id!r})"


class Store(Address, frozen=True, forbid_unknown_fields=True, kw_only=True):
    writer: Key
    reader: Key
    sse: bool = True
    """It shall encrypt what it gets, too. Not every store knows how."""

    @property
    def digest(self) -> str:
        """Another one where objects lie elsewhere, whoever we are there."""
        return hashlib.sha256(f"{self.url}/{self.prefix}".encode()).hexdigest()

    def checked(self) -> Self:
        """Raises BadRequestError with what a person can act on."""
        target(self.url)
        if self.writer.key_id == self.reader.key_id:
            raise BadRequestError(
                public="the writer's credentials are the reader's: whoever takes one from this server has both. Make two"
            )
        return self


class Opened:
    """The store as each of the two sees it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lines = Lines(ca_file=store.ca_file, private=store.private)
        self.writer = self._as(store.writer)
        self.reader = self._as(store.reader)

    def close(self) -> None:
        self._lines.close()

    def _as(self, key: Key) -> Bucket:
        credentials = Credentials(key.key_id, key.secret_key, self.store.region)
        return Bucket(self.store.url, credentials, lines=self._lines)


def read(path: Path) -> Store:
    """Raises PreconditionError where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Store).checked()
    except FileNotFoundError:
        raise PreconditionError(public="there is no store for backups: `cloister backups store set`") from None
    except msgspec.MsgspecError as error:
        raise PreconditionError(f"{path}: {error}", public=f"the store's file cannot be read: {error}") from error
