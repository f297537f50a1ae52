"""A node in memory, with teeth: it refuses what the real agent would refuse, and what would destroy data it reports.

`FakeNode` is the agent, `FakeKeys` the key broker, `FakeServer` a session to a running compute. Catalogs lie in the node's
images, so they survive a stop and a crash as they would on disk.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

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
from cloister.control.computes.idle import Activity
from cloister.control.computes.sessions import Running
from cloister.control.roles.names import PLATFORM_DATABASES, SUPERUSER, TEMPLATE_DATABASE, TEMPLATE_ROLE
from cloister.control.roles.server import DatabaseState, RoleState
from cloister.node.commands import (
    CloseVolume,
    ComputeExited,
    ComputeInfo,
    ComputeSpec,
    CreateVolume,
    DeleteVolume,
    Done,
    GetStatus,
    GetVolume,
    NodeStatus,
    StartCompute,
    StopCompute,
    VolumeInfo,
)
from cloister.trust.keys.commands import KeyInfo

R = TypeVar("R")

QUIET = Activity(
    busy_backends=0, walsenders=0, autovacuum_workers=0, subscriptions=0, last_change_at=None, sessions=1, active_ms=1
)


class FakeKeys:
    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.destroyed: set[str] = set()

    async def create(self, project_id: str, purpose: str = "volume") -> KeyInfo:
        if project_id in self.destroyed and project_id not in self.enabled:
            raise PreconditionError("destroyed keys do not come back")
        self.enabled.add(project_id)
        return KeyInfo(
            project_id=project_id, purpose=purpose, version=1, state="enabled", provider="file", created_at=""
        )

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
    held_by: "FakeServer | None" = None


@dataclass
class Image:
    timeline_id: str
    uid: int
    pg_version: int
    catalog: Catalog
    is_open: bool = False


class FakeNode:
    def __init__(self, keys: FakeKeys) -> None:
        self.keys = keys
        self.images: dict[str, Image] = {}
        self.computes: dict[str, ComputeInfo] = {}
        self.specs: dict[str, ComputeSpec] = {}
        self.calls: list[str] = []
        """Names of the commands that did something."""
        self.failing: dict[str, CloisterError] = {}
        """Command name → what it is refused with, until taken out."""
        self.before: Callable[[Command[Any]], Any] | None = None
        """Awaited before a command is carried out."""
        self.on_event: Callable[[Any], None] = lambda _event: None
        self.activity: dict[str, Activity] = {}
        self.deaf: set[str] = set()
        """Endpoints whose server does not answer sessions."""
        self._last_generation = 0
        self._sessions: list[FakeServer] = []

    async def call(self, command: Command[R], *, timeout_s: float = RPC_CALL_TIMEOUT_S) -> R:
        name = type(command).__name__
        if self.before is not None:
            await self.before(command)
        if (error := self.failing.get(name)) is not None:
            raise error
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
        return next(
            image.catalog
            for project_id, image in self.images.items()
            if project_id == self.specs[endpoint_id].project_id
        )

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
            self.calls.append("CreateVolume")
            owner = RoleState(TEMPLATE_ROLE, None, can_login=True, valid_until=None)
            catalog = Catalog({TEMPLATE_ROLE: owner}, {TEMPLATE_DATABASE: TEMPLATE_ROLE})
            self.images[command.project_id] = Image(command.timeline_id, command.uid, command.pg_version, catalog)
        elif (image.timeline_id, image.uid) != (command.timeline_id, command.uid):
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
        if image is None or image.timeline_id != spec.timeline_id:
            raise NotFoundError(f"no timeline {spec.timeline_id}")
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

    def _GetStatus(self, _command: GetStatus) -> NodeStatus:  # noqa: N802
        return NodeStatus(
            computes=list(self.computes.values()),
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

    def _info(self, project_id: str) -> VolumeInfo:
        if project_id not in self.images:
            raise NotFoundError("no volume")
        return VolumeInfo(
            project_id=project_id,
            is_open=self.images[project_id].is_open,
            driver="luks",
            opener="qemu-storage-daemon",
            cipher="aes-xts-plain64 512",
            image_bytes=1,
        )

    def _end(self, endpoint_id: str) -> ComputeInfo:
        compute = self.computes.pop(endpoint_id)
        catalog = self.images[compute.project_id].catalog
        if catalog.held_by is not None:
            catalog.held_by = None
        return compute


class FakeServer:
    """A superuser session. Ends with its compute."""

    def __init__(self, node: FakeNode, running: Running) -> None:
        self._node = node
        self._running = running
        self._is_closed = False

    def check_alive(self) -> None:
        compute = self._node.computes.get(self._running.endpoint_id)
        is_same = compute is not None and compute.generation == self._running.generation
        if self._is_closed or not is_same or self._running.endpoint_id in self._node.deaf:
            raise UnavailableError("the session is gone")

    @property
    def catalog(self) -> Catalog:
        self.check_alive()
        return self._node.images[self._node.computes[self._running.endpoint_id].project_id].catalog

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

    async def checkpoint(self) -> None:
        self.check_alive()

    async def end_clients(self) -> None:
        self.check_alive()
        self._node.activity[self._running.endpoint_id] = QUIET

    async def hold_catalog(self) -> None:
        catalog = self._changing()
        catalog.held_by = self

    async def release_catalog(self) -> None:
        self.catalog.held_by = None

    async def close(self) -> None:
        self._is_closed = True
        for image in self._node.images.values():
            if image.catalog.held_by is self:
                image.catalog.held_by = None
        await asyncio.sleep(0)
