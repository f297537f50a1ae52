"""Time frames that are asked for."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cloister.control.consumption.frames import REACH, Granularity, Span, beginning, ending, span

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


@pytest.mark.parametrize(
    ("granularity", "begin", "end"),
    [
        ("hourly", "2026-03-04T03:00", "2026-03-04T05:00"),
        ("daily", "2026-03-04T00:00", "2026-03-05T00:00"),
        ("monthly", "2026-03-01T00:00", "2026-04-01T00:00"),
    ],
)
def test_a_span_has_every_frame_that_it_touches(granularity: Granularity, begin: str, end: str) -> None:
    asked = at("2026-03-04T03:59"), at("2026-03-04T04:01")
    assert span(granularity, *asked, NOW) == Span(granularity, at(begin), at(end))


def test_a_span_that_ends_with_a_frame_ends_there() -> None:
    assert span("daily", at("2026-03-02T00:00"), at("2026-03-04T00:00"), NOW) == Span(
        "daily", at("2026-03-02T00:00"), at("2026-03-04T00:00")
    )


def test_a_time_zone_is_no_other_day() -> None:
    tokyo = timezone(timedelta(hours=9))
    asked = span("daily", datetime(2026, 3, 4, 8, tzinfo=tokyo), datetime(2026, 3, 4, 8, 30, tzinfo=tokyo), NOW)
    assert asked == Span("daily", at("2026-03-03T00:00"), at("2026-03-04T00:00"))


@pytest.mark.parametrize("granularity", REACH)
def test_nothing_is_before_the_reach_and_nothing_is_empty(granularity: Granularity) -> None:
    first = beginning(granularity, NOW - REACH[granularity])
    assert span(granularity, first, NOW, NOW) is not None
    assert span(granularity, first - timedelta(seconds=1), NOW, NOW) is None
    assert span(granularity, NOW, NOW, NOW) is None
    assert span(granularity, NOW, NOW - timedelta(hours=1), NOW) is None


def test_a_month_ends_where_the_next_begins() -> None:
    for month in range(1, 13):
        end = ending("monthly", datetime(2028, month, 1, tzinfo=UTC))
        assert (end.month, end.day) == (month % 12 + 1, 1)
