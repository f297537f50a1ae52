"""The host's disk."""

from pathlib import Path

import pytest

from cloister.base.errors import ExhaustedError
from cloister.node import space
from cloister.node.space import HostSpace

MIB = 1024**2


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostSpace:
    """One with 10 MiB free, of which 4 are kept from new volumes, 2 from starts, and 1 from everybody."""
    monkeypatch.setattr(HostSpace, "free_bytes", lambda _self: 10 * MIB)
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", 4 * MIB)
    monkeypatch.setattr(space, "FREE_TO_START_BYTES", 2 * MIB)
    monkeypatch.setattr(space, "FREE_TO_WRITE_BYTES", MIB)
    return HostSpace(tmp_path)


def test_it_is_what_the_file_system_says(tmp_path: Path) -> None:
    assert HostSpace(tmp_path).free_bytes() > 0
    with pytest.raises(FileNotFoundError):
        HostSpace(tmp_path / "gone").free_bytes()


def test_with_room_everything_goes_on(disk: HostSpace) -> None:
    disk.require_to_create()
    disk.require_to_start()
    assert not disk.is_short()
    assert not disk.is_out()


@pytest.mark.parametrize(
    ("free", "still"),
    [
        (4 * MIB, "create start wait write"),
        (4 * MIB - 1, "start wait write"),
        (2 * MIB, "start wait write"),
        (2 * MIB - 1, "write"),
        (MIB, "write"),
        (MIB - 1, ""),
        (0, ""),
    ],
)
def test_as_it_fills_less_is_done(disk: HostSpace, monkeypatch: pytest.MonkeyPatch, free: int, still: str) -> None:
    monkeypatch.setattr(HostSpace, "free_bytes", lambda _self: free)
    assert disk.is_short() == ("wait" not in still)
    assert disk.is_out() == ("write" not in still)
    for act, require in (("create", disk.require_to_create), ("start", disk.require_to_start)):
        if act in still:
            require()
        else:
            with pytest.raises(ExhaustedError) as refused:
                require()
            assert refused.value.public == "the server's disk is almost full"


def test_a_second_image_needs_its_own_room_beside_what_is_kept_back(disk: HostSpace) -> None:
    disk.require_for_copy(6 * MIB)
    with pytest.raises(ExhaustedError) as refused:
        disk.require_for_copy(7 * MIB)
    assert refused.value.public == "the server's disk has no room for a second image: 11 MiB must be free, 10 MiB are"
