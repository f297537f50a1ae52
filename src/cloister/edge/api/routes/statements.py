"""What of a project's statements is recorded, and the record."""

from typing import Annotated

import msgspec

from cloister.edge.api.call import Call, NoBody, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import statements as wire
from cloister.edge.api.wire.common import CursorPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action
from cloister.trust.audit.statements import SEGMENTS_MAX

_LEVEL = "/cloister/projects/{project_id}/audit_level"


@endpoint("GET", _LEVEL, permission=Permission.PROJECT_READ, audit=Action.AUDIT_LEVEL_GET)
async def get_audit_level(call: Plain) -> wire.AuditLevelAnswer:
    return wire.AuditLevelAnswer(level=await call.control.statements.level(call.project_id))


@endpoint(
    "PUT",
    _LEVEL,
    permission=Permission.AUDIT_LEVEL_SET,
    may_need=(Permission.AUDIT_LEVEL_LOWER,),
    audit=Action.AUDIT_LEVEL_SET,
)
async def set_audit_level(call: Call[wire.AuditLevelBody, NoQuery]) -> wire.AuditLevelAnswer:
    level = await call.control.statements.set_level(call.caller, call.project_id, call.body.level)
    return wire.AuditLevelAnswer(level=level)


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
    )
