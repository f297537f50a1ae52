"""Nothing a server says of what it counted breaks who reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import UnavailableError
from cloister.control.computes.tallies import KINDS_MAX, Counted, Tally, parse


def test_an_answer_is_read() -> None:
    assert parse("7\n3 x6e656f6e6462 COPY PROGRAM\n4 x ALTER SYSTEM") == Tally(
        7, (Counted("COPY PROGRAM", "neondb", 3), Counted("ALTER SYSTEM", "", 4))
    )
    assert parse("1\n1 x6e x62 CREATEDB, pg_monitor").kinds == (Counted("CREATEDB, pg_monitor", "n", 1, "b"),)
    assert parse("0") == parse("") == Tally()
    assert parse("1\n1 xff LOAD").kinds[0].role == "\ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "-1",
        "7\n",
        "7\n3 6e COPY",
        "7\n3 x6 COPY",
        "7\n3 x6e COPY\x1b[2J",
        "7\n3 x6e x6e x6e COPY",
        "7\n3 x6e " + "C" * 160,
        "7\n3 x" + "6e" * 64 + " COPY",
        "7\n3 x6e x" + "6e" * 64 + " COPY",
        "7\n" + "9" * 19 + " x6e COPY",
        "٣\n٣ x6e COPY",
        "9" * 21,
        "9" + "\n1 x6e COPY" * (KINDS_MAX + 1),
    ],
)
def test_what_no_guard_says_is_refused(text: str) -> None:
    with pytest.raises(UnavailableError):
        parse(text)


@given(st.text() | st.text(alphabet="0123456789 x\nabcdefC", max_size=60))
def test_whatever_a_server_says_is_bounded_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UnavailableError:
        return
    assert len(found.kinds) <= KINDS_MAX
    for each in found.kinds:
        assert len(each.role) <= 63
        assert len(each.whom) <= 63
        assert len(each.what) < 160
        assert 0 <= each.count < 10**18
