"""How often. Pure: the time is an argument, in seconds of any clock that never goes back."""

from collections import OrderedDict
from collections.abc import Hashable


class Buckets:
    """A token bucket per key: `burst` at once, `per_s` in the long run. Remembers at most `keys_max` keys."""

    def __init__(self, *, per_s: float, burst: float, keys_max: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._keys_max = keys_max
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def has_token(self, key: Hashable, now: float) -> bool:
        return self._level(key, now) >= 1

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token, if there is one."""
        level = self._level(key, now)
        if level < 1:
            return False
        self._levels[key] = (level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return True

    def _level(self, key: Hashable, now: float) -> float:
        level, at = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - at) * self._per_s)
