"""Several events that mean something together: Sigma's correlations `event_count`, `value_count`, `temporal` and
`temporal_ordered`, over a sliding window, per group.

A window never holds more entries than its threshold: what is older cannot decide anything.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloister.trust.sentinel.memory import Grouped, Groups, Key


@dataclass(frozen=True, slots=True)
class Hit:
    """One event, as one of the rules a correlation refers to saw it."""

    rule: str
    at: float
    value: str = ""
    """Of the field whose values are counted."""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Reached:
    """The condition holds now."""

    count: int
    since: float


class Window(Protocol):
    def add(self, key: Key, hits: Sequence[Hit]) -> Reached | None:
        """`hits` are of one event. Reached at that event, or None."""
        ...

    @property
    def lost(self) -> int: ...

    def dump(self) -> Any: ...

    def load(self, dumped: Any) -> None: ...


@dataclass(slots=True)
class _Times:
    span_s: float
    times: deque[float]

    def matters(self, now: float) -> bool:
        return bool(self.times) and now - self.times[-1] <= self.span_s

    def dump(self) -> list[float]:
        return list(self.times)


class EventCount(Grouped[_Times]):
    """At least `threshold` events within the span."""

    def __init__(self, threshold: int, span_s: float) -> None:
        super().__init__(
            Groups(
                lambda: _Times(span_s, deque(maxlen=threshold)),
                lambda times: _Times(span_s, deque(times, maxlen=threshold)),
            )
        )
        self._threshold = threshold
        self._span_s = span_s

    def add(self, key: Key, hits: Sequence[Hit]) -> Reached | None:
        hit = hits[0]
        times = self._groups.touched(key, hit.at).times
        times.extend([hit.at] * min(hit.weight, self._threshold))
        if len(times) < self._threshold or hit.at - times[0] > self._span_s:
            return None
        return Reached(max(hit.weight, len(times)), times[0])


@dataclass(slots=True)
class _Last:
    span_s: float
    last: dict[str, float] = field(default_factory=dict)
    """The newest last."""

    def see(self, value: str, at: float, *, most: int) -> None:
        self.last.pop(value, None)
        self.last[value] = at
        while len(self.last) > most:
            del self.last[next(iter(self.last))]

    def within(self, now: float) -> dict[str, float]:
        return {value: at for value, at in self.last.items() if now - at <= self.span_s}

    def matters(self, now: float) -> bool:
        return any(now - at <= self.span_s for at in self.last.values())

    def dump(self) -> list[tuple[str, float]]:
        return list(self.last.items())


class _ByValue(Grouped[_Last]):
    def __init__(self, span_s: float) -> None:
        super().__init__(Groups(lambda: _Last(span_s), lambda dumped: _Last(span_s, dict(dumped))))


class ValueCount(_ByValue):
    """At least `threshold` different values within the span."""

    def __init__(self, threshold: int, span_s: float) -> None:
        super().__init__(span_s)
        self._threshold = threshold

    def add(self, key: Key, hits: Sequence[Hit]) -> Reached | None:
        hit = hits[0]
        entry = self._groups.touched(key, hit.at)
        entry.see(hit.value, hit.at, most=self._threshold)
        recent = entry.within(hit.at)
        return Reached(len(recent), min(recent.values())) if len(recent) >= self._threshold else None


class Temporal(_ByValue):
    """Each of the rules within the span; `ordered`: at moments in the order of the list. The moments are the events' own:
    two gateways write what they saw independently, and the later event may be in the log first."""

    def __init__(self, rules: Sequence[str], span_s: float, *, ordered: bool) -> None:
        super().__init__(span_s)
        self._rules = tuple(rules)
        self._ordered = ordered

    def add(self, key: Key, hits: Sequence[Hit]) -> Reached | None:
        now = hits[0].at
        entry = self._groups.touched(key, now)
        for hit in hits:
            entry.see(hit.rule, hit.at, most=len(self._rules))
        recent = entry.within(now)
        if len(recent) < len(self._rules):
            return None
        times = [recent[rule] for rule in self._rules]
        if self._ordered and times != sorted(times):
            return None
        return Reached(len(times), min(times))
