"""The erasing of a project's statements, as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.projects.erasures import Erasure
from cloister.edge.api.wire.common import Wire


class AskErasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    up_to: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Only months of which nothing was recorded then or later."""


class ErasureView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    up_to: datetime | None = None
    reason: str
    asked_by: str
    asked_at: datetime
    agreed_by: str | None = None
    agreed_at: datetime | None = None
    """Until then nothing is erased."""
    segments: int
    statements: int
    remaining: int
    """Segments that this cannot erase: they are from before there were keys for it."""


class ErasureAnswer(Wire, frozen=True, kw_only=True):
    erasure: ErasureView


class ErasureList(Wire, frozen=True, kw_only=True):
    erasures: list[ErasureView]


def erasure(it: Erasure) -> ErasureView:
    return ErasureView(
        id=str(it.id),
        project_id=it.project_id,
        up_to=it.up_to,
        reason=it.reason,
        asked_by=it.asked_by,
        asked_at=it.asked_at,
        agreed_by=it.agreed_by,
        agreed_at=it.agreed_at,
        segments=it.segments,
        statements=it.statements,
        remaining=it.remaining,
    )
