"""What was told before a power cut is there after it: on a real XFS, which is shut down without its log being written.

The source has pages that its server wrote and did not sync. Of what is made of it, none may be missing once it was told to be there.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from cloister.base.ids import TimelineId, new_timeline_id
from cloister.node.timelines import clone, wal
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout
from cloister.node.timelines.making import Making
from cloister.node.timelines.snapshots import Snapshots
from cloister.node.timelines.tree import Abort
from tests.node.conftest import cut_power
from tests.node.timelines.clusters import CHECKPOINT, control_file, make_cluster, segment

pytestmark = pytest.mark.root

UID: Final = 1_900_000_123
FIRST: Final = wal.segment_number(CHECKPOINT)
UNSYNCED: Final = b"more rows" * 10_000
LABEL: Final = f"START WAL LOCATION: {wal.format_lsn(CHECKPOINT)} (file {wal.segment_name(1, FIRST)})\n"


def making(volume: Path, now: float = 1000.0) -> Making:
    return Making(Layout(volume), UID, now, Abort())


def begun(volume: Path) -> TimelineId:
    source_id = new_timeline_id()
    making(volume).fresh(source_id, make_cluster)
    cut_power(volume)
    # What a server has written and not synced yet.
    (Layout(volume).existing(source_id).data / "base/5/16385").write_bytes(UNSYNCED)
    return source_id


def test_a_clone_has_what_its_source_had_not_synced_and_its_history_is_begun_or_owed(volume: Path) -> None:
    source_id, target_id = begun(volume), new_timeline_id()
    making(volume).clone(source_id, target_id)
    making(volume).finish_clone(source_id, target_id)
    cut_power(volume)
    layout = Layout(volume)
    assert (layout.existing(target_id).data / "base/5/16385").read_bytes() == UNSYNCED
    assert (layout.existing(target_id).data / "base/5/16384").read_bytes() == b"rows"
    assert layout.origin_of(target_id) is not None
    assert layout.owing() == [target_id]
    making(volume).take_first_of(source_id, target_id)
    making(volume).clone(target_id, new_timeline_id())
    cut_power(volume)
    taken = History(layout, layout.existing(target_id)).snapshots.all()
    assert taken or layout.owing() == [target_id]


def test_a_copy_of_a_running_server_has_its_pages_its_label_and_the_wal_until_its_end(volume: Path) -> None:
    source_id, target_id = begun(volume), new_timeline_id()
    source = Layout(volume).existing(source_id)
    for number in (FIRST, FIRST + 1, FIRST + 2):
        (source.data / clone.WAL / wal.segment_name(1, number)).write_bytes(segment(number, fill=b"w"))
    making(volume).copy(source_id, target_id)
    making(volume).finish_copy(source_id, target_id, LABEL, (FIRST + 3) * wal.SEGMENT_BYTES, is_frozen=False)
    cut_power(volume)
    data = Layout(volume).existing(target_id).data
    assert (data / "base/5/16385").read_bytes() == UNSYNCED
    assert (data / clone.BACKUP_LABEL).read_text() == LABEL
    for number in (FIRST, FIRST + 1, FIRST + 2):
        assert (data / clone.WAL / wal.segment_name(1, number)).read_bytes() == segment(number, fill=b"w")


def test_collected_wal_is_archived_and_a_pruned_history_begins_with_a_whole_snapshot(volume: Path) -> None:
    source_id = begun(volume)
    source = Layout(volume).existing(source_id)
    for number in range(FIRST, FIRST + 5):
        path = source.outbox / wal.segment_name(1, number)
        path.write_bytes(segment(number, fill=b"w"))
        with path.open("rb") as file:
            os.fsync(file.fileno())
    making(volume).collect(source_id, None)
    cut_power(volume)
    names = [it.name for it in History(Layout(volume), source).archive.segments()]
    assert names == [wal.segment_name(1, number) for number in range(FIRST, FIRST + 5)]
    for number in range(FIRST, FIRST + 5):
        assert (source.archive / wal.segment_name(1, number)).read_bytes() == segment(number, fill=b"w")
    # A stop, which takes a snapshot; and the window is past but for that.
    (source.data / "global/pg_control").write_bytes(control_file(checkpoint=(FIRST + 100) * wal.SEGMENT_BYTES + 40))
    (source.data / clone.WAL / wal.segment_name(1, FIRST + 100)).write_bytes(segment(FIRST + 100, fill=b"z"))
    (source.data / "base/5/16386").write_bytes(b"even more")
    making(volume, 2000.0).after_stop(source_id, 10)
    making(volume, 3000.0).prune(source_id, 2990.0)
    cut_power(volume)
    history = History(Layout(volume), source)
    taken = history.snapshots.all()
    assert len(taken) == 1
    data = history.snapshots.data(taken[0])
    assert (data / "base/5/16386").read_bytes() == b"even more"
    assert (data / "global/pg_control").read_bytes() == control_file(checkpoint=(FIRST + 100) * wal.SEGMENT_BYTES + 40)
    assert (data / clone.WAL / wal.segment_name(1, FIRST + 100)).read_bytes() == segment(FIRST + 100, fill=b"z")
    assert history.archive.segments() == []


def test_a_place_to_recover_from_of_a_running_server_is_whole(volume: Path) -> None:
    source_id = begun(volume)
    source = Layout(volume).existing(source_id)
    for number in (FIRST, FIRST + 1, FIRST + 2):
        (source.data / clone.WAL / wal.segment_name(1, number)).write_bytes(segment(number, fill=b"w"))
    making(volume).copy(source_id, None)
    making(volume).finish_copy_for_history(source_id, LABEL, (FIRST + 3) * wal.SEGMENT_BYTES)
    cut_power(volume)
    history = History(Layout(volume), source)
    taken = history.snapshots.all()
    assert len(taken) == 2
    data = history.snapshots.data(taken[1])
    assert (data / "base/5/16385").read_bytes() == UNSYNCED
    assert (data / clone.BACKUP_LABEL).read_text() == LABEL
    for number in (FIRST, FIRST + 1, FIRST + 2):
        assert (data / clone.WAL / wal.segment_name(1, number)).read_bytes() == segment(number, fill=b"w")


def test_a_history_that_began_anew_is_whole_and_what_was_deleted_stays_so(volume: Path) -> None:
    source_id = begun(volume)
    (Layout(volume).existing(source_id).data / "base/5/16386").write_bytes(b"even more")
    making(volume).begin_anew(source_id)
    cut_power(volume)
    source = Layout(volume).existing(source_id)
    assert (source.data / "base/5/16386").read_bytes() == b"even more"
    [taken] = Snapshots(source.snapshots).all()
    assert (Snapshots(source.snapshots).data(taken) / "base/5/16386").read_bytes() == b"even more"
    Layout(volume).throw_away(source.directory)
    cut_power(volume)
    assert not source.exists


def test_a_snapshot_is_frozen_and_whole(volume: Path) -> None:
    source_id, target_id = begun(volume), new_timeline_id()
    making(volume).clone(source_id, target_id)
    making(volume).finish(target_id, is_frozen=True)
    cut_power(volume)
    it = Layout(volume).existing(target_id)
    assert it.frozen.exists()
    assert (it.data / "base/5/16385").read_bytes() == UNSYNCED
    assert it.outbox.stat().st_uid == UID
