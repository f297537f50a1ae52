"""Time frames that consumption is asked for in: hours, days and months, in UTC. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

Granularity: TypeAlias = Literal["hourly", "daily", "monthly"]

REACH: Final[dict[Granularity, timedelta]] = {
    "hourly": timedelta(hours=168),
    "daily": timedelta(days=60),
    "monthly": timedelta(days=366),
}
"""How far back each goes: Neon's limits, which its clients know."""


@dataclass(frozen=True, slots=True)
class Span:
    """From the beginning of one frame to the end of another."""

    granularity: Granularity
    begin: datetime
    end: datetime


def span(granularity: Granularity, since: datetime, until: datetime, now: datetime) -> Span | None:
    """The frames that the time between two moments touches. None if it is empty, or begins before what `granularity` reaches
    back to."""
    if since >= until or since < beginning(granularity, now - REACH[granularity]):
        return None
    begin, last = beginning(granularity, since), beginning(granularity, until)
    return Span(granularity, begin, last if last == until else ending(granularity, last))


def beginning(granularity: Granularity, moment: datetime) -> datetime:
    """Of the frame that the moment is in."""
    start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if granularity == "hourly":
        return start
    return start.replace(hour=0, day=1) if granularity == "monthly" else start.replace(hour=0)


def ending(granularity: Granularity, begin: datetime) -> datetime:
    """Of the frame that begins there."""
    if granularity == "hourly":
        return begin + timedelta(hours=1)
    if granularity == "daily":
        return begin + timedelta(days=1)
    return beginning("monthly", begin + timedelta(days=31))
