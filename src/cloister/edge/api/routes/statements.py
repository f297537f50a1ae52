"""What of a project's statements is recorded, the record, its end, what keeps it, and for how long."""

from typing import Annotated

import msgspec

from cloister.control.projects.retention import Class
from cloister.control.projects.statements import version_of
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.routes.platform import pruned
from cloister.edge.api.wire import erasures, holds, retentions
from cloister.edge.api.wire import statements as wire
from cloister.edge.api.wire.common import CursorPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action
from cloister.trust.audit.statements import SEGMENTS_MAX

_LEVEL = "/cloister/projects/{project_id}/audit_level"
_ERASURES = "/cloister/projects/{project_id}/statement_erasures"
_HOLDS = "/cloister/projects/{project_id}/audit_holds"
_RETENTION = "/cloister/organizations/{org_id}/audit_retention"


@endpoint("GET", _LEVEL, permission=Permission.PROJECT_READ, audit=Action.AUDIT_LEVEL_GET, versioned=True)
async def get_audit_level(call: Plain) -> Versioned[wire.AuditLevelAnswer]:
    level = await call.control.statements.level(call.project_id)
    return Versioned(wire.AuditLevelAnswer(level=level), version_of(call.project_id, level))


@endpoint(
    "PUT",
    _LEVEL,
    permission=Permission.AUDIT_LEVEL_SET,
    may_need=(Permission.AUDIT_LEVEL_LOWER,),
    audit=Action.AUDIT_LEVEL_SET,
    versioned=True,
)
async def set_audit_level(call: Call[wire.AuditLevelBody, NoQuery]) -> Versioned[wire.AuditLevelAnswer]:
    level = await call.control.statements.set_level(call.caller, call.project_id, call.body.level)
    return Versioned(wire.AuditLevelAnswer(level=level), version_of(call.project_id, level))


class ListStatements(msgspec.Struct, frozen=True):
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    """Segments before this one."""
    # A page may end earlier, with two megabytes: the last has no segment.
    limit: Annotated[int, msgspec.Meta(ge=1, le=SEGMENTS_MAX)] = 16


@endpoint(
    "GET",
    "/cloister/projects/{project_id}/statements",
    permission=Permission.AUDIT_STATEMENTS_READ,
    audit=Action.AUDIT_STATEMENTS_READ,
)
async def list_statements(call: Call[NoBody, ListStatements]) -> wire.SegmentList:
    query = call.query
    found = await call.control.statements.segments(call.caller, call.project_id, before=query.cursor, limit=query.limit)
    return wire.SegmentList(
        segments=[wire.segment(it) for it in found],
        pagination=CursorPage(cursor=str(found[-1].id)) if found else None,
        pruned=await pruned(call),
    )


@endpoint("GET", _ERASURES, permission=Permission.AUDIT_READ, audit=Action.AUDIT_ERASE_LIST)
async def list_statement_erasures(call: Plain) -> erasures.ErasureList:
    found = await call.control.erasures.find(call.project_id)
    return erasures.ErasureList(erasures=[erasures.erasure(it) for it in found])


@endpoint("POST", _ERASURES, permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_ERASE_ASK, status=201)
async def ask_statement_erasure(call: Call[erasures.AskErasure, NoQuery]) -> erasures.ErasureAnswer:
    body = call.body
    asked = await call.control.erasures.ask(call.caller, call.project_id, body.reason, body.up_to)
    return erasures.ErasureAnswer(erasure=erasures.erasure(asked))


@endpoint("POST", _ERASURES + "/{erasure_id}/agree", permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_ERASE)
async def agree_to_statement_erasure(call: Plain) -> erasures.ErasureAnswer:
    """By somebody else than who asked. It cannot be undone."""
    agreed = await call.control.erasures.agree(call.caller, call.project_id, call.erasure_id)
    return erasures.ErasureAnswer(erasure=erasures.erasure(agreed))


@endpoint("GET", _HOLDS, permission=Permission.AUDIT_READ, audit=Action.AUDIT_HOLD_LIST)
async def list_audit_holds(call: Plain) -> holds.HoldList:
    found = await call.control.holds.find(call.project_id)
    return holds.HoldList(holds=[holds.hold(it) for it in found])


@endpoint("POST", _HOLDS, permission=Permission.AUDIT_HOLD, audit=Action.AUDIT_HOLD, status=201)
async def place_audit_hold(call: Call[holds.HoldReason, NoQuery]) -> holds.HoldAnswer:
    placed = await call.control.holds.place(call.caller, call.project_id, call.body.reason)
    return holds.HoldAnswer(hold=holds.hold(placed))


@endpoint("POST", _HOLDS + "/{hold_id}/lift", permission=Permission.AUDIT_HOLD, audit=Action.AUDIT_HOLD_LIFT_ASK)
async def ask_to_lift_audit_hold(call: Call[holds.HoldReason, NoQuery]) -> holds.HoldAnswer:
    """It stands until somebody else agrees."""
    asked = await call.control.holds.ask_to_lift(call.caller, call.project_id, call.hold_id, call.body.reason)
    return holds.HoldAnswer(hold=holds.hold(asked))


@endpoint("POST", _HOLDS + "/{hold_id}/agree", permission=Permission.AUDIT_HOLD, audit=Action.AUDIT_HOLD_LIFT)
async def agree_to_lift_audit_hold(call: Plain) -> holds.HoldAnswer:
    """By somebody else than who asked."""
    lifted = await call.control.holds.lift(call.caller, call.project_id, call.hold_id)
    return holds.HoldAnswer(hold=holds.hold(lifted))


@endpoint("GET", _RETENTION, permission=Permission.AUDIT_READ, audit=Action.AUDIT_RETENTION_GET)
async def list_audit_retention(call: Plain) -> retentions.RetentionList:
    found = await call.control.retentions.find(call.org_id)
    return retentions.RetentionList(retentions=[retentions.retention(it) for it in found])


class Preview(msgspec.Struct, frozen=True):
    record: Class
    days: retentions.Days | None = None
    """As if this held; otherwise what does."""


@endpoint("GET", _RETENTION + "/preview", permission=Permission.AUDIT_READ, audit=Action.AUDIT_RETENTION_GET)
async def preview_audit_retention(call: Call[NoBody, Preview]) -> retentions.OldList:
    """What would be erased today. Nothing is by asking."""
    found = await call.control.retentions.preview(call.org_id, call.query.record, call.query.days)
    return retentions.OldList(old=[retentions.old(it) for it in found])


@endpoint("POST", _RETENTION, permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_RETENTION_ASK, status=201)
async def set_audit_retention(call: Call[retentions.SetRetention, NoQuery]) -> retentions.RetentionAnswer:
    """It holds at once, if it is no shorter than what does; otherwise when somebody else has agreed, and a week later."""
    body = call.body
    said = await call.control.retentions.set(call.caller, call.org_id, body.record, body.days, body.reason)
    return retentions.RetentionAnswer(retention=retentions.retention(said))


@endpoint(
    "POST", _RETENTION + "/{retention_id}/agree", permission=Permission.AUDIT_ERASE, audit=Action.AUDIT_RETENTION_SET
)
async def agree_to_audit_retention(call: Plain) -> retentions.RetentionAnswer:
    """By somebody else than who asked."""
    agreed = await call.control.retentions.agree(call.caller, call.org_id, call.retention_id)
    return retentions.RetentionAnswer(retention=retentions.retention(agreed))
