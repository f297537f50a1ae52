"""Where a project's computes may connect to, beside their own data: nowhere, until somebody says so here."""

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import egress as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_EGRESS = "/cloister/projects/{project_id}/egress"


@endpoint("GET", _EGRESS, permission=Permission.EGRESS_READ, audit=Action.EGRESS_LIST)
async def list_egress_rules(call: Plain) -> wire.EgressRuleList:
    assert call.project is not None
    return wire.EgressRuleList(egress_rules=[wire.view(it) for it in await call.control.egress.find(call.project)])


@endpoint("POST", _EGRESS, permission=Permission.EGRESS_MANAGE, audit=Action.EGRESS_ALLOW, status=201)
async def allow_egress(call: Call[wire.AllowEgress, NoQuery]) -> wire.EgressRuleAnswer:
    assert call.project is not None
    made = await call.control.egress.allow(call.caller, call.project, call.body.to, call.body.ca_pem)
    return wire.EgressRuleAnswer(egress_rule=wire.view(made))


@endpoint("DELETE", _EGRESS + "/{rule_id}", permission=Permission.EGRESS_MANAGE, audit=Action.EGRESS_REMOVE)
async def remove_egress_rule(call: Plain) -> wire.EgressRuleAnswer:
    assert call.project is not None
    removed = await call.control.egress.remove(call.caller, call.project, call.rule_id)
    return wire.EgressRuleAnswer(egress_rule=wire.view(removed))
