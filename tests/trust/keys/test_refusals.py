"""Every caller's first refusal is an event; a flood of them is one event in a while, with their number."""

from cloister.trust.keys.refusals import CALLERS_MAX, INTERVAL_S, Refusals


def test_a_flood_is_counted() -> None:
    refusals = Refusals()
    assert refusals.count(1000, now=0.0) == 0
    assert [refusals.count(1000, now=1.0) for _ in range(5)] == [None] * 5
    assert refusals.count(1001, now=1.0) == 0, "another caller's first is recorded"
    assert refusals.count(1000, now=INTERVAL_S) == 5
    assert refusals.count(1000, now=2 * INTERVAL_S) == 0


def test_memory_is_bounded() -> None:
    refusals = Refusals()
    for uid in range(3 * CALLERS_MAX):
        assert refusals.count(uid, now=0.0) == 0
    assert len(refusals._callers) <= CALLERS_MAX
