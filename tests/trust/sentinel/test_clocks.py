"""How long findings wait: which clock runs, and what is measured."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from cloister.trust.sentinel.clocks import CLOCKS, Course, Measured, Times, due, measure

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)


def course(**given: Any) -> Course:
    usual: dict[str, Any] = {
        "level": "high", "first_at": "2026-05-01T10:59:58.000000Z", "raised_at": NOW - timedelta(hours=1), "acknowledged_at": None,
        "resolved_at": None, "state": "open",
    }  # fmt: skip
    return Course(**usual | given)


def of(level: str, *courses: Course) -> Measured:
    (found,) = (each for each in measure(courses, SINCE, NOW) if each.level == level)
    return found


def test_first_the_one_to_acknowledge_runs_and_then_the_one_to_resolve() -> None:
    for level, clock in CLOCKS.items():
        assert due(level, "open", NOW) == NOW + clock.acknowledge
        assert due(level, "acknowledged", NOW) == NOW + clock.resolve
        assert due(level, "resolved", NOW) is None
        assert clock.acknowledge < clock.resolve


def test_the_graver_the_sooner() -> None:
    clocks = list(CLOCKS.values())
    for graver, tamer in pairwise(clocks):
        assert graver.acknowledge < tamer.acknowledge
        assert graver.resolve < tamer.resolve


def test_times_are_of_those_that_have_both_ends() -> None:
    raised = NOW - timedelta(hours=1)
    some = [
        course(
            acknowledged_at=raised + timedelta(seconds=after), resolved_at=raised + timedelta(hours=1), state="resolved"
        )
        for after in range(1, 101)
    ]
    found = of("high", *some, course(state="resolved", resolved_at=raised + timedelta(seconds=1)), course())
    assert (found.raised, found.unresolved, found.overdue) == (102, 1, 0)
    assert found.detect == Times(102, 2.0, 2.0)
    assert found.acknowledge == Times(100, 50.0, 95.0)
    assert found.resolve == Times(101, 3600.0, 3600.0)
    assert of("low", *some) == Measured(
        "low", 0, Times(0, None, None), Times(0, None, None), Times(0, None, None), 0, 0
    )


def test_what_is_old_counts_only_while_it_is_not_resolved() -> None:
    old = NOW - timedelta(days=40)
    found = of("high", course(raised_at=old), course(raised_at=old, state="acknowledged", acknowledged_at=old))
    assert (found.raised, found.unresolved, found.overdue) == (0, 2, 2)
    assert found.acknowledge.count == 0


def test_a_clock_that_ends_now_has_not_ended() -> None:
    assert of("high", course(raised_at=NOW - CLOCKS["high"].acknowledge)).overdue == 0
    assert of("high", course(raised_at=NOW - CLOCKS["high"].acknowledge - timedelta(seconds=1))).overdue == 1


def test_a_time_in_the_log_that_is_none_is_left_out() -> None:
    some = [course(first_at=text) for text in ("", "yesterday", "2026-05-01T10:59:58", "9999-99-99T00:00:00Z")]
    found = of("high", *some)
    assert (found.raised, found.detect.count) == (4, 0)
