"""Files with secrets in them, which root writes on the server, and one service reads."""

import os
import secrets
from pathlib import Path

from cloister.base.identities import Service, gid_of, uid_of


def write(path: Path, content: bytes, *, owner: Service) -> None:
    """Whole or not at all, and nobody's to read but the service's from the first moment."""
    # The directory is the service's: a link that it put there is not followed, and an old file of that name is not reused.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        temporary = f".{path.name}.{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            os.fchown(file.fileno(), uid_of(owner), gid_of(owner))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)
