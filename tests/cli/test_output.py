"""Tables that fit, times as people say them, and text that a terminal does not act on."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli.output import Column, ago, columns, printable, size, table

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def test_columns_are_aligned_also_where_characters_are_wide() -> None:
    lines = table(["Name", "Owner"], [["データ", "a"], ["x", "b"], ["é", "c"]], [True, True], None)
    assert lines == ["Name    Owner", "データ  a", "x       b", "é       c"]


def test_a_table_is_cut_to_the_terminal_and_ids_are_not() -> None:
    lines = table(["Id", "Name"], [["calm-forest-12345678", "n" * 80]], [False, True], 50)
    assert max(columns(line) for line in lines) == 50
    assert lines[1] == "calm-forest-12345678  " + "n" * 27 + "…"


def test_a_terminal_too_narrow_for_the_ids_still_gets_them() -> None:
    lines = table(["Id", "Name"], [["calm-forest-12345678", "n" * 80]], [False, True], 10)
    assert lines[1].startswith("calm-forest-12345678  nnnnnnn…")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(min_value=40, max_value=80))
def test_no_line_is_wider_than_the_terminal(names: list[str], width: int) -> None:
    cells = [["id", printable(name)] for name in names]
    assert all(columns(line) <= width for line in table(["Id", "Name"], cells, [False, True], width))


@given(st.text(max_size=50))
def test_what_is_printed_holds_nothing_that_a_terminal_acts_on(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or " " in shown or not shown or all(c.isprintable() or c.isspace() for c in shown)
    assert not set(shown) & {"\x1b", "\x9b", "\r", "\n", "\x07", "\x00", "\u202e", "\u2028"}


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (timedelta(seconds=-30), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=3), "3 days ago"),
    ],
)
def test_times_as_people_say_them(before: timedelta, said: str) -> None:
    assert ago((NOW - before).isoformat(), NOW) == said


def test_what_is_no_time_is_shown_as_it_is() -> None:
    assert ago("soon", NOW) == "soon"
    assert ago("2020-01-02T12:00:00Z", NOW) == "2020-01-02"


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1500, 64 * 1024**3, 5e15)] == ["0 B", "999 B", "1.5 kB", "68.7 GB", "5000.0 TB"]


def test_a_value_that_is_missing_is_a_dash() -> None:
    column = Column("Ips", "settings.allowed_ips.ips")
    assert column.text({"settings": None}) == "-"
    assert column.text({"settings": {"allowed_ips": {"ips": ["a", "b"]}}}) == "a, b"
