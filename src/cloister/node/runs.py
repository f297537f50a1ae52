"""One run of one of an engine's programs on a data directory, in a sandbox: no network, a uid of its own, limits.

For `initdb`, for recovery to a point, for statements in single-user mode. A shell is there, and only in such a run:
`initdb` and `restore_command` want one. A run ends with its caller: cancelled or out of time it is killed, and what was
mounted for it is gone when `run` returns. Should the agent itself be killed, `sweep` finds the run by its record.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from cloister.base.durable import sync_filesystem
from cloister.base.errors import UnavailableError
from cloister.base.settings import Paths
from cloister.node.postgres.engines import Engine
from cloister.node.postgres.tuning import DATA_DIR, SOCKET_DIR
from cloister.node.records import ProcessRecord, read_record, write_record
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import NO_GROUP, Cgroups, Limits
from cloister.node.sandbox.launch import Launch, abandon, ended, launch, program_of
from cloister.node.sandbox.mounts import Room

PROCESSES_MAX: Final = 64

BESIDE_DIR: Final = "/outbox"
# A directory that every engine's root has, and a run no other use for.

OUTPUT_BYTES_MAX: Final = 256 * 1024
# Read of what a run says, from its end. A recovery says some kilobytes.

_KILL_PATIENCE_S: Final = 5.0
# SIGKILL takes microseconds, unless the kernel waits for a disk.

_PREFIX: Final = "run-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    engine: Engine
    data: Path
    uid: int
    """Owns `data`."""
    program: list[str]
    stdin: bytes = b""
    memory_bytes: int
    cpu_cores: float
    patience_s: float
    output: Path | None = None
    """Where it writes, in a directory of root's, so that a tenant's log stays in the tenant's volume. None: in memory."""
    output_bytes_max: int = OUTPUT_BYTES_MAX
    said_bytes_max: int = 0
    """More than none: what it says on its standard output is kept apart, up to one byte more than this."""
    beside: Path | None = None
    """Another data directory that `uid` owns, at BESIDE_DIR."""
    has_sockets: bool = False
    """SOCKET_DIR is there, and nobody outside reaches it."""
    texts: dict[str, str] = field(default_factory=dict)
    """Files of the engine's root that are others here: path inside → content."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    output: str
    """Its end."""
    said: bytes = b""


class _Record(msgspec.Struct, frozen=True):
    monitor: ProcessRecord


class Runs:
    def __init__(self, paths: Paths, cgroups: Cgroups | None) -> None:
        """None for what needs no limits of memory and CPU: the platform's own data."""
        self.rooms = paths.computes
        self.directory = paths.run / "runs"
        self.engines = paths.engines
        self.cgroups = cgroups

    def sweep(self) -> None:
        """End what a killed agent left running, and take its mounts away. Blocking; before any volume is closed."""
        for path in self.directory.glob(f"{_PREFIX}*.json"):
            status = path.with_suffix(".status")
            if (record := read_record(path, _Record)) is not None:
                if (program := program_of(record.monitor, status)) is not None:
                    program.signal(signal.SIGKILL)
                    program.join(_KILL_PATIENCE_S)
                abandon(record.monitor)
        for path in self.rooms.glob(f"{_PREFIX}*"):
            Room(path).clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def run(self, what: Run) -> Ran:
        """To its end. Raises UnavailableError when it takes longer than it may."""
        name = f"{_PREFIX}{secrets.token_hex(8)}"
        async with _Place(self, name, what) as place:
            launched = await launch(place.launch(), place.note)
            try:
                async with asyncio.timeout(what.patience_s):
                    code = await ended(launched, place.status_path)
            except BaseException as error:
                launched.program.signal(signal.SIGKILL)
                await ended(launched, place.status_path)
                if isinstance(error, TimeoutError):
                    raise UnavailableError(
                        f"{what.program[0]} took longer than {what.patience_s:.0f} s",
                        public="this takes longer than it may: nothing was changed",
                    ) from None
                raise
            return Ran(code, await asyncio.to_thread(place.output), await asyncio.to_thread(place.said))


class _Place:
    """What a run needs for its time."""

    def __init__(self, runs: Runs, name: str, what: Run) -> None:
        self._what = what
        self._shell = runs.engines / "shell"
        self._group = NO_GROUP
        if runs.cgroups is not None:
            limits = Limits(memory_bytes=what.memory_bytes, cpu_cores=what.cpu_cores, processes=PROCESSES_MAX)
            self._group = runs.cgroups.create(name, limits)
        self._room = Room(runs.rooms / name)
        self._directory = runs.directory
        self._passwd = self._directory / f"{name}.passwd"
        self._record_path = self._directory / f"{name}.json"
        self.status_path = self._directory / f"{name}.status"
        self._texts: dict[str, Path] = {}
        self._said: int | None = None
        self._files = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
        except BaseException:
            await asyncio.to_thread(self._clear)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second cancellation must not leave the data directory mounted.
        await asyncio.shield(asyncio.to_thread(self._clear))

    def note(self, monitor: ProcessRecord) -> None:
        write_record(self._record_path, _Record(monitor))

    def launch(self) -> Launch:
        what, installation = self._what, self._what.engine.installation
        return Launch(
            sandbox=Sandbox(
                root=what.engine.root,
                uid=what.uid,
                writable=self._writable(),
                readable={
                    installation.inside(installation.bindir): installation.bindir,
                    "/bin": self._shell,
                    "/etc/passwd": self._passwd,
                    **self._texts,
                },
                environment=what.engine.installation.environment | what.environment,
            ),
            program=what.program,
            status_path=self.status_path,
            input_fd=self._input,
            log_fd=self._output,
            output_fd=self._said,
            group=self._group,
            processes_max=PROCESSES_MAX,
        )

    def output(self) -> str:
        """Its end; what an earlier run wrote into the same file is left out."""
        length = self._what.output_bytes_max
        start = max(self._output_start, os.fstat(self._output).st_size - length)
        return os.pread(self._output, length, start).decode(errors="replace")

    def said(self) -> bytes:
        return b"" if self._said is None else os.pread(self._said, self._what.said_bytes_max + 1, 0)

    def _writable(self) -> dict[str, Path]:
        what, room = self._what, self._room
        return {
            DATA_DIR: room.data,
            "/dev/shm": room.shared_memory,  # noqa: S108 - a place inside
            **({} if what.beside is None else {BESIDE_DIR: room.outbox}),
            **({SOCKET_DIR: room.sockets} if what.has_sockets else {}),
        }

    def _prepare(self) -> None:
        what = self._what
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._copy_shell()
        # Programs want a name for their user, though they are told another.
        self._write(self._passwd, f"postgres:x:{what.uid}:{what.uid}::/:/nonexistent\n")
        for inside, text in what.texts.items():
            self._texts[inside] = path = self._directory / f"{self._room.path.name}.text{len(self._texts)}"
            self._write(path, text)
        self._input = self._open_in_memory("input")
        os.write(self._input, what.stdin)
        os.lseek(self._input, 0, os.SEEK_SET)
        if what.output is None:
            self._output = self._open_in_memory("output")
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._output = os.open(what.output, flags, 0o600)
            self._files.callback(os.close, self._output)
        self._output_start = os.fstat(self._output).st_size
        if what.said_bytes_max:
            self._said = self._open_in_memory("said")
        self._room.prepare(
            what.data, uid=what.uid, shared_gid=what.uid, memory_bytes=what.memory_bytes, outbox=what.beside
        )

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o644)

    def _copy_shell(self) -> None:
        """Below the engines, where files can be executed; /tmp and /run often forbid it."""
        if not (self._shell / "sh").exists():
            self._shell.mkdir(parents=True, exist_ok=True)
            unfinished = self._shell / f".sh-{secrets.token_hex(4)}"
            shutil.copy("/bin/sh", unfinished)
            sync_filesystem(self._shell)
            unfinished.rename(self._shell / "sh")

    def _open_in_memory(self, name: str) -> int:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self._files.callback(os.close, descriptor)
        return descriptor

    def _clear(self) -> None:
        self._room.clear()
        self._files.close()
        self._group.kill()
        self._group.remove()
        for path in (self._passwd, *self._texts.values(), self.status_path, self._record_path):
            path.unlink(missing_ok=True)
