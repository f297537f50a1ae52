"""How often a refusal is worth an event: every caller's first, then one in a while with the number of those between.

Anybody on the host can knock on the broker's socket as fast as they like; the audit log must not grow as fast.
"""

from dataclasses import dataclass, field
from typing import Final

INTERVAL_S: Final = 10.0
# An attempt is noticed at once; a flood makes six events a minute.

CALLERS_MAX: Final = 1000
# Remembered at once. More are forgotten together: then each has a first refusal again.


@dataclass(slots=True)
class _Caller:
    recorded_at: float
    suppressed: int = 0


@dataclass(slots=True)
class Refusals:
    _callers: dict[int, _Caller] = field(default_factory=dict)

    def count(self, uid: int, now: float) -> int | None:
        """Note a refusal. The number that were passed over since the last one recorded, if this one is to be recorded;
        None if it is passed over."""
        caller = self._callers.get(uid)
        if caller is None:
            if len(self._callers) >= CALLERS_MAX:
                self._callers.clear()
            self._callers[uid] = _Caller(now)
            return 0
        if now - caller.recorded_at < INTERVAL_S:
            caller.suppressed += 1
            return None
        suppressed, caller.suppressed, caller.recorded_at = caller.suppressed, 0, now
        return suppressed
