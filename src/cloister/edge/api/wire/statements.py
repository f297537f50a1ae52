"""A project's audit level and statement log, as JSON."""

from typing import Any

import msgspec

from cloister.base.audit_levels import AuditLevel
from cloister.edge.api.wire.common import CursorPage, Wire
from cloister.trust.audit.statements import Segment


class AuditLevelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: AuditLevel


class AuditLevelAnswer(Wire, frozen=True, kw_only=True):
    level: AuditLevel


class SegmentView(Wire, frozen=True, kw_only=True):
    id: int
    statements: list[dict[str, Any]]
    """In the order in which they ended."""


class SegmentList(Wire, frozen=True, kw_only=True):
    segments: list[SegmentView]
    pagination: CursorPage | None = None


def segment(it: Segment) -> SegmentView:
    return SegmentView(id=it.id, statements=[msgspec.to_builtins(each) for each in it.statements])
