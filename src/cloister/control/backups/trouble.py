"""Something of a backup that fails, until it does not any more: how long it is left alone, and when somebody must hear of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

PAUSE_FIRST: Final = timedelta(seconds=30)
PAUSE_MAX: Final = timedelta(minutes=10)
DOUBLINGS_MAX: Final = 10
# After a failure. A store that is down does not come back by asking.

TOLD_AFTER_FAILURES: Final = 3
# A snapshot that was given up meanwhile, a store that was just restarted: the next run mends it.
TOLD_EVERY: Final = timedelta(days=1)


@dataclass(slots=True)
class Trouble:
    what: str
    times: int = 0
    """In a row."""
    problem: str = ""
    left_until: datetime | None = None
    told_at: datetime | None = None

    def is_left(self, now: datetime) -> bool:
        """Alone, for a while after it failed."""
        return self.left_until is not None and now < self.left_until

    def is_to_be_told(self, problem: str, now: datetime) -> bool:
        """It failed once more. Whoever can do something about it is told when it has a few times, and once a day while it goes on."""
        self.problem = problem
        self.times += 1
        self.left_until = now + min(PAUSE_FIRST * 2 ** min(self.times - 1, DOUBLINGS_MAX), PAUSE_MAX)
        is_news = self.told_at is None or now - self.told_at >= TOLD_EVERY
        if self.times >= TOLD_AFTER_FAILURES and is_news:
            self.told_at = now
            return True
        return False

    def is_over(self) -> None:
        self.times, self.problem, self.left_until, self.told_at = 0, "", None, None
