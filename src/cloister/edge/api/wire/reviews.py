"""Access reviews and the policy that begins them."""

from typing import Annotated, Any, Literal

import msgspec

from cloister.control.reviews.model import (
    ANSWER_DAYS_DEFAULT,
    ANSWER_DAYS_MAX,
    EVERY_DAYS_MAX,
    EVERY_DAYS_MIN,
    NOTE_CHARS_MAX,
    Item,
    Policy,
    Review,
)
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment

AnswerDays = Annotated[int, msgspec.Meta(ge=1, le=ANSWER_DAYS_MAX)]


class StartReview(Request, frozen=True, kw_only=True):
    answer_days: AnswerDays = ANSWER_DAYS_DEFAULT
    unanswered_rights_lapse: bool = True
    """Of what nobody has answered for by then: it is taken back, or only reported."""


class AnswerItem(Request, frozen=True, kw_only=True):
    decision: Literal["keep", "remove"]
    note: Annotated[str, msgspec.Meta(max_length=NOTE_CHARS_MAX)] = ""


class SetReviewPolicy(Request, frozen=True, kw_only=True):
    every_days: Annotated[int, msgspec.Meta(ge=EVERY_DAYS_MIN, le=EVERY_DAYS_MAX)]
    answer_days: AnswerDays = ANSWER_DAYS_DEFAULT
    unanswered_rights_lapse: bool = True


class ReviewItem(Wire, frozen=True, kw_only=True):
    number: int
    kind: str
    id: str
    """The member's, the permission's, the API key's, the shift's or the service account's."""
    project_id: str | None
    facts: dict[str, Any]
    """As they were when the review began."""
    decision: str | None
    decided_by: str | None
    decided_at: Moment | None
    note: str


class ReviewView(Wire, frozen=True, kw_only=True):
    id: str
    started_by: str
    started_at: Moment
    due_at: Moment
    unanswered_rights_lapse: bool
    closed_at: Moment | None
    rights: int
    unanswered: int
    sha256: str | None
    """Of the report's UTF-8, which the audit log has as well."""


class ReviewList(Wire, frozen=True, kw_only=True):
    access_reviews: list[ReviewView]


class ReviewAnswer(Wire, frozen=True, kw_only=True):
    access_review: ReviewView
    items: list[ReviewItem]
    report: str | None
    """Of a closed one: a line of JSON."""


class ReviewPolicyView(Wire, frozen=True, kw_only=True):
    every_days: int
    answer_days: int
    unanswered_rights_lapse: bool
    since: Moment


def view(review: Review) -> ReviewView:
    return ReviewView(
        id=str(review.id),
        started_by=review.started_by,
        started_at=moment(review.started_at),
        due_at=moment(review.due_at),
        unanswered_rights_lapse=review.lapses,
        closed_at=optional_moment(review.closed_at),
        rights=len(review.items),
        unanswered=review.open_count,
        sha256=review.digest,
    )


def answer(review: Review) -> ReviewAnswer:
    return ReviewAnswer(access_review=view(review), items=[_item(item) for item in review.items], report=review.report)


def policy(found: Policy) -> ReviewPolicyView:
    return ReviewPolicyView(
        every_days=found.every_days,
        answer_days=found.answer_days,
        unanswered_rights_lapse=found.lapses,
        since=moment(found.since),
    )


def _item(item: Item) -> ReviewItem:
    return ReviewItem(
        number=item.number,
        kind=item.kind,
        id=item.subject,
        project_id=item.project_id,
        facts=item.facts,
        decision=item.decision,
        decided_by=item.decided_by,
        decided_at=optional_moment(item.decided_at),
        note=item.note,
    )
