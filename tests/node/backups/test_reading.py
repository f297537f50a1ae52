"""A snapshot's files become chunks: the same ones for the same content, within bounds, and nothing of what is no PostgreSQL's."""

import os
import threading
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from cloister.base.errors import ConflictError, PreconditionError
from cloister.node.backups.reading import SMALL_BYTES, Chunk, Reading
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups import bases
from cloister.protocol.backups.bases import CHUNK_BYTES, Contents, Entry


def read(data: Path) -> tuple[Reading, dict[str, bytes], list[Chunk]]:
    reading, abort = Reading(data, lambda plain: sha256(plain).hexdigest()), Abort()
    chunks = []
    while (chunk := reading.next(abort)) is not None:
        chunks.append(chunk)
    return reading, {it.id: it.plain for it in chunks}, chunks


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def entries(data: Path) -> list[Entry]:
    reading, chunks, _ = read(data)
    contents = Contents()
    found = [entry for it in reading.lists for entry in contents.read(chunks[it])]
    assert (contents.files, contents.bytes) == (reading.files, reading.bytes)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "base/5").mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    for number in range(400):
        (data / f"base/5/{16384 + number}").write_bytes(os.urandom(8192))
    (data / "base/5/20000").write_bytes(os.urandom(3 * CHUNK_BYTES + 5))
    return data


def test_what_is_read_is_what_the_lists_say(data: Path) -> None:
    reading, chunks, _ = read(data)
    found: dict[str, bytes] = {}
    for entry in entries(data):
        if entry.size is not None:
            content = bytearray(entry.size)
            for piece in entry.pieces:
                content[piece.offset : piece.offset + piece.length] = chunks[piece.chunk][piece.at :][: piece.length]
            found[entry.path] = bytes(content)
    assert found == {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert all(len(plain) <= CHUNK_BYTES for plain in chunks.values())
    assert reading.left_out == 0


def test_one_changed_page_is_one_chunk_and_a_grown_file_moves_no_others(data: Path) -> None:
    before = read(data)[1].keys()
    with (data / "base/5/20000").open("r+b") as file:
        file.seek(CHUNK_BYTES + 8192)
        file.write(b"changed")
    lists = 1
    after = read(data)[1].keys()
    assert len(after - before) == 1 + lists
    # One that comes early and grows by a page: what lies with it in a chunk, and perhaps the next.
    (data / "base/5/16384").write_bytes(os.urandom(16384))
    assert len(read(data)[1].keys() - after) <= 2 + lists


def test_holes_and_zeros_are_not_sent(data: Path) -> None:
    with (data / "sparse").open("wb") as file:
        file.truncate(bases.FILE_BYTES_MAX)
        file.seek(5 * CHUNK_BYTES + 17)
        file.write(b"content")
    (data / "zeros").write_bytes(bytes(2 * CHUNK_BYTES))
    found = {entry.path: entry for entry in entries(data)}
    assert [piece.offset for piece in found["sparse"].pieces] == [5 * CHUNK_BYTES]
    assert found["sparse"].size == bases.FILE_BYTES_MAX
    assert (found["zeros"].size, found["zeros"].pieces) == (2 * CHUNK_BYTES, [])


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_file_of_any_size_is_covered(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(os.urandom(size))
    [entry] = entries(tmp_path)
    assert sum(piece.length for piece in entry.pieces) == entry.size == size


def test_an_empty_directory_has_an_empty_list(tmp_path: Path) -> None:
    assert entries(tmp_path) == []
    assert [msgspec.json.decode(it.plain) for it in read(tmp_path)[2]] == [[]]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    for number in range(300):
        with (tmp_path / f"{number:05}{'x' * 200}").open("wb") as file:
            file.truncate(100 * CHUNK_BYTES)
    reading = read(tmp_path)[0]
    assert len(reading.lists) == 3
    assert len(entries(tmp_path)) == 300


def test_what_is_no_postgresql_s_is_left_out(data: Path) -> None:
    for name in (b"a b", b"\xff", b"new\nline", "ä".encode(), b"\x1b[2J"):
        (Path(os.fsdecode(os.fsencode(data) + b"/base/5/" + name))).write_bytes(b"x")
        (Path(os.fsdecode(os.fsencode(data) + b"/" + name))).mkdir()
    (data / "link").symlink_to("/etc/passwd")
    (data / "directory").symlink_to("/etc")
    os.mkfifo(data / "pipe")
    with (data / "huge").open("wb") as file:
        file.truncate(bases.FILE_BYTES_MAX + 1)
    reading = read(data)[0]
    assert reading.left_out == 14
    assert {entry.path for entry in entries(data)} >= {"PG_VERSION", "base", "base/5"}
    assert not {"link", "directory", "pipe", "huge"} & {entry.path for entry in entries(data)}


def test_how_many_how_much_and_how_deep_is_bounded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "FILES_MAX", 100)
    with pytest.raises(PreconditionError, match="more files"):
        read(data)
    monkeypatch.undo()
    monkeypatch.setattr(bases, "BYTES_MAX", CHUNK_BYTES)
    with pytest.raises(PreconditionError, match="more data"):
        read(data)
    monkeypatch.undo()
    (data / "1/2/3/4/5/6").mkdir(parents=True)
    assert read(data)[0].files
    (data / "1/2/3/4/5/6/7").mkdir()
    with pytest.raises(PreconditionError, match="too deep"):
        read(data)


def test_it_ends_at_the_next_file_when_it_is_to(data: Path) -> None:
    for number in range(len(read(data)[2]) - 2):  # the last file's last piece, and the list
        reading, abort = Reading(data, lambda _: "00" * 32), Abort()
        for _ in range(number):
            assert reading.next(abort) is not None
        abort.ask()
        with pytest.raises(ConflictError):
            reading.next(abort)
    before = open_files()
    reading = Reading(data, lambda _: "00" * 32)
    reading.next(Abort())
    reading.close()
    assert open_files() == before


def test_it_ends_within_a_directory_too(data: Path) -> None:
    """Of one with a million names, before they are all read."""

    class Counting(Abort):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            super().check()

    reading, abort = Reading(data, lambda _: "00" * 32), Counting()
    for _ in range(2):
        reading.next(abort)
    assert abort.checks > 400


def test_it_can_be_closed_while_a_thread_reads(data: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def chunk_id(_plain: bytes) -> str:
        entered.set()
        leave.wait(5)
        return "00" * 32

    reading = Reading(data, chunk_id)
    thread = threading.Thread(target=reading.next, args=(Abort(),), daemon=True)
    thread.start()
    assert entered.wait(5)
    reading.close()
    leave.set()
    thread.join(5)
    assert not thread.is_alive()


def test_what_becomes_a_pipe_holds_nobody_up(data: Path) -> None:
    """A snapshot is root's, so nothing does. It would be seen all the same."""
    reading = Reading(data, lambda plain: sha256(plain).hexdigest())
    for _ in range(2):
        reading.next(Abort())
    (data / "base/5/20000").unlink()
    os.mkfifo(data / "base/5/20000")
    raised: list[BaseException] = []

    def rest() -> None:
        try:
            while reading.next(Abort()) is not None:
                pass
        except ConflictError as error:
            raised.append(error)

    thread = threading.Thread(target=rest, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert raised
