"""A root key in a file: 32 random bytes, readable by the broker's user alone.

Simple and unattended: the platform comes up by itself after a power loss. Whoever can read the whole disk has the key as
well as the volumes; against that there is `passphrase.py`.
"""

import os
import stat
from pathlib import Path

from cloister.base.durable import sync_directory
from cloister.base.errors import PreconditionError
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, RootKey


class FileProvider(RootKey):
    name = "file"

    def __init__(self, path: Path) -> None:
        """Reads the key. Raises PreconditionError if the file is not what it must be."""
        super().__init__(read_key(path))

    @classmethod
    def of(cls, page: SecretPage) -> "FileProvider":
        """Of a key that is in no file here. Takes the page over."""
        it = cls.__new__(cls)
        RootKey.__init__(it, page)
        return it

    @property
    def root_version(self) -> str:
        return self.fingerprint


def create_root_key(path: Path, *, uid: int, gid: int) -> None:
    """Mint a root key for the user who will run the broker. Raises FileExistsError rather than replace one: a root key
    that is lost takes every project with it."""
    with SecretPage(KEY_BYTES) as page:
        page.fill_randomly()
        write_private(path, page.buffer, uid=uid, gid=gid)


def read_key(path: Path) -> SecretPage:
    """32 bytes of a file that only we can read. Raises PreconditionError with what is wrong."""
    descriptor = open_private(path)
    page = SecretPage(KEY_BYTES)
    try:
        size = os.fstat(descriptor).st_size
        is_whole = size == KEY_BYTES and os.readv(descriptor, [page.buffer]) == KEY_BYTES
    finally:
        os.close(descriptor)
    if not is_whole:
        page.close()
        raise PreconditionError(public=f"{path}: {size} bytes, a root key has {KEY_BYTES}")
    return page


def open_private(path: Path) -> int:
    """A descriptor of a file that only we can read. Raises PreconditionError with what is wrong."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise PreconditionError(public=f"{path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    problem = (
        "not a regular file"
        if not stat.S_ISREG(status.st_mode)
        else f"belongs to uid {status.st_uid}, must belong to the key broker's user (uid {os.geteuid()})"
        if status.st_uid != os.geteuid()
        else f"mode {stat.S_IMODE(status.st_mode):04o}, must be 0600"
        if stat.S_IMODE(status.st_mode) & 0o077
        else None
    )
    if problem is not None:
        os.close(descriptor)
        raise PreconditionError(public=f"{path}: {problem}")
    return descriptor


def write_private(path: Path, content: memoryview | bytes, *, uid: int, gid: int) -> None:
    """Create `path`, 0600, whole or not at all, and on disk when this returns. Raises FileExistsError."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # left by a crash
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fchown(descriptor, uid, gid)
        os.fsync(descriptor)
        os.link(temporary, path)  # unlike rename, refuses to replace
    finally:
        os.close(descriptor)
        temporary.unlink()
    sync_directory(path.parent)
