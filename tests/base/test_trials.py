"""Who refuses knows that root tries, while root does, and which process does it."""

import os
import stat
from pathlib import Path

import pytest

from cloister.base import trials
from cloister.base.errors import PreconditionError
from cloister.base.trials import is_by, trying


def test_it_is_a_trial_of_who_is_announced_and_of_nobody_else(tmp_path: Path) -> None:
    place = tmp_path / "service.sock"
    assert not is_by(7, place)
    with trying(place, os.geteuid()) as announce:
        assert not is_by(0, place)
        announce(7)
        assert is_by(7, place)
        assert not is_by(77, place)
        announce(12_345)
        assert is_by(12_345, place)
        assert not is_by(7, place)
    assert not is_by(12_345, place)


def test_who_was_killed_leaves_no_trial(tmp_path: Path) -> None:
    """The number stays, and nobody holds the lock."""
    place = tmp_path / "service.sock"
    if (pid := os.fork()) == 0:
        with trying(place, os.geteuid()) as announce:
            announce(7)
            os._exit(0)
    os.waitpid(pid, 0)
    assert not is_by(7, place)
    with trying(place, os.geteuid()):
        assert not is_by(7, place)


def test_one_tries_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PATIENCE_S", 0.0)
    with (
        trying(tmp_path / "service.sock", os.geteuid()),
        pytest.raises(PreconditionError),
        trying(tmp_path / "service.sock", os.geteuid()),
    ):
        pass


def test_nobody_else_can_hold_it(tmp_path: Path) -> None:
    with trying(tmp_path / "service.sock", os.geteuid()):
        (lock,) = tmp_path.iterdir()
        found = lock.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


def test_a_service_that_is_not_there_refuses_nobody(tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "service.sock"
    with trying(place, os.geteuid()) as announce:
        announce(7)
        assert not is_by(7, place)
