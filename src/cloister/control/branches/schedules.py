"""When a schedule's next snapshot is due. Pure. All of it is UTC.

An item says how often (hourly, daily, weekly, monthly, yearly) and, as far as that leaves it open, at which month, day and
hour. A day that a month does not have is its last: a snapshot of the 31st is taken on the 30th of June.
"""

import calendar
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from cloister.base import versions
from cloister.base.errors import BadRequestError
from cloister.base.ids import BranchId
from cloister.control.branches.model import ScheduleItem

FREQUENCIES: Final = ("hourly", "daily", "weekly", "monthly", "yearly")
RETENTION_MIN_S: Final = 3600
# Neon's.
ITEMS_MAX: Final = 16

_FIELDS: Final = {
    "hourly": (),
    "daily": ("hour",),
    "weekly": ("hour", "day"),
    "monthly": ("hour", "day"),
    "yearly": ("hour", "day", "month"),
}
_WEEKDAYS: Final = 7


def checked(items: list[ScheduleItem]) -> list[ScheduleItem]:
    """Raises BadRequestError."""
    if len(items) > ITEMS_MAX:
        raise BadRequestError(f"{len(items)} items", public=f"a schedule has at most {ITEMS_MAX} items")
    for item in items:
        if item.frequency not in _FIELDS:
            raise BadRequestError(
                f"frequency {item.frequency[:40]!r}", public=f"frequency must be one of {', '.join(FREQUENCIES)}"
            )
        fields = _FIELDS[item.frequency]
        limits = {"hour": (0, 23), "day": (1, _WEEKDAYS if item.frequency == "weekly" else 31), "month": (1, 12)}
        for name, (lowest, highest) in limits.items():
            value = getattr(item, name)
            if value is not None and (name not in fields or not lowest <= value <= highest):
                raise BadRequestError(
                    f"{item.frequency} {name} {value}",
                    public=f"{name} of a {item.frequency} schedule must be {lowest} to {highest}"
                    if name in fields
                    else f"a {item.frequency} schedule has no {name}",
                )
        if item.retention_seconds is not None and item.retention_seconds < RETENTION_MIN_S:
            raise BadRequestError("retention", public=f"retention_seconds must be at least {RETENTION_MIN_S}")
    return items


def version_of(branch_id: BranchId, items: list[ScheduleItem]) -> str:
    return versions.version("schedule", branch_id, items)


def due(items: Iterable[ScheduleItem], since: datetime, now: datetime) -> ScheduleItem | None:
    """The item whose time came after `since` and is not in the future. Of several, the one that is kept longest: one
    snapshot serves them all."""
    ripe = [item for item in items if next_due(item, since) <= now]
    return max(ripe, key=_kept_for, default=None)


def next_due(item: ScheduleItem, after: datetime) -> datetime:
    """The first moment after `after`."""
    moment = after.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if item.frequency == "hourly":
        return moment + timedelta(hours=1)
    moment = moment.replace(hour=item.hour or 0)
    match item.frequency:
        case "daily":
            candidates = [moment + timedelta(days=days) for days in (0, 1)]
        case "weekly":
            ahead = ((item.day or 1) - moment.isoweekday()) % _WEEKDAYS
            candidates = [moment + timedelta(days=ahead + days) for days in (0, _WEEKDAYS)]
        case "monthly":
            months = [(moment.year, moment.month), _month_after(moment.year, moment.month)]
            candidates = [_on(moment, year, month, item.day or 1) for year, month in months]
        case _:
            candidates = [_on(moment, moment.year + years, item.month or 1, item.day or 1) for years in (0, 1)]
    return min(candidate for candidate in candidates if candidate > after)


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)


def _on(moment: datetime, year: int, month: int, day: int) -> datetime:
    return moment.replace(year=year, month=month, day=min(day, calendar.monthrange(year, month)[1]))


def _kept_for(item: ScheduleItem) -> float:
    return float("inf") if item.retention_seconds is None else item.retention_seconds
