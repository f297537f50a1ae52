"""A tenant that has taken over its server writes what it likes into its data directory and its outbox. Root clones the one and
empties the other: neither may lead it out of the volume, stop it, or take without end."""

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import ConflictError, PreconditionError, UnavailableError
from cloister.base.ids import new_timeline_id
from cloister.node.timelines import clone, tree, usage, wal
from cloister.node.timelines.archive import Archive
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Making
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups.sealing import BackupKey
from tests.node.backups.bucket import secret_of
from tests.node.backups.scene import Scene
from tests.node.timelines.clusters import CHECKPOINT, control_file, make_cluster, segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")

UID = 1_900_000_123
SECRET = b"of another tenant"
FIRST = wal.segment_number(CHECKPOINT)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """What must not be reached."""
    path = tmp_path / "elsewhere" / "secret"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    make_cluster(data)
    return data


def cloned(data: Path, *, is_running: bool = False) -> Path:
    target = data.with_name("clone")
    clone.clone_cluster(data, target, UID, Abort(), is_running=is_running)
    clone.clone_wal(data, target, UID, Abort())
    return target


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def holds_secret(directory: Path) -> bool:
    return any(path.is_symlink() or (path.is_file() and SECRET in path.read_bytes()) for path in directory.rglob("*"))


@pytest.mark.parametrize("is_running", [True, False])
def test_no_link_is_followed_or_copied(data: Path, secret: Path, is_running: bool) -> None:
    (data / "base/5/16385").symlink_to(secret)
    (data / "base/6").symlink_to(secret.parent)
    (data / "pg_tblspc").symlink_to(secret.parent)
    (data / "pg_wal" / wal.segment_name(1, FIRST + 1)).symlink_to(secret)
    target = cloned(data, is_running=is_running)
    assert not holds_secret(target)
    assert (target / "base/5/16384").read_bytes() == b"rows"


@pytest.mark.parametrize("name", ["global", "pg_wal"])
def test_a_link_in_place_of_a_directory_that_is_needed_ends_the_work(data: Path, secret: Path, name: str) -> None:
    (data / name).rename(data / "moved")
    (data / name).symlink_to(secret.parent)
    with pytest.raises((OSError, PreconditionError)):
        cloned(data)
    assert not holds_secret(data.with_name("clone"))


def test_a_link_in_place_of_the_control_file_is_not_read(data: Path, secret: Path) -> None:
    (data / "global/pg_control").unlink()
    (data / "global/pg_control").symlink_to(secret)
    with pytest.raises(PreconditionError):
        cloned(data)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * 8192, control_file() + b"x", control_file(version=9), control_file(state=7)]
)
def test_a_control_file_that_is_none_ends_the_work(data: Path, content: bytes) -> None:
    (data / "global/pg_control").write_bytes(content)
    with pytest.raises(PreconditionError):
        cloned(data)


def test_nothing_waits_for_a_pipe(data: Path) -> None:
    os.mkfifo(data / "base/5/16385")
    os.mkfifo(data / "pg_wal" / wal.segment_name(1, FIRST + 1))
    target = cloned(data)
    assert not (target / "base/5/16385").exists()


def test_a_file_of_a_terabyte_of_nothing_stays_nothing(data: Path) -> None:
    huge = data / "base/5/16385"
    with huge.open("wb") as file:
        file.write(b"begin")
        file.truncate(2**40)
    copied = cloned(data) / "base/5/16385"
    assert copied.stat().st_size == 2**40
    assert copied.stat().st_blocks * 512 < 2**20


def test_files_are_the_projects_and_carry_no_bits(data: Path) -> None:
    (data / "base/5/16384").chmod(0o6777)
    target = cloned(data)
    for path in (target, *target.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (UID, UID)
        assert found.st_mode & 0o7777 == (0o700 if path.is_dir() else 0o600)


def test_a_tree_without_end_is_refused(data: Path) -> None:
    (data / "base" / "/".join("d" * 20)).mkdir(parents=True)
    with pytest.raises(PreconditionError):
        cloned(data)


def test_files_without_end_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree.Budget.__init__, "__defaults__", (20,))
    for number in range(30):
        (data / f"base/5/{20000 + number}").touch()
    with pytest.raises(PreconditionError):
        cloned(data)


def test_work_ends_when_it_is_asked_to(data: Path) -> None:
    abort = Abort()
    abort.ask()
    with pytest.raises(ConflictError):
        clone.clone_cluster(data, data.with_name("clone"), UID, abort, is_running=False)


def test_removal_follows_no_link_and_gets_to_the_bottom(data: Path, secret: Path, tmp_path: Path) -> None:
    (data / "base/6").symlink_to(secret.parent)
    os.mkfifo(data / "pipe")
    deep = os.open(data, os.O_RDONLY)
    for _ in range(300):  # Deeper than a path may be long.
        os.mkdir("a-rather-long-name-of-a-directory", dir_fd=deep)
        inner = os.open("a-rather-long-name-of-a-directory", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    tree.remove(data, Abort())
    assert not data.exists()
    assert secret.read_bytes() == SECRET


def test_thousands_of_names_are_cloned_and_removed(data: Path) -> None:
    directory = os.open(data / "base/5", os.O_RDONLY)
    for number in range(20_000):
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory))
    os.close(directory)
    target = cloned(data)
    assert len(names_in(target / "base/5")) == 20_001
    tree.remove(target, Abort())
    tree.remove(data, Abort())
    assert not target.exists()
    assert not data.exists()


def test_measuring_ends_in_time(data: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    timeline = layout.timeline(new_timeline_id())
    timeline.directory.mkdir(parents=True)
    data.rename(timeline.data)
    ticks = iter(range(1000))
    used = usage.measure(timeline, Abort(), lambda: float(next(ticks)))  # A second for each look at the clock.
    assert used.logical_bytes < 10**7


class Outbox:
    def __init__(self, directory: Path) -> None:
        self.box = directory / "outbox"
        self.kept = directory / "archive"
        self.box.mkdir()
        self.kept.mkdir()
        self.archive = Archive(self.kept)

    def put(self, number: int, content: bytes | None = None) -> str:
        name = wal.segment_name(1, number)
        (self.box / name).write_bytes(segment(number) if content is None else content)
        return name

    def collect(self) -> list[str]:
        self.archive.collect(self.box, 1000.0, Abort())
        return [found.name for found in self.archive.segments()]


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path)


def test_what_is_no_segment_is_thrown_away_and_nothing_else_touched(outbox: Outbox, secret: Path) -> None:
    name = outbox.put(5)
    (outbox.box / wal.segment_name(1, 6)).symlink_to(secret)
    os.mkfifo(outbox.box / wal.segment_name(1, 7))
    (outbox.box / wal.segment_name(1, 8) / "deep").mkdir(parents=True)
    outbox.put(9, b"too short")
    with (outbox.box / wal.segment_name(1, 10)).open("wb") as file:
        file.truncate(2**40)
    for junk in ("index", "x" * 255, "-rf", "a b\n", f"{name}.missing", "00000002.history"):
        (outbox.box / junk).write_bytes(SECRET)
    (outbox.box / ".unfinished").write_bytes(b"half")
    assert outbox.collect() == [name]
    assert names_in(outbox.kept) == {name, "index"}
    assert names_in(outbox.box) == {".unfinished"}
    assert secret.read_bytes() == SECRET


def test_a_segment_that_ends_behind_the_last_place_is_none(outbox: Outbox) -> None:
    """What is told of a timeline is where its WAL ends, and the control database has no place for more than 64 bits."""
    last = 2**64 // wal.SEGMENT_BYTES - 1
    outbox.put(last)
    kept = outbox.put(last - 1)
    assert outbox.collect() == [kept]
    assert wal.format_lsn((outbox.archive.segments()[-1].number + 1) * wal.SEGMENT_BYTES) == "FFFFFFFF/FFF00000"


def test_there_are_no_more_segments_than_the_volume_has_room_for(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of nothing but a hole take no room there, and a line each in the agent, whenever it collects."""
    really = os.statvfs(outbox.box)
    fields = list(really)
    fields[2] = 3 * wal.SEGMENT_BYTES // really.f_frsize
    monkeypatch.setattr(os, "fstatvfs", lambda _directory: os.statvfs_result(fields))
    names = [outbox.put(number) for number in range(5, 10)]
    assert outbox.collect() == names[:3]
    outbox.put(20)
    assert outbox.collect() == names[:3]
    assert names_in(outbox.kept) == {*names[:3], "index"}
    assert names_in(outbox.box) == set()


def test_an_outbox_that_is_filled_for_ever_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What collects before a recovery is one of a few threads, which are everybody's."""
    source_id = new_timeline_id()
    making = Making(Layout(tmp_path), UID, 1000.0, Abort())
    making.fresh(source_id, make_cluster)
    outbox = Layout(tmp_path).timeline(source_id).outbox
    really, numbers = Archive.collect, itertools.count(2)

    def collect_and_fill(archive: Archive, *given: Any) -> int:
        number = next(numbers)
        assert number < 1000, "for ever"
        (outbox / wal.segment_name(1, number)).write_bytes(segment(number))
        return really(archive, *given)

    monkeypatch.setattr(Archive, "collect", collect_and_fill)
    with pytest.raises(UnavailableError):
        making.assemble(source_id, new_timeline_id(), Target(at=1000.0), is_running=True)


def test_a_directory_that_is_filled_as_it_is_emptied_holds_nobody_up_for_ever(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who collects goes from one compute to the next, and all others' WAL would stay within their tenants' reach."""
    monkeypatch.setattr("cloister.node.timelines.archive.THROWN_AWAY_MAX", 50)
    (outbox.box / "filled").mkdir()
    name = outbox.put(5)
    really, numbers = os.unlink, itertools.count()

    def unlink_and_fill(path: Any, **below: Any) -> None:
        number = next(numbers)
        assert number < 1000, "for ever"
        (outbox.box / "filled" / str(number)).touch()
        really(path, **below)

    (outbox.box / "filled" / "first").touch()
    with monkeypatch.context() as tenant:
        tenant.setattr(os, "unlink", unlink_and_fill)
        assert outbox.collect() == [name]
    outbox.collect()
    assert names_in(outbox.box) == set(), "once it is not filled any more"


def test_what_is_archived_stays_as_it_was(outbox: Outbox) -> None:
    name = outbox.put(5)
    kept_open = os.open(outbox.box / name, os.O_RDWR)
    os.link(outbox.box / name, outbox.box.parent / "second-name")
    assert outbox.collect() == [name]
    before = (outbox.kept / name).read_bytes()
    os.pwrite(kept_open, b"changed", 100)
    (outbox.box.parent / "second-name").write_bytes(b"changed")
    outbox.put(5, segment(5, fill=b"!"))
    assert outbox.collect() == [name]
    assert (outbox.kept / name).read_bytes() == before
    assert (outbox.kept / name).stat().st_uid == 0
    assert names_in(outbox.box) == set()
    os.close(kept_open)


def test_a_full_outbox_is_emptied_piece_by_piece(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.node.timelines.archive.COLLECTED_MAX", 10)
    for number in range(25):
        (outbox.box / f"junk-{number}").touch()
    outbox.collect()
    assert len(names_in(outbox.box)) == 15
    outbox.collect()
    outbox.collect()
    assert names_in(outbox.box) == set()


def test_a_hostile_source_leaves_no_target(tmp_path: Path, data: Path, secret: Path) -> None:
    layout = Layout(tmp_path)
    source_id, target_id = new_timeline_id(), new_timeline_id()
    source = layout.timeline(source_id)
    source.directory.mkdir(parents=True)
    (data / "base" / "/".join("d" * 20)).mkdir(parents=True)
    data.rename(source.data)
    with pytest.raises(PreconditionError):
        Making(layout, UID, 1000.0, Abort()).clone(source_id, target_id)
    assert not layout.timeline(target_id).exists
    layout.sweep()
    layout.empty_trash(Abort())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "timelines", "trash", "unfinished"]
    assert secret.read_bytes() == SECRET


def put_in_place(path: Path, hostile: str, secret: Path) -> None:
    path.unlink()
    secret.write_bytes(segment(FIRST)[:24] + SECRET.ljust(wal.SEGMENT_BYTES - 24, b"\0"))
    match hostile:
        case "link":
            path.symlink_to(secret)
        case "pipe":
            os.mkfifo(path)
        case "long":
            with path.open("wb") as file:
                file.write(segment(FIRST)[:24])
                file.truncate(2**40)
        case "short":
            path.write_bytes(segment(FIRST)[:24])
        case _:
            path.mkdir()


@pytest.mark.parametrize("hostile", ["link", "pipe", "long", "short", "directory"])
async def test_what_is_sent_to_a_store_is_wal_and_nothing_else(tmp_path: Path, secret: Path, hostile: str) -> None:
    """The segment that is being written is read where the tenant can put anything in its place."""
    scene = Scene(tmp_path)
    source = scene.timeline()
    await scene.back_up(source)
    scene.running.add(source)
    segments = scene.data(source) / "pg_wal"
    put_in_place(segments / wal.segment_name(1, FIRST), hostile, secret)
    async with asyncio.timeout(10):
        await scene.send_wal(source)
    sealer = BackupKey(secret_of(scene.project_id), scene.project_id, 1)
    for key in scene.bucket.keys("/wal/"):
        plain = sealer.open(key, scene.bucket.latest(key))
        assert SECRET not in plain
        assert len(plain) <= wal.SEGMENT_BYTES
    assert bool(scene.bucket.keys("/wal/")) == (hostile == "long")
    # Nor is it read where the whole directory was put elsewhere.
    segments.rename(segments.with_name("moved"))
    segments.symlink_to(secret.parent)
    with pytest.raises(OSError):
        await scene.send_wal(source)
