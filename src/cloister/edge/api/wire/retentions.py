"""For how long what is recorded is kept, as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.projects.retention import DAYS_MAX, DAYS_MIN, Class, Old, Prunable, Retention
from cloister.edge.api.wire.common import Wire
from cloister.trust.audit.minimum import DAYS_MIN as EVENTS_DAYS_MIN

Days = Annotated[int, msgspec.Meta(ge=DAYS_MIN, le=DAYS_MAX)]


class SetRetention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    record: Class
    days: Days | None
    """null: without end."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is in the audit log for good."""


EventsDays = Annotated[int, msgspec.Meta(ge=EVENTS_DAYS_MIN, le=DAYS_MAX)]


class SetEventsRetention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    days: EventsDays | None
    """null: without end."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is in the audit log for as long as this event is."""


class RetentionView(Wire, frozen=True, kw_only=True):
    id: str
    org_id: str | None = None
    """Left out: the platform's."""
    record: str
    days: int | None = None
    """Left out: without end."""
    reason: str
    asked_by: str
    asked_at: datetime
    agreed_by: str | None = None
    holds_from: datetime | None = None
    """Left out: it is for less long than before, and nobody else has agreed."""
    state: str
    """`holds`; `asked` and `agreed`, while it may come to hold; `over`, since something was set after it."""


class RetentionAnswer(Wire, frozen=True, kw_only=True):
    retention: RetentionView


class RetentionList(Wire, frozen=True, kw_only=True):
    """A record of which nothing here holds is kept without end."""

    retentions: list[RetentionView]


class PrunableAnswer(Wire, frozen=True, kw_only=True):
    """Of the audit log's own events."""

    pruned: int
    """The last that went; 0: every event is there."""
    up_to: int
    """The last that would go."""
    kept_by: str
    """What keeps the next: `age`, `hold`, `statements`, `recording`, `sentinel`, `export`."""
    announced: int | None = None
    """Up to which the log says that they go, and they are still there."""


class OldView(Wire, frozen=True, kw_only=True):
    record: str
    project_id: str
    resource: str
    statements: int
    first_at: datetime
    last_at: datetime
    is_held: bool
    """By a legal hold: it stays."""


class OldList(Wire, frozen=True, kw_only=True):
    """What would be erased today."""

    old: list[OldView]


def retention(it: Retention) -> RetentionView:
    return RetentionView(
        id=str(it.id),
        org_id=it.org_id,
        record=it.what.value,
        days=it.days,
        reason=it.reason,
        asked_by=it.asked_by,
        asked_at=it.asked_at,
        agreed_by=it.agreed_by,
        holds_from=it.holds_from,
        state=it.state,
    )


def prunable(it: Prunable) -> PrunableAnswer:
    return PrunableAnswer(pruned=it.pruned, up_to=it.up_to, kept_by=it.kept_by, announced=it.announced)


def old(it: Old) -> OldView:
    return OldView(
        record=it.what.value,
        project_id=it.project_id,
        resource=it.resource,
        statements=it.statements,
        first_at=it.first_at,
        last_at=it.last_at,
        is_held=it.is_held,
    )
