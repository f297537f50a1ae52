"""The erasing of one person in the audit log's events: in a project's, and in all."""

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import forgettings as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_IN_PROJECT = "/cloister/projects/{project_id}/audit_forgettings"
_EVERYWHERE = "/cloister/audit/forgettings"


@endpoint("GET", _IN_PROJECT, permission=Permission.AUDIT_READ, audit=Action.AUDIT_FORGET_LIST)
async def list_forgettings_in_project(call: Plain) -> wire.ForgettingList:
    found = await call.control.forgettings.find(call.project_id)
    return wire.ForgettingList(forgettings=[wire.forgetting(it) for it in found])


@endpoint("POST", _IN_PROJECT, permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_FORGET_ASK, status=201)
async def ask_to_forget_in_project(call: Call[wire.AskForgetting, NoQuery]) -> wire.ForgettingAnswer:
    """A role, an address or an account, in the events of this project. It erases nothing."""
    body = call.body
    asked = await call.control.forgettings.ask(call.caller, call.project_id, body.kind, body.subject, body.reason)
    return wire.ForgettingAnswer(forgetting=wire.forgetting(asked))


@endpoint("POST", _IN_PROJECT + "/{forgetting_id}/agree", permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_FORGET)
async def agree_to_forget_in_project(call: Plain) -> wire.ForgettingAnswer:
    """By somebody else than who asked. It cannot be undone."""
    agreed = await call.control.forgettings.agree(call.caller, call.project_id, call.forgetting_id)
    return wire.ForgettingAnswer(forgetting=wire.forgetting(agreed))


@endpoint("GET", _EVERYWHERE, permission=Permission.PLATFORM_READ, audit=Action.AUDIT_FORGET_LIST)
async def list_forgettings(call: Plain) -> wire.ForgettingList:
    found = await call.control.forgettings.find(None)
    return wire.ForgettingList(forgettings=[wire.forgetting(it) for it in found])


@endpoint("POST", _EVERYWHERE, permission=Permission.AUDIT_FORGET, audit=Action.AUDIT_FORGET_ASK, status=201)
async def ask_to_forget(call: Call[wire.AskForgetting, NoQuery]) -> wire.ForgettingAnswer:
    """An address or an account, in the whole log. It erases nothing."""
    body = call.body
    asked = await call.control.forgettings.ask(call.caller, None, body.kind, body.subject, body.reason)
    return wire.ForgettingAnswer(forgetting=wire.forgetting(asked))


@endpoint("POST", _EVERYWHERE + "/{forgetting_id}/agree", permission=Permission.AUDIT_FORGET, audit=Action.AUDIT_FORGET)
async def agree_to_forget(call: Plain) -> wire.ForgettingAnswer:
    """By somebody else than who asked. It cannot be undone."""
    agreed = await call.control.forgettings.agree(call.caller, None, call.forgetting_id)
    return wire.ForgettingAnswer(forgetting=wire.forgetting(agreed))
