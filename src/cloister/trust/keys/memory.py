"""Holding a secret in memory, and letting it go.

Python's own objects cannot be wiped: `bytes` are immutable, and copies stay behind in freed memory. So a key lives only
in a page of its own, is written there by OpenSSL or the kernel, leaves it only through a system call, and is overwritten
before the page is given back. What is not promised: OpenSSL's copy of the *root* key, which the broker needs as long as
it runs, and the kernel's own buffers.
"""

import ctypes
import errno
import fcntl
import logging
import mmap
import os
import resource
from dataclasses import dataclass
from typing import Final, Self

log = logging.getLogger(__name__)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT_AND_FUTURE: Final = 1 | 2
_MADV_WIPEONFORK: Final = 18
_MADV_DONTDUMP: Final = 16
_MFD_NOEXEC_SEAL: Final = 8

_DIGITS: Final = b"0123456789abcdef"

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SecretPage:
    """A buffer for one secret, at most a page: not swapped out (where RLIMIT_MEMLOCK permits), in no core dump, zero in
    a forked child, and zero again when the `with` block ends."""

    def __init__(self, size: int) -> None:
        if not 0 < size <= mmap.PAGESIZE:
            raise ValueError(size)
        self._map = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if _LIBC.mlock(ctypes.c_void_p(self._address), ctypes.c_size_t(mmap.PAGESIZE)) != 0:
            log.warning("a secret's page could not be locked in memory: %s", os.strerror(ctypes.get_errno()))
        self._map.madvise(_MADV_DONTDUMP)
        self._map.madvise(_MADV_WIPEONFORK)
        self.buffer = memoryview(self._map)[:size]

    def fill_randomly(self) -> None:
        """From the kernel's generator straight into the page. Waits for it to be seeded, which at boot it may not be."""
        size = len(self.buffer)
        # Up to 256 bytes getrandom(2) gives all or nothing.
        if size > 256 or _LIBC.getrandom(ctypes.c_void_p(self._address), ctypes.c_size_t(size), 0) != size:
            raise OSError(ctypes.get_errno(), "getrandom")

    def close(self) -> None:
        self.buffer.release()
        ctypes.memset(self._address, 0, mmap.PAGESIZE)
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wipe(buffer: bytearray) -> None:
    """Overwrite in place. For secrets that came in a bytearray."""
    buffer[:] = bytes(len(buffer))


def write_hexadecimal(source: memoryview, target: memoryview) -> None:
    """`source` as lower-case hexadecimal digits, in place: `bytes.hex` would leave a copy that nobody can wipe."""
    for position, byte in enumerate(source):
        target[2 * position] = _DIGITS[byte >> 4]
        target[2 * position + 1] = _DIGITS[byte & 15]


def read_hexadecimal(source: memoryview, target: memoryview) -> None:
    """What `write_hexadecimal` wrote. Raises ValueError for anything else."""
    for position in range(len(target)):
        target[position] = _DIGITS.index(source[2 * position]) << 4 | _DIGITS.index(source[2 * position + 1])


def sealed_memfd(content: memoryview, name: str) -> int:
    """A new descriptor of an anonymous file that holds `content` and can never be changed, at offset 0.

    It exists as long as somebody holds it open; nothing of it ever reaches a disk, except swap. `name` shows in
    /proc/PID/fd: it must say nothing.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.3 do not know the flag
            raise
        descriptor = os.memfd_create(name, flags)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.EIO, "short write to a memfd")  # noqa: TRY301 - closes and raises like any other
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_sealed(descriptor: int) -> bool:
    """True if the file's content can no longer change under its reader."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # not a memfd
        return False


@dataclass(frozen=True, slots=True)
class Hardening:
    """What `harden_process` achieved."""

    dumps_are_off: bool
    memory_is_locked: bool


def harden_process() -> Hardening:
    """Keep this process's memory to itself: no core dumps, no ptrace by its own user, no swap where permitted.

    All of memory is locked only if the limit on it is infinite (the supervisor raises it for the broker): under a finite
    one, MCL_FUTURE would make an ordinary allocation fail later. Pages of secrets lock themselves either way.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    dumps_are_off = _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    may_lock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    memory_is_locked = may_lock and _LIBC.mlockall(_MCL_CURRENT_AND_FUTURE) == 0
    return Hardening(dumps_are_off, memory_is_locked)
