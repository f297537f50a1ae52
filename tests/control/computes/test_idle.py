"""The idle rule, as a table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.control.computes.idle import Activity, Awake, Idle, decide, suspend_timeout
from tests.control.fake_node import QUIET

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
TIMEOUT = timedelta(minutes=5)


def decided(activity: Activity, before: Activity | None = QUIET, **given: Any) -> Awake | Idle:
    arguments: dict[str, Any] = {"last_active_at": LONG_AGO, "suspend_timeout": TIMEOUT, "now": NOW} | given
    return decide(activity, before, **arguments)


def test_a_server_with_nothing_to_do_is_idle_since_its_last_work() -> None:
    assert decided(QUIET) == Idle(LONG_AGO)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ({"busy_backends": 1}, "busy backends"),
        ({"walsenders": 1}, "walsenders"),
        ({"autovacuum_workers": 1}, "autovacuum"),
        ({"subscriptions": 1}, "subscriptions"),
        ({"sessions": 2}, "worked since the last look"),
        ({"active_ms": 2}, "worked since the last look"),
        ({"sessions": 0}, "worked since the last look"),  # a reset of statistics is somebody's doing too
    ],
)
def test_work_keeps_it_awake(work: dict[str, Any], reason: str) -> None:
    assert decided(replace(QUIET, **work)) == Awake(NOW, reason)


@pytest.mark.parametrize(
    ("idle_for", "expected"),
    [
        (TIMEOUT - timedelta(seconds=1), Awake),
        (TIMEOUT, Idle),
    ],
)
def test_idle_connections_hold_it_only_until_they_were_idle_long_enough(
    idle_for: timedelta, expected: type[Awake | Idle]
) -> None:
    assert isinstance(decided(replace(QUIET, last_change_at=NOW - idle_for)), expected)


def test_the_first_look_knows_no_difference() -> None:
    assert decided(replace(QUIET, sessions=99), before=None) == Idle(LONG_AGO)


def test_a_server_whose_clock_is_ahead_cannot_be_active_in_the_future() -> None:
    activity = replace(QUIET, last_change_at=NOW + timedelta(days=9))
    assert decided(activity) == Awake(NOW, "not idle long enough")
    assert isinstance(decided(activity, now=NOW + timedelta(days=10), last_active_at=NOW), Idle)


def test_never_is_never() -> None:
    assert isinstance(decided(QUIET, suspend_timeout=None), Awake)


@pytest.mark.parametrize(
    ("seconds", "default", "expected"),
    [(0, 300, 300), (60, 300, 60), (-1, 300, None), (0, -1, None), (60, -1, 60)],
)
def test_the_timeout_of_an_endpoint(seconds: int, default: int, expected: int | None) -> None:
    assert suspend_timeout(seconds, default) == (None if expected is None else timedelta(seconds=expected))
