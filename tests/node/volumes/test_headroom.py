"""Room kept back in a full volume: the arithmetic, and that XFS does what it relies on."""

import errno
import os
import time
from pathlib import Path

import pytest

from cloister.base.errors import PreconditionError
from cloister.node.volumes import headroom

MIB = 1024**2
UID = 1_900_000_001


@pytest.mark.parametrize(
    ("last", "size", "expected"),
    [
        ("000000010000000000000001", MIB, ["000000010000000000000002", "000000010000000000000003"]),
        ("000000010000000000000FFE", MIB, ["000000010000000000000FFF", "000000010000000100000000"]),
        ("0000000200000003000000FF", 16 * MIB, ["000000020000000400000000", "000000020000000400000001"]),
        ("0000000A00000000000000FE", 16 * MIB, ["0000000A00000000000000FF", "0000000A0000000100000000"]),
    ],
)
def test_segments_are_named_as_postgresql_names_them(last: str, size: int, expected: list[str]) -> None:
    assert headroom.next_segments(last, size, 2) == expected


def test_nothing_is_asked_for_when_there_is_enough() -> None:
    assert headroom.next_segments("000000010000000000000001", MIB, 0) == []
    assert headroom.next_segments("000000010000000000000001", MIB, -3) == []


@pytest.fixture
def data(volume: Path) -> Path:
    """The skeleton of a cluster."""
    data = volume / "timelines" / "one" / "data"
    (data / "pg_wal").mkdir(parents=True)
    (data / "pg_wal" / "000000010000000000000003").write_bytes(bytes(MIB))
    return data


def free(volume: Path) -> int:
    space = os.statvfs(volume)
    return space.f_bavail * space.f_frsize


def fill(path: Path) -> int:
    """Write until the file system is full, as PostgreSQL extends a table. Returns how much went in."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(8192))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return file.tell()


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("volume_mb", "expected_mb"), [(64, 10), (448, 74), (768, 128), (4096, 128), (10_240, 204), (1024 * 1024, 512)]
)
def test_what_statements_must_leave_is_a_share_of_the_volume(volume_mb: int, expected_mb: int) -> None:
    assert headroom.gate_bytes(volume_mb * MIB) // MIB == expected_mb


@pytest.mark.root
def test_segments_made_ahead_belong_to_the_cluster_and_take_no_room_on_the_host(volume: Path, data: Path) -> None:
    before = allocated(volume.parent / "image")
    made = headroom.make_wal_ahead(data, UID)
    assert made in (15, 16)  # a sixteenth of 256 MB, less what XFS needs itself
    segments = sorted(entry.name for entry in (data / "pg_wal").iterdir())
    assert segments[:2] == ["000000010000000000000003", "000000010000000000000004"]
    last = data / "pg_wal" / segments[-1]
    assert (last.stat().st_uid, last.stat().st_mode & 0o777, last.stat().st_size) == (UID, 0o600, MIB)
    assert allocated(last) == MIB
    assert headroom.make_wal_ahead(data, UID) == 0
    os.sync()
    assert allocated(volume.parent / "image") - before < 2 * MIB
    # They are what they are for: full of tables, WAL can still be written.
    fill(volume / "table")
    with last.open("r+b") as file:
        file.write(b"x" * MIB)
        os.fsync(file.fileno())


@pytest.mark.root
def test_the_reserve_is_held_given_up_and_taken_back(volume: Path) -> None:
    reserve = volume / "reserve"
    headroom.mind(volume)
    assert allocated(reserve) == pytest.approx(16 * MIB, rel=0.1)
    assert reserve.stat().st_uid == 0
    headroom.mind(volume)
    assert not headroom.release_if_needed(volume)

    fill(volume / "table")
    headroom.mind(volume)
    assert not reserve.exists()
    headroom.mind(volume)  # there is no second one to give
    assert not reserve.exists()

    (volume / "table").unlink()
    deadline = time.monotonic() + 10
    headroom.mind(volume)
    while not reserve.exists():  # XFS counts the blocks of a removed file as free a moment later
        assert time.monotonic() < deadline
        time.sleep(0.01)
        headroom.mind(volume)


def test_where_nothing_is_mounted_any_more_nothing_is_made(tmp_path: Path) -> None:
    """A volume may be closed between the look at the list of them and this: what was made in the directory below it would keep
    it from ever being closed."""
    below = tmp_path / "volume"
    below.mkdir()
    headroom.mind(below)
    assert not [*below.iterdir()]
    headroom.hold(below)  # the control: there would be room
    assert [*below.iterdir()]


@pytest.mark.root
def test_a_tenants_links_are_not_followed(volume: Path, data: Path, tmp_path: Path) -> None:
    """The data directory belongs to the tenant, and this is root."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "000000010000000000000003").write_bytes(bytes(MIB))
    (data / "pg_wal").rename(data / "moved")
    (data / "pg_wal").symlink_to(elsewhere)
    with pytest.raises(OSError):
        headroom.prepare_cluster(data, UID)
    assert [entry.name for entry in elsewhere.iterdir()] == ["000000010000000000000003"]


@pytest.mark.root
def test_a_segment_of_a_size_that_cannot_be_is_refused(data: Path) -> None:
    (data / "pg_wal" / "000000010000000000000003").write_bytes(b"")
    with pytest.raises(PreconditionError):
        headroom.make_wal_ahead(data, UID)
