"""Databases of a branch."""

from cloister.base.errors import BadRequestError, NotFoundError
from cloister.control.operations.model import Operation
from cloister.control.roles.model import DatabaseInfo
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import databases as wire
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_COLLECTION = "/projects/{project_id}/branches/{branch_id}/databases"
_ONE = _COLLECTION + "/{database_name}"


@endpoint("GET", _COLLECTION, permission=Permission.DATABASE_READ, audit=Action.DATABASE_LIST)
async def list_databases(call: Plain) -> wire.DatabaseList:
    found = await call.control.databases.find(call.project_id, call.branch_id)
    return wire.DatabaseList(databases=[wire.database(it) for it in found])


@endpoint("GET", _ONE, permission=Permission.DATABASE_READ, audit=Action.DATABASE_GET, versioned=True)
async def get_database(call: Plain) -> Versioned[wire.DatabaseAnswer]:
    it = await call.control.databases.get(call.project_id, call.branch_id, call.database_name)
    return Versioned(wire.DatabaseAnswer(database=wire.database(it)), it.version)


@endpoint("POST", _COLLECTION, permission=Permission.DATABASE_MANAGE, audit=Action.DATABASE_CREATE, status=201)
async def create_database(call: Call[wire.CreateDatabase, NoQuery]) -> wire.DatabaseOperations:
    body = call.body.database
    return _answer(
        call,
        await call.control.databases.create(
            call.caller,
            call.project_id,
            call.branch_id,
            paths.database_name(body.name),
            paths.role_name(body.owner_name),
        ),
    )


@endpoint("PATCH", _ONE, permission=Permission.DATABASE_MANAGE, audit=Action.DATABASE_UPDATE, versioned=True)
async def update_database(call: Call[wire.UpdateDatabase, NoQuery]) -> Versioned[wire.DatabaseOperations]:
    body = call.body.database
    if body.name is None and body.owner_name is None:
        raise BadRequestError(public="nothing to change: give a name or an owner_name")
    it, started = await call.control.databases.update(
        call.caller,
        call.project_id,
        call.branch_id,
        call.database_name,
        new_name=None if body.name is None else paths.database_name(body.name),
        owner_name=None if body.owner_name is None else paths.role_name(body.owner_name),
    )
    return Versioned(_answer(call, (it, started)), it.version)


@endpoint("DELETE", _ONE, permission=Permission.DATABASE_MANAGE, audit=Action.DATABASE_DELETE, versioned=True)
async def delete_database(call: Plain) -> wire.DatabaseOperations | None:
    try:
        return _answer(
            call,
            await call.control.databases.delete(call.caller, call.project_id, call.branch_id, call.database_name),
        )
    except NotFoundError:
        call.require_no_version()
        return None  # as at Neon: deleted twice is deleted


def _answer(call: Call[object, object], changed: tuple[DatabaseInfo, list[Operation]]) -> wire.DatabaseOperations:
    it, started = changed
    return wire.DatabaseOperations(database=wire.database(it), operations=operations(started, call.now))
