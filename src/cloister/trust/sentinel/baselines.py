"""What is usual for one group, learned from its own events: `never_seen`, `deviation`, `dormant`.

Nothing is unusual before there is a usual: a group teaches for `learn_days` and `learn_events` before it can raise an
alarm. What raised one is learned too, but one extreme value moves the usual no further than the edge of it, so that the
second theft is as visible as the first.
"""

from collections.abc import Sequence
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
        spread = max(entry.deviation, _DEVIATION_FLOOR * entry.mean)
        edge = max(self._floor, entry.mean + self._factor * spread)
        is_known = self._learning.is_over(entry.first, at, entry.count)
        usual, is_unusual = entry.mean, is_known and value > edge
        taken = min(float(value), edge) if is_known else float(value)
        if entry.count == 0:
            entry.mean = taken
        else:
            entry.deviation += _WEIGHT * (abs(taken - entry.mean) - entry.deviation)
            entry.mean += _WEIGHT * (taken - entry.mean)
        entry.note(at)
        if not is_unusual:
            return None
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
