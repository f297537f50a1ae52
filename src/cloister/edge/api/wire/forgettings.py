"""The erasing of one person in the audit log's events, as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.projects.forgetting import Forgetting, SubjectKind
from cloister.edge.api.wire.common import Wire


class AskForgetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: SubjectKind
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=254)]
    """A role's name, an address, or an account: its id, or its e-mail address."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is not forgotten: do not name the person in it."""


class ForgettingView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str | None = None
    """Left out: in the whole log."""
    kind: str
    subject: str | None = None
    """Left out once it is forgotten."""
    reason: str
    asked_by: str
    asked_at: datetime
    agreed_by: str | None = None
    agreed_at: datetime | None = None
    """Until then nothing is erased."""
    up_to: int
    """The last event that it is about."""
    events: int
    """That are about the subject; once it was agreed to, that were erased."""
    remaining: int
    """That are about it, too, and stay: from before what is personal stood apart."""


class ForgettingAnswer(Wire, frozen=True, kw_only=True):
    forgetting: ForgettingView


class ForgettingList(Wire, frozen=True, kw_only=True):
    forgettings: list[ForgettingView]


def forgetting(it: Forgetting) -> ForgettingView:
    return ForgettingView(
        id=str(it.id),
        project_id=it.project_id,
        kind=it.kind.value,
        subject=it.subject,
        reason=it.reason,
        asked_by=it.asked_by,
        asked_at=it.asked_at,
        agreed_by=it.agreed_by,
        agreed_at=it.agreed_at,
        up_to=it.up_to,
        events=it.events,
        remaining=it.remaining,
    )
