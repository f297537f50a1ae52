"""How long a finding may wait for somebody, and how long findings did. Pure.

A clock runs from the moment that a finding is raised: first until somebody acknowledges it, then until it is resolved. It tells
people who is late; nothing else happens when it ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Clock:
    acknowledge: timedelta
    resolve: timedelta


CLOCKS: Final = {
    "critical": Clock(timedelta(minutes=15), timedelta(hours=4)),
    "high": Clock(timedelta(hours=1), timedelta(days=1)),
    "medium": Clock(timedelta(hours=8), timedelta(days=7)),
    "low": Clock(timedelta(days=3), timedelta(days=30)),
}
"""Critical: when the alert is repeated (`ESCALATE_AFTER_S`), somebody should have answered the first. High: an hour is at night, too.
Medium: a working day. Low: past a weekend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is measured of one finding."""

    level: str
    first_at: str
    """When the event happened that completed it, as the log has it."""
    raised_at: datetime
    acknowledged_at: datetime | None
    resolved_at: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class Times:
    """Of some findings."""

    count: int
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one level."""

    level: str
    raised: int
    detect: Times
    """From the event to the finding."""
    acknowledge: Times
    """From the finding to who says that they look at it."""
    resolve: Times
    unresolved: int
    """Now, however old."""
    overdue: int
    """Of these, past their clock."""


def due(level: str, state: str, raised_at: datetime) -> datetime | None:
    """When the clock that runs now ends; None: none does."""
    match state:
        case "open":
            return raised_at + CLOCKS[level].acknowledge
        case "acknowledged":
            return raised_at + CLOCKS[level].resolve
        case _:
            return None


def measure(courses: Sequence[Course], since: datetime, now: datetime) -> list[Measured]:
    """By level, the gravest first. `courses`: what was raised since then, and all that is not resolved."""
    found = []
    for level in CLOCKS:
        mine = [it for it in courses if it.level == level]
        recent = [it for it in mine if it.raised_at >= since]
        ends = [due(level, it.state, it.raised_at) for it in mine]
        found.append(
            Measured(
                level,
                len(recent),
                _times((_moment(it.first_at), it.raised_at) for it in recent),
                _times((it.raised_at, it.acknowledged_at) for it in recent),
                _times((it.raised_at, it.resolved_at) for it in recent),
                sum(end is not None for end in ends),
                sum(end is not None and end < now for end in ends),
            )
        )
    return found


def _times(spans: Iterable[tuple[datetime | None, datetime | None]]) -> Times:
    """Of those that have both ends. Percentiles are of those that there were: the smallest that so many do not exceed."""
    took = sorted((end - begin).total_seconds() for begin, end in spans if begin is not None and end is not None)
    if not took:
        return Times(0, None, None)
    p50, p95 = (took[max(0, -(-len(took) * percent // 100) - 1)] for percent in (50, 95))
    return Times(len(took), p50, p95)


def _moment(text: str) -> datetime | None:
    """The log is not ours to trust."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
