"""A point in the past: every spelling is one text, and what is none is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import BadRequestError
from cloister.base.past import joined, parse, split


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("lsn:0/15E9A30", "lsn:0/15E9A30"),
        ("lsn:0/15e9a30", "lsn:0/15E9A30"),
        ("LSN:00000000/015E9A30", "lsn:0/15E9A30"),
        ("lsn:FFFFFFFF/0", "lsn:FFFFFFFF/0"),
        ("timestamp:2026-03-01T10:00:00Z", "timestamp:2026-03-01T10:00:00.000000Z"),
        ("Timestamp:2026-03-01t10:00:00z", "timestamp:2026-03-01T10:00:00.000000Z"),
        ("timestamp:2026-03-01 10:00:00+00:00", "timestamp:2026-03-01T10:00:00.000000Z"),
        ("timestamp:2026-03-01T12:30:00.5+02:30", "timestamp:2026-03-01T10:00:00.500000Z"),
        ("timestamp:2026-03-01T10:00:00.123456789Z", "timestamp:2026-03-01T10:00:00.123456Z"),
    ],
)
def test_every_spelling_is_one_text(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)
    assert split(joined("br-a", parse(text))) == ("br-a", parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lsn:",
        "lsn:15E9A30",
        "lsn:0/",
        "lsn:0/123456789",
        "lsn:0/1 ",
        "lsn:٠/١",
        "timestamp:",
        "timestamp:yesterday",
        "timestamp:2026-03-01T10:00:00",
        "timestamp:2026-02-30T10:00:00Z",
        "timestamp:2026-03-01T25:00:00Z",
        "timestamp:1969-12-31T23:59:59Z",
        "timestamp:9999-12-31T23:59:59-14:00",
        "timestamp:0001-01-01T00:00:00+14:00",
        "timestamp:2026-03-01T10:00:00Z'; DROP TABLE log",
        "xid:7",
        "timestamp",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        parse(text)
    assert "invalid point in the past" in raised.value.public
    with pytest.raises(BadRequestError):
        split(f"br-a@{text}")


def test_a_name_without_a_point() -> None:
    assert split("ep-a") == ("ep-a", None)


@settings(max_examples=200)
@given(st.sampled_from(["lsn:", "timestamp:", ""]), st.text(max_size=40))
def test_garbage_is_read_or_refused(kind: str, text: str) -> None:
    try:
        past = parse(kind + text)
    except BadRequestError:
        return
    assert parse(str(past)) == past
