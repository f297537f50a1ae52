"""An organization's directory (`docs/people.md`): whether its identity provider speaks here, and with which token. What it says comes in
at another door, `edge/api/scim`."""

from cloister.edge.api.call import Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import scim as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_SCIM = "/cloister/organizations/{org_id}/scim"


@endpoint("GET", _SCIM, permission=Permission.MEMBER_READ, audit=Action.SCIM_GET)
async def get_scim(call: Plain) -> wire.ScimView:
    return wire.view(await call.control.scim.status(call.org_id))


@endpoint("POST", _SCIM, permission=Permission.ORGANIZATION_KEY_CREATE, audit=Action.SCIM_ENABLE, status=201)
async def enable_scim(call: Plain) -> wire.ScimToken:
    return wire.with_token(*await call.control.scim.enable(call.caller, call.org_id))


@endpoint(
    "POST", _SCIM + "/rotate", permission=Permission.ORGANIZATION_KEY_CREATE, audit=Action.SCIM_ROTATE, status=201
)
async def rotate_scim(call: Plain) -> wire.ScimToken:
    return wire.with_token(*await call.control.scim.rotate(call.caller, call.org_id))


@endpoint("DELETE", _SCIM, permission=Permission.MEMBER_MANAGE, audit=Action.SCIM_DISABLE)
async def disable_scim(call: Plain) -> wire.ScimView:
    return wire.view(await call.control.scim.disable(call.caller, call.org_id))
