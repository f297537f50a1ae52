"""Who refuses knows that root tries, while root does."""

import os
import stat
from pathlib import Path

from cloister.base.trials import is_under_way, trying


def test_it_is_a_trial_while_somebody_holds_it(tmp_path: Path) -> None:
    place = tmp_path / "service.sock"
    assert not is_under_way(place)
    with trying(place, os.geteuid()):
        assert is_under_way(place)
        with trying(place, os.geteuid()):
            assert is_under_way(place)
        assert is_under_way(place)
    assert not is_under_way(place)
    with trying(place, os.geteuid()):
        assert is_under_way(place)


def test_nobody_else_can_hold_it(tmp_path: Path) -> None:
    with trying(tmp_path / "service.sock", os.geteuid()):
        (lock,) = tmp_path.iterdir()
        found = lock.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


def test_a_service_that_is_not_there_refuses_nobody(tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "service.sock"
    with trying(place, os.geteuid()):
        assert not is_under_way(place)
