"""A pace, as a person types it."""

import contextlib

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli.keys import Pace


@pytest.mark.parametrize(
    ("text", "pace"), [("50M", 50 * 10**6), ("50m/s", 50 * 10**6), ("1G", 10**9), ("20000K", 20000 * 10**3), ("7", 7)]
)
def test_a_pace_is_a_number_of_bytes_with_or_without_a_unit(text: str, pace: int) -> None:
    assert Pace().convert(text, None, None) == pace


@pytest.mark.parametrize("text", ["", "M", "fast", "-1M", "1.5G", "50MB", "٣M", "1 M"])
def test_what_is_no_pace_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.UsageError, match="such as 50M"):
        Pace().convert(text, None, None)


@given(st.text())
def test_whatever_is_typed_is_a_pace_or_is_refused(text: str) -> None:
    with contextlib.suppress(click.UsageError):
        assert Pace().convert(text, None, None) >= 0
