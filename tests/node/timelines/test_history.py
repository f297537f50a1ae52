"""What a copy needs of its source's WAL, where there are only files that look like it."""

import os
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import PreconditionError, UnavailableError
from cloister.base.ids import TimelineId, new_timeline_id
from cloister.node.timelines import clone, usage, wal
from cloister.node.timelines import history as history_module
from cloister.node.timelines.control import State
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.making import Assembled, Making
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.snapshots import COPY, Snapshot, Snapshots
from cloister.node.timelines.tree import Abort
from tests.node.timelines.clusters import CHECKPOINT, control_file, make_cluster, segment

UID = 1_900_000_123


def test_a_copy_whose_wal_has_a_gap_may_be_made_again(tmp_path: Path) -> None:
    """A segment that the guard left out, because the volume was full, comes never; the next copy begins behind it."""
    layout = Layout(tmp_path)
    source = layout.begin(new_timeline_id(), os.getuid())
    make_cluster(source.data)
    copy = tmp_path / "copy"
    make_cluster(copy)
    history = History(layout, source)
    history.add_wal_between(copy, 1, (CHECKPOINT, CHECKPOINT + 100), os.getuid())
    with pytest.raises(UnavailableError) as gap:
        history.add_wal_between(copy, 1, (CHECKPOINT, CHECKPOINT + 2 * wal.SEGMENT_BYTES), os.getuid())
    assert gap.value.may_retry


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")
def test_wal_of_a_copy_that_its_server_has_given_up_is_taken_from_what_it_finished(tmp_path: Path) -> None:
    making = Making(Layout(tmp_path), UID, 1000.0, Abort())
    source_id, target_id = new_timeline_id(), new_timeline_id()
    making.fresh(source_id, make_cluster)
    source = Layout(tmp_path).timeline(source_id)
    first = wal.segment_number(CHECKPOINT)
    making.copy(source_id, target_id)
    finished, going_on = (wal.segment_name(1, number) for number in (first + 1, first + 2))
    for number in (first, first + 1):
        (source.outbox / wal.segment_name(1, number)).write_bytes(segment(number))
    # Under its name is an older one by now, which was kept for later use.
    (source.data / clone.WAL / finished).write_bytes(segment(first - 1))
    (source.data / clone.WAL / going_on).write_bytes(segment(first + 2))
    label = f"START WAL LOCATION: {wal.format_lsn(CHECKPOINT)} (file {wal.segment_name(1, first)})\n"
    making.finish_copy(source_id, target_id, label, (first + 3) * wal.SEGMENT_BYTES, is_frozen=False)
    copied = Layout(tmp_path).timeline(target_id).data / clone.WAL
    assert [(copied / name).read_bytes() for name in (finished, going_on)] == [segment(first + 1), segment(first + 2)]


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(Layout(tmp_path), UID, 1000.0, Abort())


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")
class TestTheFirstSnapshotOfACopy:
    """It is the source's last one, with the WAL that leads from there to where the copy was made."""

    FIRST = wal.segment_number(CHECKPOINT)
    START = (FIRST + 3) * wal.SEGMENT_BYTES + 40
    STOP = (FIRST + 4) * wal.SEGMENT_BYTES

    def label(self) -> str:
        return f"START WAL LOCATION: {wal.format_lsn(self.START)} (file {wal.segment_name(1, self.FIRST + 3)})\n"

    def source(self, making: Making, tmp_path: Path, *, archived: int, with_server: int) -> TimelineId:
        """Segments after that of the first snapshot: finished and taken in, and those that its server still has."""
        source_id = new_timeline_id()
        making.fresh(source_id, make_cluster)
        source = Layout(tmp_path).timeline(source_id)
        for number in range(self.FIRST, self.FIRST + archived):
            (source.outbox / wal.segment_name(1, number)).write_bytes(segment(number))
        making.collect(source_id, None)
        for number in range(self.FIRST + archived, self.FIRST + archived + with_server):
            (source.data / clone.WAL / wal.segment_name(1, number)).write_bytes(segment(number))
        (source.data / "base/5/16384").write_bytes(b"rows of later")
        return source_id

    def copy(self, making: Making, source_id: TimelineId) -> tuple[TimelineId, Snapshot | None]:
        target_id = new_timeline_id()
        making.copy(source_id, target_id)
        _, first = making.finish_copy(source_id, target_id, self.label(), self.STOP, is_frozen=False)
        return target_id, first

    def taken(self, tmp_path: Path, timeline_id: TimelineId) -> tuple[Snapshot, Path]:
        snapshots = Snapshots(Layout(tmp_path).existing(timeline_id).snapshots)
        [taken] = snapshots.all()
        return taken, snapshots.data(taken)

    def test_is_what_the_source_was_and_all_wal_since(self, making: Making, tmp_path: Path) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=3)
        target_id, first = self.copy(making, source_id)
        assert first is not None
        assert not Snapshots(Layout(tmp_path).existing(target_id).snapshots).all()
        making.take_first_from(source_id, target_id, first)
        taken, data = self.taken(tmp_path, target_id)
        assert (taken.start_lsn, taken.stop_lsn, taken.moment) == (CHECKPOINT, self.STOP, first.moment)
        assert (data / "base/5/16384").read_bytes() == b"rows"
        assert not (data / clone.BACKUP_LABEL).exists()
        assert sorted(path.name for path in (data / clone.WAL).iterdir()) == [
            wal.segment_name(1, number) for number in range(self.FIRST, self.FIRST + 4)
        ], "and nothing that the source wrote afterwards"

    def test_counts_on_what_is_finished_and_not_yet_taken_in(self, making: Making, tmp_path: Path) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        source = Layout(tmp_path).existing(source_id)
        for number in (self.FIRST + 2, self.FIRST + 3):
            (source.data / clone.WAL / wal.segment_name(1, number)).rename(source.outbox / wal.segment_name(1, number))
        (source.data / clone.WAL / wal.segment_name(1, self.FIRST + 3)).write_bytes(segment(self.FIRST + 3))
        target_id, first = self.copy(making, source_id)
        assert first is not None
        making.take_first_from(source_id, target_id, first)
        _, data = self.taken(tmp_path, target_id)
        assert (data / clone.WAL / wal.segment_name(1, self.FIRST + 2)).read_bytes() == segment(self.FIRST + 2)

    def test_is_later_than_the_copy_if_what_was_counted_on_is_not_what_it_is_called(
        self, making: Making, tmp_path: Path
    ) -> None:
        """The outbox is the tenant's."""
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        source = Layout(tmp_path).existing(source_id)
        (source.data / clone.WAL / wal.segment_name(1, self.FIRST + 2)).unlink()
        (source.outbox / wal.segment_name(1, self.FIRST + 2)).mkdir()
        target_id, first = self.copy(making, source_id)
        assert first is not None
        with pytest.raises(UnavailableError, match="does not lead"):
            making.take_first_from(source_id, target_id, first)
        assert not Snapshots(Layout(tmp_path).existing(target_id).snapshots).all()

    def test_is_the_copy_itself_where_wal_is_missing(self, making: Making, tmp_path: Path) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        layout = Layout(tmp_path)
        missing = wal.segment_name(1, self.FIRST + 1)
        archive = layout.existing(source_id).archive
        (archive / "index").write_bytes(
            b"\n".join(line for line in (archive / "index").read_bytes().splitlines() if missing.encode() not in line)
        )
        self.is_the_copy_itself(making, tmp_path, source_id)

    def test_is_the_copy_itself_where_the_last_one_is_too_far(
        self, making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        monkeypatch.setattr(history_module, "FIRST_WAL_BYTES_MAX", self.STOP - CHECKPOINT - 1)
        self.is_the_copy_itself(making, tmp_path, source_id)

    def test_is_the_copy_itself_where_there_is_none(self, making: Making, tmp_path: Path) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        Snapshots(Layout(tmp_path).existing(source_id).snapshots).give_up(
            Snapshots(Layout(tmp_path).existing(source_id).snapshots).all(), tmp_path / "trash"
        )
        self.is_the_copy_itself(making, tmp_path, source_id)

    def is_the_copy_itself(self, making: Making, tmp_path: Path, source_id: TimelineId) -> None:
        target_id, first = self.copy(making, source_id)
        assert first is None
        taken, data = self.taken(tmp_path, target_id)
        assert taken.start_lsn == self.START
        assert (data / "base/5/16384").read_bytes() == b"rows of later"
        assert (data / clone.BACKUP_LABEL).exists()

    def test_is_not_made_of_what_is_gone_meanwhile(self, making: Making, tmp_path: Path) -> None:
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        target_id, first = self.copy(making, source_id)
        assert first is not None
        making.begin_anew(source_id)
        with pytest.raises(UnavailableError, match="does not lead"):
            making.take_first_from(source_id, target_id, first)
        assert not Snapshots(Layout(tmp_path).existing(target_id).snapshots).all()

    def test_comes_whole_into_whatever_is_made_of_it(self, making: Making, tmp_path: Path) -> None:
        """The shutdown that it begins with is not where it ends."""
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        target_id, first = self.copy(making, source_id)
        assert first is not None
        making.take_first_from(source_id, target_id, first)
        layout, recovered = Layout(tmp_path), new_timeline_id()
        history = History(layout, layout.existing(target_id))
        history.assemble(history.snapshots.all()[0], layout.begin(recovered, UID), UID, Abort())
        copied = layout.unfinished(recovered).data / clone.WAL
        assert {wal.segment_name(1, number) for number in range(self.FIRST, self.FIRST + 4)} <= {
            path.name for path in copied.iterdir()
        }

    def test_counts_from_where_a_recovery_begins(self, making: Making, tmp_path: Path) -> None:
        """So that the next one is taken soon where the way back is long."""
        source_id = self.source(making, tmp_path, archived=2, with_server=2)
        target_id, first = self.copy(making, source_id)
        assert first is not None
        making.take_first_from(source_id, target_id, first)
        info = making.look(target_id, is_running=True)
        assert info.since_lsn == wal.format_lsn(self.STOP)
        assert info.wal_since_snapshot_bytes == wal.parse_lsn(info.end_lsn) - CHECKPOINT


@pytest.mark.root
def test_room_that_was_set_aside_and_never_written_is_not_counted(volume: Path) -> None:
    """On a volume's own file system: which blocks are only promised, others say otherwise or not at all."""
    timeline = Layout(volume).begin(new_timeline_id(), os.getuid())
    timeline.data.mkdir()
    (timeline.data / "written").write_bytes(b"x" * 65536)
    with (timeline.data / "written").open("r+b") as file:
        os.fsync(file.fileno())
    before = usage.measure(timeline, Abort()).unique_bytes
    assert before >= 65536
    with (timeline.data / "kept for later").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1024**2)
        os.fsync(file.fileno())
    assert usage.measure(timeline, Abort()).unique_bytes == before


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")
def test_what_was_written_after_the_last_checkpoint_of_a_server_that_crashed_is_in_its_history(
    making: Making, tmp_path: Path
) -> None:
    """Its control file says where that checkpoint was, and not where it ended."""
    source_id, target_id = new_timeline_id(), new_timeline_id()
    making.fresh(source_id, make_cluster)
    data = Layout(tmp_path).timeline(source_id).data
    (data / "global/pg_control").write_bytes(control_file(state=State.IN_PRODUCTION))
    after = Target(lsn=CHECKPOINT + 100)
    assembled = making.assemble(source_id, target_id, after, is_running=False)
    assert assembled is not None
    assert assembled.reach.end == wal.segment_number(CHECKPOINT) + 1
    with pytest.raises(PreconditionError, match="reaches from"):
        making.assemble(source_id, target_id, Target(lsn=CHECKPOINT + wal.SEGMENT_BYTES), is_running=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")
class TestWhatARecoveryGetsOfTheWal:
    FIRST = wal.segment_number(CHECKPOINT)
    TARGET = Target(at=999.0)

    def source(self, making: Making, tmp_path: Path, *, archived: int) -> tuple[TimelineId, Timeline]:
        """A running one: from the first on, and one more with its server."""
        source_id = new_timeline_id()
        Making(Layout(tmp_path), UID, 900.0, Abort()).fresh(source_id, make_cluster)
        source = Layout(tmp_path).timeline(source_id)
        for number in range(self.FIRST, self.FIRST + archived):
            self.write(source.outbox, number)
        making.collect(source_id, None)
        self.write(source.data / clone.WAL, self.FIRST + archived)
        return source_id, source

    def write(self, directory: Path, number: int) -> None:
        (directory / wal.segment_name(1, number)).write_bytes(segment(number))

    def assemble(self, making: Making, source_id: TimelineId) -> Assembled:
        assembled = making.assemble(source_id, new_timeline_id(), self.TARGET, is_running=True)
        assert assembled is not None
        return assembled

    def test_a_damaged_segment_is_where_it_ends(self, making: Making, tmp_path: Path) -> None:
        """A replay takes it for the end of all WAL: what was asked for would be told to be what was there before it."""
        source_id, source = self.source(making, tmp_path, archived=3)
        assert self.assemble(making, source_id).reach.end == self.FIRST + 4
        damaged = source.archive / wal.segment_name(1, self.FIRST + 1)
        with damaged.open("r+b") as file:
            file.seek(500_000)
            file.write(b"x")
        assembled = self.assemble(making, source_id)
        assert assembled.reach.end == self.FIRST + 1
        with pytest.raises(
            PreconditionError, match=f"gap after LSN {wal.format_lsn((self.FIRST + 1) * wal.SEGMENT_BYTES)}"
        ):
            assembled.require_whole()

    def test_what_its_server_went_on_to_meanwhile_is_no_gap(
        self, making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source_id, source = self.source(making, tmp_path, archived=1)
        really = clone.has_segment_after
        pending = [self.FIRST + 2, self.FIRST + 3]

        def look_while_it_goes_on(*given: Any) -> bool:
            while pending:
                self.write(source.data / clone.WAL, pending.pop())
            return really(*given)

        monkeypatch.setattr(clone, "has_segment_after", look_while_it_goes_on)
        assembled = self.assemble(making, source_id)
        assembled.require_whole()
        assert assembled.reach.end == self.FIRST + 4

    def test_what_nobody_has_is_one(self, making: Making, tmp_path: Path) -> None:
        source_id, source = self.source(making, tmp_path, archived=1)
        self.write(source.data / clone.WAL, self.FIRST + 3)
        with pytest.raises(PreconditionError, match="gap after"):
            self.assemble(making, source_id).require_whole()

    def test_a_gap_is_told_of_one_that_runs_once_there_is_room(
        self, making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that its history begins anew, and not only after another so many bytes."""
        source_id, source = self.source(making, tmp_path, archived=2)
        assert not making.look(source_id, is_running=True).has_gap
        self.write(source.outbox, self.FIRST + 3)
        making.collect(source_id, None)
        assert making.look(source_id, is_running=True).has_gap
        assert not making.look(source_id, is_running=False).has_gap, "it gets one when it stops"
        really = list(os.statvfs(tmp_path))
        really[4] = 0
        monkeypatch.setattr(os, "statvfs", lambda _place: os.statvfs_result(really))
        assert not making.look(source_id, is_running=True).has_gap

    def test_what_comes_after_a_copy_that_will_be_the_first_stays(self, making: Making, tmp_path: Path) -> None:
        source_id, source = self.source(making, tmp_path, archived=1)
        snapshots = Snapshots(source.snapshots)
        snapshots.give_up(snapshots.all(), tmp_path / "trash")
        making.copy(source_id, None)
        self.write(source.outbox, self.FIRST + 1)
        making.collect(source_id, 3600)
        assert (source.archive / wal.segment_name(1, self.FIRST + 1)).exists()
        snapshots.abandon(COPY, Abort())
        self.write(source.outbox, self.FIRST + 2)
        making.collect(source_id, 3600)
        assert [path.name for path in source.archive.iterdir()] == ["index"]
