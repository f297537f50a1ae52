"""One event is one line of printable ASCII, whatever strangers put into it."""

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.trust.audit.events import CUT, ITEMS_MAX, VALUE_CHARS_MAX, Event, parse, timestamp, written
from tests.fix_database import DatabaseAs

AT = "2026-01-01T00:00:00.000000Z"

any_text = st.text(st.characters(codec=None), max_size=700)  # lone surrogates and control characters included


def as_kept(value: str) -> str:
    text = value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + CUT


@given(any_text, any_text, st.dictionaries(st.text(max_size=5), any_text | st.integers() | st.booleans(), max_size=4))
@example("\x1b[2J\x1b]0;owned\x07", "a\nb\r\u2028\u0085c", {"\x7f": "\ud800"})
@example("\0", 'quote " \\ ', {})
@example("", "", {"to": "somebody", "other": 1})
@settings(max_examples=150)
def test_one_event_is_one_printable_line_and_comes_back(resource: str, reason: str, details: dict[str, object]) -> None:
    texts = written(Event(action="a.b", actor="role:x", at=AT, resource=resource, reason=reason, details=details))
    assert texts.personal is not None
    assert all(0x20 <= ord(character) < 0x7F for character in texts.body + texts.personal)
    back = parse(*texts)
    assert (back.resource, back.reason) == (as_kept(resource), as_kept(reason))
    # What is personal among them comes back behind the others.
    assert back.details == {as_kept(key): as_kept(v) if isinstance(v, str) else v for key, v in details.items()}


def test_a_value_of_a_megabyte_is_cut() -> None:
    text, _ = written(
        Event(action="a", actor="b", at=AT, resource="x" * 1_000_000, details={"y" * 1_000_000: ["z" * 1_000_000]})
    )
    assert len(text) < 4 * VALUE_CHARS_MAX
    assert parse(text).resource == "x" * VALUE_CHARS_MAX + CUT


def test_a_thousand_details_are_cut() -> None:
    assert (
        len(parse(*written(Event(action="a", actor="b", details={str(n): n for n in range(1000)}))).details)
        == ITEMS_MAX
    )


def test_keys_stand_in_the_order_of_the_struct_and_empty_ones_are_left_out() -> None:
    assert written(Event(action="a", actor="b", at=AT, details={"n": 1}, request_id="r")) == (
        '{"action":"a","actor":"b","at":"2026-01-01T00:00:00.000000Z","outcome":"ok","request_id":"r","details":{"n":1}}',
        None,
    )


def test_the_time_is_filled_in_where_none_is_given() -> None:
    before = timestamp(datetime.now(UTC))
    at = json.loads(written(Event(action="a", actor="b")).body)["at"]
    assert before <= at <= timestamp(datetime.now(UTC))


def test_timestamps_sort_as_moments_do() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    moments = [noon, noon + timedelta(microseconds=1), noon + timedelta(seconds=1)]
    assert timestamp(noon) == "2026-07-01T10:00:00.000000Z"
    assert sorted(map(timestamp, reversed(moments))) == [timestamp(moment) for moment in moments]


def test_what_is_not_a_number_in_json_is_kept_as_text() -> None:
    assert parse(*written(Event(action="a", actor="b", details={"ratio": float("nan")}))).details == {"ratio": "nan"}


def test_a_body_that_is_no_event_says_so() -> None:
    assert parse("{}").action == "unreadable"
    assert parse('{"action":3}').details == {"body": '{"action":3}'}


async def test_the_database_takes_every_line(database_as: DatabaseAs) -> None:
    from cloister.trust.audit import record
    from cloister.trust.audit.reader import events
    from cloister.trust.audit.verify import Intact, verify

    database = await database_as("cloister_api")
    nasty = [
        "\0",
        "\ud800",
        "\x1b[31m",
        "a\nb",
        "\U0001f600",
        "\u202e",
        '"\\',
        "'; DROP TABLE audit_event; --",
        "x" * 10**6,
    ]
    async with database.transaction() as tx:
        await record(tx, *(Event(action="a.b", actor="c", resource=name, details={name: name}) for name in nasty))
    async with database.reading() as tx:
        kept = [recorded.event.resource for recorded in await events(tx)]
    assert kept == [as_kept(name) for name in reversed(nasty)]
    assert isinstance(await verify(database), Intact)
