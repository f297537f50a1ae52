"""What the agent must still know after it was killed: which processes are its own.

Computes and volume daemons outlive the agent, so it writes down who they are: pid and start time, for a pid alone may
belong to somebody else by the time it is read. Every signal goes through a pidfd opened *before* the start time was
compared, so it cannot hit a process that took over the number. Records are files under `Paths.run`; one that was
written before the last boot describes nothing, and reads as absent.
"""

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from cloister.base.errors import NotFoundError

T = TypeVar("T", bound=msgspec.Struct)

_STATE: Final = 0
_START_TIME: Final = 19
# Positions in /proc/PID/stat after the parenthesised name (fields 3 and 22 of proc(5)).


class ProcessRecord(msgspec.Struct, frozen=True):
    """One process, for as long as it lives and never its successor."""

    pid: int
    started: int
    """Start time in clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        """The process that has this pid now (a zombie has it still). Raises NotFoundError."""
        if (fields := _stat(pid)) is None:
            raise NotFoundError(f"no process {pid}")
        return cls(pid, int(fields[_START_TIME]))

    def is_alive(self) -> bool:
        """False once it has exited, whether or not its parent has reaped it."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[_START_TIME]) == self.started and fields[_STATE] not in "ZX"

    def signal(self, sig: signal.Signals) -> bool:
        """Send `sig`. False if the process is gone."""
        if (pidfd := self._open()) is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, sig)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    async def wait(self) -> int | None:
        """Return when it has exited. A child of ours is reaped, and its exit code returned as
        os.waitstatus_to_exitcode gives it; of others the kernel tells us only that they ended: None."""
        if (pidfd := self._open()) is None:
            return None
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def on_exit() -> None:
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(pidfd, on_exit)
        try:
            await ended
            return _reap(pidfd)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)

    def join(self, timeout_s: float) -> int | None:
        """As `wait`, for threads: block until it has exited. Returns None when the time is up, 0 for a process that is
        gone and was not ours to reap."""
        if (pidfd := self._open()) is None:
            return 0
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(timeout_s * 1000):
                return None
            code = _reap(pidfd)
            return 0 if code is None else code
        finally:
            os.close(pidfd)

    def _open(self) -> int | None:
        """A pidfd of exactly this process, or None."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # Whoever has the pid now had it when the pidfd was opened, if the start time is the recorded one.
        fields = _stat(self.pid)
        if fields is None or int(fields[_START_TIME]) != self.started:
            os.close(pidfd)
            return None
        return pidfd


def write_record(path: Path, data: msgspec.Struct) -> None:
    """Replace the record at `path`, whole or not at all. Not synced: it describes this boot only."""
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(_Envelope(boot=_boot_id(), data=data)))
    temporary.replace(path)


def read_record(path: Path, type_: type[T]) -> T | None:
    """The record at `path`; None if there is none, it cannot be read, or it is from before the last boot."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        if envelope.boot == _boot_id():
            return msgspec.convert(envelope.data, type_)
    return None


class _Envelope(msgspec.Struct):
    boot: str
    data: Any


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields after the name, which may itself hold spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode().split()


def _reap(pidfd: int) -> int | None:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
