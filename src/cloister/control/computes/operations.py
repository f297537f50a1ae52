"""The machines of endpoints: first start, start, suspend, doze, delete.

They decide little: `runner.py` and `suspend.py` make what they want idempotent and safe against everybody else. Starts
take the resource `start:…` and everything else `endpoint:…`: a change of roles, which needs the compute awake, does not
wait for the start that it would cause itself.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from cloister.base.database import Database, Transaction
from cloister.base.directory import Compute
from cloister.base.ids import EndpointId
from cloister.control.computes import store
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.model import Endpoint, State
from cloister.control.computes.runner import Cause, Runner
from cloister.control.computes.sessions import Sessions
from cloister.control.computes.suspend import Suspender
from cloister.control.operations.engine import Engine
from cloister.control.operations.machine import Apply, Go, Machine, Outcome, Step
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.control.roles.names import TEMPLATE_DATABASE, TEMPLATE_ROLE
from cloister.control.roles.server import Server

START_RESOURCE: Final = "start:{}"
ENDPOINT_RESOURCE: Final = "endpoint:{}"

DEADLINE: Final = timedelta(minutes=5)
# Recovery after a crash under heavy writing takes minutes at worst; a suspend waits for a checkpoint of it.

_ACTOR: Final = "platform:operations"


class Readers(Protocol):
    """The computes of read-only endpoints (`branches/standbys.py`)."""

    async def wake(self, place: str, *, stale_generation: int = 0) -> Compute: ...
    async def put_to_sleep(self, endpoint_id: EndpointId) -> None: ...


@dataclass(frozen=True, slots=True)
class ComputesWorld:
    """All that these machines may touch."""

    database: Database
    runner: Runner
    suspender: Suspender
    sessions: Sessions
    gateways: Gateways
    readers: Readers


async def start(operation: Operation, world: ComputesWorld) -> Outcome:
    """Ends when the server accepts connections; a reader's, when it was started."""
    if await _is_reader(operation, world):
        await world.readers.wake(_endpoint(operation))
        return Go()
    started = await world.runner.start(_endpoint(operation), _cause(operation, "asked for"))
    async with world.sessions.lasting(started.running):
        return Go()


async def unstart(operation: Operation, world: ComputesWorld) -> Apply:
    """What did not come up for good is put to sleep in order; most often nothing runs by then."""
    endpoint_id = _endpoint(operation)
    await _to_sleep(operation, world, "start failed")

    async def apply(tx: Transaction) -> None:
        await store.want(tx, endpoint_id, State.IDLE)

    return apply


async def start_first(operation: Operation, world: ComputesWorld) -> Outcome:
    """Until its first configuration the endpoint is `init`, and nobody is told its socket. Where our rows say what the data
    holds, and nothing else is asked for, there is none to wait for: clients are let in while the server still starts."""
    endpoint_id = _endpoint(operation)
    async with world.database.reading() as tx:
        endpoint = (await store.placed(tx, endpoint_id)).endpoint
        is_as_it_is = await store.is_as_wanted(tx, endpoint.branch_id) and not await store.is_from_template(
            tx, endpoint.branch_id
        )
    if is_as_it_is:
        world.gateways.invalidate(endpoint_id=endpoint_id)  # a route from before the data was replaced
    started = await world.runner.start(endpoint_id, _cause(operation, "first start"))

    async def apply(tx: Transaction) -> None:
        if is_as_it_is:
            await store.configured(tx, endpoint_id, started.running.generation)

    return Go(apply=apply)


async def configure(operation: Operation, world: ComputesWorld) -> Outcome:
    """Give the data of a branch what was asked for when it was made. Ends when the server accepts connections.

    Look: names are compared first, so what was renamed before a crash is left alone; setting a verifier twice is once.
    """
    endpoint_id = _endpoint(operation)
    async with world.database.reading() as tx:
        endpoint = (await store.placed(tx, endpoint_id)).endpoint
        is_from_template = await store.is_from_template(tx, endpoint.branch_id)
    if not is_from_template:
        world.gateways.invalidate(endpoint_id=endpoint_id)  # a route from before the data was replaced

    started = await world.runner.start(endpoint_id, _cause(operation, "first start"))
    async with world.sessions.lasting(started.running) as server:
        if endpoint.state is not State.INIT:
            return Go()
        settle = await (_name if is_from_template else _take_over)(world, endpoint, server)

    async def apply(tx: Transaction) -> None:
        await store.configured(tx, endpoint_id, started.running.generation)
        await settle(tx)

    return Go(apply=apply)


async def _name(world: ComputesWorld, endpoint: Endpoint, server: Server) -> Apply:
    """A fresh cluster: the template's role and database become those that the project was created with."""
    async with world.database.reading() as tx:
        first_database = (await catalog.databases_of(tx, endpoint.branch_id))[0]
        roles = await catalog.roles_of(tx, endpoint.branch_id)
        first_role = next(role for role in roles if role.name == first_database.owner_name)
        verifier = await catalog.pending_verifier(tx, endpoint.branch_id, first_role.name)
    there = {role.name for role in await server.roles()}
    if first_role.name not in there:
        await server.rename_role(TEMPLATE_ROLE, first_role.name)
    if verifier is not None:
        await server.set_verifier(first_role.name, verifier)
    if first_database.name not in {database.name for database in await server.databases()}:
        await server.rename_database(TEMPLATE_DATABASE, first_database.name)

    async def apply(tx: Transaction) -> None:
        await catalog.settle_verifier(tx, endpoint.branch_id, first_role.name)

    return apply


async def _take_over(world: ComputesWorld, endpoint: Endpoint, server: Server) -> Apply:
    """The data of another branch: its roles get the verifiers that are asked for here, and what its catalog holds, which
    nobody may have known so far, is written down."""
    async with world.database.reading() as tx:
        asked = await catalog.asked(tx, endpoint.branch_id)
    roles = await server.roles()
    missing = [role.name for role in roles if role.name in asked and role.verifier != asked[role.name]]
    for name in missing:
        await server.set_verifier(name, asked[name])
    if missing:
        roles = await server.roles()
    databases = await server.databases()

    async def apply(tx: Transaction) -> None:
        await catalog.settle_all(tx, endpoint.branch_id, roles, databases)

    return apply


async def stop_again(operation: Operation, world: ComputesWorld) -> Apply | None:
    """A compute without its first configuration is of no use to anybody."""
    async with world.database.reading() as tx:
        endpoint = (await store.placed(tx, _endpoint(operation), and_deleted=True)).endpoint
    if endpoint.state is not State.INIT:
        return await unstart(operation, world)
    await world.runner.halt(endpoint.id, _cause(operation, "first start failed"))
    return None


async def suspend(operation: Operation, world: ComputesWorld) -> Outcome:
    await _to_sleep(operation, world, "asked for")
    return Go()


async def doze(operation: Operation, world: ComputesWorld) -> Outcome:
    """Back to sleep after a start that no client asked for. If one has come meanwhile, its idle time decides, as ever."""
    endpoint_id = _endpoint(operation)
    async with world.database.reading() as tx:
        endpoint = (await store.placed(tx, endpoint_id, and_deleted=True)).endpoint
    if endpoint.socket_dir is not None:
        await world.suspender.if_idle(
            endpoint_id, endpoint.generation, lambda activity: activity.is_alone, _cause(operation, "nobody came")
        )
    return Go()


async def delete(operation: Operation, world: ComputesWorld) -> Outcome:
    """The row is marked already: nobody wakes it. What runs is suspended in order, for the branch keeps its roles."""
    await _to_sleep(operation, world, "deleted")
    world.gateways.invalidate(endpoint_id=_endpoint(operation))
    return Go()


async def _to_sleep(operation: Operation, world: ComputesWorld, reason: str) -> None:
    if await _is_reader(operation, world):
        await world.readers.put_to_sleep(_endpoint(operation))
    else:
        await world.suspender.at_once(_endpoint(operation), _cause(operation, reason))


async def _is_reader(operation: Operation, world: ComputesWorld) -> bool:
    async with world.database.reading() as tx:
        return await store.is_reader(tx, _endpoint(operation))


FIRST_START: Final[Machine[ComputesWorld]] = Machine(
    "first_start", "start_compute", DEADLINE, (Step("start", start_first, stop_again), Step("configure", configure))
)
START: Final[Machine[ComputesWorld]] = Machine(
    "start_compute", "start_compute", DEADLINE, (Step("start", start, unstart),)
)
SUSPEND: Final[Machine[ComputesWorld]] = Machine(
    "suspend_compute", "suspend_compute", DEADLINE, (Step("suspend", suspend),), has_rollback=False
)
DOZE: Final[Machine[ComputesWorld]] = Machine(
    "doze_compute", "suspend_compute", DEADLINE, (Step("doze", doze),), has_rollback=False
)
DELETE: Final[Machine[ComputesWorld]] = Machine(
    "delete_endpoint", "suspend_compute", DEADLINE, (Step("delete", delete),), has_rollback=False
)

MACHINES: Final = (FIRST_START, START, SUSPEND, DOZE, DELETE)


async def submit(
    tx: Transaction,
    engine: Engine,
    machine: Machine[ComputesWorld],
    endpoint: Endpoint,
    *,
    after: Operation | None = None,
) -> Operation:
    """One of these machines, for an endpoint; `after` is to finish first. Raises BusyError."""
    is_start = machine in (START, FIRST_START)
    return await engine.submit(
        tx,
        machine=machine.name,
        project_id=endpoint.project_id,
        branch_id=endpoint.branch_id,
        endpoint_id=endpoint.id,
        resource=(START_RESOURCE if is_start else ENDPOINT_RESOURCE).format(endpoint.id),
        input={},
        after=None if after is None else after.id,
    )


def _endpoint(operation: Operation) -> EndpointId:
    assert operation.endpoint_id is not None
    return EndpointId(operation.endpoint_id)


def _cause(operation: Operation, reason: str) -> Cause:
    return Cause(_ACTOR, reason, operation_id=operation.id)
