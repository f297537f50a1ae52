"""The user, their organizations and their API keys; the regions there are."""

from cloister.base.errors import NotFoundError
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import accounts as wire
from cloister.edge.api.wire.common import NextPage, moment
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action


@endpoint("GET", "/users/me", permission=Permission.USER_READ, audit=Action.USER_GET)
async def get_user(call: Plain) -> wire.UserAnswer:
    return wire.user(call.principal, moment(call.now.replace(day=1, hour=0, minute=0, second=0)))


@endpoint("GET", "/users/me/organizations", permission=Permission.USER_READ, audit=Action.USER_GET)
async def list_organizations(call: Plain) -> wire.OrganizationList:
    found = await call.services.organizations.find(call.org_ids)
    return wire.OrganizationList(organizations=[wire.organization(it) for it in found])


@endpoint("GET", "/auth", permission=Permission.USER_READ, audit=Action.USER_GET)
async def get_auth(call: Plain) -> wire.AuthAnswer:
    return wire.AuthAnswer(
        account_id=str(call.principal.account_id),
        auth_method="api_key_user",
        auth_data=str(call.principal.key_id),
    )


@endpoint("GET", "/organizations/{org_id}", permission=Permission.USER_READ, audit=Action.USER_GET)
async def get_organization(call: Plain) -> wire.OrganizationView:
    for it in await call.services.organizations.find([call.org_id]):
        return wire.organization(it)
    raise NotFoundError(public="organization not found")


@endpoint("GET", "/organizations/{org_id}/members", permission=Permission.USER_READ, audit=Action.USER_GET)
async def list_members(call: Plain) -> wire.MemberList:
    found = await call.services.organizations.members(call.org_id)
    return wire.MemberList(members=[wire.member(it, call.org_id) for it in found], pagination=NextPage())


@endpoint("GET", "/api_keys", permission=Permission.API_KEY_MANAGE, audit=Action.API_KEY_LIST)
async def list_api_keys(call: Plain) -> list[wire.ApiKeyView]:
    return [wire.api_key(it) for it in await call.services.api_keys.find(call.principal)]


@endpoint("POST", "/api_keys", permission=Permission.API_KEY_MANAGE, audit=Action.API_KEY_CREATE)
async def create_api_key(call: Call[wire.CreateApiKey, NoQuery]) -> wire.ApiKeyCreated:
    it, key = await call.services.api_keys.create(call.caller, call.body.key_name)
    return wire.api_key_created(it, key.reveal())


@endpoint("DELETE", "/api_keys/{key_id}", permission=Permission.API_KEY_MANAGE, audit=Action.API_KEY_REVOKE)
async def revoke_api_key(call: Plain) -> wire.ApiKeyRevoked:
    return wire.api_key_revoked(await call.services.api_keys.revoke(call.caller, call.key_id))


@endpoint("GET", "/regions", permission=Permission.REGION_READ, audit=Action.REGION_LIST)
async def list_regions(call: Plain) -> wire.RegionList:
    here = wire.RegionView(
        region_id=call.settings.region_id, name="This platform", default=True, geo_lat="", geo_long=""
    )
    return wire.RegionList(regions=[here])
