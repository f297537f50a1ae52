"""Branches in which columns hold something else than in their parent: Neon's anonymized branches (docs/masking.md)."""

from dataclasses import replace
from typing import Final

from cloister.control.branches.model import NewMasking
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.routes.branches import asked, created_answer
from cloister.edge.api.wire import branches as branch_wire
from cloister.edge.api.wire import masking as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_ONE: Final = "/projects/{project_id}/branches/{branch_id}"


@endpoint(
    "POST",
    "/projects/{project_id}/branch_anonymized",
    permission=Permission.BRANCH_CREATE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED, Permission.BRANCH_PROTECT),
    audit=Action.BRANCH_CREATE,
    status=201,
)
async def create_anonymized_branch(call: Call[wire.CreateAnonymizedBranch, NoQuery]) -> branch_wire.BranchCreatedAnswer:
    body = call.body
    masking = NewMasking(rules=wire.rules_asked(body.masking_rules or []), starts=bool(body.start_anonymization))
    new = replace(asked(body.branch_create or branch_wire.CreateBranch()), masking=masking)
    return await created_answer(call, await call.control.branches.create(call.caller, call.project_id, new))


@endpoint("GET", _ONE + "/masking_rules", permission=Permission.BRANCH_READ, audit=Action.BRANCH_MASK_GET)
async def get_masking_rules(call: Plain) -> wire.MaskingRules:
    return wire.rules((await call.control.maskings.get(call.project_id, call.branch_id)).rules)


@endpoint("PATCH", _ONE + "/masking_rules", permission=Permission.BRANCH_CREATE, audit=Action.BRANCH_MASK)
async def update_masking_rules(call: Call[wire.ChangeMaskingRules, NoQuery]) -> wire.MaskingRules:
    rules = wire.rules_asked(call.body.masking_rules)
    return wire.rules(
        (await call.control.maskings.change_rules(call.caller, call.project_id, call.branch_id, rules)).rules
    )


@endpoint("GET", _ONE + "/anonymized_status", permission=Permission.BRANCH_READ, audit=Action.BRANCH_MASK_GET)
async def get_anonymized_status(call: Plain) -> wire.AnonymizedStatus:
    return wire.status(await call.control.maskings.get(call.project_id, call.branch_id))


@endpoint(
    "POST",
    _ONE + "/anonymize",
    permission=Permission.BRANCH_CREATE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED,),
    audit=Action.BRANCH_ANONYMIZE,
    of_others_too=True,
)
async def start_anonymization(call: Plain) -> wire.AnonymizedStatus:
    masking, _operations = await call.control.maskings.start(call.caller, call.project_id, call.branch_id)
    return wire.status(masking)
