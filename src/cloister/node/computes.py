"""The computes of this node: one PostgreSQL in its sandbox for each running endpoint.

Starts, watches and stops them, and finds them again after the agent was killed. A compute outlives the agent: what must
be known of it is in a record under `Paths.run`, its exit status is written by bubblewrap into a file, and who it is, is
its pid with its start time. What must stay true:

- at most one compute on a data directory, held by a lock that lasts as long as any process of it;
- no compute outside its control group, none without a record (see `sandbox/launch.py`);
- everything made for a compute is gone when `stop` returns or its exit is told: the volume can be closed at once.

The disks are the volumes' business, the rights are the control plane's. Nothing here opens a connection to a tenant's
server or reads a tenant's file; the data directory is entered only to unlink one name.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from weakref import WeakValueDictionary

import msgspec

from cloister.base.clock import Clock, SystemClock
from cloister.base.errors import ConflictError, InternalError, NotFoundError
from cloister.base.ids import parse_branch_id, parse_endpoint_id, parse_project_id, parse_timeline_id
from cloister.base.limits import COMPUTE_STOP_TIMEOUT_S
from cloister.base.settings import Paths
from cloister.node.commands import ComputeExited, ComputeInfo, ComputeSpec
from cloister.node.egress.place import make_place
from cloister.node.poolers import Place, Poolers
from cloister.node.postgres.engines import Engine, Engines
from cloister.node.postgres.log import ServerLog
from cloister.node.postgres.standby import Floor
from cloister.node.postgres.tuning import (
    CONFIG_DIR,
    CONNECTIONS_MIN,
    DATA_DIR,
    EGRESS_DIR,
    OUTBOX_DIR,
    SOCKET_DIR,
    Size,
    postgresql_conf,
)
from cloister.node.records import ProcessRecord, read_record, write_record
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import Cgroups, Disk, Group, Limits, detect, disk_number
from cloister.node.sandbox.launch import Launch, Launched, abandon, ended, launch
from cloister.node.sandbox.launch import program_of as launched_by
from cloister.node.sandbox.mounts import Room
from cloister.node.volumes.headroom import gate_bytes, size_of

_log: Final = logging.getLogger(__name__)

IMMEDIATE_STOP_TIMEOUT_S: Final = 5.0
# An immediate shutdown writes nothing; beyond this the process hangs in the kernel or is stopped.

SIGNAL_INTERVAL_S: Final = 0.5
# A server has its handlers some 10 ms after its start.

STARTUP_S: Final = 2.0
STARTUP_CPU_CORES: Final = 2.0
# A quarter of a CPU would make a 30 ms start take 120 ms. Until it is up, a compute may use this much.

DISK_BYTES_PER_S: Final = 128 * 1024**2
# And as much again for each CPU: what clouds give a volume by default. It is there so that the smallest compute cannot take a disk
# that does gigabytes; most of what a server needs soon is in memory.

PRIME_INTERVAL_S: Final = 0.004
# Shorter than a grace period, for as long as a start is expected.

LOG_CHECK_INTERVAL_S: Final = 30.0
# A compute that writes its log's limit faster than this loses the older part.


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a new agent needs."""

    info: ComputeInfo
    cpu_cores: float
    timeline_dir: str
    max_connections: int = CONNECTIONS_MIN
    monitor: ProcessRecord
    program: ProcessRecord | None = None
    """None while it is being launched."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One to be started."""

    spec: ComputeSpec
    size: Size
    timeline_dir: Path
    room: Room
    config: str


@dataclass(slots=True)
class _Compute:
    """One that runs."""

    info: ComputeInfo
    launched: Launched
    group: Group
    room: Room
    timeline_dir: Path
    cpu_cores: float
    max_connections: int
    was_asked: bool = False
    is_ending: bool = False
    """What was made for it is being taken away."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Computes:
    """Use as an asynchronous context: leaving it ends the watching, not the computes."""

    def __init__(
        self,
        paths: Paths,
        engines: Engines,
        on_exit: Callable[[ComputeExited], None],
        *,
        cgroups: Cgroups | None = None,
        clock: Clock | None = None,
        extra_readable: dict[str, Path] | None = None,
    ) -> None:
        """`extra_readable` is for tests of the sandbox: more to bind, read-only, path inside → outside."""
        self._paths = paths
        self._engines = engines
        self._on_exit = on_exit
        self._cgroups = cgroups if cgroups is not None else detect(paths.instance)
        self._clock = clock if clock is not None else SystemClock()
        self._extra_readable = extra_readable or {}
        self._records = paths.run / "compute-records"
        self._poolers = Poolers(paths, engines.doors)
        self._computes: dict[str, _Compute] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._expected = 0
        self._primer: asyncio.Task[None] | None = None
        self._tasks = asyncio.TaskGroup()
        self._watchers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def limits_description(self) -> str:
        """For NodeStatus.cgroup."""
        return self._cgroups.describe()

    def running(self) -> list[ComputeInfo]:
        return [compute.info for compute in self._computes.values()]

    @contextlib.asynccontextmanager
    async def expecting(self) -> AsyncIterator[None]:
        """A start is coming: use the time until then, for instance while a volume is opened, to prepare the kernel
        for it. Takes 10 ms off the start, and is never needed."""
        self._expected += 1
        if self._primer is None or self._primer.done():
            self._primer = self._keep(self._prime())
        try:
            yield
        finally:
            self._expected -= 1

    async def start(self, spec: ComputeSpec, mountpoint: Path, *, floor: Floor | None = None) -> ComputeInfo:
        """Start PostgreSQL on `mountpoint/timelines/TIMELINE_ID/data`. Returns when it is spawned; already running is its
        ComputeInfo. `floor`: of a standby, whose data has been prepared for that. Raises UnprocessableError (version,
        settings), ConflictError (the branch has a compute)."""
        endpoint_id = parse_endpoint_id(spec.endpoint_id)
        timeline_dir = mountpoint / "timelines" / parse_timeline_id(spec.timeline_id)
        parse_branch_id(spec.branch_id)
        parse_project_id(spec.project_id)
        lock = self._locks.setdefault(endpoint_id, asyncio.Lock())
        async with lock:
            if (running := self._computes.get(endpoint_id)) is not None:
                if running.info.timeline_id != spec.timeline_id:
                    raise ConflictError(f"{endpoint_id} runs on {running.info.timeline_id}")
                return running.info
            engine = self._engines.get(spec.pg_version)
            async with self.expecting():
                await self._engines.ensure_root(engine)
                compute = await self._launch(spec, engine, timeline_dir, floor)
            self._watch(compute, starts=True)
            return compute.info

    async def stop(self, endpoint_id: str) -> None:
        """Fast shutdown; then without a checkpoint; then by force. When it returns nothing of the compute is left. Not
        running is success."""
        compute = self._computes.get(endpoint_id)
        if compute is None:
            return
        compute.was_asked = True
        for sig, patience_s in ((signal.SIGINT, COMPUTE_STOP_TIMEOUT_S), (signal.SIGQUIT, IMMEDIATE_STOP_TIMEOUT_S)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._signal_until_gone(compute, sig)
                return
            _log.warning("%s did not end within %.0f s of %s", endpoint_id, patience_s, sig.name)
        await self._kill(compute)

    async def _signal_until_gone(self, compute: _Compute, sig: signal.Signals) -> None:
        """Process 1 gets no signal that it has no handler for yet, so one that has just been started is told again."""
        while not compute.gone.is_set():
            compute.launched.program.signal(sig)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNAL_INTERVAL_S):
                    await compute.gone.wait()

    async def pool(self, endpoint_id: str, generation: int, role: str) -> str:
        """The directory with the socket of the pooler beside this compute, which has heard of the role. Raises
        NotFoundError when this compute does not run, PreconditionError, ExhaustedError, ForbiddenError."""
        async with self._poolers.lock(endpoint_id):
            compute = self._computes.get(endpoint_id)
            if compute is None or compute.is_ending or compute.info.generation != generation:
                raise NotFoundError(f"{endpoint_id} does not run as {generation}", public="the compute does not run")
            place = Place(
                endpoint_id=endpoint_id,
                room=compute.room,
                timeline_dir=compute.timeline_dir,
                group=compute.group,
                max_connections=compute.max_connections,
            )
            return await self._poolers.ensure(place, role)

    async def kill_all_on(self, project_id: str) -> None:
        """Their volume is lost: no shutdown can be written. They count as crashed, not as stopped."""
        doomed = [compute for compute in self._computes.values() if compute.info.project_id == project_id]
        for compute in doomed:
            compute.launched.program.signal(signal.SIGKILL)
        for compute in doomed:
            await self._kill(compute)

    async def adopt(self) -> None:
        """After the agent was started again: watch what still runs, tear down what does not, and report its exit."""
        for path in sorted(self._records.glob("ep-*.json")):
            record = read_record(path, _Record)
            if record is None:
                path.unlink()
                continue
            endpoint_id = record.info.endpoint_id
            program = record.program or launched_by(record.monitor, self._status_path(endpoint_id))
            if program is None:  # It never came to be.
                abandon(record.monitor)
                await self._tear_down(endpoint_id)
                continue
            compute = _Compute(
                info=record.info,
                launched=Launched(record.monitor, program),
                group=self._cgroups.find(endpoint_id),
                room=Room(self._paths.computes / endpoint_id),
                timeline_dir=Path(record.timeline_dir),
                cpu_cores=record.cpu_cores,
                max_connections=record.max_connections,
            )
            if record.program is None and program.is_alive():
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(compute.group.attach, program.pid)
            self._watch(compute, starts=False)
        for name in self._cgroups.names():
            if name not in self._computes:
                await asyncio.to_thread(self._cgroups.find(name).kill)
                await self._tear_down(name)
        for name in self._poolers.names():
            if name not in self._computes:
                await self._end_pooler(name)
        if self._paths.computes.is_dir():
            for path in self._paths.computes.glob("ep-*"):
                if path.name not in self._computes:
                    await asyncio.to_thread(Room(path).clear)

    async def _launch(self, spec: ComputeSpec, engine: Engine, timeline_dir: Path, floor: Floor | None) -> _Compute:
        endpoint_id = spec.endpoint_id
        room = Room(self._paths.computes / endpoint_id)
        size = Size(
            major=spec.pg_version,
            memory_bytes=spec.memory_bytes,
            cpu_cores=spec.cpu_cores,
            volume_bytes=size_of(timeline_dir),
            reserve_bytes=gate_bytes(size_of(timeline_dir)),
            floor=floor,
            is_fed=spec.follows_id is not None,
            audit_level=spec.audit_level,
        )
        plan = _Plan(spec, size, timeline_dir, room, postgresql_conf(size, spec.settings))
        info = ComputeInfo(
            endpoint_id=endpoint_id,
            project_id=spec.project_id,
            branch_id=spec.branch_id,
            timeline_id=spec.timeline_id,
            follows_id=spec.follows_id,
            generation=self._next_generation(),
            socket_dir=str(room.sockets),
            pid=0,
        )
        record = _Record(
            info=info,
            cpu_cores=spec.cpu_cores,
            timeline_dir=str(timeline_dir),
            max_connections=size.max_connections,
            monitor=ProcessRecord(0, 0),
        )
        record_path = self._record_path(endpoint_id)

        def on_spawn(monitor: ProcessRecord) -> None:
            nonlocal record
            record = msgspec.structs.replace(record, monitor=monitor)
            write_record(record_path, record)

        with contextlib.ExitStack() as fds:
            try:
                group, lock_fd, log_fd = await asyncio.to_thread(self._prepare, plan, fds)
                launched = await launch(
                    Launch(
                        sandbox=self._sandbox(engine, spec, room),
                        program=[*engine.command_line(), *size.command_line()],
                        status_path=self._status_path(endpoint_id),
                        log_fd=log_fd,
                        lock_fd=lock_fd,
                        group=group,
                        processes_max=size.processes_max,
                    ),
                    on_spawn,
                )
            except ConflictError:
                raise
            except BaseException:
                await self._tear_down(endpoint_id)
                raise
        info = msgspec.structs.replace(info, pid=launched.program.pid)
        write_record(record_path, msgspec.structs.replace(record, info=info, program=launched.program))
        return _Compute(info, launched, group, room, timeline_dir, spec.cpu_cores, size.max_connections)

    def _prepare(self, plan: _Plan, fds: contextlib.ExitStack) -> tuple[Group, int, int]:
        """Everything that must be there before the process is: its group, the lock and the log, both kept open by
        `fds`. Blocking: a few hundred microseconds."""
        spec, size, timeline_dir = plan.spec, plan.size, plan.timeline_dir
        data = timeline_dir / "data"
        # (1) The directory above belongs to root, so `data` is what we made and cannot be swapped for a link.
        if os.lstat(timeline_dir).st_uid != 0 or not _is_directory_of(data, spec.uid):
            raise InternalError(f"{data} is not a data directory of uid {spec.uid}")
        # (2) One compute per data directory. PostgreSQL's own check is blind here: another one would be in another
        # process and IPC namespace.
        lock_fd = os.open(timeline_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fds.callback(os.close, lock_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"{spec.branch_id} has a compute already", public="the branch has a compute") from None
        # (3) Nothing runs, so a pid file is from a crash.
        directory = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("postmaster.pid", dir_fd=directory)
        finally:
            os.close(directory)
        log_fd = ServerLog(timeline_dir).open()
        fds.callback(os.close, log_fd)
        path = self._config_path(spec.endpoint_id)
        path.write_text(plan.config)
        path.chmod(0o644)
        group = self._cgroups.create(
            spec.endpoint_id,
            Limits(
                memory_bytes=spec.memory_bytes,
                cpu_cores=max(spec.cpu_cores, STARTUP_CPU_CORES),
                processes=size.processes_max,
                disk=_disk_of(timeline_dir, spec.cpu_cores),
            ),
        )
        outbox = timeline_dir / "outbox"
        with contextlib.suppress(FileExistsError):
            outbox.mkdir(mode=0o700)
            os.chown(outbox, spec.uid, spec.uid)
        plan.room.prepare(
            data,
            uid=spec.uid,
            shared_gid=self._engines.doors.shared_gid,
            memory_bytes=spec.memory_bytes,
            outbox=outbox,
            doors=make_place(self._paths, spec.project_id),
        )
        return group, lock_fd, log_fd

    def _sandbox(self, engine: Engine, spec: ComputeSpec, room: Room) -> Sandbox:
        return Sandbox(
            root=engine.root,
            uid=spec.uid,
            writable={
                DATA_DIR: room.data,
                OUTBOX_DIR: room.outbox,
                SOCKET_DIR: room.sockets,
                "/dev/shm": room.shared_memory,  # noqa: S108 - a place inside
            },
            readable={
                f"{CONFIG_DIR}/postgresql.conf": self._config_path(spec.endpoint_id),
                EGRESS_DIR: room.egress,
                **self._extra_readable,
            },
        )

    def _watch(self, compute: _Compute, *, starts: bool) -> None:
        self._computes[compute.info.endpoint_id] = compute
        self._keep(self._attend(compute, starts=starts))

    def _keep(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that leaving the context cancels."""
        task = self._tasks.create_task(work)
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)
        return task

    async def _prime(self) -> None:
        while self._expected:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._cgroups.prime)
            await asyncio.sleep(PRIME_INTERVAL_S)

    async def _attend(self, compute: _Compute, *, starts: bool) -> None:
        """From its start to the end of everything that was made for it. Nothing that goes wrong with one compute may
        end the watching of the others, so it catches all."""
        endpoint_id = compute.info.endpoint_id
        exit_status = -9
        try:
            async with asyncio.TaskGroup() as tasks:
                upkeep = tasks.create_task(self._keep_up(compute, starts=starts))
                exit_status = await ended(compute.launched, self._status_path(endpoint_id))
                upkeep.cancel()
        except Exception:
            _log.exception("watching %s", endpoint_id)
        compute.is_ending = True
        try:
            # Its end is the end of all its processes, for it is process 1 of them; the group is asked to make sure.
            await self._tear_down(endpoint_id)
        except Exception:
            _log.exception("clearing up after %s", endpoint_id)
        self._computes.pop(endpoint_id, None)
        compute.gone.set()
        self._on_exit(
            ComputeExited(
                endpoint_id=endpoint_id,
                generation=compute.info.generation,
                was_asked=compute.was_asked,
                exit_status=exit_status,
            )
        )

    async def _keep_up(self, compute: _Compute, *, starts: bool) -> None:
        """Housekeeping, which may fail and must not end the watching."""
        if starts:
            await asyncio.sleep(STARTUP_S)
        try:
            compute.group.set_cpu(compute.cpu_cores)
        except OSError as error:
            _log.warning("the CPU limit of %s could not be set: %s", compute.info.endpoint_id, error)
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(ServerLog(compute.timeline_dir).shorten)

    async def _kill(self, compute: _Compute) -> None:
        compute.launched.program.signal(signal.SIGKILL)
        await asyncio.to_thread(compute.group.kill)
        await compute.gone.wait()

    async def _tear_down(self, endpoint_id: str) -> None:
        # First: its log is on the volume, and its socket in the room.
        await self._end_pooler(endpoint_id)
        await asyncio.to_thread(self._remove_all, endpoint_id)

    async def _end_pooler(self, endpoint_id: str) -> None:
        async with self._poolers.lock(endpoint_id):
            await self._poolers.end(endpoint_id)

    def _remove_all(self, endpoint_id: str) -> None:
        """What was made for a compute, whose processes have ended. What is already gone is fine. The record is last:
        while it is there, somebody will come back."""
        Room(self._paths.computes / endpoint_id).clear()
        group = self._cgroups.find(endpoint_id)
        group.kill()
        group.remove()
        for path in (self._config_path(endpoint_id), self._status_path(endpoint_id), self._record_path(endpoint_id)):
            path.unlink(missing_ok=True)

    def _next_generation(self) -> int:
        """Milliseconds since 1970, so it grows across restarts and reboots without being kept anywhere."""
        now = int(self._clock.now().timestamp() * 1000)
        return max([now, *(compute.info.generation + 1 for compute in self._computes.values())])

    def _record_path(self, endpoint_id: str) -> Path:
        return self._records / f"{endpoint_id}.json"

    def _status_path(self, endpoint_id: str) -> Path:
        return self._records / f"{endpoint_id}.status"

    def _config_path(self, endpoint_id: str) -> Path:
        return self._records / f"{endpoint_id}.conf"


def _disk_of(directory: Path, cpu_cores: float) -> Disk:
    """Of the volume, a device of the project's own; under `plain` the host's."""
    return Disk(device=disk_number(os.stat(directory).st_dev), bytes_per_s=int(DISK_BYTES_PER_S * (1 + cpu_cores)))


def _is_directory_of(path: Path, uid: int) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path} is not there", public="the branch has no data directory") from None
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid
