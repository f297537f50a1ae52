"""An ordinary user of the server, and a tenant's files before root."""

import os
import stat
from pathlib import Path

import pytest

from cloister.app import operator
from cloister.base.errors import PreconditionError
from cloister.base.settings import Paths
from cloister.node.volumes import headroom


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "state")
    paths.run = tmp_path / "run"
    paths.supervisor_lock = paths.run / "supervisor.lock"
    paths.run.mkdir()
    return paths


def test_only_root_can_hold_the_lock_that_says_the_platform_runs(paths: Paths) -> None:
    """Who can open it can lock it: then `up` would find the platform running, and `down` signal whoever has the pid that
    an earlier supervisor had."""
    paths.supervisor_lock.touch(mode=0o644)  # as an earlier version left it
    with operator.take_lock(paths):
        assert stat.S_IMODE(paths.supervisor_lock.stat().st_mode) == 0o600
        assert operator.is_running(paths)
    assert not operator.is_running(paths)


@pytest.mark.root
def test_another_user_is_told_so(paths: Paths, tmp_path: Path) -> None:
    with operator.take_lock(paths):
        for directory in (paths.run, tmp_path, *tmp_path.parents[:2]):
            directory.chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(PreconditionError):
                operator.is_running(paths)
        finally:
            os.seteuid(0)


def test_no_more_of_a_tenants_names_are_held_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headroom, "ENTRIES_MAX", 10)
    for number in range(20):
        (tmp_path / str(number)).touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert len(headroom._names(directory)) == 10
        assert len(headroom._names(directory)) == 10  # from the beginning again
    finally:
        os.close(directory)
