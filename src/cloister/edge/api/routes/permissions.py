"""Who was granted a project: people of its organization, each with a role in this one project.

Neon has two ways to say it, and both are about the same grants: `permissions` by address, `members` by member.
"""

import msgspec

from cloister.edge.api.call import Call, NoBody, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import organizations as wire
from cloister.edge.api.wire.common import NextPage, moment
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_PERMISSIONS = "/projects/{project_id}/permissions"
_MEMBERS = "/projects/{project_id}/members"


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


@endpoint("GET", _MEMBERS, permission=Permission.ACCESS_READ, audit=Action.ACCESS_LIST)
async def list_project_members(call: Plain) -> wire.ProjectMembers:
    """Who may what in the project. Who may grant it sees those of the organization as well who may nothing."""
    assert call.project is not None
    found = await call.control.organizations.standings(
        call.project, and_without_access=call.also_permits(Permission.ACCESS_MANAGE)
    )
    return wire.ProjectMembers(project_members=[wire.project_member(it) for it in found], pagination=NextPage())


class ConfirmDemotion(msgspec.Struct, frozen=True):
    confirm_self_demotion: bool = False


@endpoint("PUT", _MEMBERS + "/{member_id}/role", permission=Permission.ACCESS_MANAGE, audit=Action.ACCESS_GRANT)
async def set_project_member_role(
    call: Call[wire.SetProjectMemberRole, ConfirmDemotion],
) -> wire.ProjectMemberRole:
    assert call.project is not None
    changed = await call.control.organizations.set_project_role(
        call.caller, call.project, call.member_id, call.body.role, is_sure=call.query.confirm_self_demotion
    )
    return wire.project_member_role(changed, call.project_id)


class ConfirmLockout(msgspec.Struct, frozen=True):
    confirm_self_lockout: bool = False


@endpoint("DELETE", _MEMBERS + "/{member_id}/role", permission=Permission.ACCESS_MANAGE, audit=Action.ACCESS_REVOKE)
async def remove_project_member_role(call: Call[NoBody, ConfirmLockout]) -> wire.ProjectMemberRole:
    """Only what was granted: what somebody may by their role in the organization, they still may."""
    assert call.project is not None
    changed = await call.control.organizations.set_project_role(
        call.caller, call.project, call.member_id, None, is_sure=call.query.confirm_self_lockout
    )
    return wire.project_member_role(changed, call.project_id)
