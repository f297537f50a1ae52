"""Service accounts of an organization (`docs/service-accounts.md`). Ours: Neon's API has nothing like it.

To make a key takes what making any of the organization's keys takes; everything else, what managing them does.
"""

from datetime import timedelta
from typing import Final

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import service_accounts as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_ACCOUNTS: Final = "/cloister/organizations/{org_id}/service_accounts"
_ACCOUNT: Final = _ACCOUNTS + "/{service_account_id}"


@endpoint("GET", _ACCOUNTS, permission=Permission.ORGANIZATION_KEY_MANAGE, audit=Action.SERVICE_ACCOUNT_LIST)
async def list_service_accounts(call: Plain) -> wire.ServiceAccountList:
    found = await call.control.service_accounts.find(call.org_id)
    return wire.ServiceAccountList(service_accounts=[wire.view(it) for it in found])


@endpoint(
    "POST",
    _ACCOUNTS,
    permission=Permission.ORGANIZATION_KEY_CREATE,
    audit=Action.SERVICE_ACCOUNT_CREATE,
    status=201,
)
async def create_service_account(call: Call[wire.CreateServiceAccount, NoQuery]) -> wire.ServiceAccountKey:
    new = wire.new_service_account(call.body)
    return wire.with_key(*await call.control.service_accounts.create(call.caller, call.org_id, new))


@endpoint("PATCH", _ACCOUNT, permission=Permission.ORGANIZATION_KEY_MANAGE, audit=Action.SERVICE_ACCOUNT_UPDATE)
async def update_service_account(call: Call[wire.UpdateServiceAccount, NoQuery]) -> wire.ServiceAccountView:
    change = wire.change(call.body)
    return wire.view(
        await call.control.service_accounts.change(call.caller, call.org_id, call.service_account_id, change)
    )


@endpoint(
    "POST",
    _ACCOUNT + "/rotate",
    permission=Permission.ORGANIZATION_KEY_CREATE,
    audit=Action.SERVICE_ACCOUNT_ROTATE,
    status=201,
)
async def rotate_service_account(call: Call[wire.RotateServiceAccount, NoQuery]) -> wire.ServiceAccountKey:
    wish, overlap = wire.key_wish(call.body), timedelta(seconds=call.body.overlap_seconds)
    return wire.with_key(
        *await call.control.service_accounts.rotate(call.caller, call.org_id, call.service_account_id, wish, overlap)
    )


@endpoint("DELETE", _ACCOUNT, permission=Permission.ORGANIZATION_KEY_MANAGE, audit=Action.SERVICE_ACCOUNT_REMOVE)
async def remove_service_account(call: Plain) -> wire.ServiceAccountView:
    return wire.view(await call.control.service_accounts.remove(call.caller, call.org_id, call.service_account_id))
