"""Starting programs with exactly the descriptors they are to have, at the numbers their command line names.

posix_spawn(3) does not copy the agent's page tables, which matters on the way of a wake, and runs no Python in the
child. A child gets its environment and nothing of the agent's.
"""

import contextlib
import fcntl
import os
import resource
import signal
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.node.records import ProcessRecord

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

_NUMBERS_ABOVE: Final = 64
# Children's descriptors are single digits. A source is first copied above them, so that no dup2 overwrites one.

TOOL_TIMEOUT_S: Final = 60.0
# mkfs takes 0.06 s, cryptsetup 0.03 s.


def forbid_core_dumps() -> None:
    """For this process and all it starts: they hold keys, or a tenant's rows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # A limit of 1 rather than 0: where core_pattern is a pipe the kernel ignores 0, and takes 1 to mean never.
    limit = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def find(program: str) -> Path | None:
    """The program's path, looked up where the system's own programs are, whatever PATH we were started with."""
    for directory in _ENVIRONMENT["PATH"].split(":"):
        path = Path(directory) / program
        if os.access(path, os.X_OK):
            return path
    return None


def spawn(argv: list[str], descriptors: dict[int, int]) -> ProcessRecord:
    """Start `argv` in a session of its own, with `descriptors` (number in the child → ours) and /dev/null elsewhere."""
    if (program := find(argv[0])) is None:
        raise InternalError(f"{argv[0]} is not installed")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    copies: list[int] = []
    try:
        wanted = {0: null, 1: null, 2: null, **descriptors}
        # Before it is seen what is to be closed: of that another thread may close one, and a copy would get its number.
        copies.extend(_copy_above(ours) for ours in wanted.values())
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() - wanted.keys()]
        actions += [(os.POSIX_SPAWN_DUP2, copy, number) for copy, number in zip(copies, wanted, strict=True)]
        pid = os.posix_spawn(
            program,
            argv,
            _ENVIRONMENT,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )
    finally:
        for copy in copies:
            os.close(copy)
        os.close(null)
    # A child of ours keeps its pid until we reap it: this cannot be somebody else.
    return ProcessRecord.of(pid)


def run(argv: list[str], descriptors: dict[int, int] | None = None) -> None:
    """Run a tool to its end. Raises InternalError with what it said, if it fails or takes too long."""
    said = os.memfd_create(argv[0], os.MFD_CLOEXEC)
    try:
        process = spawn(argv, {**(descriptors or {}), 2: said})
        code = process.join(TOOL_TIMEOUT_S)
        if code is None:
            process.signal(signal.SIGKILL)
            process.join(TOOL_TIMEOUT_S)
            raise InternalError(f"{argv[0]} took longer than {TOOL_TIMEOUT_S:.0f} s")
        if code != 0:
            text = os.pread(said, 2000, 0).decode(errors="replace").strip()
            raise InternalError(f"{argv[0]} failed with {code}: {text}")
    finally:
        os.close(said)


def _inheritable() -> set[int]:
    """What we were started with and a child would inherit. Whatever Python opened closes itself."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        with contextlib.suppress(OSError):
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found


def _copy_above(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _NUMBERS_ABOVE)
