"""The pure parts: places in the log, labels, what is copied, which snapshot serves, what a recovery says."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import BadRequestError, InternalError, PreconditionError
from cloister.node.postgres.standby import Floor
from cloister.node.timelines import clone, control, label, recovery, scrub, wal
from cloister.node.timelines.clone import Fate
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.snapshots import Snapshot, nearest, superfluous
from tests.node.timelines.clusters import CHECKPOINT, control_file, segment

LSN = st.integers(0, 2**64 - 1)
NUMBER = st.integers(0, 2**44 - 2)
WAL_TIMELINE = st.integers(1, 2**32 - 1)


@given(LSN)
def test_an_lsn_is_read_as_it_is_written(lsn: int) -> None:
    assert wal.parse_lsn(wal.format_lsn(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "g/0", "0/0 ", "0/0\n", "-1/0", "0/0/0"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        wal.parse_lsn(text)


@given(WAL_TIMELINE, NUMBER)
def test_a_segments_name_is_read_as_it_is_written(wal_timeline: int, number: int) -> None:
    assert wal.parse_segment_name(wal.segment_name(wal_timeline, number)) == (wal_timeline, number)


def test_names_of_segments_as_postgresql_writes_them() -> None:
    assert wal.segment_name(1, wal.segment_number(wal.parse_lsn("0/15E9A30"))) == "000000010000000000000015"
    assert wal.segment_name(2, wal.segment_number(wal.parse_lsn("A/FFF00000"))) == "000000020000000A00000FFF"
    for name in ("000000010000000000001000", "00000001000000000000001", "00000001000000000000001G", "a" * 24):
        assert wal.parse_segment_name(name) is None


@given(st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_unbroken_ends_at_the_first_that_is_missing(numbers: set[int], start: int) -> None:
    end = wal.unbroken(numbers, start)
    assert set(range(start, end)) <= numbers
    assert end not in numbers


@given(NUMBER, NUMBER)
def test_a_segment_is_what_its_first_page_says(number: int, other: int) -> None:
    header = segment(number)[: wal.PAGE_HEADER_BYTES]
    assert wal.begins_at(header, number)
    assert wal.begins_at(header, other) == (number == other)
    assert not wal.begins_at(b"", number)


@pytest.mark.parametrize(
    ("pages", "in_the_last", "written"),
    [(0, b"", 0), (1, b"", 24), (1, b"abc", 27), (2, b"abc", 8192 + 27), (128, b"x" * 8168, wal.SEGMENT_BYTES)],
)
def test_of_a_segment_that_was_used_before_only_its_own_pages_count(
    pages: int, in_the_last: bytes, written: int
) -> None:
    """Behind them is what the file held under another name: PostgreSQL writes from the beginning."""
    number, before = 7, 3
    content = bytearray()
    for page in range(wal.SEGMENT_BYTES // wal.PAGE_BYTES):
        of = number if page < pages else before
        header = (
            struct.pack("=HHIQ", 0xD118, 2, 1, of * wal.SEGMENT_BYTES + page * wal.PAGE_BYTES).ljust(23, b"\0") + b"\1"
        )
        rest = in_the_last if page == pages - 1 else b"r" * (wal.PAGE_BYTES - 24)
        content += (header + rest).ljust(wal.PAGE_BYTES, b"\0")
    assert wal.written(bytes(content), number) == written
    assert wal.written(bytes(content[:100]), number) <= 100


def test_a_control_file_is_read() -> None:
    found = control.parse(control_file(wal_timeline=3))
    assert (found.is_clean, found.checkpoint, found.redo, found.wal_timeline) == (True, CHECKPOINT, CHECKPOINT, 3)
    assert not control.parse(control_file(state=control.State.IN_PRODUCTION)).is_clean
    assert found.floor == Floor(100, 8, 10, 0, 64)


@settings(max_examples=50)
@given(st.binary(max_size=100).map(lambda head: head.ljust(8192, b"\0")))
def test_no_other_control_file_is_believed(content: bytes) -> None:
    try:
        found = control.parse(content)
    except PreconditionError:
        return
    assert found.redo <= found.checkpoint


LABEL = """START WAL LOCATION: 0/2000028 (file 000000010000000000000020)
CHECKPOINT LOCATION: 0/2000080
BACKUP METHOD: streamed
LABEL: x
"""


def test_a_label_is_read() -> None:
    assert label.parse(LABEL) == label.Start(wal.parse_lsn("0/2000028"), 1)


@pytest.mark.parametrize("text", ["", "x" + LABEL, LABEL.replace("file", ""), LABEL + "x" * label.LABEL_BYTES_MAX])
def test_no_other_label_is_taken(text: str) -> None:
    with pytest.raises(BadRequestError):
        label.parse(text)


@pytest.mark.parametrize(
    ("path", "running", "at_rest"),
    [
        ("/base", Fate.COPIED, Fate.COPIED),
        ("/base/5/16384", Fate.COPIED, Fate.COPIED),
        ("/base/5/pg_internal.init", Fate.LEFT_OUT, Fate.LEFT_OUT),
        ("/base/pgsql_tmp", Fate.LEFT_OUT, Fate.LEFT_OUT),
        ("/pg_replslot", Fate.EMPTIED, Fate.EMPTIED),
        ("/pg_wal", Fate.EMPTIED, Fate.EMPTIED),
        ("/base/pg_wal", Fate.COPIED, Fate.COPIED),
        ("/pg_twophase", Fate.COPIED, Fate.COPIED),
        ("/pg_xact/0000", Fate.COPIED, Fate.COPIED),
        ("/global/pg_control", Fate.LEFT_OUT, Fate.LEFT_OUT),
        ("/postmaster.pid", Fate.LEFT_OUT, Fate.LEFT_OUT),
        ("/standby.signal", Fate.LEFT_OUT, Fate.LEFT_OUT),
        ("/backup_label", Fate.LEFT_OUT, Fate.COPIED),
    ],
)
def test_what_becomes_of_a_file(path: str, running: Fate, at_rest: Fate) -> None:
    assert clone.fate(path, is_running=True) is running
    assert clone.fate(path, is_running=False) is at_rest


def snapshot(lsn: int, moment: float) -> Snapshot:
    return Snapshot(start_lsn=lsn, stop_lsn=lsn, wal_timeline=1, moment=moment, is_clean=True)


SNAPSHOTS = st.lists(st.integers(1, 1000), unique=True).map(
    lambda found: [snapshot(value * 10, float(value)) for value in sorted(found)]
)


@given(SNAPSHOTS, st.integers(0, 1100))
def test_nothing_that_came_after_the_point_is_in_the_snapshot(taken: list[Snapshot], at: int) -> None:
    found = nearest(taken, lsn=None, at=float(at))
    assert found == max((each for each in taken if each.moment <= at), key=lambda each: each.moment, default=None)
    assert found == nearest(taken, lsn=at * 10, at=None)


@given(SNAPSHOTS, st.integers(0, 1100), st.integers(0, 100))
def test_pruning_takes_no_place_away_that_must_stay(taken: list[Snapshot], since: int, later: int) -> None:
    kept = [each for each in taken if each not in superfluous(taken, float(since))]
    point = float(since + later)
    assert nearest(kept, lsn=None, at=point) == nearest(taken, lsn=None, at=point)


@given(st.integers(0, 2**33 * 10**6))
def test_a_moment_reaches_postgresql_to_the_microsecond(microseconds: int) -> None:
    text = recovery.timestamp(microseconds / 10**6)
    told = datetime.fromisoformat(text)
    assert told.tzinfo == UTC
    assert abs(told - datetime.fromtimestamp(0, UTC)).total_seconds() == pytest.approx(microseconds / 10**6, abs=1e-6)


def test_what_a_recovery_is_told() -> None:
    told = recovery.settings(Target(lsn=wal.parse_lsn("0/15E9A30")))
    assert (told["recovery_target_lsn"], told["recovery_target_inclusive"]) == ("0/15E9A30", "off")
    told = recovery.settings(Target(at=1_790_000_000.25))
    assert told["recovery_target_time"] == "2026-09-21 14:13:20.250000+00:00"
    assert told["recovery_target_inclusive"] == "on"
    assert not [
        name for name in recovery.settings(recovery.END) if name in ("recovery_target_lsn", "recovery_target_time")
    ]


def test_what_a_recovery_says() -> None:
    output = (
        "2026-11-24 LOG:  redo done at 0/15E9A30 system usage: CPU\n"
        "2026-11-24 LOG:  last completed transaction was at log time 2026-09-21 14:13:20.25+00\n"
    )
    assert recovery.last_commit(output) == 1_790_000_000.25
    assert recovery.last_commit("") is None
    assert not recovery.has_missed_target(output)
    assert recovery.has_missed_target(output + "FATAL:  recovery ended before configured recovery target was reached")


def test_where_a_recovery_ended_is_in_the_last_line_of_its_history() -> None:
    assert recovery.left_at("1\t0/2000060\tbefore LSN\n\n2\t0/15E9A30\tno recovery target specified\n") == 0x15E9A30
    assert recovery.left_at("nothing of the kind") is None


def test_databases_are_told_by_their_oids() -> None:
    line = '\t 1: database_oid = "{}"\t(typeid = 26, len = 4, typmod = -1, byval = t)\n\t----\n'
    assert scrub.databases(line.format(5) + line.format(16400)) == [5, 16400]


def test_scrubbing_is_one_statement_a_line() -> None:
    for statements in (scrub.statements_for_all("ab"), scrub.statements_for_each(), scrub.statements_at_the_end()):
        lines = statements.decode().splitlines()
        assert all(line.count(";") == 1 and line.endswith(";") for line in lines)
        for table in {line.split("pg_catalog.")[1].split()[0] for line in lines if line.startswith("UPDATE")}:
            # Names of databases are no secret.
            assert table == "pg_database" or f"VACUUM FULL pg_catalog.{table};" in lines, "or the old row stays"


def test_an_error_in_single_user_mode_counts() -> None:
    assert not scrub.has_failed(0, "backend> ")
    assert scrub.has_failed(0, "2026 ERROR:  no")
    assert scrub.has_failed(1, "")
    with pytest.raises(InternalError):
        scrub.databases('database_oid = "61"\n' * (scrub.DATABASES_MAX + 1))
