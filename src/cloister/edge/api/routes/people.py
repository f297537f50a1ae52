"""People who log in at an issuer (`docs/people.md`): issuers, groups, accounts, and the login itself.

A login has two calls that nobody can be known for yet: they say nothing of anybody, and what the second one gives is decided by
the issuer's word (`control/people/logins.py`).
"""

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import Public, endpoint
from cloister.edge.api.wire import people as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_ISSUERS = "/cloister/issuers"
_GROUPS = "/cloister/organizations/{org_id}/groups"


@endpoint("GET", _ISSUERS, permission=Permission.ISSUER_MANAGE, audit=Action.ISSUER_LIST)
async def list_issuers(call: Plain) -> wire.IssuerList:
    return wire.IssuerList(issuers=[wire.issuer(it) for it in await call.control.issuers.find()])


@endpoint("POST", _ISSUERS, permission=Permission.ISSUER_MANAGE, audit=Action.ISSUER_ADD, status=201)
async def add_issuer(call: Call[wire.AddIssuer, NoQuery]) -> wire.IssuerView:
    return wire.issuer(await call.control.issuers.add(call.caller, wire.new_issuer(call.body)))


@endpoint("DELETE", _ISSUERS + "/{issuer_id}", permission=Permission.ISSUER_MANAGE, audit=Action.ISSUER_REMOVE)
async def remove_issuer(call: Plain) -> wire.IssuerView:
    return wire.issuer(await call.control.issuers.remove(call.caller, call.issuer_id))


@endpoint("GET", _GROUPS, permission=Permission.MEMBER_READ, audit=Action.GROUP_LIST)
async def list_groups(call: Plain) -> wire.GroupList:
    return wire.GroupList(groups=[wire.group(it) for it in await call.control.issuers.groups(call.org_id)])


@endpoint("POST", _GROUPS, permission=Permission.MEMBER_MANAGE, audit=Action.GROUP_MAP, status=201)
async def map_group(call: Call[wire.MapGroup, NoQuery]) -> wire.GroupView:
    return wire.group(await call.control.issuers.map_group(call.caller, call.org_id, wire.new_group(call.body)))


@endpoint("DELETE", _GROUPS + "/{group_id}", permission=Permission.MEMBER_MANAGE, audit=Action.GROUP_UNMAP)
async def unmap_group(call: Plain) -> wire.GroupView:
    return wire.group(await call.control.issuers.unmap_group(call.caller, call.org_id, call.group_id))


@endpoint("PATCH", "/cloister/accounts", permission=Permission.ACCOUNT_DISABLE, audit=Action.ACCOUNT_DISABLE)
async def disable_account(call: Call[wire.DisableAccount, NoQuery]) -> wire.AccountStanding:
    body = call.body
    it = await call.control.issuers.disable(call.caller, body.email, is_disabled=body.disabled)
    return wire.AccountStanding(id=it.id, email=it.email, name=it.name, disabled=body.disabled)


@endpoint(
    "POST",
    "/cloister/logins",
    permission=Public("whoever begins a login is not known yet; nothing of anybody is told"),
    audit=Action.SESSION_CREATE,
    status=201,
)
async def begin_login(call: Call[wire.BeginLogin, NoQuery]) -> wire.LoginBegun:
    return wire.begun(await call.control.logins.begin(wire.begin(call.body)))


@endpoint(
    "POST",
    "/cloister/logins/finish",
    permission=Public("the issuer's word, held to its keys, says who it is"),
    audit=Action.SESSION_CREATE,
    status=201,
)
async def finish_login(call: Call[wire.FinishLogin, NoQuery]) -> wire.LoginFinished:
    return wire.finished(await call.control.logins.finish(call.caller, wire.finish(call.body)))


@endpoint(
    "POST", "/cloister/users/me/logins", permission=Permission.API_KEY_CREATE, audit=Action.IDENTITY_LINK, status=201
)
async def begin_link(call: Call[wire.BeginLogin, NoQuery]) -> wire.LoginBegun:
    """As good as a new key of one's own: who is at the other end of it opens what one opens."""
    return wire.begun(await call.control.logins.begin(wire.begin(call.body), links=call.principal.key_id))
