"""Another person's consent to a copy of a protected branch, and to the end of its protection (`docs/protected-branches.md`). Ours:
Neon's API has nothing like it, and its requests find the consent by who makes them.
"""

from typing import Final

from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import consents as wire
from cloister.edge.api.wire.masking import rules_asked
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_CONSENTS: Final = "/cloister/projects/{project_id}/branches/{branch_id}/consents"
_POLICY: Final = "/cloister/organizations/{org_id}/consent_policy"
_EITHER: Final = (Permission.BRANCH_CREATE_FROM_PROTECTED, Permission.BRANCH_UNPROTECT)
"""Which of the two says the act, which the body or the consent has."""


@endpoint("GET", _CONSENTS, permission=Permission.BRANCH_READ, audit=Action.CONSENT_LIST)
async def list_consents(call: Plain) -> wire.ConsentList:
    found = await call.control.consents.find(call.project_id, call.branch_id)
    return wire.ConsentList(consents=[wire.consent(it, call.now) for it in found])


@endpoint("POST", _CONSENTS, permission=Permission.BRANCH_READ, may_need=_EITHER, audit=Action.CONSENT_ASK, status=201)
async def ask_for_consent(call: Call[wire.AskConsent, NoQuery]) -> wire.ConsentAnswer:
    """It opens nothing until somebody else agrees."""
    body = call.body
    rules = rules_asked(body.masking_rules or [])
    asked = await call.control.consents.ask(
        call.caller, call.project_id, call.branch_id, body.act, body.reason, rules=rules
    )
    return wire.ConsentAnswer(consent=wire.consent(asked, call.now))


@endpoint(
    "POST",
    _CONSENTS + "/{consent_id}/agree",
    permission=Permission.BRANCH_READ,
    may_need=_EITHER,
    audit=Action.CONSENT_AGREE,
)
async def agree_to_consent(call: Plain) -> wire.ConsentAnswer:
    """By somebody else than who asked, who may do the same themselves."""
    agreed = await call.control.consents.agree(call.caller, call.project_id, call.branch_id, call.consent_id)
    return wire.ConsentAnswer(consent=wire.consent(agreed, call.now))


@endpoint(
    "POST",
    _CONSENTS + "/{consent_id}/end",
    permission=Permission.BRANCH_READ,
    may_need=_EITHER,
    audit=Action.CONSENT_END,
)
async def end_consent(call: Plain) -> wire.ConsentAnswer:
    """Take back one that was not used."""
    ended = await call.control.consents.end(call.caller, call.project_id, call.branch_id, call.consent_id)
    return wire.ConsentAnswer(consent=wire.consent(ended, call.now))


@endpoint("GET", _POLICY, permission=Permission.MEMBER_READ, audit=Action.CONSENT_POLICY, versioned=True)
async def get_consent_policy(call: Plain) -> Versioned[wire.ConsentPolicyAnswer]:
    policy = await call.control.consents.policy(call.org_id)
    return Versioned(wire.policy(policy), policy.version(call.org_id))


@endpoint("PUT", _POLICY, permission=Permission.MEMBER_MANAGE, audit=Action.CONSENT_POLICY, versioned=True)
async def set_consent_policy(call: Call[wire.SetConsentPolicy, NoQuery]) -> Versioned[wire.ConsentPolicyAnswer]:
    """Not to demand it any more takes two people to say so."""
    policy = await call.control.consents.require(call.caller, call.org_id, is_required=call.body.required)
    return Versioned(wire.policy(policy), policy.version(call.org_id))
