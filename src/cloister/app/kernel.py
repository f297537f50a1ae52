"""The few system calls of process set-up that Python does not offer: prctl(2), unshare(2), mount(2)."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNS: Final = 0x0002_0000
_MS_RDONLY: Final = 0x1
_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_MS_REMOUNT: Final = 0x20
_MS_BIND: Final = 0x1000
_MS_MOVE: Final = 0x2000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x4_0000
_MS_SHARED: Final = 0x10_0000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with_parent(with_signal: signal.Signals, parent: int) -> None:
    """Get `with_signal` when the parent dies. Cleared by a change of credentials, kept by execve: call it after the
    first and before the second. If `parent`, a pid, is gone already, end now: whoever adopted us need not be PID 1."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        raise SystemExit("the supervisor is gone")


def no_new_privileges() -> None:
    """From now on no execve gives this process or its children more rights than they have."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def no_dumps() -> None:
    """No core dump of this process, and nobody but root may read its memory through /proc."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent died, instead of PID 1."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def private_mounts() -> None:
    """A mount namespace of our own: what is mounted from now on is seen by our descendants only, and vanishes with the
    last of them."""
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _mount(None, "/", _MS_REC | _MS_PRIVATE)


def share(directory: str) -> None:
    """From now on an unmount below `directory` reaches the copies that sandboxes under construction hold, so that a
    volume is really closed when it was unmounted."""
    _mount(directory, directory, _MS_BIND)
    _mount(None, directory, _MS_SHARED)


def bind(source: str, target: str) -> None:
    """Show `source`, with what is mounted below it, at `target` as well."""
    _mount(source, target, _MS_BIND | _MS_REC)


def move(source: str, target: str) -> None:
    _mount(source, target, _MS_MOVE)


def cover(target: str) -> None:
    """Put an empty, writable directory over `target`, for its new entries to be made in; `seal` ends that."""
    _mount("tmpfs", target, _MS_NOSUID | _MS_NODEV, "tmpfs", "mode=0755,size=1m")


def seal(target: str) -> None:
    _mount("tmpfs", target, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "tmpfs", "mode=0755,size=1m")


def _mount(source: str | None, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    _checked(
        _libc.mount(
            source.encode() if source else None,
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            options.encode() if options else None,
        ),
        f"mount {target}",
    )
