"""What a copy needs of its source's WAL, where there are only files that look like it."""

import os
from pathlib import Path

import pytest

from cloister.base.errors import UnavailableError
from cloister.base.ids import new_timeline_id
from cloister.node.timelines import wal
from cloister.node.timelines.history import History
from cloister.node.timelines.layout import Layout
from tests.node.timelines.clusters import CHECKPOINT, make_cluster


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
