"""Token buckets: what is given, what is refused, what is forgotten."""

from datetime import UTC, datetime, timedelta

import pytest

from cloister.edge.api import rates
from cloister.edge.api.errors import TooManyRequestsError
from cloister.edge.api.rates import Limit, Rates, address_group

LIMIT = Limit("test", per_second=2.0, burst=3)
START = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_burst_is_given_then_the_rate() -> None:
    buckets = Rates()
    for _ in range(3):
        buckets.take(LIMIT, "a", START)
    with pytest.raises(TooManyRequestsError) as refused:
        buckets.take(LIMIT, "a", START)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    buckets.take(LIMIT, "a", START + timedelta(seconds=0.5))
    with pytest.raises(TooManyRequestsError):
        buckets.take(LIMIT, "a", START + timedelta(seconds=0.5))


def test_one_caller_does_not_use_up_anothers() -> None:
    buckets = Rates()
    for _ in range(3):
        buckets.take(LIMIT, "a", START)
    buckets.take(LIMIT, "b", START)


def test_a_clock_set_back_takes_nothing_away() -> None:
    buckets = Rates()
    buckets.take(LIMIT, "a", START)
    buckets.take(LIMIT, "a", START - timedelta(hours=1))
    buckets.take(LIMIT, "a", START - timedelta(hours=1))


def test_checking_takes_nothing() -> None:
    buckets = Rates()
    for _ in range(10):
        buckets.check(LIMIT, "a", START)
    for _ in range(3):
        buckets.take(LIMIT, "a", START)
    with pytest.raises(TooManyRequestsError):
        buckets.check(LIMIT, "a", START)


def test_the_table_of_callers_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "BUCKETS_MAX", 10)
    buckets = Rates()
    for number in range(100):
        buckets.take(LIMIT, str(number), START)
    assert len(buckets._buckets) == 10


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_an_ipv6_host_is_its_network(address: str, group: str) -> None:
    assert address_group(address) == group
