"""Sharing blocks: whole, and piece by piece while somebody else works on the file."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.node import reflink
from cloister.node.reflink import EXTENTS_AT_ONCE, piece_bytes
from cloister.node.timelines import tree

PAGE: Final = 8192
MIB: Final = 1024**2
PIECE: Final = 2 * MIB
SIZE: Final = 5 * PIECE - 3 * PAGE


@given(st.integers(1, 2**43), st.integers(0, 2**31))
def test_pieces_have_few_extents_and_end_where_pages_do(size: int, extents: int) -> None:
    piece = piece_bytes(size, extents)
    assert piece % MIB == 0
    assert piece > 0
    pieces = -(-size // piece)
    assert pieces <= max(1, -(-extents // EXTENTS_AT_ONCE))
    if extents <= EXTENTS_AT_ONCE:
        assert pieces == 1


def test_a_table_of_one_gigabyte_that_was_written_all_over_is_shared_in_a_hundred_pieces() -> None:
    assert piece_bytes(2**30, 107_000) == 10 * MIB


@pytest.fixture
def table(volume: Path) -> Path:
    path = volume / "table"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@contextmanager
def opened(source: Path) -> Iterator[tuple[int, int, Path]]:
    target = source.with_name("copy")
    with tree.opened(source, os.O_RDWR) as from_, tree.opened(target, tree.NEW_FILE) as to:
        yield from_, to, target


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflink, "piece_bytes", lambda _size, _extents: PIECE)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], Any]], None]:
    """Something that happens before each piece, told its offset."""

    def install(act: Callable[[int], Any]) -> None:
        share = reflink._share

        def sharing(source: int, target: int, offset: int, length: int) -> bool:
            act(offset)
            return share(source, target, offset, length)

        monkeypatch.setattr(reflink, "_share", sharing)

    return install


@pytest.mark.root
def test_the_extents_of_a_table_that_is_written_while_it_is_shared_are_many(table: Path) -> None:
    with opened(table) as (source, target, _path):
        assert reflink.reflink(source, target)
        before = reflink._extents(source)
        for page in range(0, SIZE // PAGE, 2):
            os.pwrite(source, b"x" * PAGE, page * PAGE)
        os.fsync(source)
        assert before < 10 < SIZE // PAGE // 4 < reflink._extents(source)


@pytest.mark.root
@pytest.mark.usefixtures("small_pieces")
def test_a_copy_in_pieces_is_the_file(table: Path) -> None:
    with opened(table) as (source, target, path):
        os.fsync(source)
        before = os.statvfs(path).f_bfree
        assert reflink.reflink_in_use(source, target)
        assert path.read_bytes() == table.read_bytes()
        assert (before - os.statvfs(path).f_bfree) * os.statvfs(path).f_bsize < SIZE // 10, "by reference"


@pytest.mark.root
@pytest.mark.usefixtures("small_pieces")
def test_a_file_that_grows_is_copied_to_its_end(table: Path, between: Any) -> None:
    with opened(table) as (source, target, path):
        between(lambda offset: os.pwrite(source, b"g" * PAGE, SIZE + offset))
        assert reflink.reflink_in_use(source, target)
        assert path.read_bytes() == table.read_bytes()
        assert path.stat().st_size > SIZE


@pytest.mark.root
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("left", [0, PAGE, 2 * PIECE, 2 * PIECE + PAGE, 3 * PIECE, 4 * PIECE, 4 * PIECE + PAGE])
def test_a_file_that_is_cut_off_is_copied_as_far_as_it_goes(table: Path, between: Any, left: int) -> None:
    """What was shared before stays: nobody reads behind the end that WAL tells of."""
    with opened(table) as (source, target, path):
        between(lambda offset: os.ftruncate(source, left) if offset == 2 * PIECE else None)
        assert reflink.reflink_in_use(source, target)
        copy, original = path.read_bytes(), table.read_bytes()
        assert copy[:left] == original
        assert len(copy) == max(left, 2 * PIECE)


@pytest.mark.root
@pytest.mark.usefixtures("small_pieces")
def test_what_cannot_be_shared_to_its_end_is_copied(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut off again and again, and has a hole where it was shared before."""

    def share(_source: int, target: int, offset: int, _length: int) -> bool:
        if offset == 0:
            os.pwrite(target, b"stale" * 1000, 0)
        return offset == 0

    monkeypatch.setattr(reflink, "_share", share)
    with table.open("wb") as file:
        file.seek(PIECE)
        file.write(b"x" * PIECE)
    with opened(table) as (source, target, path):
        assert not tree.share(source, target, in_use=True)
        assert path.read_bytes() == table.read_bytes()


@pytest.mark.root
@pytest.mark.usefixtures("small_pieces")
def test_every_page_of_a_copy_is_one_that_was_written_whole(table: Path) -> None:
    """While somebody writes: no page is half of one and half of another."""
    stop = threading.Event()
    pages = SIZE // PAGE

    def write() -> None:
        chance = random.Random(2)
        with tree.opened(table, os.O_RDWR) as file:
            while not stop.is_set():
                os.pwrite(file, bytes([chance.randrange(256)]) * PAGE, chance.randrange(pages) * PAGE)

    table.write_bytes(bytes(pages * PAGE))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            with opened(table) as (source, target, path):
                assert reflink.reflink_in_use(source, target)
                copy = path.read_bytes()
            path.unlink()
            assert all(len(set(copy[at : at + PAGE])) == 1 for at in range(0, len(copy), PAGE))
    finally:
        stop.set()
        writer.join()
