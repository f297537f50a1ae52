"""A review, its items and its report. Pure.

A review asks of every right in an organization whether it is still needed: of each member, each grant of a project, each of the
organization's keys, each shift on call, each service account. Somebody other than whose it is keeps it or takes it back. What
nobody has answered for at the end lapses, if the review says so: it is taken back as well. The last admin is never taken away.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from cloister.base import versions
from cloister.base.errors import BadRequestError
from cloister.base.ids import OrgId, ProjectId

ANSWER_DAYS_DEFAULT: Final = 14
ANSWER_DAYS_MAX: Final = 60
EVERY_DAYS_MIN: Final = 7
EVERY_DAYS_MAX: Final = 366
# At least once a year; a review that never ends because the next one has begun is none.
NOTE_CHARS_MAX: Final = 500


class Kind(StrEnum):
    MEMBER = "member"
    """Somebody's role in the organization."""
    GRANT = "grant"
    """Somebody's role in one project."""
    KEY = "key"
    """Of the organization, or for one project. Nobody's own: whoever made it may answer for it."""
    SHIFT = "shift"
    """When somebody may decide about access to data."""
    SERVICE = "service"
    """A service account, with its role, its grants and its keys. Nobody's own, but its owner does not vouch for it."""


class Decision(StrEnum):
    KEPT = "kept"
    REMOVED = "removed"
    LAPSED = "lapsed"
    """Nobody answered in time, so it was taken back."""
    GONE = "gone"
    """It was not there any more."""
    HELD = "held"
    """The only admin's, for whom nobody can answer and without whom there would be none."""
    UNANSWERED = "unanswered"
    """Nobody answered in time, and this review takes nothing back by itself."""


@dataclass(frozen=True, slots=True)
class Item:
    number: int
    kind: Kind
    subject: str
    """The account's, the grant's, the key's, the shift's or the service account's id."""
    project_id: ProjectId | None
    account_id: UUID | None
    """Whose it is. None for a key and a service account: they are the organization's."""
    facts: dict[str, Any]
    """What it is, as it was when the review began."""
    decision: Decision | None = None
    decided_by: str | None = None
    """An address."""
    decided_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Review:
    id: UUID
    org_id: OrgId
    started_by: str
    started_at: datetime
    due_at: datetime
    lapses: bool
    closed_at: datetime | None
    items: tuple[Item, ...]
    report: str | None = None
    """Of a closed one: what was hashed, to the byte."""
    digest: str | None = None

    @property
    def open_count(self) -> int:
        return sum(item.decision is None for item in self.items)


@dataclass(frozen=True, slots=True)
class Policy:
    every_days: int
    answer_days: int
    lapses: bool
    since: datetime

    def version(self, org_id: OrgId) -> str:
        return versions.version("access_review_policy", org_id, self.every_days, self.answer_days, self.lapses)

    def check(self) -> None:
        """Raises BadRequestError."""
        if not EVERY_DAYS_MIN <= self.every_days <= EVERY_DAYS_MAX:
            raise BadRequestError(public=f"every_days must be {EVERY_DAYS_MIN} to {EVERY_DAYS_MAX}")
        check_answer_days(self.answer_days)
        if self.answer_days >= self.every_days:
            raise BadRequestError(
                public="answer_days must be less than every_days: a review ends before the next begins"
            )

    def is_due(self, last_started_at: datetime | None, now: datetime) -> bool:
        return now >= (last_started_at or self.since) + timedelta(days=self.every_days)


def check_answer_days(days: int) -> None:
    """Raises BadRequestError."""
    if not 1 <= days <= ANSWER_DAYS_MAX:
        raise BadRequestError(public=f"answer_days must be 1 to {ANSWER_DAYS_MAX}")


def report(review: Review, closed_at: datetime) -> tuple[str, str]:
    """(the report, its SHA-256 in hex): one line of JSON whose keys are in order, so that the same review is the same bytes."""
    said = {
        "review_id": str(review.id),
        "organization_id": review.org_id,
        "started_by": review.started_by,
        "started_at": _text(review.started_at),
        "due_at": _text(review.due_at),
        "closed_at": _text(closed_at),
        "unanswered_rights_lapse": review.lapses,
        "items": [
            {
                "number": item.number,
                "kind": item.kind,
                "id": item.subject,
                "project_id": item.project_id,
                "facts": item.facts,
                "decision": item.decision,
                "decided_by": item.decided_by,
                "decided_at": None if item.decided_at is None else _text(item.decided_at),
                "note": item.note,
            }
            for item in review.items
        ],
    }
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text, hashlib.sha256(text.encode()).hexdigest()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
