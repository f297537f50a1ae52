"""A standby gets what its source's server writes: all of it, in order, whatever a tenant has put in the way."""

import os
import struct
from pathlib import Path

import pytest

from cloister.base.errors import PreconditionError
from cloister.node.timelines import following, wal
from cloister.node.timelines.following import SETTLED_NS, Place
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.tree import Abort

WAL_TIMELINE = 3
NOW_NS = 2**60
"""Long after every file was written."""


class Scene:
    def __init__(self, directory: Path) -> None:
        self.source, self.standby = Timeline(directory / "source"), Timeline(directory / "standby")
        for timeline in (self.source, self.standby):
            for made in (timeline.data / "pg_wal", timeline.archive, timeline.outbox):
                made.mkdir(parents=True)
        self.place = Place(WAL_TIMELINE, 7)

    @property
    def written(self) -> Path:
        return self.source.data / "pg_wal"

    def feed(self, now_ns: int = NOW_NS) -> None:
        self.place = following.feed(self.source, self.standby, self.place, now_ns, Abort())

    def given(self) -> dict[int, bytes]:
        """Number → the first byte behind the page's header."""
        found = {}
        for path in (self.standby.data / "pg_wal").iterdir():
            parsed = wal.parse_segment_name(path.name)
            assert parsed is not None
            assert parsed[0] == WAL_TIMELINE
            found[parsed[1]] = path.read_bytes()[wal.PAGE_HEADER_BYTES : wal.PAGE_HEADER_BYTES + 1]
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def name(number: int) -> str:
    return wal.segment_name(WAL_TIMELINE, number)


def write(directory: Path, number: int, content: bytes = b"a", *, called: int | None = None) -> Path:
    path = directory / name(number if called is None else called)
    header = struct.pack("=HHIQ", 0xD118, 0, WAL_TIMELINE, number * wal.SEGMENT_BYTES)
    path.write_bytes((header.ljust(wal.PAGE_HEADER_BYTES, b"\0") + content).ljust(wal.SEGMENT_BYTES, b"\0"))
    return path


def test_the_segment_that_is_being_written_is_given_again_when_it_has_changed(scene: Scene) -> None:
    path = write(scene.written, 7, b"a")
    os.utime(path, ns=(1, 1))
    scene.feed()
    assert scene.given() == {7: b"a"}
    given = next((scene.standby.data / "pg_wal").iterdir()).stat().st_ino
    scene.feed()
    assert next((scene.standby.data / "pg_wal").iterdir()).stat().st_ino == given, "still, so left alone"
    os.utime(write(scene.written, 7, b"b"), ns=(2, 2))
    scene.feed()
    assert (scene.given(), scene.place.number) == ({7: b"b"}, 7)


def test_one_that_was_just_written_is_given_again_though_its_time_is_the_same(scene: Scene) -> None:
    os.utime(write(scene.written, 7, b"a"), ns=(NOW_NS, NOW_NS))
    scene.feed(NOW_NS + 1)
    os.utime(write(scene.written, 7, b"b"), ns=(NOW_NS, NOW_NS))
    scene.feed(NOW_NS + SETTLED_NS)
    assert scene.given() == {7: b"b"}


def test_one_is_passed_when_the_next_has_begun_and_no_sooner(scene: Scene) -> None:
    write(scene.written, 7)
    write(scene.written, 2, called=8)  # an old one, kept for later use
    scene.feed()
    assert (scene.place.number, set(scene.given())) == (7, {7})
    write(scene.written, 8)
    scene.feed()
    assert (scene.place.number, set(scene.given())) == (8, {7, 8})


def test_what_the_server_has_given_up_comes_from_the_outbox_and_the_archive(scene: Scene) -> None:
    write(scene.source.archive, 7, b"x")
    write(scene.source.outbox, 8, b"y")
    write(scene.written, 9, b"z")
    scene.feed()
    assert (scene.place.number, scene.given()) == (9, {7: b"x", 8: b"y", 9: b"z"})


def test_a_gap_is_told(scene: Scene) -> None:
    write(scene.written, 9)
    with pytest.raises(PreconditionError):
        scene.feed()


def test_where_nothing_follows_there_is_no_gap(scene: Scene) -> None:
    scene.feed()
    assert (scene.place.number, scene.given()) == (7, {})


@pytest.mark.parametrize("trick", ["link", "pipe", "directory", "short"])
def test_what_is_no_segment_is_not_given(scene: Scene, trick: str) -> None:
    path = scene.written / name(7)
    match trick:
        case "link":
            path.symlink_to(write(scene.written.parent, 7))
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "short":
            os.truncate(write(scene.written, 7), wal.SEGMENT_BYTES - 1)
    scene.feed()
    assert scene.given() == {}


@pytest.mark.parametrize("trick", ["link", "file"])
def test_nothing_is_written_through_what_a_standby_has_put_in_the_way(scene: Scene, tmp_path: Path, trick: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    for path in (scene.standby.data / "pg_wal" / name(7), scene.standby.data / "pg_wal" / "given"):
        if trick == "link":
            path.symlink_to(theirs)
        else:
            os.link(theirs, path)
    write(scene.written, 7)
    scene.feed()
    assert theirs.read_bytes() == b"theirs"
    assert not (scene.standby.data / "pg_wal" / name(7)).is_symlink()
    assert scene.given() == {7: b"a"}


def test_what_is_given_is_whole_where_the_system_takes_it_in_parts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume takes a part and says so. A segment that was cut off would be waited for, for ever."""
    really = os.write
    write(scene.written, 7)
    write(scene.written, 8)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, content: really(file, content[:70_000]))
        scene.feed()
    given = scene.standby.data / "pg_wal" / name(7)
    assert given.read_bytes() == (scene.written / name(7)).read_bytes()
