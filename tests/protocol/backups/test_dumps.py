"""What is believed of a dump's own object."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.backups.dumps import Dump, encoded_dump, name_of, parse_dump
from cloister.protocol.backups.errors import BackupError

MOMENT = 1_790_000_000.25


def dump(**changes: Any) -> Dump:
    fields: dict[str, Any] = {
        "moment": MOMENT,
        "version": "0.1.0",
        "epoch": 7,
        "secrets": {"control.key": b"k" * 32},
        "checkpoint": None,
        "lists": ["ab" * 32],
        "files": 3,
        "bytes": 100,
    }
    return Dump(**(fields | changes))


def test_it_is_read_back() -> None:
    it = dump()
    assert parse_dump(encoded_dump(it), it.name) == it


def test_names_are_in_the_order_of_moments() -> None:
    assert name_of(MOMENT) < name_of(MOMENT + 0.001) < name_of(MOMENT + 1e9)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"moment": float(2**34)},
        {"moment": MOMENT + 1},
        {"epoch": 0},
        {"secrets": {"control.key": b"k" * 65}},
        {"secrets": {"control.key": b""}},
        {"lists": []},
        {"lists": ["../" * 21 + "a"]},
        {"lists": ["ab" * 32] * 2000},
        {"files": 0},
        {"bytes": 2**50},
    ],
)
def test_what_no_agent_writes_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BackupError):
        parse_dump(encoded_dump(dump(**changes)), dump().name)


@given(st.binary())
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(BackupError):
        parse_dump(content, dump().name)


def test_a_field_that_nobody_knows_is_refused() -> None:
    content = msgspec.json.encode(msgspec.to_builtins(dump()) | {"more": 1})
    with pytest.raises(BackupError):
        parse_dump(content, dump().name)
