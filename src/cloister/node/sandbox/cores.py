"""Core scheduling: what runs in two sandboxes is never at the same time on the hyperthreads of one core.

Hyperthreads share a core's first caches and its units, so one can time, or by a hole in the processor read, what the other does.
The kernel (5.14 and later, CONFIG_SCHED_CORE) lets only processes with one cookie share a core; a sandbox is given one of its own,
which all that starts in it inherits, and nothing in it can ask for another's. What has none, like the platform's own processes, is kept
apart from all that has.

Where the processor has no hyperthreads, or the kernel does not do this, nothing is lost: `support` says which.
"""

import ctypes
import errno
import os
from enum import Enum
from pathlib import Path
from typing import Final

TOPOLOGY: Final = Path("/sys/devices/system/cpu")

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SCHED_CORE: Final = 62
_GET: Final = 0
_CREATE: Final = 1

_THREAD: Final = 0
_THREAD_GROUP: Final = 1

_NOTHING_TO_DO: Final = {errno.ENODEV, errno.EINVAL}
# No hyperthreads; a kernel that does not know it.


class Support(Enum):
    ON = "core scheduling"
    NO_THREADS = "no hyperthreads"
    """That this machine is shown: of a virtual one, its host may have them."""
    MISSING = "hyperthreads, and no core scheduling"


def keep_apart(pid: int) -> bool:
    """A cookie for this process and all that it will start; not so where `support` is another than ON. Raises OSError."""
    return _prctl(_CREATE, pid, _THREAD_GROUP, 0) == 0


def cookie(pid: int) -> int | None:
    """0 is that of everybody who was not given one; None where there are none. Raises OSError."""
    value = ctypes.c_ulonglong()
    return value.value if _prctl(_GET, pid, _THREAD, ctypes.addressof(value)) == 0 else None


def support(topology: Path = TOPOLOGY) -> Support:
    if _prctl(_GET, os.getpid(), _THREAD, ctypes.addressof(ctypes.c_ulonglong())) == 0:
        return Support.ON
    siblings = [path.read_text().strip() for path in topology.glob("cpu[0-9]*/topology/thread_siblings_list")]
    return Support.MISSING if any(not each.isdecimal() for each in siblings) else Support.NO_THREADS


def _prctl(command: int, pid: int, scope: int, address: int) -> int:
    """0, or why there is nothing to do."""
    if _call(command, pid, scope, address) == 0:
        return 0
    number = ctypes.get_errno()
    if number not in _NOTHING_TO_DO:
        raise OSError(number, f"PR_SCHED_CORE of process {pid}: {os.strerror(number)}")
    return number


def _call(command: int, pid: int, scope: int, address: int) -> int:
    answer: int = _LIBC.prctl(_PR_SCHED_CORE, *(ctypes.c_ulong(each) for each in (command, pid, scope, address)))
    return answer
