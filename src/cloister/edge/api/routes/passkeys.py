"""Passkeys (`docs/passkeys.md`): one's own, what an organization demands, and what the page at `/passkeys` shows. Ours: Neon's API
has nothing like it.

Which routes take one says `edge/api/acts.py`.
"""

from typing import Final

from cloister.control.passkeys.service import version_of
from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import Public, endpoint
from cloister.edge.api.wire import passkeys as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_PASSKEYS: Final = "/cloister/users/me/passkeys"
_POLICY: Final = "/cloister/organizations/{org_id}/passkey_policy"


@endpoint("GET", _PASSKEYS, permission=Permission.PASSKEY_MANAGE, audit=Action.PASSKEY_LIST)
async def list_passkeys(call: Plain) -> wire.PasskeyList:
    return wire.PasskeyList(passkeys=[wire.view(it) for it in await call.control.passkeys.find(call.caller)])


@endpoint("POST", _PASSKEYS + "/begin", permission=Permission.PASSKEY_MANAGE, audit=Action.PASSKEY_ADD, status=201)
async def begin_passkey(call: Plain) -> wire.Ceremony:
    return wire.ceremony(await call.control.passkeys.begin(call.caller))


@endpoint("POST", _PASSKEYS, permission=Permission.PASSKEY_MANAGE, audit=Action.PASSKEY_ADD, status=201)
async def add_passkey(call: Call[wire.AddPasskey, NoQuery]) -> wire.PasskeyView:
    said = wire.registration(call.body.credential)
    return wire.view(await call.control.passkeys.add(call.caller, call.body.name, said))


@endpoint("DELETE", _PASSKEYS + "/{passkey_id}", permission=Permission.PASSKEY_MANAGE, audit=Action.PASSKEY_REMOVE)
async def remove_passkey(call: Plain) -> wire.PasskeyView:
    return wire.view(await call.control.passkeys.remove(call.caller, call.passkey_id))


@endpoint(
    "POST",
    "/cloister/passkeys/ceremonies",
    permission=Public("whoever has a challenge was given its link; it says what would be signed, and opens nothing"),
    audit=Action.PASSKEY_USE,
)
async def show_ceremony(call: Call[wire.NameChallenge, NoQuery]) -> wire.Ceremony:
    return wire.ceremony(await call.control.passkeys.shown(wire.challenge(call.body)))


@endpoint("GET", _POLICY, permission=Permission.MEMBER_READ, audit=Action.PASSKEY_POLICY, versioned=True)
async def get_passkey_policy(call: Plain) -> Versioned[wire.PasskeyPolicyAnswer]:
    return _policy(call, is_required=await call.control.passkeys.is_required(call.org_id))


@endpoint("PUT", _POLICY, permission=Permission.MEMBER_MANAGE, audit=Action.PASSKEY_POLICY, versioned=True)
async def set_passkey_policy(call: Call[wire.PasskeyPolicy, NoQuery]) -> Versioned[wire.PasskeyPolicyAnswer]:
    wanted = call.body.required
    return _policy(call, is_required=await call.control.passkeys.require(call.caller, call.org_id, is_required=wanted))


def _policy(call: Call[object, NoQuery], *, is_required: bool) -> Versioned[wire.PasskeyPolicyAnswer]:
    return Versioned(wire.PasskeyPolicyAnswer(required=is_required), version_of(call.org_id, is_required=is_required))
