"""Root tries, as everybody, what everybody must be refused: whoever refuses can tell that from an attempt.

A file beside a service's socket has the number of the process that tries just now, while root holds its lock. The kernel tells whoever
is called the caller's number, so what anybody else asks meanwhile is no trial. The file is the service's own and closed to everybody
else: nobody but root and the service can say so. It ends with whoever holds it, however they end.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError

Announce = Callable[[int], None]
"""Says which process tries from here on; 0: none."""

PATIENCE_S: Final = 30.0
# For another who tries: all users try everything within seconds.

_LOOK_S: Final = 0.05
# A service that looks holds the lock for a moment, too.

_NAME: Final = "trial.lock"
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_DIGITS: Final = 20


@contextlib.contextmanager
def trying(service_socket: Path, uid: int) -> Iterator[Announce]:
    """For the time of the context, what the service of this user refuses to who is announced is a trial. Where the service has no
    place, nobody refuses."""
    try:
        lock = os.open(service_socket.with_name(_NAME), _FLAGS | os.O_CREAT, 0o600)
    except FileNotFoundError:
        yield lambda _pid: None
        return

    def announce(pid: int) -> None:
        os.pwrite(lock, str(pid).zfill(_DIGITS).encode(), 0)

    try:
        os.fchown(lock, uid, -1)
        _take(lock)
        announce(0)
        yield announce
        announce(0)
    finally:
        os.close(lock)


def _take(lock: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PreconditionError(public="somebody else is trying what everybody may; try again") from None
            time.sleep(_LOOK_S)


def is_by(pid: int, service_socket: Path) -> bool:
    """Whether what this process asks is a trial."""
    try:
        lock = os.open(service_socket.with_name(_NAME), _FLAGS)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid > 0 and os.pread(lock, _DIGITS, 0) == str(pid).zfill(_DIGITS).encode()
    finally:
        os.close(lock)
    return False
