"""Every way of making a timeline, ended at each step that reaches the disk, then asked for again: the result is the same, and
nothing half-made is ever seen in its place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import NotFoundError
from cloister.base.ids import new_timeline_id
from cloister.node.timelines import clone, wal
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Making
from cloister.node.timelines.snapshots import COPY, Snapshots
from cloister.node.timelines.tree import Abort
from tests.node.timelines.clusters import CHECKPOINT, control_file, make_cluster, segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")

UID = 1_900_000_123
SOURCE, TARGET = new_timeline_id(), new_timeline_id()
FIRST = wal.segment_number(CHECKPOINT)
LABEL = f"START WAL LOCATION: {wal.format_lsn(CHECKPOINT)} (file {wal.segment_name(1, FIRST)})\n"
STOP = (FIRST + 2) * wal.SEGMENT_BYTES


class Crash(BaseException):
    """The process ends here: nobody's handler runs on."""


class Trap:
    """Ends the process at the n-th call that changes a name or writes to disk."""

    CALLS = ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.deadly: int | None = None
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.deadly:
                raise Crash
            return call(*arguments, **more)

        return counted

    def set(self, deadly: int | None) -> None:
        self.count, self.deadly = 0, deadly


def making(mountpoint: Path, now: float = 1000.0) -> Making:
    return Making(Layout(mountpoint), UID, now, Abort())


def fresh(mountpoint: Path) -> None:
    making(mountpoint).fresh(TARGET, make_cluster)


def cloned(mountpoint: Path) -> None:
    making(mountpoint).clone(SOURCE, TARGET)
    making(mountpoint).finish(TARGET, is_frozen=False)


def copied(mountpoint: Path) -> None:
    """Where no history leads to the copy, it begins with a snapshot of itself."""
    layout = Layout(mountpoint)
    History(layout, layout.timeline(SOURCE)).give_up()
    making(mountpoint).copy(SOURCE, TARGET)
    _, first = making(mountpoint).finish_copy(SOURCE, TARGET, LABEL, STOP, is_frozen=False)
    assert first is None


def copied_for_history(mountpoint: Path) -> None:
    making(mountpoint).copy(SOURCE, None)
    making(mountpoint).finish_copy_for_history(SOURCE, LABEL, STOP)


def collected(mountpoint: Path) -> None:
    making(mountpoint).after_stop(SOURCE, 3600)


def pruned(mountpoint: Path) -> None:
    making(mountpoint).collect(SOURCE, None)
    making(mountpoint).prune(SOURCE, 2000.0)
    making(mountpoint).begin_anew(SOURCE)


def deleted(mountpoint: Path) -> None:
    layout = Layout(mountpoint)
    if layout.timeline(SOURCE).exists:
        layout.throw_away(layout.timeline(SOURCE).directory)
    layout.empty_trash(Abort())


def make_world(mountpoint: Path) -> None:
    making(mountpoint).fresh(SOURCE, make_cluster)
    source = Layout(mountpoint).timeline(SOURCE)
    for number in (FIRST + 1, FIRST + 2):
        (source.data / "pg_wal" / wal.segment_name(1, number)).write_bytes(segment(number))
    for number in (FIRST, FIRST + 1):
        (source.outbox / wal.segment_name(1, number)).write_bytes(segment(number))


def look(mountpoint: Path) -> dict[str, int]:
    """All files with their sizes, as they are once what a crash left is cleared up."""
    layout = Layout(mountpoint)
    layout.sweep()
    layout.empty_trash(Abort())
    found = {
        str(path.relative_to(mountpoint)): path.stat().st_size if path.is_file() else -1
        for path in mountpoint.rglob("*")
        if path.name not in ("unfinished", "trash") and ".new" not in path.name
    }
    for timeline in (SOURCE, TARGET):
        if layout.timeline(timeline).exists:
            History(layout, layout.timeline(timeline)).archive.segments()
    return found


@pytest.mark.parametrize(
    "work",
    [
        fresh,
        cloned,
        copied,
        copied_for_history,
        collected,
        pruned,
        deleted,
    ],
    ids=lambda work: work.__name__,
)
def test_a_crash_anywhere_leaves_it_done_or_undone(
    work: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = Trap(monkeypatch)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    make_world(undisturbed)
    before = look(undisturbed)
    trap.set(None)
    work(undisturbed)
    steps = trap.count
    wanted = look(undisturbed)
    assert wanted != before, "or the test sees nothing of the work"
    assert steps > 3

    for step in range(1, steps + 1):
        mountpoint = tmp_path / str(step)
        mountpoint.mkdir()
        trap.set(None)
        make_world(mountpoint)
        trap.set(step)
        with pytest.raises(Crash):
            work(mountpoint)
        trap.set(None)
        layout = Layout(mountpoint)
        layout.sweep()
        if layout.timeline(TARGET).exists:
            # It is in its place, so it is whole, and whoever asks again is told so.
            assert layout.origin_of(TARGET) is not None
            assert {name for name in look(mountpoint) if TARGET in name} == {name for name in wanted if TARGET in name}
        else:
            work(mountpoint)
            assert look(mountpoint) == wanted, f"after a crash at step {step}"
        shutil.rmtree(mountpoint)


def first_of_a_clone(mountpoint: Path) -> Callable[[], None]:
    making(mountpoint).clone(SOURCE, TARGET)
    making(mountpoint).finish_clone(SOURCE, TARGET)
    return lambda: making(mountpoint).take_first_of(SOURCE, TARGET)


def first_of_a_copy(mountpoint: Path) -> Callable[[], None]:
    making(mountpoint).copy(SOURCE, TARGET)
    _, first = making(mountpoint).finish_copy(SOURCE, TARGET, LABEL, STOP, is_frozen=False)
    assert first is not None
    settle(mountpoint)
    return lambda: making(mountpoint).take_first_from(SOURCE, TARGET, first)


def settle(mountpoint: Path) -> None:
    """The copy was started, came to the end of its WAL, and was shut down there."""
    data = Layout(mountpoint).existing(TARGET).data
    (data / clone.BACKUP_LABEL).unlink()
    (data / "global/pg_control").write_bytes(control_file(checkpoint=STOP))
    (data / clone.WAL / wal.segment_name(1, FIRST + 2)).write_bytes(segment(FIRST + 2))


@pytest.mark.parametrize("begin", [first_of_a_clone, first_of_a_copy], ids=lambda begin: begin.__name__)
def test_a_crash_while_a_history_begins_costs_nothing(
    begin: Callable[[Path], Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is owed is taken afterwards, as if nothing had been; and where it cannot be, the next stop begins it."""
    trap = Trap(monkeypatch)
    step, has_crashed = 0, True
    while has_crashed:
        step += 1
        mountpoint = tmp_path / str(step)
        mountpoint.mkdir()
        trap.set(None)
        make_world(mountpoint)
        take = begin(mountpoint)
        layout = Layout(mountpoint)
        history = History(layout, layout.existing(TARGET))
        assert layout.owing() == [TARGET]
        owed = history.owed()
        assert owed is not None
        trap.set(step)
        try:
            take()
            has_crashed = False
        except Crash:
            pass
        trap.set(None)
        making(mountpoint).take_owed(TARGET, source_runs=False)
        making(mountpoint).take_owed(TARGET, source_runs=False)
        assert layout.owing() == []
        [taken] = history.snapshots.all()
        assert taken.stop_lsn == owed.first.stop_lsn
        assert clone.is_whole(history.snapshots.data(taken))
        making(mountpoint).after_stop(TARGET, 3600)
        assert history.snapshots.all() == [taken]
        assert [path.name for path in (mountpoint / "timelines" / TARGET / "snapshots").iterdir()] == [taken.name]
        shutil.rmtree(mountpoint)
    assert step > 3


@pytest.mark.parametrize("loss", ["went on", "gone"])
def test_what_is_owed_of_a_source_that_is_not_there_any_more_is_taken_of_a_clone_that_did_not_go_on(
    loss: str, tmp_path: Path
) -> None:
    make_world(tmp_path)
    first_of_a_clone(tmp_path)
    lose(tmp_path, loss)
    assert not making(tmp_path).take_owed(TARGET, source_runs=False)
    making(tmp_path, now=90_000.0).take_owed_of_itself(TARGET, runs=False)
    layout = Layout(tmp_path)
    history = History(layout, layout.existing(TARGET))
    [taken] = history.snapshots.all()
    assert (taken.stop_lsn, taken.moment, taken.is_clean, layout.owing()) == (CHECKPOINT, 1000.0, True, [])
    assert clone.is_whole(history.snapshots.data(taken))


@pytest.mark.parametrize("loss", ["went on", "gone"])
@pytest.mark.parametrize("begin", ["clone that runs", "clone that ran", "copy"])
def test_what_can_be_had_of_nobody_any_more_is_given_up(begin: str, loss: str, tmp_path: Path) -> None:
    make_world(tmp_path)
    (first_of_a_copy if begin == "copy" else first_of_a_clone)(tmp_path)
    lose(tmp_path, loss)
    layout = Layout(tmp_path)
    target = layout.existing(TARGET)
    if begin == "clone that ran":
        (target.data / "global/pg_control").write_bytes(control_file(checkpoint=STOP + 8192))
    assert not making(tmp_path).take_owed(TARGET, source_runs=False)
    making(tmp_path).take_owed_of_itself(TARGET, runs=begin == "clone that runs")
    history = History(layout, target)
    assert (history.snapshots.all(), layout.owing()) == ([], [])
    making(tmp_path).after_stop(TARGET, 3600)
    assert len(history.snapshots.all()) == 1


def lose(mountpoint: Path, loss: str) -> None:
    layout = Layout(mountpoint)
    source = layout.timeline(SOURCE)
    if loss == "gone":
        layout.throw_away(source.directory)
    else:
        (source.data / "global/pg_control").write_bytes(control_file(checkpoint=STOP + 4096))
        History(layout, source).give_up()


def test_what_was_taken_and_not_noted_is_not_said_to_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_world(tmp_path)
    take = first_of_a_clone(tmp_path)
    layout = Layout(tmp_path)
    history = History(layout, layout.existing(TARGET))
    owed = history.owed()
    assert owed is not None
    take()
    history.owe(owed)
    layout.throw_away(layout.timeline(SOURCE).directory)
    making(tmp_path).take_owed(TARGET, source_runs=False)
    assert (len(history.snapshots.all()), layout.owing()) == (1, [])
    assert "begins later" not in caplog.text


def test_who_begins_anew_is_owed_nothing_of_before(tmp_path: Path) -> None:
    """Secrets were taken out: what the source's data held must not come back by way of its first snapshot."""
    make_world(tmp_path)
    first_of_a_clone(tmp_path)
    making(tmp_path).begin_anew(TARGET)
    assert Layout(tmp_path).owing() == []


def test_what_is_taken_late_is_as_old_as_what_was_owed(tmp_path: Path) -> None:
    """Or nobody could go back to what the clone did between the crash and the day when its volume was opened again."""
    make_world(tmp_path)
    first_of_a_clone(tmp_path)
    making(tmp_path, now=90_000.0).take_owed(TARGET, source_runs=False)
    layout = Layout(tmp_path)
    [taken] = History(layout, layout.existing(TARGET)).snapshots.all()
    assert taken.moment == 1000.0


def test_what_is_owed_is_not_taken_of_a_source_that_runs(tmp_path: Path) -> None:
    """Its control file says for a while that it was shut down."""
    make_world(tmp_path)
    first_of_a_clone(tmp_path)
    assert not making(tmp_path).take_owed(TARGET, source_runs=True)
    layout = Layout(tmp_path)
    assert (History(layout, layout.existing(TARGET)).snapshots.all(), layout.owing()) == ([], [TARGET])


def test_what_was_cut_off_while_it_was_written_down_is_not_owed(tmp_path: Path) -> None:
    """Not with each opening of the volume again."""
    make_world(tmp_path)
    first_of_a_clone(tmp_path)
    layout = Layout(tmp_path)
    layout.owed(layout.timeline(TARGET)).write_bytes(b"")
    assert History(layout, layout.existing(TARGET)).owed() is None
    assert layout.owing() == []


def test_a_copy_that_nobody_finished_ends_with_its_server(tmp_path: Path) -> None:
    make_world(tmp_path)
    making(tmp_path).copy(SOURCE, None)
    making(tmp_path).after_stop(SOURCE, 3600)
    assert not Snapshots(Layout(tmp_path).timeline(SOURCE).snapshots).unfinished(COPY).parent.exists()
    with pytest.raises(NotFoundError):
        making(tmp_path).finish_copy_for_history(SOURCE, LABEL, STOP)
