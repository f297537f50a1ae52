"""What is usual for one group, learned from its own events: `never_seen`, `deviation`, `dormant`, `hours`.

Nothing is unusual before there is a usual: a group teaches for `learn_days` and `learn_events` before it can raise an
alarm. What raised one is learned too, but one extreme value moves the usual no further than the edge of it, so that the
second theft is as visible as the first.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cloister.trust.sentinel.memory import Grouped, Groups, Key

DAY_S: Final = 86_400.0

VALUES_MAX: Final = 64
RESTLESS_DAYS: Final = 30.0
# Networks of one role. Who comes from more within a month, as a cloud's functions do, moves so much that a new one says
# nothing. Somebody who holds a role and wants it to be so has raised the alarm with the first of theirs.

_WEIGHT: Final = 0.1
# Of the newest value in the moving averages: the usual is what the last twenty or so were.

_DEVIATION_FLOOR: Final = 0.1
# A group that always does exactly the same must not raise an alarm for one byte more.

HOURS_KEPT_DAYS: Final = 30.0
HOURS_BESIDE: Final = 2
# A clock that is put forward, and a day that began early, are no news.
REGULAR_HOURS_MAX: Final = 16
# With those beside them. Whoever comes at more hours of the day than that has no habit to break.


@dataclass(frozen=True, slots=True)
class Learning:
    days: float
    events: int

    def is_over(self, first: float, now: float, seen: int) -> bool:
        return seen >= self.events and now - first >= self.days * DAY_S


class Baseline(Protocol):
    def see(self, key: Key, at: float, value: Any) -> str | None:
        """Why it is unusual, in words; None if it is not, or nobody can know yet."""
        ...

    @property
    def lost(self) -> int: ...

    def dump(self) -> Any: ...

    def load(self, dumped: Any) -> None: ...


@dataclass(slots=True)
class _Seen:
    first: float = -1.0
    last: float = -1.0
    count: int = 0
    values: dict[str, float] = field(default_factory=dict)
    mean: float = 0.0
    deviation: float = 0.0

    def matters(self, now: float) -> bool:
        return self.count > 1 and now - self.last < DAY_S

    def dump(self) -> list[Any]:
        return [self.first, self.last, self.count, list(self.values.items()), self.mean, self.deviation]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> "_Seen":
        first, last, count, values, mean, deviation = dumped
        return cls(first, last, count, dict(values), mean, deviation)

    def note(self, at: float) -> None:
        if self.first < 0:
            self.first = at
        self.last = max(self.last, at)
        self.count += 1


class _Learned(Grouped[_Seen]):
    def __init__(self) -> None:
        super().__init__(Groups(_Seen, _Seen.load))


class NeverSeen(_Learned):
    """A value that this group never had."""

    def __init__(self, learning: Learning) -> None:
        super().__init__()
        self._learning = learning

    def see(self, key: Key, at: float, value: Any) -> str | None:
        entry = self._groups.touched(key, at)
        text = str(value)
        is_new = text not in entry.values
        is_known = self._learning.is_over(entry.first, at, entry.count)
        usual = ", ".join(list(entry.values)[-3:])
        others = len(entry.values) - 3
        is_restless = len(entry.values) >= VALUES_MAX and at - min(entry.values.values()) <= RESTLESS_DAYS * DAY_S
        entry.values.pop(text, None)
        entry.values[text] = at
        while len(entry.values) > VALUES_MAX:
            del entry.values[next(iter(entry.values))]
        seen = entry.count
        entry.note(at)
        if not (is_new and is_known) or is_restless:
            return None
        more = f" and {others} more" if others > 0 else ""
        return f"{text} was never seen; usual in {seen} events before: {usual}{more}"


class Deviation(_Learned):
    """A number at least `floor` and more than `factor` mean deviations above what is usual for the group."""

    def __init__(self, learning: Learning, *, factor: float, floor: float) -> None:
        super().__init__()
        self._learning = learning
        self._factor = factor
        self._floor = floor

    def see(self, key: Key, at: float, value: Any) -> str | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        entry = self._groups.touched(key, at)
        edge = self._edge(entry)
        is_known = self._learning.is_over(entry.first, at, entry.count)
        usual, is_unusual = entry.mean, is_known and value > edge
        taken = min(float(value), edge) if is_known else float(value)
        if entry.count == 0:
            entry.mean = taken
        else:
            entry.deviation += _WEIGHT * (abs(taken - entry.mean) - entry.deviation)
            entry.mean += _WEIGHT * (taken - entry.mean)
        entry.note(at)
        return _remark(value, usual, edge) if is_unusual else None

    def judge(self, key: Key, at: float, value: Any) -> str | None:
        """As `see`, and nothing is learned of it: it is not all yet, and all of it will be seen."""
        entry = self._groups.known(key)
        if entry is None or not isinstance(value, int | float) or isinstance(value, bool):
            return None
        edge = self._edge(entry)
        if value <= edge or not self._learning.is_over(entry.first, at, entry.count):
            return None
        return _remark(value, entry.mean, edge)

    def _edge(self, entry: _Seen) -> float:
        spread = max(entry.deviation, _DEVIATION_FLOOR * entry.mean)
        return max(self._floor, entry.mean + self._factor * spread)


def _remark(value: float, usual: float, edge: float) -> str:
    return f"{value:,.0f}, where {usual:,.0f} is usual and {edge:,.0f} the most that would not be remarked"


class Dormant(_Learned):
    """A group that did nothing for so many days, and now does."""

    def __init__(self, days: float) -> None:
        super().__init__()
        self._days = days

    def see(self, key: Key, at: float, value: Any) -> str | None:  # noqa: ARG002 - the port's
        entry = self._groups.touched(key, at)
        silent = at - entry.last
        is_known = entry.count > 0
        entry.note(at)
        if not is_known or silent < self._days * DAY_S:
            return None
        return f"nothing for {silent / DAY_S:.0f} days"


class Hours(_Learned):
    """An hour of the day far from all at which this group did anything within a month, if it has such hours: it came on
    as many days as must be learned, always within two thirds of the day. Hours are UTC's, and the last is beside the first."""

    def __init__(self, learning: Learning) -> None:
        super().__init__()
        self._learning = learning

    def see(self, key: Key, at: float, value: Any) -> str | None:  # noqa: ARG002 - the port's
        entry = self._groups.touched(key, at)
        for old in [what for what, last in entry.values.items() if at - last > HOURS_KEPT_DAYS * DAY_S]:
            del entry.values[old]
        hours = {int(what[1:]) for what in entry.values if what.startswith("h")}
        days = len(entry.values) - len(hours)
        usual = {(hour + beside) % 24 for hour in hours for beside in range(-HOURS_BESIDE, HOURS_BESIDE + 1)}
        is_habit = self._learning.is_over(entry.first, at, days) and len(usual) <= REGULAR_HOURS_MAX
        hour = int(at // 3600) % 24
        entry.values[f"h{hour}"] = entry.values[f"d{int(at // DAY_S)}"] = at
        entry.note(at)
        if not is_habit or hour in usual:
            return None
        return f"at {_spans({hour})} UTC; usual on {days} days of the last {HOURS_KEPT_DAYS:.0f}: {_spans(hours)}"


def _spans(hours: Collection[int]) -> str:
    """`08:00-17:00, 22:00-02:00`: neighbours together, over midnight as well."""
    firsts = sorted(hour for hour in hours if (hour - 1) % 24 not in hours)
    ends = [next((it + 1) % 24 for it in range(first, first + 24) if (it + 1) % 24 not in hours) for first in firsts]
    return ", ".join(f"{first:02}:00-{end:02}:00" for first, end in zip(firsts, ends, strict=True))
