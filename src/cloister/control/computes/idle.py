"""When a compute is idle. Pure: what its server says goes in, a decision comes out.

Neon's rule, which clients rely on: a connection that waits for its client does not hold a compute; work does. So a pool of
a hundred idle connections sleeps, and a transaction left open, a replica, a base backup or a vacuum keep it awake.

What a server says about itself can be a lie of the tenant who took it over. The lie costs that tenant alone: a compute
that is never idle runs on within its limits, one that says it is idle is suspended.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta


@dataclass(frozen=True, slots=True)
class Activity:
    """One look at a running server, our own sessions left out."""

    busy_backends: int
    """Client backends that are not in state `idle`: running, in a transaction, starting, or unknown."""
    walsenders: int
    """Replicas, logical decoding, base backups (pg_basebackup is one)."""
    autovacuum_workers: int
    subscriptions: int
    """Apply workers of subscriptions."""
    last_change_at: Annotated[datetime, Meta(tz=True)] | None
    """When the youngest idle client backend became idle."""
    sessions: int
    """Ever begun, over all databases of the tenant."""
    active_ms: int
    """Ever spent executing, over all databases of the tenant."""

    @property
    def is_alone(self) -> bool:
        """No client is connected."""
        return self.hold is None and self.last_change_at is None

    @property
    def hold(self) -> str | None:
        """What keeps the compute awake right now."""
        if self.busy_backends:
            return "busy backends"
        if self.walsenders:
            return "walsenders"
        if self.subscriptions:
            return "subscriptions"
        if self.autovacuum_workers:
            return "autovacuum"
        return None


@dataclass(frozen=True, slots=True)
class Awake:
    """Look again later. `last_active_at` is what to remember until then."""

    last_active_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Idle:
    since: datetime


def decide(
    activity: Activity,
    before: Activity | None,
    *,
    last_active_at: datetime,
    suspend_timeout: timedelta | None,
    now: datetime,
) -> Awake | Idle:
    """`before` is the look before this one, None for the first; `suspend_timeout` None is never."""
    if activity.hold is not None:
        return Awake(now, activity.hold)
    if before is not None and (activity.sessions, activity.active_ms) != (before.sessions, before.active_ms):
        # Somebody came, worked and left between two looks.
        return Awake(now, "worked since the last look")
    if activity.last_change_at is not None:
        last_active_at = max(last_active_at, min(activity.last_change_at, now))
    if suspend_timeout is None:
        return Awake(last_active_at, "never suspended")
    if now - last_active_at < suspend_timeout:
        return Awake(last_active_at, "not idle long enough")
    return Idle(last_active_at)


def suspend_timeout(seconds: int, default_s: int) -> timedelta | None:
    """`suspend_timeout_seconds` of an endpoint as a time: 0 is the platform's default, -1 never."""
    if seconds < 0 or (seconds == 0 and default_s < 0):
        return None
    return timedelta(seconds=seconds or default_s)
