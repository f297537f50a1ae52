"""The machines that change roles and databases inside a running server: Neon calls each of them `apply_config`.

A step is about one statement, run with the compute awake and kept awake; the rows that show the change to the API are
settled in the transaction that commits the step. What was asked for stands in rows (a role's `pending_verifier`), not in
`input`: no verifier lies in an operation's history.

A tenant can change the same catalog by SQL at any moment. So what we made and may take back is marked: a role by its
verifier, which nobody else can have; a database by its owner, the platform, until it is handed over. What was there before
us is never taken for ours.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cloister.base.database import Database, Transaction
from cloister.base.errors import CloisterError, ConflictError, NotFoundError
from cloister.base.ids import BranchId, EndpointId
from cloister.control.operations.machine import Apply, Fail, Go, Machine, Outcome, Step
from cloister.control.operations.model import Operation
from cloister.control.roles import store
from cloister.control.roles.names import SUPERUSER
from cloister.control.roles.server import Server, Servers

_log = logging.getLogger(__name__)

ACTION: Final = "apply_config"
DEADLINE: Final = timedelta(minutes=5)
# A start after a crash may replay WAL for minutes; whoever asked for a role has gone by then.


@dataclass(frozen=True, slots=True)
class RolesWorld:
    """All that these machines may touch."""

    database: Database
    servers: Servers


async def create_role(operation: Operation, world: RolesWorld) -> Outcome:
    """Look: a role that has our pending verifier is the one we made before a crash; another one was there before us."""
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.database.reading() as tx:
        verifier = await store.pending_verifier(tx, branch_id, name)
    if verifier is None:
        return Go()

    async with world.servers.awake(_endpoint(operation)) as server:
        there = next((role for role in await server.roles() if role.name == name), None)
        if there is None:
            await server.create_role(name, verifier, can_login=operation.input["can_login"])
        elif there.verifier != verifier:
            return Fail(ConflictError(f"role {name!r} was there", public="role already exists"))
    world.servers.roles_changed(_endpoint(operation))
    return Go(apply=_settle(branch_id, name))


async def forget_role(operation: Operation, world: RolesWorld) -> Apply:
    """The role goes from the server if it is there by our doing, and its row in any case."""
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.database.reading() as tx:
        verifier = await store.pending_verifier(tx, branch_id, name)

    async def drop(server: Server) -> None:
        if any(role.name == name and role.verifier == verifier for role in await server.roles()):
            await server.drop_role(name)

    if verifier is not None:
        await _if_it_can_be(world, operation, drop)
        world.servers.roles_changed(_endpoint(operation))

    async def apply(tx: Transaction) -> None:
        await store.remove_role(tx, branch_id, name)

    return apply


async def set_password(operation: Operation, world: RolesWorld) -> Outcome:
    """Before the new verifier goes in, the one that it replaces is noted, for a tenant may have changed it by SQL since
    the catalog was last read."""
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.database.reading() as tx:
        verifier = await store.pending_verifier(tx, branch_id, name)
    if verifier is None:
        return Go()

    async with world.servers.awake(_endpoint(operation)) as server:
        there = next((role for role in await server.roles() if role.name == name), None)
        if there is None:
            return Fail(NotFoundError(f"role {name!r} is gone", public="role not found"))
        if there.verifier != verifier:
            async with world.database.transaction() as tx:
                await store.note_verifier(tx, branch_id, name, there.verifier)
            await server.set_verifier(name, verifier)
    world.servers.roles_changed(_endpoint(operation))
    return Go(apply=_settle(branch_id, name))


async def keep_password(operation: Operation, world: RolesWorld) -> Apply:
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.database.reading() as tx:
        verifier = await store.pending_verifier(tx, branch_id, name)
        noted = await store.noted_verifier(tx, branch_id, name)

    async def give_back(server: Server) -> None:
        if noted is not None and any(it.name == name and it.verifier == verifier for it in await server.roles()):
            await server.set_verifier(name, noted)

    if verifier is not None and noted is not None:
        await _if_it_can_be(world, operation, give_back)
        world.servers.roles_changed(_endpoint(operation))
    return _forget(branch_id, name)


async def drop_role(operation: Operation, world: RolesWorld) -> Outcome:
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.servers.awake(_endpoint(operation)) as server:
        await server.drop_role(name)
    world.servers.roles_changed(_endpoint(operation))

    async def apply(tx: Transaction) -> None:
        await store.remove_role(tx, branch_id, name)

    return Go(apply=apply)


async def create_database(operation: Operation, world: RolesWorld) -> Outcome:
    """Look: one that belongs to the platform is the one we made before a crash."""
    name = operation.input["name"]
    async with world.servers.awake(_endpoint(operation)) as server:
        owner_name = await _owner_of(server, name)
        if owner_name is None:
            await server.create_database(name, SUPERUSER)
        elif owner_name != SUPERUSER:
            return Fail(ConflictError(f"database {name!r} was there", public="database already exists"))
    return Go()


async def forget_database(operation: Operation, world: RolesWorld) -> Apply:
    branch_id, name = _branch(operation), operation.input["name"]

    async def drop(server: Server) -> None:
        if await _owner_of(server, name) == SUPERUSER:
            await server.drop_database(name)

    await _if_it_can_be(world, operation, drop)

    async def apply(tx: Transaction) -> None:
        await store.remove_database(tx, branch_id, name)

    return apply


async def hand_over_database(operation: Operation, world: RolesWorld) -> Outcome:
    name, owner_name = operation.input["name"], operation.input["owner_name"]
    async with world.servers.awake(_endpoint(operation)) as server:
        if await _owner_of(server, name) != owner_name:
            await server.give_database(name, owner_name)
    return Go(apply=_settle_database(_branch(operation), name, owner_name, was=name))


async def take_back_database(operation: Operation, world: RolesWorld) -> None:
    name, owner_name = operation.input["name"], operation.input["owner_name"]

    async def give_back(server: Server) -> None:
        if await _owner_of(server, name) == owner_name:
            await server.give_database(name, SUPERUSER)

    await _if_it_can_be(world, operation, give_back)


async def change_database(operation: Operation, world: RolesWorld) -> Outcome:
    """The owner first, under the old name; then the name. Where the old name is gone, both were done before a crash."""
    change = operation.input
    async with world.servers.awake(_endpoint(operation)) as server:
        if await _owner_of(server, change["name"]) not in (None, change["owner_name"]):
            await server.give_database(change["name"], change["owner_name"])
        if change["name"] != change["new_name"] and await _owner_of(server, change["new_name"]) is None:
            await server.rename_database(change["name"], change["new_name"])
    return Go(apply=_settle_database(_branch(operation), change["new_name"], change["owner_name"], was=change["name"]))


async def unchange_database(operation: Operation, world: RolesWorld) -> Apply:
    branch_id, change = _branch(operation), operation.input
    name, new_name = change["name"], change["new_name"]

    async def change_back(server: Server) -> None:
        if await _owner_of(server, name) is None and await _owner_of(server, new_name) == change["owner_name"]:
            await server.rename_database(new_name, name)
        if await _owner_of(server, name) == change["owner_name"]:
            await server.give_database(name, change["old_owner_name"])

    await _if_it_can_be(world, operation, change_back)

    async def apply(tx: Transaction) -> None:
        await store.change_database(tx, branch_id, new_name, new_name=name, owner_name=change["old_owner_name"])

    return apply


async def drop_database(operation: Operation, world: RolesWorld) -> Outcome:
    branch_id, name = _branch(operation), operation.input["name"]
    async with world.servers.awake(_endpoint(operation)) as server:
        await server.drop_database(name)

    async def apply(tx: Transaction) -> None:
        await store.remove_database(tx, branch_id, name)

    return Go(apply=apply)


def _machine(name: str, *steps: Step[RolesWorld], has_rollback: bool = True) -> Machine[RolesWorld]:
    return Machine(name, ACTION, DEADLINE, steps, has_rollback=has_rollback)


CREATE_ROLE: Final = _machine("create_role", Step("create", create_role, forget_role))
SET_PASSWORD: Final = _machine("set_password", Step("set", set_password, keep_password))
DROP_ROLE: Final = _machine("drop_role", Step("drop", drop_role), has_rollback=False)
CREATE_DATABASE: Final = _machine(
    "create_database",
    Step("create", create_database, forget_database),
    Step("hand_over", hand_over_database, take_back_database),
)
CHANGE_DATABASE: Final = _machine("change_database", Step("change", change_database, unchange_database))
DROP_DATABASE: Final = _machine("drop_database", Step("drop", drop_database), has_rollback=False)

MACHINES: Final = (CREATE_ROLE, SET_PASSWORD, DROP_ROLE, CREATE_DATABASE, CHANGE_DATABASE, DROP_DATABASE)


def _branch(operation: Operation) -> BranchId:
    assert operation.branch_id is not None
    return BranchId(operation.branch_id)


def _endpoint(operation: Operation) -> EndpointId:
    assert operation.endpoint_id is not None
    return EndpointId(operation.endpoint_id)


async def _if_it_can_be(
    world: RolesWorld, operation: Operation, take_back: Callable[[Server], Awaitable[None]]
) -> None:
    """For taking back. A compute that does not start, or a server that will not, cannot be cleaned up now: the rows are put
    right all the same, and the next reading of the catalog shows what it holds."""
    try:
        async with world.servers.awake(_endpoint(operation)) as server:
            await take_back(server)
    except CloisterError as error:
        _log.warning("operation %s: the server was left as it is: %s", operation.id, error)


async def _owner_of(server: Server, name: str) -> str | None:
    return next((database.owner_name for database in await server.databases() if database.name == name), None)


def _settle(branch_id: BranchId, name: str) -> Apply:
    async def apply(tx: Transaction) -> None:
        await store.settle_verifier(tx, branch_id, name)

    return apply


def _settle_database(branch_id: BranchId, name: str, owner_name: str, *, was: str) -> Apply:
    async def apply(tx: Transaction) -> None:
        await store.settle_database(tx, branch_id, name, owner_name, was=was)

    return apply


def _forget(branch_id: BranchId, name: str) -> Apply:
    async def apply(tx: Transaction) -> None:
        await store.forget_verifier(tx, branch_id, name)

    return apply
