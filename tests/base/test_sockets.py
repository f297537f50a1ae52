"""A socket is there as it is to be, or not at all."""

import os
import socket
from pathlib import Path

import pytest

from cloister.base.sockets import listen_at


def reached(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def test_it_listens_with_its_mode_once_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sock"
    seen: list[bool] = []
    chmod = os.chmod

    def look_first(name: Path, mode: int) -> None:
        seen.append(path.exists())
        chmod(name, mode)

    monkeypatch.setattr(os, "chmod", look_first)
    with listen_at(path, socket.SOCK_STREAM, mode=0o622, backlog=1):
        assert path.stat().st_mode & 0o777 == 0o622
        assert reached(path)
    assert seen == [False]
    assert [each.name for each in tmp_path.iterdir()] == ["a.sock"]


def test_the_one_before_answers_until_there_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sock"
    seen: list[bool] = []
    chmod = os.chmod

    def look_first(name: Path, mode: int) -> None:
        seen.append(reached(path))
        chmod(name, mode)

    with listen_at(path, socket.SOCK_STREAM, mode=0o600, backlog=8):
        monkeypatch.setattr(os, "chmod", look_first)
        with listen_at(path, socket.SOCK_STREAM, mode=0o600, backlog=8) as second:
            assert seen == [True]
            assert reached(path)
            second.accept()[0].close()


def test_what_a_killed_process_left_half_made_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sock"

    def die(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "chmod", die)
        with pytest.raises(KeyboardInterrupt):
            listen_at(path, socket.SOCK_STREAM, mode=0o600, backlog=1)
    assert not path.exists()
    with listen_at(path, socket.SOCK_STREAM, mode=0o600, backlog=1):
        assert reached(path)
