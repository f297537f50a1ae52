"""For how long the audit log's own events are kept: two operators say."""

import msgspec

from cloister.control.projects.retention import Class
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import retentions as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_EVENTS = "/cloister/audit/retention"


@endpoint("GET", _EVENTS, permission=Permission.PLATFORM_READ, audit=Action.AUDIT_RETENTION_GET)
async def list_events_retention(call: Plain) -> wire.RetentionList:
    found = await call.control.retentions.find(None)
    return wire.RetentionList(retentions=[wire.retention(it) for it in found])


class PreviewEvents(msgspec.Struct, frozen=True):
    days: wire.EventsDays | None = None
    """As if this held; otherwise what does."""


@endpoint("GET", _EVENTS + "/preview", permission=Permission.PLATFORM_READ, audit=Action.AUDIT_RETENTION_GET)
async def preview_events_retention(call: Call[NoBody, PreviewEvents]) -> wire.PrunableAnswer:
    """Which events would go today, and what keeps the next. None goes by asking."""
    return wire.prunable(await call.control.retentions.preview_events(call.query.days))


@endpoint("POST", _EVENTS, permission=Permission.AUDIT_FORGET, audit=Action.AUDIT_RETENTION_ASK, status=201)
async def set_events_retention(call: Call[wire.SetEventsRetention, NoQuery]) -> wire.RetentionAnswer:
    """It holds at once, if it is no shorter than what does; otherwise when another operator has agreed, and a week later."""
    body = call.body
    said = await call.control.retentions.set(call.caller, None, Class.EVENTS, body.days, body.reason)
    return wire.RetentionAnswer(retention=wire.retention(said))


@endpoint(
    "POST", _EVENTS + "/{retention_id}/agree", permission=Permission.AUDIT_FORGET, audit=Action.AUDIT_RETENTION_SET
)
async def agree_to_events_retention(call: Plain) -> wire.RetentionAnswer:
    """By another operator than who asked."""
    agreed = await call.control.retentions.agree(call.caller, None, call.retention_id)
    return wire.RetentionAnswer(retention=wire.retention(agreed))
