"""Keys of projects, as a whole: rotate, disable, destroy, encrypt the data anew; and how often an organization wants that.

The keys themselves come through no route.
"""

from cloister.control.reencryption.model import Wish
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import keys as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action
from cloister.trust.keys.commands import KeyPolicy

_RING = "/cloister/projects/{project_id}/keys"
_REENCRYPTION = _RING + "/reencryption"
_POLICY = "/cloister/organizations/{org_id}/key_policy"


@endpoint("GET", _RING, permission=Permission.KEY_READ, audit=Action.KEY_LIST)
async def get_project_keys(call: Plain) -> wire.Ring:
    return wire.ring(await call.services.volume_keys.ring(call.project_id))


@endpoint("POST", _RING + "/rotate", permission=Permission.KEY_MANAGE, audit=Action.KEY_ROTATE)
async def rotate_project_keys(call: Plain) -> wire.Ring:
    return wire.ring(await call.services.volume_keys.rotate(call.caller, call.project_id))


@endpoint("POST", _RING + "/disable", permission=Permission.KEY_MANAGE, audit=Action.KEY_DISABLE)
async def disable_project_keys(call: Call[wire.Because, NoQuery]) -> wire.Ring:
    return await _changed(call, "disable", reason=call.body.reason)


@endpoint("POST", _RING + "/enable", permission=Permission.KEY_MANAGE, audit=Action.KEY_ENABLE)
async def enable_project_keys(call: Plain) -> wire.Ring:
    return await _changed(call, "enable")


@endpoint("POST", _RING + "/destroy", permission=Permission.KEY_MANAGE, audit=Action.KEY_SCHEDULE)
async def schedule_key_destruction(call: Call[wire.ScheduleDestruction, NoQuery]) -> wire.Ring:
    return await _changed(call, "destroy", days=call.body.days, reason=call.body.reason)


@endpoint("POST", _RING + "/cancel", permission=Permission.KEY_MANAGE, audit=Action.KEY_CANCEL)
async def cancel_key_destruction(call: Plain) -> wire.Ring:
    return await _changed(call, "cancel")


@endpoint("GET", _REENCRYPTION, permission=Permission.KEY_READ, audit=Action.KEY_LIST)
async def get_reencryption(call: Plain) -> wire.ReencryptionView:
    return wire.reencryption(await call.services.control.reencryptions.get(call.project_id))


@endpoint("POST", _REENCRYPTION, permission=Permission.KEY_MANAGE, audit=Action.KEY_REENCRYPT)
async def reencrypt_project(call: Call[wire.Reencrypt, NoQuery]) -> wire.ReencryptionView:
    wish = Wish(call.body.bytes_per_s, call.body.now)
    return wire.reencryption(await call.services.control.reencryptions.begin(call.caller, call.project_id, wish))


@endpoint("POST", _REENCRYPTION + "/pause", permission=Permission.KEY_MANAGE, audit=Action.KEY_REENCRYPT)
async def pause_reencryption(call: Plain) -> wire.ReencryptionView:
    return wire.reencryption(await call.services.control.reencryptions.pause(call.caller, call.project_id))


@endpoint("DELETE", _REENCRYPTION, permission=Permission.KEY_MANAGE, audit=Action.KEY_REENCRYPT)
async def cancel_reencryption(call: Plain) -> wire.ReencryptionView:
    return wire.reencryption(await call.services.control.reencryptions.cancel(call.caller, call.project_id))


@endpoint("GET", _POLICY, permission=Permission.KEY_READ, audit=Action.KEY_LIST, versioned=True)
async def get_key_policy(call: Plain) -> Versioned[wire.Policy]:
    policy = await call.services.volume_keys.policy(call.org_id)
    return Versioned(wire.policy(policy), policy.version(call.org_id))


@endpoint("PUT", _POLICY, permission=Permission.KEY_MANAGE, audit=Action.KEY_POLICY, versioned=True)
async def set_key_policy(call: Call[wire.SetPolicy, NoQuery]) -> Versioned[wire.Policy]:
    wanted = KeyPolicy(rotate_days=call.body.rotate_days, reencrypt_days=call.body.reencrypt_days)
    policy = await call.services.volume_keys.set_policy(call.caller, call.org_id, wanted)
    return Versioned(wire.policy(policy), policy.version(call.org_id))


@endpoint("GET", "/cloister/keys/roots", permission=Permission.PLATFORM_READ, audit=Action.KEY_LIST)
async def get_root_keys(call: Call[NoBody, NoQuery]) -> wire.Roots:
    return wire.roots(await call.services.volume_keys.keystore())


async def _changed(
    call: Call[object, object], change: str, *, days: int = wire.WAITING_DAYS_MAX, reason: str = ""
) -> wire.Ring:
    ring = await call.services.volume_keys.change(call.caller, call.project_id, change, days=days, reason=reason)
    return wire.ring(ring)
