"""How long to leave a compute alone that keeps dying. Pure: the clock is an argument.

One death is bad luck: it is started again at once. A compute that dies again and again (a full disk, a damaged file, a
setting it cannot start with) must not take the host's time from its neighbours, however many clients ask for it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

FREE_DEATHS: Final = 1
PAUSE_FIRST: Final = timedelta(seconds=1)
PAUSE_MAX: Final = timedelta(seconds=60)
FORGIVEN_AFTER: Final = timedelta(minutes=5)
# A compute that lived this long was not in a loop.


@dataclass(frozen=True, slots=True)
class _Deaths:
    count: int
    last_at: datetime

    @property
    def pause(self) -> timedelta:
        if self.count <= FREE_DEATHS:
            return timedelta(0)
        doublings = min(self.count - FREE_DEATHS - 1, 10)
        return min(PAUSE_FIRST * (1 << doublings), PAUSE_MAX)


class Backoff:
    """Deaths per endpoint, since this process began: a restart of ours forgives all."""

    def __init__(self) -> None:
        self._deaths: dict[str, _Deaths] = {}

    def died(self, endpoint_id: str, now: datetime) -> None:
        """Or did not come up."""
        before = self._deaths.get(endpoint_id)
        count = before.count if before is not None and now - before.last_at < FORGIVEN_AFTER else 0
        self._deaths[endpoint_id] = _Deaths(count + 1, now)

    def lived(self, endpoint_id: str) -> None:
        """It was suspended in health, or what it died of is mended."""
        self._deaths.pop(endpoint_id, None)

    def wait(self, endpoint_id: str, now: datetime) -> timedelta:
        """How long until it may be started again; zero: now."""
        deaths = self._deaths.get(endpoint_id)
        if deaths is None:
            return timedelta(0)
        return max(timedelta(0), deaths.last_at + deaths.pause - now)
