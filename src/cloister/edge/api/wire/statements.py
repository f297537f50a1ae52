"""A project's audit level and statement log, as JSON."""

from datetime import datetime
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
    count: int
    erased_at: datetime | None = None
    """Then nothing of them is left but how many they were, and the segment's digest in the audit log."""


class SegmentList(Wire, frozen=True, kw_only=True):
    segments: list[SegmentView]
    pagination: CursorPage | None = None
    pruned: str | None = None
    """In words, which events of the audit log were pruned, and with them what could not be read any more. Left out: none."""


def segment(it: Segment) -> SegmentView:
    statements = [msgspec.to_builtins(each) for each in it.statements]
    return SegmentView(id=it.id, statements=statements, count=it.count, erased_at=it.erased_at)
