"""The user and their API keys; the regions there are."""

from cloister.base.ids import OrgId
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import accounts as wire
from cloister.edge.api.wire import organizations
from cloister.edge.api.wire.common import moment
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Holder
from cloister.trust.audit import Action


@endpoint("GET", "/users/me", permission=Permission.USER_READ, audit=Action.USER_GET)
async def get_user(call: Plain) -> wire.UserAnswer:
    return wire.user(call.principal, moment(call.now.replace(day=1, hour=0, minute=0, second=0)))


@endpoint("GET", "/users/me/organizations", permission=Permission.USER_READ, audit=Action.USER_GET)
async def list_organizations(call: Plain) -> organizations.OrganizationList:
    mine = [OrgId(it) for it in call.principal.memberships]
    found = await call.control.organizations.find(mine)
    return organizations.OrganizationList(organizations=[organizations.organization(it) for it in found])


@endpoint("GET", "/auth", permission=Permission.AUTH_READ, audit=Action.USER_GET)
async def get_auth(call: Plain) -> wire.AuthAnswer:
    """Of an organization's key the account is the organization."""
    principal = call.principal
    org_ids = [*principal.memberships, *(it.org_id for it in principal.grants.values())]
    is_personal = principal.holder is Holder.PERSON
    return wire.AuthAnswer(
        account_id=str(principal.account_id) if is_personal else org_ids[0],
        auth_method="api_key_user" if is_personal else "api_key_org",
        auth_data=str(principal.key_id),
    )


@endpoint("GET", "/api_keys", permission=Permission.API_KEY_MANAGE, audit=Action.API_KEY_LIST)
async def list_api_keys(call: Plain) -> list[wire.ApiKeyView]:
    return [wire.api_key(it) for it in await call.services.api_keys.find(call.principal)]


@endpoint("POST", "/api_keys", permission=Permission.API_KEY_CREATE, audit=Action.API_KEY_CREATE)
async def create_api_key(call: Call[wire.CreateApiKey, NoQuery]) -> wire.ApiKeyCreated:
    it, key = await call.services.api_keys.create(call.caller, wire.new_key(call.body))
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
