"""Organizations, their people and their keys, and projects that move from one to another.

Paths and shapes are Neon's but for the last two routes: a platform of one's own has to get accounts and organizations from
somewhere.
"""

from cloister.base.errors import NotFoundError
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import accounts as key_wire
from cloister.edge.api.wire import organizations as wire
from cloister.edge.api.wire.common import NextPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_ORGANIZATION = "/organizations/{org_id}"
_MEMBER = _ORGANIZATION + "/members/{member_id}"


@endpoint("GET", _ORGANIZATION, permission=Permission.ORGANIZATION_READ, audit=Action.USER_GET)
async def get_organization(call: Plain) -> wire.OrganizationView:
    for it in await call.control.organizations.find([call.org_id]):
        return wire.organization(it)
    raise NotFoundError(public="organization not found")


@endpoint("GET", _ORGANIZATION + "/members", permission=Permission.MEMBER_READ, audit=Action.MEMBER_LIST)
async def list_members(call: Plain) -> wire.MemberList:
    found = await call.control.organizations.members(call.org_id)
    return wire.MemberList(members=[wire.member_with_user(it, call.org_id) for it in found], pagination=NextPage())


@endpoint("GET", _MEMBER, permission=Permission.MEMBER_READ, audit=Action.MEMBER_LIST)
async def get_member(call: Plain) -> wire.MemberView:
    return wire.member(await call.control.organizations.member(call.org_id, call.member_id), call.org_id)


@endpoint("PATCH", _MEMBER, permission=Permission.MEMBER_MANAGE, audit=Action.MEMBER_UPDATE)
async def update_member(call: Call[wire.UpdateMember, NoQuery]) -> wire.MemberView:
    role = wire.role_of(call.body.role)
    changed = await call.control.organizations.change_role(call.caller, call.org_id, call.member_id, role)
    return wire.member(changed, call.org_id)


@endpoint("DELETE", _MEMBER, permission=Permission.MEMBER_MANAGE, audit=Action.MEMBER_REMOVE)
async def remove_member(call: Plain) -> wire.Empty:
    await call.control.organizations.remove(call.caller, call.org_id, call.member_id)
    return wire.Empty()


@endpoint("GET", _ORGANIZATION + "/invitations", permission=Permission.MEMBER_READ, audit=Action.MEMBER_LIST)
async def list_invitations(call: Plain) -> wire.InvitationList:  # noqa: ARG001
    """Those that wait for an answer. Here none does: who is invited has an account, and is a member at once."""
    return wire.InvitationList(invitations=[])


@endpoint("POST", _ORGANIZATION + "/invitations", permission=Permission.MEMBER_MANAGE, audit=Action.MEMBER_ADD)
async def create_invitations(call: Call[wire.CreateInvitations, NoQuery]) -> wire.InvitationList:
    wanted = [wire.invitation(it) for it in call.body.invitations]
    joined = await call.control.organizations.invite(call.caller, call.org_id, wanted)
    by = str(call.principal.account_id)
    return wire.InvitationList(invitations=[wire.accepted(it, call.org_id, by) for it in joined])


@endpoint("GET", _ORGANIZATION + "/api_keys", permission=Permission.ORGANIZATION_KEY_MANAGE, audit=Action.API_KEY_LIST)
async def list_org_api_keys(call: Plain) -> list[key_wire.ApiKeyView]:
    return [key_wire.api_key(it) for it in await call.services.api_keys.find_of(call.org_id)]


@endpoint(
    "POST", _ORGANIZATION + "/api_keys", permission=Permission.ORGANIZATION_KEY_CREATE, audit=Action.API_KEY_CREATE
)
async def create_org_api_key(call: Call[key_wire.CreateOrgApiKey, NoQuery]) -> key_wire.ApiKeyCreated:
    it, key = await call.services.api_keys.create(call.caller, key_wire.new_org_key(call.body, call.org_id))
    return key_wire.api_key_created(it, key.reveal())


@endpoint(
    "DELETE",
    _ORGANIZATION + "/api_keys/{key_id}",
    permission=Permission.ORGANIZATION_KEY_MANAGE,
    audit=Action.API_KEY_REVOKE,
)
async def revoke_org_api_key(call: Plain) -> key_wire.ApiKeyRevoked:
    return key_wire.api_key_revoked(await call.services.api_keys.revoke(call.caller, call.key_id, call.org_id))


@endpoint(
    "POST",
    _ORGANIZATION + "/projects/transfer",
    permission=Permission.PROJECT_TRANSFER,
    audit=Action.PROJECT_TRANSFER,
)
async def transfer_projects(call: Call[wire.TransferProjects, NoQuery]) -> wire.Empty:
    """To give is asked of the one organization, to receive (as to make a new one) of the other."""
    destination = paths.org_id(call.body.destination_org_id)
    call.require_in(destination, Permission.PROJECT_CREATE)
    project_ids = [paths.project_id(it) for it in call.body.project_ids]
    await call.control.organizations.transfer(call.caller, call.org_id, destination, project_ids)
    return wire.Empty()


@endpoint(
    "POST",
    "/cloister/organizations",
    permission=Permission.ORGANIZATION_CREATE,
    audit=Action.ORGANIZATION_CREATE,
    status=201,
)
async def create_organization(call: Call[wire.CreateOrganization, NoQuery]) -> wire.OrganizationView:
    return wire.organization(await call.control.organizations.create(call.caller, call.body.name))


@endpoint("POST", "/cloister/accounts", permission=Permission.ACCOUNT_CREATE, audit=Action.ACCOUNT_CREATE, status=201)
async def create_account(call: Call[wire.CreateAccount, NoQuery]) -> wire.AccountCreated:
    made, key = await call.control.organizations.create_account(call.caller, call.body.email, call.body.name)
    return wire.account_created(made, key.reveal())
