"""Key sets of other issuers, whose tokens open a project's databases (`docs/tokens.md`)."""

from cloister.control.jwks.model import NewJwks
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import jwks as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_COLLECTION = "/projects/{project_id}/jwks"


@endpoint("GET", _COLLECTION, permission=Permission.JWKS_READ, audit=Action.JWKS_LIST)
async def list_jwks(call: Plain) -> wire.JwksList:
    found = await call.control.jwks.find(call.project_id)
    return wire.JwksList(jwks=[wire.jwks(it) for it in found])


@endpoint("POST", _COLLECTION, permission=Permission.JWKS_MANAGE, audit=Action.JWKS_CREATE, status=201)
async def add_jwks(call: Call[wire.AddJwks, NoQuery]) -> wire.JwksAnswer:
    body = call.body
    it = await call.control.jwks.create(
        call.caller,
        call.project_id,
        NewJwks(
            url=body.jwks_url,
            provider_name=body.provider_name,
            branch_id=paths.branch_id(body.branch_id) if body.branch_id else None,
            audience=body.jwt_audience,
            issuer=body.jwt_issuer,
            role_names=tuple(body.role_names or ()),
        ),
    )
    return wire.JwksAnswer(jwks=wire.jwks(it), operations=[])


@endpoint("DELETE", _COLLECTION + "/{jwks_id}", permission=Permission.JWKS_MANAGE, audit=Action.JWKS_DELETE)
async def delete_jwks(call: Plain) -> wire.JwksView:
    return wire.jwks(await call.control.jwks.delete(call.caller, call.project_id, call.jwks_id))
