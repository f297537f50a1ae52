"""The node agent: answers the commands of `node/commands.py`, and owns the life of what they start.

It brings volumes, engines, computes and timelines together: a volume is opened for its first compute and closed after its
last (`opening.py`), while the host's disk has room (`space.py`). The parts do the work, and the agent speaks no SQL: nothing
a tenant's server says is read by root.

What must stay true: a volume is open only while a compute runs on it, or a command about it is under way. A killed agent
leaves computes and volumes as they are; its successor adopts them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec

from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from cloister.base.identities import Service, checked_compute_uid
from cloister.base.ids import (
    ProjectId,
    TimelineId,
    parse_endpoint_id,
    parse_identifier,
    parse_project_id,
    parse_timeline_id,
)
from cloister.base.rpc import Connection, Server
from cloister.base.settings import Settings
from cloister.node.backups.keeper import Backups, Node, Outside
from cloister.node.backups.platform import Dumping
from cloister.node.commands import (
    BYTES_PER_S_MIN,
    AnyCommand,
    AnyEvent,
    BackUpPlatform,
    BackUpTimeline,
    CloseVolume,
    ComputeExited,
    ComputeInfo,
    ComputeSpec,
    CopyInfo,
    CopyState,
    CopyVolume,
    CreateVolume,
    DeleteVolume,
    Done,
    DrillRestore,
    DumpSchema,
    GetStatus,
    GetStore,
    GetVolume,
    KeepHistory,
    NodeStatus,
    PoolerInfo,
    ReadBack,
    ReadBackPlatform,
    RestoreTimeline,
    SchemaDump,
    SchemaForm,
    SendWal,
    StartCompute,
    StartPooler,
    StopCompute,
    StopCopy,
    SwitchVolume,
    VolumeFailed,
    VolumeInfo,
)
from cloister.node.computes import Computes
from cloister.node.dumps import Dumps
from cloister.node.egress.place import remove_place
from cloister.node.masks import Masks
from cloister.node.opening import Openings
from cloister.node.postgres.access import Doors
from cloister.node.postgres.standby import Floor
from cloister.node.runs import Runs
from cloister.node.sandbox.cgroups import detect
from cloister.node.schemas import Schemas
from cloister.node.single_user import SingleUserRuns
from cloister.node.space import HostSpace
from cloister.node.timelines import standby
from cloister.node.timelines.keeper import Keeper
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.single import Clusters, SingleUser
from cloister.node.volumes import KeySource, Reencryptions, Volumes, choose_driver
from cloister.node.volumes.luks import MATERIAL_MAX
from cloister.node.workshop import make_engines

log = logging.getLogger(__name__)

COLLECT_INTERVAL_S: Final = 5.0
# How long finished WAL lies where its tenant can still change it. A recovery collects by itself first.

FEED_INTERVAL_S: Final = 0.25
# How far behind a standby that follows its branch is, beside what PostgreSQL takes to look for it. For one whose source is still,
# some system calls.

HOST_CHECK_INTERVAL_S: Final = 1.0
# At 500 MB/s, more than one server's tenants write, a second takes what is between two limits of `space.py`.

HISTORY_RETENTION_MAX_S: Final = 30 * 24 * 3600
# Neon's limit.

VOLUME_BYTES_MIN: Final = 64 * 1024**2
VOLUME_BYTES_MAX: Final = 8 * 1024**5
# XFS needs some 20 MB for itself; its own upper bound is 8 EiB, ours leaves room for arithmetic.

_READ_ONLY: Final = (GetStatus, GetVolume)


class ComputesPort(Protocol):
    """What the agent needs of `node/computes.py`."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def expecting(self) -> AbstractAsyncContextManager[None]: ...
    async def start(self, spec: ComputeSpec, mountpoint: Path, *, floor: Floor | None = None) -> ComputeInfo: ...
    async def stop(self, endpoint_id: str) -> None: ...
    async def pool(self, endpoint_id: str, generation: int, role: str) -> str: ...
    async def kill_all_on(self, project_id: str) -> None: ...
    async def adopt(self) -> None: ...
    def running(self) -> list[ComputeInfo]: ...
    def limits_description(self) -> str: ...


class DumpsPort(Protocol):
    """What the agent needs of `node/dumps.py`."""

    async def schema(self, compute: ComputeInfo, major: int, database: str, form: SchemaForm) -> bytes: ...


class EnginesPort(Protocol):
    """What the agent needs of `node/postgres`; an engine is only handed on."""

    def versions(self) -> dict[int, str]: ...
    def get(self, major: int) -> Any: ...
    async def ensure_root(self, engine: Any) -> None: ...
    async def ensure_template(self, engine: Any) -> None: ...
    def populate(self, engine: Any, data_dir: Path, uid: int) -> None: ...


class _Place(NamedTuple):
    """Where a compute runs, or last ran."""

    project_id: ProjectId
    timeline_id: TimelineId
    retention_s: int | None = None
    """None where it was started by an earlier agent: nothing is pruned until the API has said it again (KeepHistory)."""


class NodeAgent:
    """`start()` answers when it returns; `stop()`, from the same task, leaves everything running; `stop_everything()`
    is for the end of the platform and comes before `stop()`."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: KeySource,
        engines: EnginesPort | None = None,
        make_computes: Callable[[Callable[[ComputeExited], None]], ComputesPort] | None = None,
        dumps: "DumpsPort | None" = None,
        single_user: SingleUser | None = None,
        backups: Outside | None = None,
    ) -> None:
        """What is optional is for tests; None takes those of this host, but for `backups`: without what they need there are none."""
        self._paths = settings.paths
        if make_computes is None:
            host_engines = make_engines(self._paths, Doors.of_host(), settings.password_policy)
            engines = host_engines
            self._computes: ComputesPort = Computes(self._paths, host_engines, self._on_compute_exited)
            self._dumps: DumpsPort | None = Dumps(self._paths, host_engines, detect(self._paths.instance))
        else:
            self._computes = make_computes(self._on_compute_exited)
            self._dumps = dumps
        assert engines is not None
        self._engines = engines
        self._volumes = Volumes(choose_driver(settings), broker, self._on_volume_failed)
        self._reencryptions = Reencryptions(self._volumes.driver, broker)
        self._server = Server(
            self._paths.agent_socket,
            AnyCommand,
            self._answer,
            allowed=frozenset({Service.API, Service.AGENT}),
        )
        self._space = HostSpace(self._paths.volumes)
        self._openings = Openings(
            self._volumes,
            has_compute=lambda project_id: bool(self._running_on(project_id)),
            opened=self._on_volume_opened,
            expecting=self._computes.expecting,
            begin=self._begin,
        )
        runs = Runs(self._paths, detect(self._paths.instance))
        single_user = SingleUserRuns(runs) if single_user is None else single_user
        self._timelines = Keeper(
            self._engines,
            single_user,
            self._openings.hold,
            self._has_compute,
            self._volumes.exists,
            schemas=Schemas(runs),
            masks=Masks(runs),
        )
        self._backups: Backups | None = None
        if backups is not None:
            clusters = Clusters(self._engines, single_user)
            dumping = Dumping(self._paths, is_ours=settings.database_url is None)
            node = Node(self._engines, clusters, self._openings.hold, self._timelines.lock, self._has_compute, dumping)
            self._backups = Backups(node, backups, self._paths.backups)
        self._places: dict[str, _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Adopt what an earlier agent left, take apart what is broken, then listen."""
        # (1) Computes first: a broken volume's computes must be known to be stopped.
        await self._computes.__aenter__()
        await self._computes.adopt()
        for compute in self._computes.running():
            self._places[compute.endpoint_id] = _Place(
                parse_project_id(compute.project_id), parse_timeline_id(compute.timeline_id)
            )
        await self._timelines.start()
        # (2) Volumes; those that are not whole are taken apart, after their computes.
        await self._volumes.start(self._kill_all_on)
        # (3) Neither may be without the other.
        for compute in self._computes.running():
            project_id = parse_project_id(compute.project_id)
            if not self._volumes.is_open(project_id):
                log.warning("compute %s runs on a volume that is gone: stopped", compute.endpoint_id)
                await self._kill_all_on(project_id)
        for volume in self._volumes.opened():
            project_id = parse_project_id(volume.project_id)
            if (mountpoint := self._volumes.mountpoint(project_id)) is not None:
                self._timelines.opened(project_id, mountpoint)
            await self._openings.close_if_unused(project_id)
        # (4) Now commands make sense.
        self._paths.agent_socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        await self._server.start()
        self._watches = [
            asyncio.create_task(self._watch_host_space()),
            asyncio.create_task(self._collect_wal()),
            asyncio.create_task(self._feed_standbys()),
        ]

    async def make_ready(self) -> None:
        """Build the default engine's root file system and template, so that no tenant waits for them."""
        if versions := self._engines.versions():
            await self._engines.ensure_template(self._engines.get(max(versions)))

    async def stop(self) -> None:
        """Stop answering and watching. Computes and volumes stay."""
        await self._server.stop()
        tasks = [*self._tasks, *self._watches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._reencryptions.close()
        if self._backups is not None:
            await self._backups.stop()
        await self._timelines.stop()
        await self._computes.__aexit__(None, None, None)
        await self._volumes.stop()

    async def stop_everything(self) -> None:
        """Stop every compute and close every volume. One that fails does not keep the others from it."""
        await self._reencryptions.stop_all()
        projects = {parse_project_id(volume.project_id) for volume in self._volumes.opened()}
        results = await asyncio.gather(*(self._stop_project(each) for each in projects), return_exceptions=True)
        for project_id, result in zip(projects, results, strict=True):
            if isinstance(result, BaseException):
                log.error("the volume of %s could not be closed: %s", project_id, result)

    async def _answer(self, connection: Connection, command: AnyCommand) -> Any:
        """The one door. Who calls was established by the kernel; what a name may be, by `base/ids.py`."""
        # (1) Root may look (`doctor`, `status`); only the API may change.
        if connection.peer.service is not Service.API and not isinstance(command, _READ_ONLY):
            raise ForbiddenError(f"{connection.peer.service} may not send {type(command).__name__}")
        # (2) Parse every name again, then act.
        match command:
            case CreateVolume():
                return await self._create_volume(command)
            case DeleteVolume():
                return await self._delete_volume(parse_project_id(command.project_id))
            case CloseVolume():
                return await self._close_volume(parse_project_id(command.project_id), ends_sending=command.ends_sending)
            case CopyVolume():
                return await self._copy_volume(command)
            case SwitchVolume():
                return await self._switch_volume(parse_project_id(command.project_id), command.stops_computes)
            case StopCopy():
                return await self._stop_copy(parse_project_id(command.project_id), command.is_dropped)
            case StartCompute():
                return await self._start_compute(command.spec)
            case StopCompute():
                return await self._stop_compute(parse_endpoint_id(command.endpoint_id), command.close_volume)
            case KeepHistory():
                return self._keep_history(parse_endpoint_id(command.endpoint_id), command.history_retention_s)
            case DumpSchema():
                return await self._dump_schema(command)
            case StartPooler():
                return await self._start_pooler(command)
            case GetStatus():
                return await self._status()
            case GetVolume():
                return self._volumes.info(parse_project_id(command.project_id))
            case (
                BackUpTimeline()
                | SendWal()
                | RestoreTimeline()
                | ReadBack()
                | DrillRestore()
                | GetStore()
                | BackUpPlatform()
                | ReadBackPlatform()
            ):
                # Without a store there is no courier to ask: one that was not started would be waited for.
                is_none = isinstance(command, GetStore) and not self._paths.store_file.exists()
                if self._backups is None or is_none:
                    raise PreconditionError(public="there is no store for backups")
                return await self._backups.answer(command)
            case _:
                return await self._timelines.answer(command)

    async def _create_volume(self, command: CreateVolume) -> VolumeInfo:
        project_id, uid = parse_project_id(command.project_id), checked_compute_uid(command.uid)
        timeline_id = None if command.timeline_id is None else parse_timeline_id(command.timeline_id)
        if not VOLUME_BYTES_MIN <= command.size_bytes <= VOLUME_BYTES_MAX:
            raise BadRequestError(f"a volume of {command.size_bytes} bytes")
        if not 1 <= command.material <= MATERIAL_MAX:
            raise BadRequestError(f"a key of material {command.material}")
        engine = self._engines.get(command.pg_version)
        await self._engines.ensure_template(engine)

        def fill(mountpoint: Path) -> None:
            if timeline_id is not None:
                self._timelines.fill(engine, mountpoint, timeline_id, uid)

        async with self._openings.lock(project_id):
            if not self._volumes.exists(project_id):
                self._space.require_to_create()
            return await self._volumes.create(project_id, command.size_bytes, fill, material=command.material)

    async def _delete_volume(self, project_id: ProjectId) -> Done:
        await self._end_work(project_id)
        async with self._openings.lock(project_id):
            await self._reencryptions.stop(project_id, is_dropped=True)
            await self._stop_all_on(project_id)
            self._openings.require_no_work(project_id)
            await self._volumes.destroy(project_id)
            remove_place(self._paths, project_id)
            if self._backups is not None:
                self._backups.forget(project_id)
            self._places = {name: place for name, place in self._places.items() if place.project_id != project_id}
        return Done()

    async def _close_volume(self, project_id: ProjectId, *, ends_sending: bool) -> Done:
        if ends_sending and self._backups is not None:
            await self._backups.end_sending(project_id)
        async with self._openings.lock(project_id):
            if running := self._running_on(project_id):
                raise ConflictError(f"compute {running[0].endpoint_id} runs on the volume of {project_id}")
            self._openings.require_no_work(project_id)
            await self._volumes.close(project_id)
        return Done()

    async def _copy_volume(self, command: CopyVolume) -> CopyInfo:
        """Without the project's lock: it is not for a copy that a wake waits."""
        project_id = parse_project_id(command.project_id)
        if not 1 <= command.material <= MATERIAL_MAX:
            raise BadRequestError(f"a key of material {command.material}")
        if command.bytes_per_s is not None and command.bytes_per_s < BYTES_PER_S_MIN:
            raise BadRequestError(f"a pace of {command.bytes_per_s} bytes per second")
        volume = self._volumes.info(project_id)
        if volume.material != command.material:
            self._reencryptions.require()
            if self._reencryptions.info(project_id).state in (CopyState.NONE, CopyState.FAILED):
                # Of what the first image takes, the part that is not there yet.
                self._space.require_for_copy(max(volume.image_bytes - self._reencryptions.copied_bytes(project_id), 0))
            if not command.only_asks:
                await self._reencryptions.begin(project_id, command.material, command.bytes_per_s)
        return self._copy_info(project_id)

    async def _switch_volume(self, project_id: ProjectId, stops_computes: bool) -> CopyInfo:
        if self._reencryptions.info(project_id).state is not CopyState.READY:
            raise ConflictError(f"no copy of the volume of {project_id} is ready")
        if self._running_on(project_id) and not stops_computes:
            raise ConflictError(f"computes run on the volume of {project_id}", public="the project is in use")
        if self._backups is not None:
            await self._backups.end_sending(project_id)
        self._openings.require_no_work(project_id)
        self._begin(self._complete_copy(project_id, stops_computes))
        return self._copy_info(project_id)

    async def _complete_copy(self, project_id: ProjectId, stops_computes: bool) -> None:
        """A wake that comes now waits for the lock, and opens what is then the volume."""
        async with self._openings.lock(project_id):
            if self._openings.is_held(project_id) or (self._running_on(project_id) and not stops_computes):
                return  # somebody was quicker: it is asked for again
            await self._stop_all_on(project_id)
            await self._volumes.close(project_id)
            await self._reencryptions.complete(project_id)

    async def _stop_copy(self, project_id: ProjectId, is_dropped: bool) -> Done:
        async with self._openings.lock(project_id):
            await self._reencryptions.stop(project_id, is_dropped=is_dropped)
        return Done()

    def _copy_info(self, project_id: ProjectId) -> CopyInfo:
        info = self._reencryptions.info(project_id)
        return msgspec.structs.replace(info, is_in_use=bool(self._running_on(project_id)))

    async def _start_compute(self, spec: ComputeSpec) -> ComputeInfo:
        project_id, timeline_id = parse_project_id(spec.project_id), parse_timeline_id(spec.timeline_id)
        parse_endpoint_id(spec.endpoint_id)
        if spec.follows_id is not None:
            parse_timeline_id(spec.follows_id)
        uid = checked_compute_uid(spec.uid)
        place = _Place(project_id, timeline_id, spec.history_retention_s)
        # Before the locks: a stop that arrives while this start is under way must find the project, and wait. One that runs on
        # what its branch was before is where it is.
        if (there := self._compute_of(spec.endpoint_id)) is None or there.timeline_id == timeline_id:
            self._places[spec.endpoint_id] = place
        async with self._timelines.lock_to_start(timeline_id), self._openings.lock(project_id):
            if (there := self._compute_of(spec.endpoint_id)) is not None:
                self._note_where_it_is(there)
                return there
            self._places[spec.endpoint_id] = place
            self._space.require_to_start()
            async with self._computes.expecting():
                mountpoint = await self._openings.open(project_id)
                try:
                    timeline = Layout(mountpoint).existing(timeline_id)
                    if spec.is_read_only:
                        floor = await asyncio.to_thread(standby.prepare, timeline, uid)
                        return await self._computes.start(spec, mountpoint, floor=floor)
                    await self._volumes.prepare_cluster(timeline.data, uid)
                    return await self._computes.start(spec, mountpoint)
                except BaseException:
                    with contextlib.suppress(CloisterError):
                        await self._openings.close_unused(project_id)
                    raise

    async def _stop_compute(self, endpoint_id: str, close_volume: bool) -> Done:
        while (place := self._places.get(endpoint_id)) is not None:
            async with self._timelines.lock(place.timeline_id), self._openings.lock(place.project_id):
                if (there := self._compute_of(endpoint_id)) is not None:
                    self._note_where_it_is(there)
                if self._places.get(endpoint_id, place).timeline_id != place.timeline_id:
                    continue  # it was started on another one while we waited
                was_running = self._has_compute(place.timeline_id)
                await self._computes.stop(endpoint_id)
                mountpoint = self._volumes.mountpoint(place.project_id)
                if was_running and mountpoint is not None:
                    await self._timelines.after_stop(mountpoint, place.timeline_id, place.retention_s)
                self._let_backup_key_go(place.project_id)
                if close_volume:
                    await self._openings.close_unused(place.project_id)
            break
        return Done()

    def _note_where_it_is(self, compute: ComputeInfo) -> None:
        """It was being started there when it was asked for on another timeline."""
        place = _Place(parse_project_id(compute.project_id), parse_timeline_id(compute.timeline_id))
        if self._places.get(compute.endpoint_id, place).timeline_id != place.timeline_id:
            self._places[compute.endpoint_id] = place

    def _keep_history(self, endpoint_id: str, retention_s: int) -> Done:
        if not 0 <= retention_s <= HISTORY_RETENTION_MAX_S:
            raise BadRequestError(f"a history of {retention_s} seconds")
        if (place := self._places.get(endpoint_id)) is not None:
            self._places[endpoint_id] = place._replace(retention_s=retention_s)
        return Done()

    async def _dump_schema(self, command: DumpSchema) -> SchemaDump:
        """Without a lock: a compute that is stopped meanwhile ends the dump, and nothing else."""
        endpoint_id = parse_endpoint_id(command.endpoint_id)
        database = parse_identifier("database name", command.database)
        if (compute := self._compute_of(endpoint_id)) is None or self._dumps is None:
            raise NotFoundError(f"{endpoint_id} does not run", public="the compute does not run")
        return SchemaDump(await self._dumps.schema(compute, command.pg_version, database, command.form))

    async def _start_pooler(self, command: StartPooler) -> PoolerInfo:
        """Without a lock of ours: a compute that is stopped meanwhile takes its pooler along."""
        endpoint_id = parse_endpoint_id(command.endpoint_id)
        role = parse_identifier("role name", command.role)
        return PoolerInfo(await self._computes.pool(endpoint_id, command.generation, role))

    async def _status(self) -> NodeStatus:
        driver, running = self._volumes.driver, self._computes.running()
        return NodeStatus(
            computes=running,
            history_retentions_s={
                compute.endpoint_id: retention_s
                for compute in running
                if (retention_s := self._places[compute.endpoint_id].retention_s) is not None
            },
            volumes=self._volumes.opened(),
            driver=driver.name,
            opener=driver.opener_name,
            cipher=await self._volumes.ciphers(),
            engines=self._engines.versions(),
            free_bytes=self._space.free_bytes(),
            cgroup=self._computes.limits_description(),
        )

    def _on_compute_exited(self, event: ComputeExited) -> None:
        self._send(event)
        place = self._places.get(event.endpoint_id)
        if place is not None and not event.was_asked:
            self._begin(self._after_crash(place.project_id))

    async def _after_crash(self, project_id: ProjectId) -> None:
        async with self._openings.lock(project_id):
            self._let_backup_key_go(project_id)
            if not self._running_on(project_id):
                await self._volumes.release_reserve(project_id)
                await self._openings.close_unused(project_id)

    def _on_volume_opened(self, project_id: ProjectId, mountpoint: Path) -> None:
        self._timelines.opened(project_id, mountpoint)

    def _on_volume_failed(self, project_id: ProjectId, reason: str) -> None:
        self._begin(self._after_volume_failure(project_id, reason))

    async def _after_volume_failure(self, project_id: ProjectId, reason: str) -> None:
        """Its computes cannot go on; what they acknowledged was synced. The next start opens it anew."""
        # Not under the project's lock yet: whoever holds that may be waiting for one of these computes.
        await self._kill_all_on(project_id)
        await self._end_work(project_id)
        async with self._openings.lock(project_id):
            await self._kill_all_on(project_id)
            await self._volumes.discard(project_id)
        self._send(VolumeFailed(project_id, reason))

    async def _watch_host_space(self) -> None:
        """Stop who writes when the host's disk is about to be full. Left alone, their writes would fail inside the
        volumes: PostgreSQL would stop hard, and the control database with them."""
        before: dict[ProjectId, int] = {}
        while True:
            await asyncio.sleep(HOST_CHECK_INTERVAL_S)
            try:
                before = await self._relieve_host(before)
            except Exception:
                log.exception("watching the host's disk")

    async def _collect_wal(self) -> None:
        """Take finished WAL out of the tenants' reach, and give up what is older than it must be kept."""
        while True:
            await asyncio.sleep(COLLECT_INTERVAL_S)
            for compute in self._computes.running():
                if (place := self._places.get(compute.endpoint_id)) is None:
                    continue  # its project was deleted while another's WAL was collected
                try:
                    await self._timelines.collect(place.project_id, place.timeline_id, place.retention_s)
                except Exception as error:
                    log.warning("the WAL of %s is not collected: %s", compute.endpoint_id, error)

    async def _feed_standbys(self) -> None:
        while True:
            await asyncio.sleep(FEED_INTERVAL_S)
            for compute in self._computes.running():
                if compute.follows_id is not None:
                    await self._feed(compute, parse_timeline_id(compute.follows_id))

    async def _feed(self, compute: ComputeInfo, source_id: TimelineId) -> None:
        if (place := self._places.get(compute.endpoint_id)) is None:
            return  # its project was deleted while another standby was fed
        try:
            await self._timelines.feed(place.project_id, place.timeline_id, source_id)
        except (UnavailableError, ConflictError) as error:
            log.info("%s is not given what is new: %s", compute.endpoint_id, error)
        except Exception as error:
            # It would show what was, for ever. The next client gets one that is made anew.
            log.warning("%s cannot follow its branch any more: %s", compute.endpoint_id, error)
            self._begin(self._stop_standby(compute.endpoint_id))

    async def _stop_standby(self, endpoint_id: str) -> None:
        await self._stop_compute(endpoint_id, close_volume=True)

    async def _relieve_host(self, before: dict[ProjectId, int]) -> dict[ProjectId, int]:
        """One check. Given the sizes of the open volumes at the check before; gives those of now, while they matter."""
        if not self._space.is_short():
            return {}
        self._reencryptions.give_up("the server's disk is almost full")
        sizes = {parse_project_id(volume.project_id): volume.image_bytes for volume in self._volumes.opened()}
        if self._space.is_out():
            growing = [project_id for project_id, size in sizes.items() if size > before.get(project_id, size)]
            log.error(
                "%d bytes free for volumes: stopping the computes of %s",
                self._space.free_bytes(),
                ", ".join(growing) or "nobody",
            )
            for project_id in growing:
                await self._stop_project(project_id)
        return sizes

    async def _stop_project(self, project_id: ProjectId) -> None:
        await self._end_work(project_id)
        async with self._openings.lock(project_id):
            await self._stop_all_on(project_id)
            self._openings.require_no_work(project_id)
            await self._volumes.close(project_id)

    async def _end_work(self, project_id: ProjectId) -> None:
        """Everything that needs the project's volume. Not while holding one of the locks."""
        await self._timelines.end_work(project_id)
        if self._backups is not None:
            await self._backups.end_work(project_id)

    def _let_backup_key_go(self, project_id: ProjectId) -> None:
        if self._backups is not None and not self._running_on(project_id):
            self._backups.let_go(project_id)

    async def _stop_all_on(self, project_id: ProjectId) -> None:
        for compute in self._running_on(project_id):
            await self._computes.stop(compute.endpoint_id)

    async def _kill_all_on(self, project_id: ProjectId) -> None:
        await self._computes.kill_all_on(project_id)

    def _has_compute(self, timeline_id: TimelineId) -> bool:
        return any(compute.timeline_id == timeline_id for compute in self._computes.running())

    def _compute_of(self, endpoint_id: str) -> ComputeInfo | None:
        return next((compute for compute in self._computes.running() if compute.endpoint_id == endpoint_id), None)

    def _running_on(self, project_id: ProjectId) -> list[ComputeInfo]:
        return [compute for compute in self._computes.running() if compute.project_id == project_id]

    def _send(self, event: AnyEvent) -> None:
        for connection in list(self._server.connections):
            connection.send_event(event)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that an event causes, rather than a command. `stop` ends it."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("after an event")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
