"""Real computes for tests that run as root: real engines, real sandboxes, a small tmpfs in place of an encrypted volume.

engines     made ready once for all tests; a quarter of a gigabyte of memory and a second of work
async with running_node(engines) as node:
    spec = node.new_compute()
    info = await node.computes.start(spec, node.mountpoint(spec))
    connection = await node.connect(info)
"""

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.identities import COMPUTE_UID_FIRST
from cloister.base.ids import new_branch_id, new_endpoint_id, new_project_id, new_timeline_id
from cloister.base.settings import Paths
from cloister.node.commands import ComputeExited, ComputeInfo, ComputeSpec
from cloister.node.computes import Computes
from cloister.node.postgres.access import Doors
from cloister.node.postgres.engines import Engines
from cloister.node.workshop import make_engines

API_UID = 0  # This process plays the API.
GATEWAY_UID, STRANGER_UID, SHARED_GID = 1_899_999_001, 1_899_999_002, 1_899_999_003
MAJOR = 18
MEMORY_BYTES = 256 * 1024**2
VOLUME_BYTES = 192 * 1024**2
PATIENCE_S = 20
OWNER = "neondb_owner"


@dataclass
class EnginesOnHost:
    paths: Paths
    engines: Engines


@pytest.fixture(scope="session")
def engines() -> Iterator[EnginesOnHost]:
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as state_dir:
        paths = Paths(Path(state_dir))
        paths.run.mkdir(parents=True)
        os.chmod(paths.run, 0o755)  # noqa: S103 - the gateway passes through
        found = make_engines(paths, Doors(API_UID, GATEWAY_UID, SHARED_GID))
        asyncio.run(found.ensure_template(found.get(MAJOR)))
        try:
            yield EnginesOnHost(paths, found)
        finally:
            shutil.rmtree(paths.run)
            for tree in Path("/sys/fs/cgroup").glob(f"*/cloister-{paths.instance}"):
                tree.rmdir()


@dataclass
class Node:
    paths: Paths
    engines: Engines
    make_computes: Callable[["Node"], Computes]
    exits: list[ComputeExited] = field(default_factory=list)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    _mountpoints: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.computes = self.make_computes(self)

    async def lose_agent(self) -> None:
        """Nobody watches any more, and no compute is told."""
        await self.computes.__aexit__(None, None, None)

    async def new_agent(self) -> None:
        self.computes = self.make_computes(self)
        await self.computes.__aenter__()
        await self.computes.adopt()

    def new_compute(self, *, memory_bytes: int = MEMORY_BYTES, settings: dict[str, str] | None = None) -> ComputeSpec:
        """A project with a branch, populated, on a volume of its own."""
        project_id, timeline_id = new_project_id(), new_timeline_id()
        uid = COMPUTE_UID_FIRST + 77_000 + len(self._mountpoints)
        mountpoint = Path(tempfile.mkdtemp(prefix="cloister-volume-"))
        self._mountpoints[project_id] = mountpoint
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES},mode=0700", "none", mountpoint], check=True)
        data = mountpoint / "timelines" / timeline_id / "data"
        data.parent.mkdir(parents=True)
        self.engines.populate(self.engines.get(MAJOR), data, uid)
        return ComputeSpec(
            endpoint_id=new_endpoint_id(),
            project_id=project_id,
            branch_id=new_branch_id(),
            timeline_id=timeline_id,
            pg_version=MAJOR,
            uid=uid,
            cpu_cores=1.0,
            memory_bytes=memory_bytes,
            settings=settings or {},
        )

    def mountpoint(self, spec: ComputeSpec) -> Path:
        return self._mountpoints[spec.project_id]

    def timeline_dir(self, spec: ComputeSpec) -> Path:
        return self.mountpoint(spec) / "timelines" / spec.timeline_id

    async def start(self, spec: ComputeSpec) -> ComputeInfo:
        return await self.computes.start(spec, self.mountpoint(spec))

    def on_exit(self, event: ComputeExited) -> None:
        self.exits.append(event)
        self.exited.set()

    async def next_exit(self) -> ComputeExited:
        async with asyncio.timeout(PATIENCE_S):
            while not self.exits:
                self.exited.clear()
                await self.exited.wait()
        return self.exits.pop(0)

    async def clear(self) -> None:
        for info in self.computes.running():
            await self.computes.stop(info.endpoint_id)
        await asyncio.to_thread(self._unmount)

    def _unmount(self) -> None:
        for mountpoint in self._mountpoints.values():
            subprocess.run(["umount", mountpoint], check=True)
            mountpoint.rmdir()


@contextlib.asynccontextmanager
async def running_node(host: EnginesOnHost, **options: Any) -> AsyncIterator[Node]:
    node = Node(host.paths, host.engines, lambda node: Computes(host.paths, host.engines, node.on_exit, **options))
    await node.computes.__aenter__()
    try:
        yield node
    finally:
        try:
            await node.clear()
        finally:
            await node.computes.__aexit__(None, None, None)


async def connect(info: ComputeInfo, user: str = "cloister_admin", database: str = "neondb") -> Any:
    """Try until it accepts, as everybody does who starts a compute."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await asyncpg.connect(host=info.socket_dir, user=user, database=database)
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.005)


def knock(
    info: ComputeInfo, *, uid: int, gid: int, user: str, replication: str | None = None, database: str = "neondb"
) -> str:
    """Connect as this uid of the host and ask to be `user`: `in`, `refused: …` as the server says it, or the errno."""
    words = {"user": user, "database": database} | ({"replication": replication} if replication else {})
    body = struct.pack("!I", 196608) + b"".join(f"{k}\0{v}\0".encode() for k, v in words.items()) + b"\0"
    groups = os.getgroups()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)
        try:
            connection.connect(f"{info.socket_dir}/.s.PGSQL.5432")
        except OSError as error:
            return type(error).__name__
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
        connection.sendall(struct.pack("!I", len(body) + 4) + body)
        kind = connection.recv(1)
        (length,) = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))
        payload = connection.recv(length - 4, socket.MSG_WAITALL)
        if kind == b"R" and payload == b"\0\0\0\0":
            return "in"
        fields = {chunk[:1]: chunk[1:].decode() for chunk in payload.split(b"\0") if chunk}
        return f"refused: {fields.get(b'M', payload)}"


def limits_of(paths: Paths, group: str) -> tuple[str, str, str]:
    """Of memory, processes and CPU, as the kernel has them, in whichever hierarchy this host has."""
    root, name = Path("/sys/fs/cgroup"), f"cloister-{paths.instance}/{group}"
    if (root / name).exists():
        files = [root / name / each for each in ("memory.max", "pids.max", "cpu.max")]
    else:
        files = [
            root / "memory" / name / "memory.limit_in_bytes",
            root / "pids" / name / "pids.max",
            root / "cpu" / name / "cpu.cfs_quota_us",
        ]
    memory, processes, cpu = (file.read_text().split()[0] for file in files)
    return memory, processes, cpu


def members_of(paths: Paths, group: str) -> set[int]:
    """The processes that these limits hold for, each of them."""
    root, name = Path("/sys/fs/cgroup"), f"cloister-{paths.instance}/{group}"
    trees = [root] if (root / name).exists() else [root / each for each in ("memory", "pids", "cpu")]
    return set.intersection(*({int(pid) for pid in (it / name / "cgroup.procs").read_text().split()} for it in trees))


async def started(node: Node) -> ComputeInfo:
    """A compute that accepts connections."""
    info = await node.start(node.new_compute())
    await (await connect(info)).close()
    return info


async def pooled(node: Node, info: ComputeInfo, role: str = OWNER, database: str = "neondb") -> Any:
    """As the gateway does it: ask, then try until it listens and knows the role; one that is just dying is asked for
    again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            directory = await node.computes.pool(info.endpoint_id, info.generation, role)
            try:
                return await asyncpg.connect(host=directory, user=role, database=database, statement_cache_size=0)
            except (OSError, asyncpg.ConnectionDoesNotExistError):
                pass
            except asyncpg.PostgresError as error:
                if "trust" not in str(error):
                    raise
            await asyncio.sleep(0.005)
