"""What a copy needs of its source's WAL, where there are only files that look like it."""

import os
from pathlib import Path

import pytest

from cloister.base.errors import UnavailableError
from cloister.base.ids import new_timeline_id
from cloister.node.timelines import clone, usage, wal
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Making
from cloister.node.timelines.tree import Abort
from tests.node.timelines.clusters import CHECKPOINT, make_cluster, segment

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


def test_room_that_was_set_aside_and_never_written_is_not_counted(tmp_path: Path) -> None:
    timeline = Layout(tmp_path).begin(new_timeline_id(), os.getuid())
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
