"""Start a program in a sandbox, so that it is never outside its limits and never unknown to a later agent.

The agent may be killed between any two lines. Therefore:

(1) bubblewrap is spawned first and waits for its options. If the agent ends now, it reads none and exits.
(2) Its limits are set, it is kept apart from its neighbours (`cores.py`), and the caller writes down who it is (`on_spawn`).
(3) It gets its options, builds the namespaces and tells the pid of the program-to-be, whoever is still there to hear it.
(4) While it builds mounts, that pid is moved into its control group. Only then it is let go and starts the program.

Nothing is forked from this threaded process but by posix_spawn, and no Python runs in between (`../children.py`).
"""

import asyncio
import contextlib
import io
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.errors import NotFoundError, PreconditionError
from cloister.node import children
from cloister.node.records import ProcessRecord
from cloister.node.sandbox import bwrap, cores, seccomp
from cloister.node.sandbox.bwrap import ARGS_FD, BLOCK_FD, INFO_FD, LOCK_FD, SECCOMP_FD, STATUS_FD, Sandbox
from cloister.node.sandbox.cgroups import Group

SETUP_TIMEOUT_S: Final = 10.0
# Namespaces take 2 ms; a machine that is thrashing may take seconds.

MONITOR_GRACE_S: Final = 2.0
# bubblewrap notices the end of its child at once. Beyond this it is stopped or stuck.

OPEN_FILES_MAX: Final = 16_384
# PostgreSQL keeps up to max_files_per_process (1 000) open per process and asks before it takes more.


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    sandbox: Sandbox
    program: list[str]
    status_path: Path
    """Where bubblewrap writes how it ended."""
    log_fd: int
    """Standard output and error."""
    output_fd: int | None = None
    """Standard output, where it is not to stand in the log."""
    lock_fd: int | None = None
    """Held open by the program and its children: a lock on it lasts as long as any of them. Never a directory, for
    `..` of a directory outside leads out of the sandbox."""
    input_fd: int | None = None
    group: Group
    processes_max: int


@dataclass(frozen=True, slots=True)
class Launched:
    monitor: ProcessRecord
    """bubblewrap, outside: it waits for the program and writes down its exit status."""
    program: ProcessRecord
    """Process 1 inside."""


class _Info(msgspec.Struct):
    child_pid: int = msgspec.field(name="child-pid")


def _program(info: bytes) -> ProcessRecord:
    """Raises PreconditionError when bubblewrap, or its child, has ended already: it says why in the log."""
    try:
        if info:
            return ProcessRecord.of(msgspec.json.decode(info, type=_Info).child_pid)
    except NotFoundError:
        pass
    raise PreconditionError("bubblewrap ended before it made a sandbox", public="this host cannot make a sandbox")


class _Status(msgspec.Struct):
    child_pid: int | None = msgspec.field(name="child-pid", default=None)
    exit_code: int | None = msgspec.field(name="exit-code", default=None)


async def launch(what: Launch, on_spawn: Callable[[ProcessRecord], None]) -> Launched:
    """Returns when the program is about to be started. Raises PreconditionError when the host cannot sandbox."""
    with contextlib.ExitStack() as files:
        args_read, args_write = _pipe(files)
        info_read, info_write = _pipe(files)
        info = files.enter_context(_kept_open(info_write))
        block_read, block_write = _pipe(files)
        status = files.enter_context(io.FileIO(what.status_path, "w"))
        filter_ = files.enter_context(io.FileIO(seccomp.open_filter(), "r"))

        # (1) Spawned, and waiting.
        given = {
            1: what.log_fd if what.output_fd is None else what.output_fd,
            2: what.log_fd,
            ARGS_FD: args_read.fileno(),
            STATUS_FD: status.fileno(),
            INFO_FD: info.fileno(),
            BLOCK_FD: block_read.fileno(),
            SECCOMP_FD: filter_.fileno(),
        }
        if what.input_fd is not None:
            given[0] = what.input_fd
        if what.lock_fd is not None:
            given[LOCK_FD] = what.lock_fd
        monitor = _spawn(what, given)
        for file in (args_read, info_write, info, block_read):
            file.close()
        try:
            # (2) Limited, and written down.
            _limit(monitor.pid, what.processes_max)
            cores.keep_apart(monitor.pid)
            on_spawn(monitor)
            # (3) Told what to build.
            args_write.write(b"".join(os.fsencode(word) + b"\0" for word in bwrap.options(what.sandbox)))
            args_write.close()
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                program = _program(await _read_to_end(info_read.fileno()))
                # (4) Inside its group, and let go.
                await asyncio.to_thread(what.group.attach, program.pid)
            with contextlib.suppress(BrokenPipeError):  # It has ended already: `ended` tells how.
                block_write.write(b"1")
        except BaseException:
            abandon(monitor)
            _end_held_back(block_write.fileno())
            raise
        return Launched(monitor, program)


async def ended(launched: Launched, status_path: Path) -> int:
    """Wait for the program's end. Its exit code as os.waitstatus_to_exitcode gives it, read from what bubblewrap wrote,
    for the program is no child of ours. When nothing was written, bubblewrap's own tells why, if it is our child; -9 if
    nobody is left to ask."""
    await launched.program.wait()
    try:
        async with asyncio.timeout(MONITOR_GRACE_S):
            monitor_code = await launched.monitor.wait()
    except TimeoutError:
        launched.monitor.signal(signal.SIGKILL)
        monitor_code = await launched.monitor.wait()
    written = exit_code(status_path)
    if written is not None:
        return written
    return -9 if monitor_code is None else _as_python(monitor_code)


def exit_code(status_path: Path) -> int | None:
    """None if bubblewrap did not live to write it, or could not build the sandbox."""
    for status in _statuses(status_path):
        if (code := status.exit_code) is not None:
            return _as_python(code)
    return None


def _as_python(code: int) -> int:
    """A shell's exit code, where a signal N is 128+N, as Python's, where it is -N."""
    return code if code <= 128 else 128 - code


def program_of(monitor: ProcessRecord, status_path: Path) -> ProcessRecord | None:
    """The program of a launch that its agent did not live to see the end of; None if there is none."""
    if not monitor.is_alive():
        return None
    for status in _statuses(status_path):
        if status.child_pid is not None:
            with contextlib.suppress(NotFoundError, OSError):
                program = ProcessRecord.of(status.child_pid)
                if str(program.pid) in _children(monitor.pid):
                    return program
    return None


def _statuses(status_path: Path) -> list[_Status]:
    """What bubblewrap wrote: JSON objects, one a line; first the pid of its child, at the end the exit code as a shell
    would tell it."""
    statuses = []
    with contextlib.suppress(FileNotFoundError):
        for line in status_path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                statuses.append(msgspec.json.decode(line, type=_Status))
    return statuses


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _spawn(what: Launch, given: dict[int, int]) -> ProcessRecord:
    if children.find("bwrap") is None:
        raise PreconditionError(public="bwrap is missing: install bubblewrap")
    argv = ["bwrap", "--args", str(ARGS_FD), "--", *bwrap.command(what.sandbox, what.program)]
    # The program would have bubblewrap's environment beside that of its sandbox, which is to be all of it.
    return children.spawn(argv, given, environment={})


def abandon(monitor: ProcessRecord) -> None:
    """End a launch halfway. The end of the pipe that holds the program back would let it go, so it dies first; while
    bubblewrap is stopped, it cannot make another."""
    if not monitor.signal(signal.SIGSTOP):
        return
    with contextlib.suppress(OSError):
        for pid in _children(monitor.pid):
            os.kill(int(pid), signal.SIGKILL)
    monitor.signal(signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(monitor.pid, 0)


def _end_held_back(pipe: int) -> None:
    """Whoever was made and told to nobody, because bubblewrap was killed in that moment: it waits for bubblewrap for ever, and
    holds the lock and all mounts. It is known by the pipe that holds it back."""
    name = Path(f"/proc/self/fd/{pipe}").readlink()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, NotFoundError):  # it ended while it was looked at
            process = ProcessRecord.of(int(entry.name))
            if (entry / "fd" / str(BLOCK_FD)).readlink() == name and (entry / "exe").readlink().name == "bwrap":
                process.signal(signal.SIGKILL)


def _limit(pid: int, processes_max: int) -> None:
    """What a control group does not limit, or what must hold where there is none."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
        # Counts all of a uid, so all branches of a project: a last resort, the group's own limit is exact.
        (resource.RLIMIT_NPROC, processes_max * 8),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.prlimit(pid, limit, (value, value))
    # Before the platform's own processes, when the host itself runs out of memory.
    Path(f"/proc/{pid}/oom_score_adj").write_text("300")


async def _read_to_end(fd: int) -> bytes:
    """Everything that is written to a pipe until the other end is closed."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    chunks: list[bytes] = []
    os.set_blocking(fd, False)

    def on_readable() -> None:
        try:
            chunk = os.read(fd, 4096)
        except BlockingIOError:
            return
        if chunk:
            chunks.append(chunk)
        elif not finished.done():
            finished.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        await finished
    finally:
        loop.remove_reader(fd)
    return b"".join(chunks)


def _kept_open(write: io.FileIO) -> io.FileIO:
    """The same pipe, for a writer that is not to die with its reader: whoever may read from it too is never told that nobody
    does. bubblewrap would end of that, with its child made and not let go."""
    return io.FileIO(os.open(f"/proc/self/fd/{write.fileno()}", os.O_RDWR | os.O_CLOEXEC), "r+")


def _pipe(files: contextlib.ExitStack) -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    return files.enter_context(io.FileIO(read, "r")), files.enter_context(io.FileIO(write, "w"))
