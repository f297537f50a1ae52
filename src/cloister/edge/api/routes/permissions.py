"""Who was granted a project: people of its organization, each with a role in this one project."""

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import organizations as wire
from cloister.edge.api.wire.common import moment
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_PERMISSIONS = "/projects/{project_id}/permissions"


@endpoint("GET", _PERMISSIONS, permission=Permission.ACCESS_READ, audit=Action.ACCESS_LIST)
async def list_permissions(call: Plain) -> wire.ProjectPermissionList:
    found = await call.control.organizations.grants(call.project_id)
    return wire.ProjectPermissionList(project_permissions=[wire.permission(it) for it in found])


@endpoint("POST", _PERMISSIONS, permission=Permission.ACCESS_MANAGE, audit=Action.ACCESS_GRANT)
async def grant_permission(call: Call[wire.GrantPermission, NoQuery]) -> wire.ProjectPermission:
    assert call.project is not None
    granted = await call.control.organizations.grant(
        call.caller,
        call.project,
        call.body.email,
        call.body.role,
        may_add_members=call.also_permits(Permission.MEMBER_MANAGE),
    )
    return wire.permission(granted)


@endpoint(
    "DELETE",
    _PERMISSIONS + "/{permission_id}",
    permission=Permission.ACCESS_MANAGE,
    audit=Action.ACCESS_REVOKE,
)
async def revoke_permission(call: Plain) -> wire.ProjectPermission:
    assert call.project is not None
    revoked = await call.control.organizations.revoke_grant(call.caller, call.project, call.permission_id)
    return wire.permission(revoked, moment(call.now))
