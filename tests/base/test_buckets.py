"""Token buckets, with a clock that moves by hand."""

from cloister.base.buckets import Buckets


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(per_s=2, burst=3, keys_max=10)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", 0.4)
    assert buckets.take("a", 0.5)
    assert buckets.take("b", 0.5)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_looking_takes_nothing() -> None:
    buckets = Buckets(per_s=1, burst=1, keys_max=10)
    assert all(buckets.has_token("a", 0.0) for _ in range(5))
    assert buckets.take("a", 0.0)
    assert not buckets.has_token("a", 0.0)


def test_a_limiter_forgets_who_was_quiet_longest() -> None:
    buckets = Buckets(per_s=0.001, burst=1, keys_max=2)
    assert buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)
    assert buckets.take("c", 0.0)
    assert not buckets.has_token("b", 0.0)
    assert buckets.has_token("a", 0.0)
