"""Roles of a branch's database server, and their passwords."""

from cloister.base.errors import NotFoundError
from cloister.control.roles.model import RoleChanged
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import roles as wire
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_COLLECTION = "/projects/{project_id}/branches/{branch_id}/roles"
_ONE = _COLLECTION + "/{role_name}"


@endpoint("GET", _COLLECTION, permission=Permission.ROLE_READ, audit=Action.ROLE_LIST)
async def list_roles(call: Plain) -> wire.RoleList:
    found = await call.control.roles.find(call.project_id, call.branch_id)
    return wire.RoleList(roles=[wire.role(it) for it in found])


@endpoint("GET", _ONE, permission=Permission.ROLE_READ, audit=Action.ROLE_GET, versioned=True)
async def get_role(call: Plain) -> Versioned[wire.RoleAnswer]:
    it = await call.control.roles.get(call.project_id, call.branch_id, call.role_name)
    return Versioned(wire.RoleAnswer(role=wire.role(it)), it.version)


@endpoint("POST", _COLLECTION, permission=Permission.ROLE_MANAGE, audit=Action.ROLE_CREATE, status=201)
async def create_role(call: Call[wire.CreateRole, NoQuery]) -> wire.RoleOperations:
    name = paths.role_name(call.body.role.name)
    can_login = not call.body.role.no_login
    return _answer(
        call,
        await call.control.roles.create(call.caller, call.project_id, call.branch_id, name, can_login=can_login),
    )


@endpoint("DELETE", _ONE, permission=Permission.ROLE_MANAGE, audit=Action.ROLE_DELETE, versioned=True)
async def delete_role(call: Plain) -> wire.RoleOperations | None:
    try:
        it, started = await call.control.roles.delete(call.caller, call.project_id, call.branch_id, call.role_name)
    except NotFoundError:
        call.require_no_version()
        return None  # as at Neon: deleted twice is deleted
    return wire.RoleOperations(role=wire.role(it), operations=operations(started, call.now))


@endpoint("POST", _ONE + "/reset_password", permission=Permission.ROLE_MANAGE, audit=Action.ROLE_RESET_PASSWORD)
async def reset_password(call: Plain) -> wire.RoleOperations:
    return _answer(
        call,
        await call.control.roles.reset_password(call.caller, call.project_id, call.branch_id, call.role_name),
    )


@endpoint(
    "GET",
    _ONE + "/reveal_password",
    permission=Permission.ROLE_REVEAL_PASSWORD,
    audit=Action.ROLE_REVEAL_PASSWORD,
    service_records=True,
)
async def reveal_password(call: Plain) -> wire.RolePassword:
    password = await call.control.roles.reveal_password(call.caller, call.project_id, call.branch_id, call.role_name)
    return wire.RolePassword(password=password.reveal())


def _answer(call: Call[object, object], changed: RoleChanged) -> wire.RoleOperations:
    password = None if changed.password is None else changed.password.reveal()
    return wire.RoleOperations(
        role=wire.role(changed.role, password=password), operations=operations(changed.operations, call.now)
    )
