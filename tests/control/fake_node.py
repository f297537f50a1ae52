"""A node in memory, with teeth: it refuses what the real agent would refuse, and what would destroy data it reports.

`FakeNode` is the agent, `FakeKeys` the key broker, `FakeServer` a session to a running compute. Catalogs lie in the node's
images, so they survive a stop and a crash as they would on disk.

What a branch holds is a list of words (`FakeNode.write`, `words_of`), each with the LSN and the moment of its commit, so that
a test can say what a copy, a clone or a recovery must hold, and nothing else.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.base.audit_levels import AuditLevel
from cloister.base.errors import (
    CloisterError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc import Command
from cloister.control.computes.ages import Ages
from cloister.control.computes.idle import Activity
from cloister.control.computes.sessions import BackupEnd, Running
from cloister.control.computes.tallies import Tally
from cloister.control.computes.touched import Touched
from cloister.control.roles.names import PLATFORM_DATABASES, SUPERUSER, TEMPLATE_DATABASE, TEMPLATE_ROLE
from cloister.control.roles.server import DatabaseState, RoleState
from cloister.node.commands import (
    AnyBackupCommand,
    CloneTimeline,
    CloseVolume,
    ComputeExited,
    ComputeInfo,
    ComputeSpec,
    CopyInfo,
    CopySchema,
    CopyState,
    CopyTimeline,
    CopyVolume,
    CreateVolume,
    DeleteTimeline,
    DeleteVolume,
    Done,
    DumpSchema,
    DumpSchemaAt,
    FinishCopy,
    GetStatus,
    GetTimeline,
    GetVolume,
    KeepHistory,
    MaskTimeline,
    NodeStatus,
    PoolerInfo,
    PruneTimeline,
    Recovered,
    RecoverTimeline,
    SchemaDump,
    ScrubTimeline,
    StartCompute,
    StartPooler,
    StopCompute,
    StopCopy,
    SwitchVolume,
    TimelineInfo,
    VolumeInfo,
)
from cloister.trust.audit.segments import key_of
from cloister.trust.keys.commands import KeyInfo, OnBehalf, RecordingEnvelope
from tests.control.fake_store import FakeStore, answer

R = TypeVar("R")

QUIET = Activity(
    busy_backends=0, walsenders=0, autovacuum_workers=0, subscriptions=0, last_change_at=None, sessions=1, active_ms=1
)


def a_table(name: str) -> str:
    """A line of what psql says: a table with one column, its key."""
    return (
        f'{{"schema" : "public", "name" : "{name}", "columns" : [{{"name" : "id", "type" : "bigint", "nullable" : false, '
        f'"generated" : false}}], "constraints" : [{{"type" : "primary_key", "columns" : ["id"], "name" : "{name}_pkey", '
        f'"referenced_table" : null}}]}}\n'
    )


class FakeKeys:
    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.destroyed: set[str] = set()
        self.recordings: list[tuple[str, str, str]] = []
        """For which a key was used: whose, who, why."""
        self.disabled: set[str] = set()
        self.readings: list[tuple[str, str, int]] = []
        """Of statement logs: whose, who, how many segments."""
        self.erasures: list[tuple[str, str]] = []
        self.materials: dict[str, set[int]] = {}
        self.protected: set[str] = set()
        self.purposes: set[tuple[str, str]] = set()
        """What a key was made for: whose, for what."""

    async def make_recording_key(
        self, project_id: str, recording_id: UUID, by: OnBehalf
    ) -> tuple[RecordingEnvelope, bytes]:
        envelope = RecordingEnvelope(b"\1" + project_id.encode() + recording_id.bytes, 202611)
        return envelope, await self.open_recording_key(project_id, recording_id, envelope, "record", by)

    async def open_recording_key(
        self, project_id: str, recording_id: UUID, envelope: RecordingEnvelope, reason: str, by: OnBehalf
    ) -> bytes:
        assert envelope == RecordingEnvelope(b"\1" + project_id.encode() + recording_id.bytes, 202611)
        if project_id in self.destroyed:
            raise PreconditionError(public="the key of this project is destroyed")
        self.recordings.append((project_id, by.actor, reason))
        return hashlib.sha256(envelope.wrapped).digest()

    async def make_statement_key(self, project_id: str, generation: int) -> tuple[bytes, bytes]:
        if project_id in self.destroyed | self.disabled:
            raise PreconditionError(public="the key of this project is disabled")
        private = X25519PrivateKey.generate()
        return private.public_key().public_bytes_raw(), b"\2" + private.private_bytes_raw() + project_id.encode()

    async def open_statement_keys(
        self, project_id: str, generation: int, wrapped: bytes, shares: Sequence[bytes], by: OnBehalf
    ) -> list[bytes]:
        assert wrapped[33:] == project_id.encode()
        if project_id in self.destroyed:
            raise PreconditionError(public="the key of this project is destroyed")
        self.readings.append((project_id, by.actor, len(shares)))
        private = X25519PrivateKey.from_private_bytes(wrapped[1:33])
        return [key_of(private, share, project_id, generation) for share in shares]

    async def erase_statements(self, project_id: str, by: OnBehalf) -> int:
        self.erasures.append((project_id, by.actor))
        return 1

    async def create(self, project_id: str, purpose: str = "volume") -> KeyInfo:
        if project_id in self.destroyed and project_id not in self.enabled:
            raise PreconditionError("destroyed keys do not come back")
        self.enabled.add(project_id)
        self.purposes.add((project_id, purpose))
        material = max(self.materials.get(project_id, {1})) if purpose == "volume" else 1
        return KeyInfo(
            project_id=project_id,
            purpose=purpose,
            version=material,
            material=material,
            state="enabled",
            provider="file",
            created_at="",
        )

    async def renew(self, project_id: str, beyond: int, by: OnBehalf) -> KeyInfo:
        materials = self.materials.setdefault(project_id, {1})
        if max(materials) <= beyond:
            materials.add(max(materials) + 1)
        return KeyInfo(
            project_id=project_id,
            purpose="volume",
            version=max(materials),
            material=max(materials),
            state="enabled",
            provider="project",
            created_at="",
        )

    async def retire(self, project_id: str, material: int, by: OnBehalf) -> int:
        if project_id in self.protected:
            raise UnprocessableError("cannot destroy keys of project with protected branches")
        if self.materials[project_id] == {material}:
            raise ConflictError("the last one")
        self.materials[project_id].discard(material)
        return 1

    async def destroy(self, project_id: str) -> int:
        count = len(self.enabled & {project_id})
        self.enabled.discard(project_id)
        self.destroyed.add(project_id)
        return count


@dataclass
class Catalog:
    """What lies in a branch's data directory."""

    roles: dict[str, RoleState] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)
    access: dict[str, bool] = field(default_factory=dict)
    """Roles of approved access, and whether they may write."""
    held_by: "FakeServer | None" = None


@dataclass
class Write:
    lsn: int
    at: float
    word: str
    catalog: Catalog
    """As it was just after."""


@dataclass
class Timeline:
    catalog: Catalog
    began_lsn: int = 0
    began: float = 0.0
    writes: list[Write] = field(default_factory=list)
    is_frozen: bool = False
    in_backup: dict[str, int] = field(default_factory=dict)
    """Label → the LSN at which the session that holds it began."""
    ended_backups: dict[str, int] = field(default_factory=dict)
    """Label → its stop LSN."""
    half_copies: dict[str | None, set[str]] = field(default_factory=dict)
    """Target → labels of the backups during which its files were copied."""
    snapshots: list[int] = field(default_factory=list)
    pruned_to: float = 0.0

    def words(self) -> list[str]:
        return [write.word for write in self.writes]


@dataclass
class Image:
    timeline_id: str
    uid: int
    pg_version: int
    timelines: dict[str, Timeline]
    is_open: bool = False
    material: int = 1
    copy: CopyState = CopyState.NONE
    copy_material: int = 0
    bytes_per_s: int | None = None

    @property
    def catalog(self) -> Catalog:
        """Of the first timeline."""
        return self.timelines[self.timeline_id].catalog


class FakeNode:
    def __init__(self, keys: FakeKeys) -> None:
        self.keys = keys
        self.images: dict[str, Image] = {}
        self.store: FakeStore | None = None
        """None: none is configured."""
        self.copy_refusal: CloisterError | None = None
        self.computes: dict[str, ComputeInfo] = {}
        self.specs: dict[str, ComputeSpec] = {}
        self.history_retentions_s: dict[str, int] = {}
        """What this agent was told; one that is started anew knows of none."""
        self.calls: list[str] = []
        """Names of the commands that did something."""
        self.failing: dict[str, CloisterError] = {}
        """Command name → what it is refused with, until taken out."""
        self.before: Callable[[Command[Any]], Any] | None = None
        """Awaited before a command is carried out."""
        self.on_event: Callable[[Any], None] = lambda _event: None
        self.activity: dict[str, Activity] = {}
        self.refusals: dict[str, Tally] = {}
        self.powers: dict[str, Tally] = {}
        self.ages: dict[str, Ages] = {}
        self.touched: dict[str, Touched] = {}
        """What the guard of an endpoint's compute counted and nobody had it forget."""
        self.wal_bytes: dict[str, int] = {}
        """Timeline → how much WAL it has had since its last snapshot."""
        self.without_history: set[str] = set()
        self.with_gap: set[str] = set()
        """Timelines that have no snapshot."""
        self.deaf: set[str] = set()
        """Endpoints whose server does not answer sessions."""
        self.stuck: set[str] = set()
        """Standbys that PostgreSQL paused."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.dumps: dict[str, bytes | CloisterError] = {}
        """Database → what pg_dump says of it."""
        self.tables: dict[str, bytes] = {}
        """Database → what psql says of it."""
        self._last_generation = 0
        self._last_lsn = 0x100
        self._last_label = 0
        self._sessions: list[FakeServer] = []

    async def call(self, command: Command[R], *, timeout_s: float = RPC_CALL_TIMEOUT_S) -> R:
        name = type(command).__name__
        if self.before is not None:
            await self.before(command)
        if (error := self.failing.get(name)) is not None:
            raise error
        if isinstance(command, AnyBackupCommand):
            answered: R = answer(self, command)
            return answered
        handler = cast("Callable[[Command[R]], R]", getattr(self, f"_{name}"))
        return handler(command)

    # ── what happens to it ──

    def crash(self, endpoint_id: str) -> None:
        self._tell(self._end(endpoint_id), was_asked=False, exit_status=-9)

    def stop_for_want_of_space(self, endpoint_id: str) -> None:
        """The node's own decision, in good order."""
        self._tell(self._end(endpoint_id), was_asked=True, exit_status=0)

    def _tell(self, compute: ComputeInfo, *, was_asked: bool, exit_status: int) -> None:
        self.on_event(
            ComputeExited(
                endpoint_id=compute.endpoint_id,
                generation=compute.generation,
                was_asked=was_asked,
                exit_status=exit_status,
            )
        )

    def cut_power(self) -> None:
        for endpoint_id in list(self.computes):
            self._end(endpoint_id)
        for image in self.images.values():
            image.is_open = False

    def catalog_of(self, endpoint_id: str) -> Catalog:
        """Of what the endpoint's compute was last started on."""
        return self.timeline_of(endpoint_id).catalog

    def timeline_of(self, endpoint_id: str) -> Timeline:
        spec = self.specs[endpoint_id]
        return self.images[spec.project_id].timelines[spec.timeline_id]

    def find_timeline(self, timeline_id: str) -> Timeline | None:
        found = [image.timelines[timeline_id] for image in self.images.values() if timeline_id in image.timelines]
        return found[0] if found else None

    def write(self, endpoint_id: str, word: str) -> str:
        """A client commits something. The LSN after it."""
        compute = self.computes[endpoint_id]
        timeline = self.images[compute.project_id].timelines[compute.timeline_id]
        self._last_lsn += 0x100
        timeline.writes.append(Write(self._last_lsn, self.now().timestamp(), word, _copied(timeline.catalog)))
        return _lsn(self._last_lsn)

    def words_of(self, timeline_id: str) -> list[str]:
        timeline = self.find_timeline(timeline_id)
        assert timeline is not None, f"{timeline_id} is gone"
        return timeline.words()

    async def open(self, running: Running) -> "FakeServer":
        if running.endpoint_id in self.deaf:
            raise UnavailableError(f"{running.endpoint_id} is deaf")
        server = FakeServer(self, running)
        server.check_alive()
        self._sessions.append(server)
        return server

    # ── commands ──

    def _CreateVolume(self, command: CreateVolume) -> VolumeInfo:  # noqa: N802 - dispatched by name
        if command.project_id not in self.keys.enabled:
            raise NotFoundError(f"no key of {command.project_id}")
        image = self.images.get(command.project_id)
        if image is None:
            if command.material not in self.keys.materials.get(command.project_id, {1}):
                raise PreconditionError(public="the key of this project is destroyed")
            self.calls.append("CreateVolume")
            owner = RoleState(TEMPLATE_ROLE, None, can_login=True, valid_until=None)
            catalog = Catalog({TEMPLATE_ROLE: owner}, {TEMPLATE_DATABASE: TEMPLATE_ROLE})
            first = Timeline(catalog, self._last_lsn, self.now().timestamp())
            timelines = {} if command.timeline_id is None else {command.timeline_id: first}
            self.images[command.project_id] = Image(
                command.timeline_id or "", command.uid, command.pg_version, timelines, material=command.material
            )
        elif (image.timeline_id, image.uid) != (command.timeline_id or "", command.uid):
            raise ConflictError("another volume of that id")
        return self._info(command.project_id)

    def _DeleteVolume(self, command: DeleteVolume) -> Done:  # noqa: N802
        for endpoint_id, compute in list(self.computes.items()):
            if compute.project_id == command.project_id:
                self._end(endpoint_id)
        if self.images.pop(command.project_id, None) is not None:
            self.calls.append("DeleteVolume")
        return Done()

    def _CloseVolume(self, command: CloseVolume) -> Done:  # noqa: N802
        if any(compute.project_id == command.project_id for compute in self.computes.values()):
            raise ConflictError("in use")
        if command.project_id in self.images:
            self.images[command.project_id].is_open = False
        self.calls.append("CloseVolume")
        return Done()

    def _StartCompute(self, command: StartCompute) -> ComputeInfo:  # noqa: N802
        spec = command.spec
        if (there := self.computes.get(spec.endpoint_id)) is not None:
            return there
        image = self.images.get(spec.project_id)
        if image is None or spec.timeline_id not in image.timelines:
            raise NotFoundError(f"no timeline {spec.timeline_id}")
        assert image.timelines[spec.timeline_id].is_frozen == spec.is_read_only, "what is frozen is never written to"
        if image.uid != spec.uid or image.pg_version != spec.pg_version:
            raise PreconditionError("not this project's uid or version")
        if spec.project_id not in self.keys.enabled:
            raise NotFoundError("no key")
        # The worst that the control plane could do: two servers on one data directory.
        assert all(compute.timeline_id != spec.timeline_id for compute in self.computes.values()), "data destroyed"
        self.calls.append("StartCompute")
        self._last_generation += 1
        image.is_open = True
        self.specs[spec.endpoint_id] = spec
        self.history_retentions_s[spec.endpoint_id] = spec.history_retention_s
        self.computes[spec.endpoint_id] = ComputeInfo(
            endpoint_id=spec.endpoint_id,
            project_id=spec.project_id,
            branch_id=spec.branch_id,
            timeline_id=spec.timeline_id,
            generation=self._last_generation,
            socket_dir=f"/run/computes/{spec.endpoint_id}",
            pid=1000 + self._last_generation,
        )
        return self.computes[spec.endpoint_id]

    def _StopCompute(self, command: StopCompute) -> Done:  # noqa: N802
        if command.endpoint_id in self.computes:
            self.calls.append("StopCompute")
            compute = self._end(command.endpoint_id)
            self._tell(compute, was_asked=True, exit_status=0)
            if command.close_volume and not any(
                other.project_id == compute.project_id for other in self.computes.values()
            ):
                self.images[compute.project_id].is_open = False
        return Done()

    def _StartPooler(self, command: StartPooler) -> PoolerInfo:  # noqa: N802
        compute = self.computes.get(command.endpoint_id)
        if compute is None or compute.generation != command.generation:
            raise NotFoundError(public="the compute does not run")
        self.calls.append("StartPooler")
        return PoolerInfo(f"{compute.socket_dir}/pool")

    # ── timelines ──

    @property
    def last_lsn(self) -> int:
        return self._last_lsn

    def next_label(self) -> int:
        self._last_label += 1
        return self._last_label

    def there(self, project_id: str, timeline_id: str) -> Timeline:
        if project_id not in self.keys.enabled:
            raise NotFoundError("no key")
        image = self.images.get(project_id)
        if image is None or timeline_id not in image.timelines:
            raise NotFoundError(f"no timeline {timeline_id}")
        image.is_open = True
        return image.timelines[timeline_id]

    def runs(self, timeline_id: str) -> bool:
        return any(compute.timeline_id == timeline_id for compute in self.computes.values())

    def put(self, project_id: str, target_id: str, catalog: Catalog, writes: list[Write], *, is_frozen: bool) -> None:
        self.images[project_id].timelines[target_id] = Timeline(
            _copied(catalog), self._last_lsn, self.now().timestamp(), list(writes), is_frozen
        )

    def _CloneTimeline(self, command: CloneTimeline) -> Recovered:  # noqa: N802
        source = self.there(command.project_id, command.source_id)
        if command.target_id not in self.images[command.project_id].timelines:
            if self.runs(command.source_id):
                raise ConflictError("a compute runs on it")
            self.calls.append("CloneTimeline")
            self.put(command.project_id, command.target_id, source.catalog, source.writes, is_frozen=command.is_frozen)
        return Recovered(lsn=_lsn(self._last_lsn))

    def _CopyTimeline(self, command: CopyTimeline) -> Done:  # noqa: N802
        source = self.there(command.project_id, command.source_id)
        assert source.in_backup, "copied without backup mode: what comes of it is garbage"
        assert self.runs(command.source_id)
        self.calls.append("CopyTimeline")
        source.half_copies[command.target_id] = set(source.in_backup)
        return Done()

    def _FinishCopy(self, command: FinishCopy) -> Recovered:  # noqa: N802
        source = self.there(command.project_id, command.source_id)
        if command.target_id is not None and command.target_id in self.images[command.project_id].timelines:
            return Recovered(lsn=command.stop_lsn)
        if command.target_id not in source.half_copies:
            raise NotFoundError("nothing was copied")
        assert command.label in source.half_copies[command.target_id], "the label of another backup"
        stop = source.ended_backups[command.label]
        assert command.stop_lsn == _lsn(stop)
        self.calls.append("FinishCopy")
        del source.half_copies[command.target_id]
        if command.target_id is None:
            source.snapshots.append(stop)
        else:
            writes = [write for write in source.writes if write.lsn <= stop]
            self.put(command.project_id, command.target_id, source.catalog, writes, is_frozen=command.is_frozen)
        return Recovered(lsn=command.stop_lsn)

    def _RecoverTimeline(self, command: RecoverTimeline) -> Recovered:  # noqa: N802
        assert (command.lsn is None) != (command.at is None)
        source = self.there(command.project_id, command.source_id)
        assert not source.is_frozen, "a snapshot has no history"
        if command.target_id in self.images[command.project_id].timelines:
            return Recovered(lsn=_lsn(self._last_lsn))
        if command.lsn is not None:
            point = int(command.lsn.rpartition("/")[2], 16)
            if not source.began_lsn <= point <= self._last_lsn:
                raise PreconditionError(
                    "outside", public=f"the LSN must lie between {_lsn(source.began_lsn)} and the end"
                )
            writes = [write for write in source.writes if write.lsn <= point]
        else:
            assert command.at is not None
            if not max(source.began, source.pruned_to) <= command.at <= self.now().timestamp():
                raise PreconditionError("outside", public="the time must lie in the history")
            writes = [write for write in source.writes if write.at <= command.at]
        self.calls.append("RecoverTimeline")
        last = writes[-1] if writes else None
        # Its catalog is that of the last commit before; before the first, nobody here remembers it.
        catalog = last.catalog if last else Catalog()
        self.put(command.project_id, command.target_id, catalog, writes, is_frozen=command.is_frozen)
        return Recovered(lsn=_lsn(last.lsn if last else source.began_lsn), at=last.at if last else None)

    def _CopySchema(self, command: CopySchema) -> Done:  # noqa: N802
        source = self.there(command.project_id, command.source_id)
        assert source.is_frozen, "servers are to run on it: what was a branch's would be lost"
        if command.target_id not in self.images[command.project_id].timelines:
            self.calls.append("CopySchema")
            self.put(command.project_id, command.target_id, source.catalog, [], is_frozen=False)
            roles = self.there(command.project_id, command.target_id).catalog.roles
            if not command.keeps_passwords:
                for name, role in roles.items():
                    roles[name] = RoleState(name, None, role.can_login, role.valid_until)
        return Done()

    def _MaskTimeline(self, command: MaskTimeline) -> Done:  # noqa: N802
        """Every word becomes `***`: what matters is where it was done."""
        source = self.there(command.project_id, command.source_id)
        assert source.is_frozen, "what is masked was never anybody's"
        assert command.rules
        if command.target_id not in self.images[command.project_id].timelines:
            self.calls.append("MaskTimeline")
            writes = [replace(write, word="***") for write in source.writes]
            self.put(command.project_id, command.target_id, source.catalog, writes, is_frozen=False)
        return Done()

    def _ScrubTimeline(self, command: ScrubTimeline) -> Done:  # noqa: N802
        timeline = self.there(command.project_id, command.timeline_id)
        if self.runs(command.timeline_id):
            raise ConflictError("a compute runs on it")
        self.calls.append("ScrubTimeline")
        for name, role in timeline.catalog.roles.items():
            timeline.catalog.roles[name] = RoleState(name, None, role.can_login, role.valid_until)
        return Done()

    def _DeleteTimeline(self, command: DeleteTimeline) -> Done:  # noqa: N802
        image = self.images.get(command.project_id)
        if image is not None:
            if self.runs(command.timeline_id):
                raise ConflictError("a compute runs on it")
            for timeline in image.timelines.values():
                timeline.half_copies.pop(command.timeline_id, None)
            if image.timelines.pop(command.timeline_id, None) is not None:
                self.calls.append("DeleteTimeline")
        return Done()

    def _PruneTimeline(self, command: PruneTimeline) -> TimelineInfo:  # noqa: N802
        self.there(command.project_id, command.timeline_id).pruned_to = command.keep_since
        self.calls.append("PruneTimeline")
        return self._timeline_info(command.project_id, command.timeline_id)

    def _GetTimeline(self, command: GetTimeline) -> TimelineInfo:  # noqa: N802
        return self._timeline_info(command.project_id, command.timeline_id)

    def _timeline_info(self, project_id: str, timeline_id: str) -> TimelineInfo:
        timeline = self.there(project_id, timeline_id)
        last = max([timeline.began_lsn, *timeline.snapshots])
        return TimelineInfo(
            timeline_id=timeline_id,
            is_running=self.runs(timeline_id),
            end_lsn=_lsn(self._last_lsn),
            since=None if timeline_id in self.without_history else max(timeline.began, timeline.pruned_to),
            wal_since_snapshot_bytes=0 if timeline.snapshots else self.wal_bytes.get(timeline_id, 0),
            has_gap=timeline_id in self.with_gap,
            logical_bytes=1000 + len(timeline.writes),
            unique_bytes=100,
            history_bytes=10 * (1 + last - timeline.began_lsn),
        )

    def _DumpSchema(self, command: DumpSchema) -> SchemaDump:  # noqa: N802
        if command.endpoint_id not in self.computes:
            raise NotFoundError(public="the compute does not run")
        if command.form == "tables":
            return SchemaDump(self.tables[command.database])
        if isinstance(dump := self.dumps[command.database], CloisterError):
            raise dump
        return SchemaDump(dump)

    def _DumpSchemaAt(self, command: DumpSchemaAt) -> SchemaDump:  # noqa: N802
        """The words that were there stand for the schema."""
        self._RecoverTimeline(
            RecoverTimeline(
                project_id=command.project_id,
                source_id=command.source_id,
                target_id=command.target_id,
                pg_version=command.pg_version,
                uid=command.uid,
                lsn=command.lsn,
                at=command.at,
                is_frozen=True,
            )
        )
        timeline = self.images[command.project_id].timelines.pop(command.target_id)
        if isinstance(dump := self.dumps.get(command.database, b""), CloisterError):
            raise dump
        text = " ".join(timeline.words())
        return SchemaDump((text if command.form == "sql" else a_table(text)).encode())

    def _KeepHistory(self, command: KeepHistory) -> Done:  # noqa: N802
        self.calls.append("KeepHistory")
        self.history_retentions_s[command.endpoint_id] = command.history_retention_s
        return Done()

    def _GetStatus(self, _command: GetStatus) -> NodeStatus:  # noqa: N802
        return NodeStatus(
            computes=list(self.computes.values()),
            history_retentions_s=dict(self.history_retentions_s),
            volumes=[self._info(project_id) for project_id, image in self.images.items() if image.is_open],
            driver="luks",
            opener="qemu-storage-daemon",
            cipher="aes-xts-plain64 512",
            engines={18: "18.6", 17: "17.10"},
            free_bytes=10**12,
            cgroup="v1",
        )

    def _GetVolume(self, command: GetVolume) -> VolumeInfo:  # noqa: N802
        return self._info(command.project_id)

    def _CopyVolume(self, command: CopyVolume) -> CopyInfo:  # noqa: N802
        image = self.images[command.project_id]
        if self.copy_refusal is not None:
            raise self.copy_refusal
        if not command.only_asks and image.material != command.material:
            assert command.material in self.keys.materials[command.project_id], "a key that is there"
            if image.copy is CopyState.NONE:
                image.copy = CopyState.COPYING
            image.copy_material, image.bytes_per_s = command.material, command.bytes_per_s
        return self._copy_info(command.project_id)

    def _SwitchVolume(self, command: SwitchVolume) -> CopyInfo:  # noqa: N802
        image = self.images[command.project_id]
        if image.copy is not CopyState.READY:
            raise ConflictError("not ready")
        running = [each for each, compute in self.computes.items() if compute.project_id == command.project_id]
        if running and not command.stops_computes:
            raise ConflictError("in use")
        for endpoint_id in running:
            self._end(endpoint_id)
        image.is_open, image.material, image.copy = False, image.copy_material, CopyState.DONE
        return self._copy_info(command.project_id)

    def _StopCopy(self, command: StopCopy) -> Done:  # noqa: N802
        self.images[command.project_id].copy = CopyState.NONE
        self.calls.append("StopCopy dropped" if command.is_dropped else "StopCopy")
        return Done()

    def _copy_info(self, project_id: str) -> CopyInfo:
        image = self.images[project_id]
        return CopyInfo(
            state=image.copy,
            material=image.material,
            passed_bytes=10,
            used_bytes=20,
            is_in_use=any(compute.project_id == project_id for compute in self.computes.values()),
            paused_s=0.5 if image.copy is CopyState.DONE else None,
        )

    def _info(self, project_id: str) -> VolumeInfo:
        if project_id not in self.images:
            raise NotFoundError("no volume")
        return VolumeInfo(
            project_id=project_id,
            is_open=self.images[project_id].is_open,
            driver="luks",
            opener="qemu-storage-daemon",
            cipher="aes-xts-plain64 512",
            material=self.images[project_id].material,
            image_bytes=1,
        )

    def _end(self, endpoint_id: str) -> ComputeInfo:
        compute = self.computes.pop(endpoint_id)
        timeline = self.images[compute.project_id].timelines[compute.timeline_id]
        timeline.catalog.held_by = None
        timeline.in_backup.clear()  # backup mode ends with its session
        return compute


def _copied(catalog: Catalog) -> Catalog:
    return Catalog(dict(catalog.roles), dict(catalog.databases))


def _lsn(number: int) -> str:
    return f"0/{number:X}"


class FakeServer:
    """A superuser session. Ends with its compute."""

    def __init__(self, node: FakeNode, running: Running) -> None:
        self._node = node
        self._running = running
        self._is_closed = False
        self._label: str | None = None

    def check_alive(self) -> None:
        compute = self._node.computes.get(self._running.endpoint_id)
        is_same = compute is not None and compute.generation == self._running.generation
        if self._is_closed or not is_same or self._running.endpoint_id in self._node.deaf:
            raise UnavailableError("the session is gone")

    @property
    def catalog(self) -> Catalog:
        self.check_alive()
        return self.timeline.catalog

    @property
    def timeline(self) -> Timeline:
        self.check_alive()
        compute = self._node.computes[self._running.endpoint_id]
        return self._node.images[compute.project_id].timelines[compute.timeline_id]

    def _changing(self) -> Catalog:
        catalog = self.catalog
        if catalog.held_by not in (None, self):
            raise UnavailableError("55P03: the catalog is held")
        return catalog

    async def roles(self) -> list[RoleState]:
        return list(self.catalog.roles.values())

    async def databases(self) -> list[DatabaseState]:
        return [DatabaseState(name, owner) for name, owner in self.catalog.databases.items()]

    async def create_role(self, name: str, verifier: str, *, can_login: bool) -> None:
        roles = self._changing().roles
        if name in roles:
            raise ConflictError("42710", public="role already exists")
        roles[name] = RoleState(name, verifier, can_login, None)

    async def set_verifier(self, name: str, verifier: str) -> None:
        roles = self._changing().roles
        if name not in roles:
            raise NotFoundError("42704", public="role not found")
        roles[name] = RoleState(name, verifier, roles[name].can_login, roles[name].valid_until)

    async def rename_role(self, name: str, new_name: str) -> None:
        catalog = self._changing()
        if name not in catalog.roles or new_name in catalog.roles:
            raise UnprocessableError("cannot rename")
        role = catalog.roles.pop(name)
        catalog.roles[new_name] = RoleState(new_name, role.verifier, role.can_login, role.valid_until)
        for database, owner in catalog.databases.items():
            if owner == name:
                catalog.databases[database] = new_name

    async def drop_role(self, name: str) -> None:
        catalog = self._changing()
        if name in catalog.databases.values():
            raise UnprocessableError("owns a database", public="role owns a database")
        catalog.roles.pop(name, None)

    async def open_access(self, name: str, until: datetime, *, may_write: bool) -> None:
        self._changing().access[name] = may_write

    async def close_access(self, name: str) -> None:
        self._changing().access.pop(name, None)

    async def create_database(self, name: str, owner_name: str) -> None:
        catalog = self._changing()
        if name in catalog.databases or name in PLATFORM_DATABASES:
            raise ConflictError("42P04", public="database already exists")
        if owner_name not in catalog.roles and owner_name != SUPERUSER:
            raise NotFoundError("42704", public="role not found")
        catalog.databases[name] = owner_name

    async def rename_database(self, name: str, new_name: str) -> None:
        databases = self._changing().databases
        if name not in databases or new_name in databases:
            raise UnprocessableError("cannot rename")
        databases[new_name] = databases.pop(name)

    async def give_database(self, name: str, owner_name: str) -> None:
        catalog = self._changing()
        if name not in catalog.databases or (owner_name not in catalog.roles and owner_name != SUPERUSER):
            raise NotFoundError("no such database or role")
        catalog.databases[name] = owner_name

    async def drop_database(self, name: str) -> None:
        self._changing().databases.pop(name, None)

    async def activity(self) -> Activity:
        self.check_alive()
        return self._node.activity.get(self._running.endpoint_id, QUIET)

    async def refusals(self) -> Tally:
        self.check_alive()
        return self._node.refusals.get(self._running.endpoint_id, Tally())

    async def forget_refusals(self, total: int) -> None:
        self.check_alive()
        assert self._node.refusals.pop(self._running.endpoint_id).total == total

    async def powers(self) -> Tally:
        self.check_alive()
        return self._node.powers.get(self._running.endpoint_id, Tally())

    async def forget_powers(self, total: int) -> None:
        self.check_alive()
        assert self._node.powers.pop(self._running.endpoint_id).total == total

    async def ages(self) -> Ages:
        self.check_alive()
        return self._node.ages.get(self._running.endpoint_id, Ages(1000, 1))

    async def touched(self) -> Touched | None:
        self.check_alive()
        return self._node.touched.get(self._running.endpoint_id)

    async def take_touched(self, found: Touched, level: AuditLevel) -> None:
        self.check_alive()
        self._node.touched[self._running.endpoint_id] = Touched(found.epoch, level, found.total)

    async def is_replay_paused(self) -> bool:
        self.check_alive()
        return self._running.endpoint_id in self._node.stuck

    async def checkpoint(self) -> None:
        self.check_alive()

    async def end_clients(self, role: str | None = None) -> None:
        self.check_alive()
        self._node.activity[self._running.endpoint_id] = QUIET

    async def hold_catalog(self) -> None:
        catalog = self._changing()
        catalog.held_by = self

    async def release_catalog(self) -> None:
        self.catalog.held_by = None

    async def begin_backup(self, label: str) -> None:
        assert self._label is None, "already in backup mode"
        self._label = f"{label} {self._node.next_label()}"
        self.timeline.in_backup[self._label] = self._node.last_lsn

    async def end_backup(self) -> BackupEnd:
        assert self._label is not None, "not in backup mode"
        label, timeline = self._label, self.timeline
        if timeline.in_backup.pop(label, None) is None:
            raise UnavailableError("55000: backup is not in progress")
        self._label = None
        timeline.ended_backups[label] = self._node.last_lsn
        return BackupEnd(_lsn(self._node.last_lsn), label)

    async def close(self) -> None:
        self._is_closed = True
        for image in self._node.images.values():
            for timeline in image.timelines.values():
                if timeline.catalog.held_by is self:
                    timeline.catalog.held_by = None
                if self._label is not None:
                    timeline.in_backup.pop(self._label, None)
        await asyncio.sleep(0)
