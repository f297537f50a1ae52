"""The replay finds the first link that does not fit, and says what was done to it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.trust.audit.faults import Fault
from cloister.trust.audit.verify import GENESIS, Broken, Head, Intact, Replay, Row, link


def log_of(count: int) -> list[Row]:
    rows: list[Row] = []
    for seq in range(1, count + 1):
        body = f'{{"action":"a","actor":"user:{seq}"}}'
        rows.append(Row(seq, body, link(rows[-1].hash if rows else GENESIS, seq, body)))
    return rows


def head_of(rows: list[Row]) -> Head:
    return Head(rows[-1].seq, rows[-1].hash) if rows else Head(0, GENESIS)


def replay(rows: list[Row], head: Head, noted: list[Head] | None = None, batch: int = 100) -> Intact | Broken:
    machine = Replay(head, noted or [])
    for start in range(0, len(rows), batch):
        if broken := machine.feed(rows[start : start + batch]):
            return broken
    return machine.finish()


LOG = log_of(9)
HEAD = head_of(LOG)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_an_untouched_log_is_intact(batch: int) -> None:
    assert replay(LOG, HEAD, [head_of(LOG[:4]), HEAD], batch) == Intact(HEAD)


def test_an_empty_log_is_intact() -> None:
    assert replay([], Head(0, GENESIS)) == Intact(Head(0, GENESIS))


def swapped(first: int, second: int) -> list[Row]:
    rows = list(LOG)
    a, b = rows[first - 1], rows[second - 1]
    rows[first - 1], rows[second - 1] = replace(b, seq=a.seq), replace(a, seq=b.seq)
    return rows


def rewritten() -> list[Row]:
    """What a superuser can do: change one event and compute every hash after it anew."""
    rows = list(LOG[:4])
    for old in LOG[4:]:
        body = old.body.replace("user:5", "user:6")
        rows.append(Row(old.seq, body, link(rows[-1].hash, old.seq, body)))
    return rows


ATTACKS = {
    "an edited text": ([*LOG[:4], replace(LOG[4], body="{}"), *LOG[5:]], HEAD, 5, Fault.EDITED),
    "an edited hash": ([*LOG[:4], replace(LOG[4], hash=bytes(32)), *LOG[5:]], HEAD, 5, Fault.EDITED),
    "text and hash edited to fit": (
        [*LOG[:4], replace(LOG[4], body="{}", hash=link(LOG[3].hash, 5, "{}")), *LOG[5:]],
        HEAD,
        6,
        Fault.EDITED,
    ),
    "a deleted event": ([*LOG[:4], *LOG[5:]], HEAD, 5, Fault.DELETED),
    "the first event deleted": (LOG[1:], HEAD, 1, Fault.DELETED),
    "deleted, and the rest renumbered": (
        [*LOG[:4], *(replace(row, seq=row.seq - 1) for row in LOG[5:])],
        HEAD,
        5,
        Fault.EDITED,
    ),
    "the last event deleted": (LOG[:-1], HEAD, 9, Fault.TRUNCATED),
    "all events deleted": ([], HEAD, 1, Fault.TRUNCATED),
    "two events exchanged": (swapped(4, 5), HEAD, 4, Fault.REORDERED),
    "two distant events exchanged": (swapped(2, 8), HEAD, 2, Fault.REORDERED),
    "an event added behind the head": (log_of(10), HEAD, 10, Fault.ADDED),
    "an event added before the first": ([Row(0, "{}", bytes(32)), *LOG], HEAD, 0, Fault.ADDED),
    "the end exchanged for one behind the head": ([*LOG[:-1], Row(10, "{}", bytes(32))], HEAD, 9, Fault.TRUNCATED),
    "another head": (LOG, Head(9, bytes(32)), 9, Fault.HEAD),
    "a misfiled event": (
        [*LOG[:4], replace(LOG[4], filed=(None, "a", "another-project", "user:5")), *LOG[5:]],
        HEAD,
        5,
        Fault.MISFILED,
    ),
}


@pytest.mark.parametrize(("rows", "head", "seq", "fault"), ATTACKS.values(), ids=ATTACKS)
def test_the_first_broken_link_is_named(rows: list[Row], head: Head, seq: int, fault: Fault) -> None:
    assert replay(rows, head) == Broken(seq, fault)


def test_a_log_rewritten_with_all_its_hashes_is_found_by_a_head_noted_before() -> None:
    rows = rewritten()
    assert replay(rows, head_of(rows)) == Intact(head_of(rows)), "nothing inside the database can show it"
    assert replay(rows, head_of(rows), [HEAD]) == Broken(9, Fault.ROLLED_BACK)


def test_a_log_rolled_back_is_found_by_a_head_noted_before() -> None:
    assert replay(LOG[:6], head_of(LOG[:6]), [HEAD]) == Broken(7, Fault.ROLLED_BACK)


@given(st.integers(0, 8), st.integers(0, 400), st.integers(1, 255))
@settings(max_examples=100)
def test_any_changed_byte_breaks_its_own_link(index: int, position: int, flip: int) -> None:
    row = LOG[index]
    text = bytearray(row.body.encode())
    text[position % len(text)] ^= flip
    rows = [*LOG[:index], replace(row, body=text.decode("latin-1")), *LOG[index + 1 :]]
    broken = replay(rows, HEAD)
    assert isinstance(broken, Broken)
    assert broken.seq == row.seq


def test_a_head_is_written_down_and_read_back() -> None:
    assert Head.parse(str(HEAD)) == HEAD
    for text in ("", "9", "9:zz", "9:00", f"-1:{HEAD.hash.hex()}"):
        with pytest.raises(ValueError):
            Head.parse(text)
