"""Root tries, as everybody, what everybody must be refused: whoever refuses can tell that from an attempt.

A lock beside a service's socket, held while root tries (`cloister doctor --flows`). The file is the service's own and closed to
everybody else, so nobody but root and the service can hold it; and it ends with whoever holds it, however they end.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_NAME: Final = "trial.lock"
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def trying(service_socket: Path, uid: int) -> Iterator[None]:
    """For the time of the context, what the service of this user refuses is a trial. Where it has no place, nobody refuses."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(service_socket.with_name(_NAME), _FLAGS | os.O_CREAT, 0o600)
            stack.callback(os.close, lock)
            os.fchown(lock, uid, -1)
            fcntl.flock(lock, fcntl.LOCK_SH)  # Two may try at a time.
        yield


def is_under_way(service_socket: Path) -> bool:
    try:
        lock = os.open(service_socket.with_name(_NAME), _FLAGS)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
