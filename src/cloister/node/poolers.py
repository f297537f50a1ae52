"""PgBouncer beside a compute, for clients of `-pooler` hosts: started when the first of them comes, ended with its compute.

1. It runs in a sandbox like its compute's, and not in the same: no network, no shell, no file of the host, no data
   directory, the same system call filter. It sees the directory with the compute's socket, where it cannot write, and the
   one for its own.
2. It is POOLER_UID, which owns nothing else. `pg_hba.conf` lets that uid be any role but the platform's. The compute can
   neither see its process nor reach its socket: the directory is open to the gateway's user and to nobody else.
3. It is in its compute's control group, so a tenant pays for its pooler out of its own memory and CPU, and whatever ends the
   group ends both.
4. Its files hold names of roles and no password. A role is added when its first client comes (`ensure`); the gateway has
   checked that client's proof.

Nothing here watches. Whether it lives is looked up when somebody needs it: one that died is started again for the next
client, with the roles it had. What must be known of it is in a record below `Paths.run`, so a new agent finds it.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from cloister.base.errors import ExhaustedError, ForbiddenError, PreconditionError
from cloister.base.identities import POOLER_UID
from cloister.base.settings import Paths
from cloister.node.postgres.access import ADMIN_ROLE, READER_ROLE, Doors
from cloister.node.postgres.log import ServerLog
from cloister.node.postgres.pooling import (
    CONFIG_DIR,
    CONFIG_NAME,
    POOL_DIR,
    USERS_NAME,
    command_line,
    pgbouncer_ini,
    users_txt,
    version_of,
)
from cloister.node.postgres.tuning import SOCKET_DIR
from cloister.node.records import ProcessRecord, read_record, write_record
from cloister.node.sandbox import rootfs
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import Group
from cloister.node.sandbox.launch import Launch, Launched, abandon, ended, launch, program_of
from cloister.node.sandbox.mounts import Room

ROLES_MAX: Final = 5_000
# Names of one tenant that root writes into a file for it: some 300 kB.

_PROCESSES_MAX: Final = 4_096
# POOLER_UID's, on the whole host: it is counted per uid. That one of them starts no others is its control group's business,
# and that of the filter, in which it has no file to execute.

_INSIDE: Final = "/sbin/pgbouncer"
_VERSION_TIMEOUT_S: Final = 10.0
_BUILD: Final = "1"
# Change it when what is built changes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The compute that it stands beside."""

    endpoint_id: str
    room: Room
    timeline_dir: Path
    group: Group
    max_connections: int


@dataclass(frozen=True, slots=True)
class _Bouncer:
    """PgBouncer of this host, with a root file system of its own."""

    root: Path
    version: tuple[int, int]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    monitor: ProcessRecord
    program: ProcessRecord | None = None
    """None while it is being launched."""
    roles: list[str]


class Poolers:
    """`ensure` and `end` are called under `lock` of the endpoint."""

    def __init__(self, paths: Paths, doors: Doors) -> None:
        self._engines = paths.engines
        self._directory = paths.run / "pooler-records"
        self._doors = doors
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._bouncer: _Bouncer | None = None
        self._building = asyncio.Lock()

    def lock(self, endpoint_id: str) -> asyncio.Lock:
        return self._locks.setdefault(endpoint_id, asyncio.Lock())

    def names(self) -> list[str]:
        """Endpoints that have a record."""
        return sorted(path.name for path in self._directory.glob("ep-*"))

    async def ensure(self, place: Place, role: str) -> str:
        """A pooler that runs and has heard of the role, or is about to. Gives the directory of its socket. Raises
        PreconditionError where PgBouncer is not installed, ExhaustedError, ForbiddenError."""
        if role in (ADMIN_ROLE, READER_ROLE):
            raise ForbiddenError(f"{role} is not a tenant's")
        found = read_record(self._record_path(place.endpoint_id), _Record)
        roles = [] if found is None else found.roles
        if role not in roles:
            if len(roles) >= ROLES_MAX:
                raise ExhaustedError(f"{place.endpoint_id} pools {len(roles)} roles", public="too many pooled roles")
            roles = [*roles, role]
        if found is not None and found.program is not None and found.program.is_alive():
            if roles != found.roles:
                await asyncio.to_thread(self._add_roles, place.endpoint_id, found, roles)
                found.program.signal(signal.SIGHUP)
        else:
            # It died; or an agent was killed while it launched one, which may not be in its group, and is made anew.
            await self.end(place.endpoint_id)
            bouncer = await self._ready_bouncer()
            try:
                await self._launch(place, bouncer, roles)
            except BaseException:
                await self.end(place.endpoint_id)
                raise
        return str(place.room.pool)

    async def end(self, endpoint_id: str) -> None:
        """Nothing of it is left afterwards. Not running is success."""
        found = read_record(self._record_path(endpoint_id), _Record)
        if found is not None:
            program = found.program or program_of(found.monitor, self._status_path(endpoint_id))
            if program is None:  # It never came to be.
                abandon(found.monitor)
            else:
                program.signal(signal.SIGKILL)
                await ended(Launched(found.monitor, program), self._status_path(endpoint_id))
        await asyncio.to_thread(shutil.rmtree, self._directory / endpoint_id, ignore_errors=True)

    # -- inside

    async def _launch(self, place: Place, bouncer: _Bouncer, roles: list[str]) -> None:
        record_path = self._record_path(place.endpoint_id)
        record = _Record(monitor=ProcessRecord(0, 0), roles=roles)

        def on_spawn(monitor: ProcessRecord) -> None:
            nonlocal record
            record = msgspec.structs.replace(record, monitor=monitor)
            write_record(record_path, record)

        log_fd = await asyncio.to_thread(self._prepare, place, bouncer, roles)
        try:
            launched = await launch(
                Launch(
                    sandbox=self._sandbox(place, bouncer),
                    program=list(command_line(_INSIDE)),
                    status_path=self._status_path(place.endpoint_id),
                    log_fd=log_fd,
                    group=place.group,
                    processes_max=_PROCESSES_MAX,
                ),
                on_spawn,
            )
        finally:
            os.close(log_fd)
        write_record(record_path, msgspec.structs.replace(record, program=launched.program))

    def _prepare(self, place: Place, bouncer: _Bouncer, roles: list[str]) -> int:
        """Its files, the directory for its socket, and the log, which the caller closes. Blocking."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self._config_dir(place.endpoint_id)
        config.mkdir(parents=True)
        _write(config / CONFIG_NAME, pgbouncer_ini(place.max_connections, bouncer.version))
        _write(config / USERS_NAME, users_txt(roles))
        place.room.make_pool(owner=self._doors.gateway_uid, group=POOLER_UID)
        return ServerLog(place.timeline_dir).open()

    def _sandbox(self, place: Place, bouncer: _Bouncer) -> Sandbox:
        return Sandbox(
            root=bouncer.root,
            uid=POOLER_UID,
            groups=(self._doors.shared_gid,),
            writable={POOL_DIR: place.room.pool},
            # A directory, so that the list can be replaced as a whole.
            readable={CONFIG_DIR: self._config_dir(place.endpoint_id), SOCKET_DIR: place.room.sockets},
        )

    def _add_roles(self, endpoint_id: str, found: _Record, roles: list[str]) -> None:
        _write(self._config_dir(endpoint_id) / USERS_NAME, users_txt(roles))
        write_record(self._record_path(endpoint_id), msgspec.structs.replace(found, roles=roles))

    async def _ready_bouncer(self) -> _Bouncer:
        async with self._building:
            if self._bouncer is None:
                self._bouncer = await asyncio.to_thread(_make_ready, self._engines)
            return self._bouncer

    def _record_path(self, endpoint_id: str) -> Path:
        return self._directory / endpoint_id / "record.json"

    def _status_path(self, endpoint_id: str) -> Path:
        return self._directory / endpoint_id / "status"

    def _config_dir(self, endpoint_id: str) -> Path:
        return self._directory / endpoint_id / "etc"


def _write(path: Path, text: str) -> None:
    """Whole or not at all: PgBouncer may be reading."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(path)


def _make_ready(engines: Path) -> _Bouncer:
    """Find it, and build its root file system once per version. Blocking: some 100 ms the first time."""
    found = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise PreconditionError(public="pooled connections need PgBouncer on the server: install pgbouncer")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False)
    version = version_of(said.stdout)
    if version is None:
        raise PreconditionError(f"{found} says {said.stdout[:80]!r}", public="PgBouncer on the server does not run")
    file = Path(found).stat()
    facts = (_BUILD, found, file.st_size, file.st_mtime_ns)
    root = engines / f"pgbouncer-{version[0]}.{version[1]}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
    if not root.is_dir():
        rootfs.build(
            root,
            rootfs.Contents(files={Path(found): _INSIDE}, texts={}, directories=(CONFIG_DIR, POOL_DIR, SOCKET_DIR)),
        )
    return _Bouncer(root, version)
