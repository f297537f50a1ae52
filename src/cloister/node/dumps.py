"""A compute's schema, told by pg_dump or psql: a program that listens to a tenant's server, run where it can do nothing else.

Whoever has taken over a compute decides what it reads. So it counts as taken over as well, and:

1. It runs in a sandbox of its own, and nothing else is in there that can run: no network, no shell, no file of the host, no data directory. Of the compute it sees the
   directory with the socket, and cannot write there.
2. It is READER_UID, which owns nothing, in the group that may reach sockets. `pg_hba.conf` lets that uid in as
   `cloister_reader` and as nobody else: no superuser, so whatever a tenant's definitions do while they are looked at, they
   do with the right to read.
3. A control group limits its memory, CPU and processes, DUMP_TIMEOUT_S its time, and a pipe what it says: at one byte more
   than SCHEMA_BYTES_MAX it is killed. At most DUMPS_AT_ONCE run.
4. What it says is passed on unread: no byte of it is looked at by root.
5. It ends with the call. If the agent is killed, its successor ends every group that is no compute's (`Computes.adopt`).
"""

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Final

from cloister.base.errors import ExhaustedError, UnavailableError, UnprocessableError
from cloister.base.identities import READER_UID
from cloister.base.limits import SCHEMA_BYTES_MAX
from cloister.base.settings import Paths
from cloister.node.commands import ComputeInfo, SchemaForm
from cloister.node.postgres.access import READER_ROLE
from cloister.node.postgres.engines import Engine, Engines
from cloister.node.postgres.telling import TOLD, Told
from cloister.node.postgres.tuning import SOCKET_DIR
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import Cgroups, Limits
from cloister.node.sandbox.launch import Launch, Launched, ended, launch

DUMP_TIMEOUT_S: Final = 20.0
# A thousand tables take half a second here. Below RPC_CALL_TIMEOUT_S, so that the caller hears why.

DUMPS_AT_ONCE: Final = 2
# Each may take a core; the rest waits its turn.

_MEMORY_BYTES: Final = 256 * 1024**2
# pg_dump holds the whole schema: ten thousand tables take some 100 MB.
_CPU_CORES: Final = 1.0
_PROCESSES_MAX: Final = 4

_LOCK_WAIT_MS: Final = 5000
# It locks every table against being dropped. A tenant's migration may hold one for long.

_ERROR_BYTES_MAX: Final = 2000
_CHUNK_BYTES: Final = 64 * 1024


class Dumps:
    def __init__(self, paths: Paths, engines: Engines, cgroups: Cgroups) -> None:
        self._directory = paths.run / "dumps"
        self._engines = engines
        self._cgroups = cgroups
        self._slots = asyncio.Semaphore(DUMPS_AT_ONCE)

    async def schema(self, compute: ComputeInfo, major: int, database: str, form: SchemaForm = "sql") -> bytes:
        """Raises UnprocessableError with what the program says, ExhaustedError, UnavailableError."""
        engine = self._engines.get(major)
        async with self._slots:
            try:
                async with asyncio.timeout(DUMP_TIMEOUT_S):
                    return await self._run(engine, compute, database, TOLD[form])
            except TimeoutError:
                raise UnavailableError(
                    f"{TOLD[form].program} of {compute.endpoint_id} took longer than {DUMP_TIMEOUT_S:.0f} s",
                    public="reading the schema took too long",
                ) from None

    async def _run(self, engine: Engine, compute: ComputeInfo, database: str, told: Told) -> bytes:
        tool = await asyncio.to_thread(_alone, engine, told.program)
        name = f"dump-{secrets.token_hex(8)}"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status_path = self._directory / f"{name}.status"
        limits = Limits(memory_bytes=_MEMORY_BYTES, cpu_cores=_CPU_CORES, processes=_PROCESSES_MAX)
        group = self._cgroups.create(name, limits)
        with contextlib.ExitStack() as files:
            files.callback(status_path.unlink, missing_ok=True)
            files.callback(group.remove)
            files.callback(group.kill)
            complaint = os.memfd_create("complaint", os.MFD_CLOEXEC)
            files.callback(os.close, complaint)
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            text = files.enter_context(io.FileIO(read_end, "r"))
            with io.FileIO(write_end, "w"):
                launched = await launch(
                    Launch(
                        sandbox=self._sandbox(engine, tool, Path(compute.socket_dir), database, told),
                        program=[f"/bin/{told.program}", *told.words, *_MORE_WORDS.get(told.program, ())],
                        status_path=status_path,
                        log_fd=complaint,
                        output_fd=write_end,
                        group=group,
                        processes_max=_PROCESSES_MAX,
                    ),
                    lambda _monitor: None,
                )
            try:
                said = await _heard(text.fileno(), launched)
                code = await ended(launched, status_path)
            except BaseException:
                launched.program.signal(signal.SIGKILL)
                await ended(launched, status_path)
                raise
            if len(said) > SCHEMA_BYTES_MAX:
                raise ExhaustedError(
                    f"the schema of {compute.endpoint_id} is too large",
                    public=f"the schema is larger than {SCHEMA_BYTES_MAX // 1024**2} MB",
                )
            if code != 0:
                raise UnprocessableError(os.pread(complaint, _ERROR_BYTES_MAX, 0).decode(errors="replace") or str(code))
            return said

    def _sandbox(self, engine: Engine, tool: Path, sockets: Path, database: str, told: Told) -> Sandbox:
        environment = {
            "PGHOST": SOCKET_DIR,
            "PGPORT": "5432",
            "PGUSER": READER_ROLE,
            # As a variable it is a name and nothing else; as an argument it could be a whole connection string.
            "PGDATABASE": database,
            "PGCONNECT_TIMEOUT": "5",
            "LC_ALL": "C",
        }
        return Sandbox(
            root=engine.root,
            uid=READER_UID,
            groups=(self._engines.doors.shared_gid,),
            writable={},
            readable={"/bin": tool, SOCKET_DIR: sockets},
            environment=environment | told.environment | engine.installation.environment,
        )


_MORE_WORDS: Final = {"pg_dump": (f"--lock-wait-timeout={_LOCK_WAIT_MS}",)}
# Where others use the database as well. psql looks at the catalog alone.


async def _heard(fd: int, launched: Launched) -> bytes:
    """All that is said, or a little more than SCHEMA_BYTES_MAX of it; then the speaker is dead."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    said = bytearray()
    while len(said) <= SCHEMA_BYTES_MAX:
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(fd)
        if not (chunk := os.read(fd, _CHUNK_BYTES)):
            return bytes(said)
        said += chunk
    launched.program.signal(signal.SIGKILL)
    return bytes(said)


def _alone(engine: Engine, program: str) -> Path:
    """A directory with the program and nothing else, made once per engine. Below the engines, where files can be executed."""
    alone = engine.home / f"alone-{program}"
    if not alone.is_dir():
        unfinished = engine.home / f"{alone.name}-{secrets.token_hex(4)}"
        unfinished.mkdir(mode=0o755)
        shutil.copy(engine.installation.bindir / program, unfinished / program)
        try:
            unfinished.rename(alone)
        except OSError:  # somebody was quicker
            shutil.rmtree(unfinished)
    return alone
