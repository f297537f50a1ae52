"""A timeline is made ready to be read: only one that nobody writes to."""

import os
from pathlib import Path

import pytest

from cloister.base.errors import ConflictError, PreconditionError
from cloister.node.postgres.standby import Floor
from cloister.node.timelines import standby
from cloister.node.timelines.layout import Timeline
from tests.node.timelines.clusters import control_file, make_cluster


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    timeline = Timeline(tmp_path)
    make_cluster(timeline.data)
    return timeline


def test_twice_is_once(timeline: Timeline) -> None:
    timeline.frozen.touch()
    for _ in range(2):
        assert standby.prepare(timeline, os.geteuid()) == Floor(100, 8, 10, 0, 64)
        assert (timeline.data / "standby.signal").read_bytes() == b""


def test_a_branchs_own_timeline_is_left_alone(timeline: Timeline) -> None:
    with pytest.raises(ConflictError):
        standby.prepare(timeline, os.geteuid())
    assert not (timeline.data / "standby.signal").exists()


def test_a_control_file_that_asks_for_too_much_is_damaged(timeline: Timeline) -> None:
    timeline.frozen.touch()
    (timeline.data / "global/pg_control").write_bytes(control_file(max_connections=1_000_000))
    with pytest.raises(PreconditionError):
        standby.prepare(timeline, os.geteuid())
    assert not (timeline.data / "standby.signal").exists()


def test_a_link_in_the_signals_place_is_not_followed(timeline: Timeline, tmp_path: Path) -> None:
    timeline.frozen.touch()
    elsewhere = tmp_path / "elsewhere"
    (timeline.data / "standby.signal").symlink_to(elsewhere)
    standby.prepare(timeline, os.geteuid())
    assert not elsewhere.exists()
