"""The two mounts around a compute that bubblewrap cannot make: both noexec, nosuid, nodev.

`room/` is a small file system in memory, of this compute alone:

    room/sock   the Unix socket, where the API and the gateway connect
    room/shm    POSIX shared memory, seen as /dev/shm inside
    room/data   the branch's data directory, bound here once more so that it is noexec whatever the volume is
    room/outbox the directory for finished WAL, likewise, where there is one
    room/egress the project's doors (`node/egress`), likewise
    room/pool   the pooler's socket, where the gateway connects; there from the first pooled client on, and not inside

Nothing that a tenant can write can be executed, therefore, or mapped as code: a superuser's COPY TO or lo_export of a
shared library ends at the first LOAD. `nosymfollow` on the room keeps a compute from putting a symbolic link where its
socket should be, which would lead the gateway, that every compute trusts, to the socket of another tenant.
"""

import contextlib
import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_REMOUNT, _BIND = 32, 4096
_NOSYMFOLLOW: Final = 256
# Linux 5.10; older kernels ignore it, and the seccomp filter refuses symlink(2) as well.
_MNT_DETACH: Final = 2
_NO_CODE: Final = _NOSUID | _NODEV | _NOEXEC

_INODES_MAX: Final = 4096
# A socket, its lock, and one per shared memory segment: a parallel query has a handful.


class Room:
    """The directory of one compute under `Paths.computes`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sockets = path / "sock"
        self.shared_memory = path / "shm"
        self.data = path / "data"
        self.outbox = path / "outbox"
        self.egress = path / "egress"
        self.pool = path / "pool"

    def prepare(
        self,
        data: Path,
        *,
        uid: int,
        shared_gid: int,
        memory_bytes: int,
        outbox: Path | None = None,
        doors: Path | None = None,
    ) -> None:
        """Mount the room and bind `data`, `outbox` and `doors` into it. The sockets' directory can be reached by `shared_gid`, whose members
        are the API and the gateway, and by nobody else; files in it count as the compute's memory."""
        self.clear()
        self.path.mkdir(mode=0o700, parents=True)
        _mount(
            "tmpfs",
            self.path,
            "tmpfs",
            _NO_CODE | _NOSYMFOLLOW,
            f"size={memory_bytes},nr_inodes={_INODES_MAX},mode=0700",
        )
        try:
            for directory, owner, group, mode in (
                (self.sockets, uid, shared_gid, 0o710),
                (self.shared_memory, uid, uid, 0o700),
                (self.data, 0, 0, 0o700),
                (self.outbox, 0, 0, 0o700),
                (self.egress, 0, 0, 0o755),
            ):
                directory.mkdir()
                os.chown(directory, owner, group)
                directory.chmod(mode)
            _bind(data, self.data)
            if outbox is not None:
                _bind(outbox, self.outbox)
            if doors is not None:
                _bind(doors, self.egress)
            os.chown(self.path, 0, shared_gid)
            self.path.chmod(0o710)
        except BaseException:
            self.clear()
            raise

    def make_pool(self, *, owner: int, group: int) -> None:
        """A new, empty directory for the pooler's socket, reached by these two and by nobody else: `owner` passes through,
        `group` makes the socket."""
        shutil.rmtree(self.pool, ignore_errors=True)
        self.pool.mkdir(mode=0o700)
        os.chown(self.pool, owner, group)
        self.pool.chmod(0o570)

    def clear(self) -> None:
        """Unmount and remove it. Already gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            _detach(self.path)
            self.path.rmdir()


def _bind(directory: Path, target: Path) -> None:
    _mount(str(directory), target, "", _BIND, "")
    _mount("", target, "", _BIND | _REMOUNT | _NO_CODE, "")


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _detach(target: Path) -> None:
    """Unmount `target` and everything below it, in one call: each waits some milliseconds for a grace period. Detached,
    so that a file still open elsewhere does not fail it; the kernel lets go when that is closed."""
    while _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        continue
    if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, os.strerror(number), str(target))
