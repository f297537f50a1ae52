"""The machines of projects: create one, put a deleted one away, and destroy one so that nobody can ever read it again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from cloister.base.database import Database, Transaction
from cloister.control.branches import store as branches
from cloister.control.computes import store as computes
from cloister.control.computes.agent import Agent
from cloister.control.computes.runner import Cause, Runner
from cloister.control.computes.suspend import Suspender
from cloister.control.operations.machine import Apply, Go, Machine, Outcome, Step, Wait
from cloister.control.operations.model import Operation
from cloister.control.projects import store
from cloister.node.commands import CloseVolume, CreateVolume, DeleteVolume
from cloister.trust.keys.commands import KeyInfo

PROJECT_RESOURCE: Final = "project:{}"

CREATE_DEADLINE: Final = timedelta(minutes=5)
CLOSE_DEADLINE: Final = timedelta(hours=1)
DELETE_DEADLINE: Final = timedelta(hours=1)
# A destruction that was promised is tried for long before a person is asked.

STANDBYS_PAUSE_S: Final = 1.0
# Whoever looks after them finds out by itself that their project was deleted.

VOLUME_TIMEOUT_S: Final = 60.0
# Formatting takes under a second; on a loaded disk, many.


class Keys(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def create(self, project_id: str, purpose: str = "volume") -> KeyInfo: ...
    async def destroy(self, project_id: str) -> int: ...


@dataclass(frozen=True, slots=True)
class ProjectsWorld:
    """All that these machines may touch."""

    database: Database
    agent: Agent
    keys: Keys
    runner: Runner
    suspender: Suspender


async def make_volume(operation: Operation, world: ProjectsWorld) -> Outcome:
    """A key, a volume under it, a cluster in that; nothing to do where the pool had one. Each twice is once."""
    async with world.database.reading() as tx:
        volume = await store.volume(tx, operation.project_id)
    if volume.state == "formatting":
        await world.keys.create(volume.project_id)
        await world.agent.call(create_volume(volume), timeout_s=VOLUME_TIMEOUT_S)

    async def apply(tx: Transaction) -> None:
        await store.mark_volume(tx, volume.project_id, "taken")
        await branches.is_ready(tx, volume.branch_id)

    return Go(apply=apply)


async def unmake_volume(operation: Operation, world: ProjectsWorld) -> Apply:
    await world.keys.destroy(operation.project_id)
    await world.agent.call(DeleteVolume(operation.project_id))

    async def apply(tx: Transaction) -> None:
        project_id = (await store.volume(tx, operation.project_id)).project_id
        await store.mark_volume(tx, project_id, "deleted")
        await branches.delete_all(tx, project_id)
        await store.delete(tx, project_id)

    return apply


async def put_to_sleep(operation: Operation, world: ProjectsWorld) -> Outcome:
    """Every compute, in order: what its roles are is read once more, so that whoever recovers it finds it so."""
    async with world.database.reading() as tx:
        endpoints = await computes.ids_of_project(tx, operation.project_id)
    for endpoint_id in endpoints:
        cause = Cause("platform:operations", "project deleted", operation_id=operation.id)
        await world.suspender.at_once(endpoint_id, cause)
    return Go()


async def close_volume(operation: Operation, world: ProjectsWorld) -> Outcome:
    """From here on its key is nowhere in memory, and the broker gives it to nobody."""
    async with world.database.reading() as tx:
        if await computes.project_has_compute(tx, operation.project_id):
            return Wait(STANDBYS_PAUSE_S, "standbys of the project are still there")
    await world.agent.call(CloseVolume(operation.project_id, ends_sending=True), timeout_s=VOLUME_TIMEOUT_S)
    return Go()


async def stop_computes(operation: Operation, world: ProjectsWorld) -> Outcome:
    async with world.database.reading() as tx:
        endpoints = await computes.ids_of_project(tx, operation.project_id)
    for endpoint_id in endpoints:
        await world.runner.halt(endpoint_id, Cause("platform:operations", "project deleted", operation_id=operation.id))
    return Go()


async def destroy_keys(operation: Operation, world: ProjectsWorld) -> Outcome:
    """The erasure itself: from here on the image is noise, also in every copy of it."""
    return Go({"keys_destroyed": await world.keys.destroy(operation.project_id)})


async def delete_volume(operation: Operation, world: ProjectsWorld) -> Outcome:
    await world.agent.call(DeleteVolume(operation.project_id), timeout_s=VOLUME_TIMEOUT_S)

    async def apply(tx: Transaction) -> None:
        await store.mark_volume(tx, operation.project_id, "deleted")

    return Go(apply=apply)


def create_volume(volume: store.Volume) -> CreateVolume:
    return CreateVolume(
        project_id=volume.project_id,
        timeline_id=volume.timeline_id,
        pg_version=volume.pg_version,
        uid=volume.uid,
        size_bytes=volume.size_bytes,
    )


CREATE_PROJECT: Final[Machine[ProjectsWorld]] = Machine(
    "create_project",
    "create_timeline",
    CREATE_DEADLINE,
    (Step("make_volume", make_volume, unmake_volume),),
    is_heavy=True,
)
CLOSE_PROJECT: Final[Machine[ProjectsWorld]] = Machine(
    "close_project",
    "suspend_compute",
    CLOSE_DEADLINE,
    (Step("put_to_sleep", put_to_sleep), Step("close_volume", close_volume)),
    has_rollback=False,
)
DELETE_PROJECT: Final[Machine[ProjectsWorld]] = Machine(
    "delete_project",
    "delete_timeline",
    DELETE_DEADLINE,
    (
        Step("stop_computes", stop_computes),
        Step("destroy_keys", destroy_keys),
        Step("delete_volume", delete_volume),
    ),
    has_rollback=False,
)

MACHINES: Final = (CREATE_PROJECT, CLOSE_PROJECT, DELETE_PROJECT)
