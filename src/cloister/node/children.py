"""Starting programs: each has the descriptors that it is given, at the numbers that its command line names, and no others.

The child sees to that itself, after it has a table of descriptors of its own and before it becomes the program:

1. What it is given is copied to numbers that nothing is given from or wanted at, so that arranging one overwrites no other.
2. Each copy goes to its number. A standard one that it is not given is /dev/null, and a number in between is closed.
3. Whatever is above is closed.

So nobody looks beforehand for what is to be closed. Another thread of the agent may by then have one more descriptor open that some
library did not mark close-on-exec, and were it a tenant's key, it would be in the program of another.

posix_spawn(3) does not copy the agent's page tables, which matters on the way of a wake, and runs no Python in the child. It is the C
library's own, for Python's has no words for step 3. A child gets its environment and nothing of the agent's.
"""

import ctypes
import itertools
import os
import resource
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.node.records import ProcessRecord

TOOL_TIMEOUT_S: Final = 60.0
# mkfs takes 0.06 s, cryptsetup 0.03 s.

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "LC_ALL": "C"}

_STANDARD: Final = (0, 1, 2)

_LIBC: Final = ctypes.CDLL(None)

_Object: Final = ctypes.c_uint64 * 64
# Holds any of the C library's: its largest here, posix_spawnattr_t, is of 336 bytes.

_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08
_SETSID: Final = 0x80


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


def spawn(
    argv: list[str], descriptors: Mapping[int, int], environment: Mapping[str, str] = _ENVIRONMENT
) -> ProcessRecord:
    """Start `argv` in a session of its own, with `descriptors` (number in the child → ours), no signal blocked and none
    ignored. Raises InternalError if it is not installed, OSError as posix_spawn(3) does."""
    if (program := find(argv[0])) is None:
        raise InternalError(f"{argv[0]} is not installed")
    pid = _posix_spawn(program, _words(argv), _words(map("=".join, environment.items())), _arranged(descriptors))
    # A child of ours keeps its pid until we reap it: this cannot be somebody else.
    return ProcessRecord.of(pid)


def run(argv: list[str], descriptors: Mapping[int, int] | None = None) -> None:
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


def _arranged(given: Mapping[int, int]) -> Iterator[tuple[str, tuple[int | bytes, ...]]]:
    """What the child does with its descriptors, in order, in the words of posix_spawn_file_actions_*(3)."""
    above = max(*_STANDARD, *given) + 1
    free = (number for number in itertools.count(above) if number not in given.values())
    copies = dict(zip(given, free, strict=False))
    # (1) Out of the way.
    for number, ours in given.items():
        yield "adddup2", (ours, copies[number])
    # (2) To their numbers.
    for number in range(above):
        if number in copies:
            yield "adddup2", (copies[number], number)
        elif number in _STANDARD:
            yield "addopen", (number, os.fsencode(os.devnull), os.O_RDWR, 0)
        else:
            yield "addclose", (number,)
    # (3) Nothing else.
    yield "addclosefrom_np", (above,)


def _posix_spawn(
    program: Path,
    argv: "ctypes.Array[ctypes.c_char_p]",
    environment: "ctypes.Array[ctypes.c_char_p]",
    arranged: Iterable[tuple[str, tuple[int | bytes, ...]]],
) -> int:
    """The pid. Other threads go on meanwhile: the interpreter's lock is not held while the C library waits for the child."""
    pid, actions, attributes, signals = ctypes.c_int(), _Object(), _Object(), _Object()
    _require(_LIBC.posix_spawn_file_actions_init(actions))
    _require(_LIBC.posix_spawnattr_init(attributes))
    try:
        for name, details in arranged:
            _require(getattr(_LIBC, f"posix_spawn_file_actions_{name}")(actions, *details))
        _LIBC.sigemptyset(signals)
        _require(_LIBC.posix_spawnattr_setsigmask(attributes, signals))
        _LIBC.sigfillset(signals)
        _require(_LIBC.posix_spawnattr_setsigdefault(attributes, signals))
        flags = ctypes.c_short(_SETSID | _SETSIGMASK | _SETSIGDEF)
        _require(_LIBC.posix_spawnattr_setflags(attributes, flags))
        code = _LIBC.posix_spawn(ctypes.byref(pid), os.fsencode(program), actions, attributes, argv, environment)
        _require(code, program)
    finally:
        _LIBC.posix_spawnattr_destroy(attributes)
        _LIBC.posix_spawn_file_actions_destroy(actions)
    return pid.value


def _words(words: Iterable[str]) -> "ctypes.Array[ctypes.c_char_p]":
    """Ended by a null pointer, as C wants them. Raises ValueError for one with a NUL, which would there end early."""
    encoded = [os.fsencode(word) for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("a word of a command with a NUL in it")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded)


def _require(code: int, program: Path | None = None) -> None:
    """These functions return what others leave in errno."""
    if code != 0:
        raise OSError(code, os.strerror(code), program and str(program))
