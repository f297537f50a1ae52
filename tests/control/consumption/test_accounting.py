"""From two moments to amounts by the hour."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cloister.base.ids import BranchId, OrgId, ProjectId
from cloister.control.consumption.accounting import (
    HOUR,
    LONG_GAP,
    Account,
    Amounts,
    Held,
    Run,
    Whose,
    Written,
    beginning,
    count,
)

WHOSE = Whose(OrgId("org-calm-forest-00000001"), ProjectId("calm-forest-00000001"), BranchId("br-calm-forest-aaaaaaaa"))
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def run(began: datetime, ended: datetime | None = None, *, active: datetime | None = None, cu: float = 0.5) -> Run:
    return Run(WHOSE, cu, began, ended, active)


def held(created: datetime = NOON, *, is_root: bool = True) -> Held:
    return Held(WHOSE, is_root, created, logical_bytes=100, own_bytes=10, history_bytes=1)


def total(account: Account) -> Amounts:
    return sum(account.values(), Amounts())


def test_a_run_is_counted_by_its_own_beginning_and_end_in_the_hours_that_it_touches() -> None:
    account = count(
        NOON + 58 * MINUTE,
        NOON + 62 * MINUTE,
        runs=[run(NOON + 59 * MINUTE, NOON + 61 * MINUTE)],
        held=[],
        written=[],
    )
    assert account == {
        (WHOSE, NOON): Amounts(active_s=60, cu_s=30),
        (WHOSE, NOON + HOUR): Amounts(active_s=60, cu_s=30),
    }


def test_one_that_goes_on_is_counted_up_to_now_and_one_that_was_over_is_not() -> None:
    now = NOON + MINUTE
    assert total(count(NOON, now, runs=[run(NOON - HOUR)], held=[], written=[])).active_s == 60
    assert count(NOON, now, runs=[run(NOON - HOUR, NOON)], held=[], written=[]) == {}
    assert count(NOON, now, runs=[run(now, now + MINUTE)], held=[], written=[]) == {}


def test_a_root_is_counted_by_its_size_and_a_child_by_what_is_its_own() -> None:
    now = NOON + MINUTE
    root = total(count(NOON, now, runs=[], held=[held()], written=[]))
    child = total(count(NOON, now, runs=[], held=[held(is_root=False)], written=[]))
    assert root == Amounts(seen_s=60, logical_byte_s=6000, root_byte_s=6000, history_byte_s=60)
    assert child == Amounts(seen_s=60, logical_byte_s=6000, child_byte_s=600, history_byte_s=60)
    assert total(count(NOON, now, runs=[], held=[held(NOON + MINUTE / 2)], written=[])).seen_s == 30


def test_what_was_written_is_of_the_hour_in_which_it_was_found() -> None:
    now = NOON + MINUTE
    assert count(NOON, now, runs=[], held=[], written=[Written(WHOSE, 7.0)]) == {
        (WHOSE, NOON): Amounts(written_bytes=7.0)
    }


def test_while_nobody_counted_computes_ran_on_and_what_died_is_not_made_up() -> None:
    """After a night's power cut: what runs again runs since it was started, what ended was last known to work."""
    night = NOON + timedelta(hours=10)
    again = run(night - MINUTE)
    survived = run(NOON - HOUR)
    died = run(NOON - HOUR, night, active=NOON + MINUTE)
    died_before = run(NOON - 2 * HOUR, night, active=NOON - HOUR)
    for one, seconds in ((again, 60), (survived, 36_000), (died, 60), (died_before, 0)):
        assert total(count(NOON, night, runs=[one], held=[], written=[])).active_s == seconds
    assert total(count(NOON, NOON + LONG_GAP, runs=[died], held=[], written=[])).active_s == LONG_GAP.total_seconds()


def test_a_clock_that_was_set_back_counts_nothing() -> None:
    assert count(NOON, NOON, runs=[run(NOON - HOUR)], held=[held()], written=[Written(WHOSE, 1.0)]) == {}
    assert count(NOON, NOON - MINUTE, runs=[run(NOON - HOUR)], held=[held()], written=[]) == {}


@given(
    moments=st.lists(st.integers(0, 20_000), min_size=2, max_size=12, unique=True).map(sorted),
    began=st.integers(-5_000, 20_000),
    lasts=st.integers(0, 20_000),
)
def test_however_often_it_is_counted_it_comes_to_the_same(moments: list[int], began: int, lasts: int) -> None:
    one = run(NOON + timedelta(seconds=began), NOON + timedelta(seconds=began + lasts), active=NOON + 30 * HOUR)
    times = [NOON + timedelta(seconds=it) for it in moments]
    whole = count(times[0], times[-1], runs=[one], held=[held()], written=[])
    parts: Account = {}
    for since, now in pairwise(times):
        for key, amounts in count(since, now, runs=[one], held=[held()], written=[]).items():
            parts[key] = parts.get(key, Amounts()) + amounts
    assert parts == whole
    assert all(hour == beginning(hour) and amounts.active_s <= 3600 for (_, hour), amounts in whole.items())
