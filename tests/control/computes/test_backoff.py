from datetime import UTC, datetime, timedelta

from cloister.control.computes.backoff import FORGIVEN_AFTER, PAUSE_MAX, Backoff

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_one_death_costs_nothing_and_many_cost_more_and_more_up_to_a_minute() -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(12):
        backoff.died("ep", NOW)
        pauses.append(backoff.wait("ep", NOW))
    assert pauses[0] == timedelta(0)
    assert pauses[1:4] == [timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4)]
    assert pauses[-1] == PAUSE_MAX
    assert backoff.wait("another", NOW) == timedelta(0)
    assert backoff.wait("ep", NOW + PAUSE_MAX) == timedelta(0)


def test_a_long_life_or_a_healthy_end_is_forgiveness() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.died("ep", NOW)
    backoff.died("ep", NOW + FORGIVEN_AFTER)
    assert backoff.wait("ep", NOW + FORGIVEN_AFTER) == timedelta(0)
    backoff.died("ep", NOW + FORGIVEN_AFTER)
    backoff.lived("ep")
    assert backoff.wait("ep", NOW + FORGIVEN_AFTER) == timedelta(0)
