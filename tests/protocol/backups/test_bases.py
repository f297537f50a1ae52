"""The lists of a base: what is read of them leads nowhere out of the directory, and twice into nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.backups import bases
from cloister.protocol.backups.bases import (
    CHUNK_BYTES,
    FILE_BYTES_MAX,
    LISTS_MAX,
    Base,
    Contents,
    Entry,
    Piece,
    encoded_base,
    parse_base,
)
from cloister.protocol.backups.errors import BackupError

TIMELINE = "0123456789abcdef" * 2
ID = "ab" * 32


def base(**changed: Any) -> Base:
    facts: dict[str, Any] = {
        "timeline": TIMELINE,
        "pg_version": 18,
        "start_lsn": 0x10_0000,
        "stop_lsn": 0x15_E9A30,
        "wal_timeline": 1,
        "moment": 1_790_000_000.0,
        "is_clean": True,
        "lists": [ID],
        "files": 1,
        "bytes": 4,
    }
    return Base(**{**facts, **changed})


def read(*entries: Entry, contents: Contents | None = None) -> list[Entry]:
    return (contents or Contents()).read(msgspec.json.encode(list(entries)))


def file(path: str, *pieces: Piece, size: int = 100) -> Entry:
    return Entry(path, size, list(pieces))


def test_a_base_is_read_back() -> None:
    assert parse_base(encoded_base(base()), TIMELINE, base().name) == base()


@pytest.mark.parametrize(
    "changed",
    [
        {"timeline": "f" * 32},
        {"stop_lsn": 0x15_E9A31},
        {"start_lsn": -1},
        {"start_lsn": 0x15_E9A31},
        {"wal_timeline": 0},
        {"wal_timeline": 2**32},
        {"moment": -1.0},
        {"moment": 1e300},
        {"pg_version": 0},
        {"files": -1},
        {"files": bases.FILES_MAX + 1},
        {"bytes": bases.BYTES_MAX + 1},
        {"lists": []},
        {"lists": [ID] * (LISTS_MAX + 1)},
        {"lists": ["../../etc/passwd"]},
        {"format": 2},
    ],
)
def test_facts_that_cannot_be_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BackupError):
        parse_base(encoded_base(base(**changed)), TIMELINE, base().name)


@pytest.mark.parametrize("plain", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff", encoded_base(base())[:-1]])
def test_what_is_no_description_is_refused(plain: bytes) -> None:
    with pytest.raises(BackupError):
        parse_base(plain, TIMELINE, base().name)
    with pytest.raises(BackupError):
        Contents().read(plain + b" x")


def test_lists_are_read_one_after_the_other() -> None:
    contents = Contents()
    read(file("PG_VERSION", Piece(0, 3, ID)), Entry("base"), contents=contents)
    read(Entry("base/1"), file("base/1/112"), file("base/1/113"), Entry("base/5"), contents=contents)
    read(file("base/5/1", Piece(0, 50, ID, 7), Piece(50, 50, ID)), Entry("pg_wal"), contents=contents)
    assert (contents.files, contents.bytes) == (8, 103)
    contents.end(base(files=8, bytes=103))
    for other in (base(files=9, bytes=103), base(files=8, bytes=102)):
        with pytest.raises(BackupError):
            contents.end(other)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "..",
            ".",
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/",
            "//a",
            "a//b",
            "a\0b",
            "a\nb",
            "ä",
            "a b",
            "~" * 256,
        ),
        *("a\\b", "a'b", 'a"b', "a$b", "\x1b[2J"),
    ],
)
@pytest.mark.parametrize("is_directory", [True, False])
def test_a_path_that_leads_elsewhere_or_is_no_name_is_refused(path: str, is_directory: bool) -> None:
    with pytest.raises(BackupError):
        read(Entry("a"), Entry(path) if is_directory else file(path))


@pytest.mark.parametrize(
    "entries",
    [
        [file("b"), file("a")],
        [file("a"), file("a")],
        [Entry("a"), Entry("a")],
        [Entry("b"), Entry("a")],
        [Entry("a"), file("b")],
        [file("a/b")],
        [Entry("a/b")],
        [Entry("a"), Entry("b"), file("a/c")],
        [Entry("a"), Entry("a/b"), file("a/c")],
        [Entry("a"), Entry("b"), Entry("a/c")],
        [Entry("a", None, [Piece(0, 1, ID)])],
        [Entry("/".join("a" * depth)) for depth in range(1, 8)],
    ],
    ids=[
        *("out of order", "twice", "a directory twice", "directories out of order", "after a directory"),
        *("no directory", "in none", "left already", "after the inner one", "back in it", "content", "too deep"),
    ],
)
def test_nothing_is_listed_twice_or_outside(entries: list[Entry]) -> None:
    with pytest.raises(BackupError):
        read(*entries)


def test_a_file_and_a_directory_of_one_name_are_told_apart_by_the_kernel() -> None:
    """The order lets it pass: files come before directories. Whoever lays it finds the name taken (`test_lying_store.py`)."""
    assert len(read(file("a"), Entry("a"))) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(0, 50, ID), Piece(49, 1, ID)],
        [Piece(50, 50, ID), Piece(0, 50, ID)],
        [Piece(0, 101, ID)],
        [Piece(100, 1, ID)],
        [Piece(-1, 1, ID)],
        [Piece(0, 0, ID)],
        [Piece(0, -1, ID)],
        [Piece(0, 1, ID, -1)],
        [Piece(0, 1, ID, CHUNK_BYTES)],
        [Piece(0, 1, "../x")],
        [Piece(2**70, 1, ID)],
        [Piece(0, 1, ID, 2**70)],
    ],
)
def test_pieces_lie_in_their_file_and_their_chunk_and_not_over_each_other(pieces: list[Piece]) -> None:
    with pytest.raises(BackupError):
        read(file("a", *pieces))


def test_a_piece_is_no_longer_than_a_chunk() -> None:
    with pytest.raises(BackupError):
        read(file("a", Piece(0, CHUNK_BYTES + 1, ID), size=FILE_BYTES_MAX))


@pytest.mark.parametrize("size", [-1, FILE_BYTES_MAX + 1, 2**70])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(BackupError):
        read(file("a", size=size))


def test_more_than_a_project_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "FILES_MAX", 3)
    with pytest.raises(BackupError):
        read(*(file(name) for name in "abcd"))
    monkeypatch.setattr(bases, "BYTES_MAX", 5)
    with pytest.raises(BackupError):
        read(file("a", Piece(0, 6, ID)))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_a_list_is_it_is_read_or_refused(plain: bytes) -> None:
    try:
        Contents().read(plain)
    except BackupError:
        return


_JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["a", "a/b", "..", ID, "b"]), lambda inner: st.lists(inner, max_size=4)
)


@given(st.lists(_JSON, max_size=4))
def test_what_is_read_of_any_list_lies_inside(entries: list[Any]) -> None:
    try:
        read_entries = Contents().read(msgspec.json.encode(entries))
    except BackupError:
        return
    paths = [entry.path for entry in read_entries]
    assert all(part not in ("", ".", "..") for path in paths for part in path.split("/"))
