"""Legal holds on what is recorded of a project, as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.projects.holds import Hold
from cloister.edge.api.wire.common import Wire


class HoldReason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is in the audit log for good."""


class HoldView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    reason: str
    placed_by: str
    placed_at: datetime
    lift_reason: str | None = None
    lift_asked_by: str | None = None
    lift_asked_at: datetime | None = None
    lifted_by: str | None = None
    lifted_at: datetime | None = None
    """Until then it stands."""


class HoldAnswer(Wire, frozen=True, kw_only=True):
    hold: HoldView


class HoldList(Wire, frozen=True, kw_only=True):
    holds: list[HoldView]


def hold(it: Hold) -> HoldView:
    return HoldView(
        id=str(it.id),
        project_id=it.project_id,
        reason=it.reason,
        placed_by=it.placed_by,
        placed_at=it.placed_at,
        lift_reason=it.lift_reason,
        lift_asked_by=it.lift_asked_by,
        lift_asked_at=it.lift_asked_at,
        lifted_by=it.lifted_by,
        lifted_at=it.lifted_at,
    )
