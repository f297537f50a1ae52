"""Memory that clients share: bounded for one endpoint and for all, and some of it nobody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.memory import Memory


def test_memory_is_bounded_for_one_and_for_all_and_given_back() -> None:
    memory = Memory(total_max=100, per_endpoint_max=60, assured=0, public="no")
    with memory.share("a") as first, memory.share("b") as second:
        first.grow(60)
        with pytest.raises(RefusedError):
            first.grow(1)
        with pytest.raises(RefusedError):
            second.grow(41)
        second.grow(40)
    with memory.share("a") as again:
        again.grow(60)


def test_what_is_assured_is_there_whatever_others_took() -> None:
    memory = Memory(total_max=100, per_endpoint_max=60, assured=10, public="no")
    greedy, other = memory.share("a"), memory.share("b")
    greedy.hold(60)
    other.hold(40)
    late = memory.share("c")
    late.hold(10)
    with pytest.raises(RefusedError):
        late.hold(11)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 80)), max_size=40))
def test_however_sessions_come_and_go_all_is_given_back(holds: list[tuple[int, int]]) -> None:
    """What is refused is not counted, and the session that was refused still holds what it held."""
    memory = Memory(total_max=100, per_endpoint_max=60, assured=5, public="no")
    shares = [memory.share("ab"[each % 2]) for each in range(5)]
    held = [0] * 5
    for each, size in holds:
        try:
            shares[each].hold(size)
        except RefusedError:
            assert sum(held[each % 2 :: 2]) - held[each] + size > 60 or sum(held) - held[each] + size > 100
        else:
            held[each] = size
    assert sum(held[0::2]) <= 60
    assert sum(held[1::2]) <= 60
    for share in shares:
        share.hold(0)
    memory.share("a").hold(60)
    memory.share("b").hold(40)
