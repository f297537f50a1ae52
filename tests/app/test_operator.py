"""The operator's verbs, without a platform."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import pytest

from cloister.app import last_sending, operator
from cloister.base.settings import Paths
from cloister.cli.platform import down
from cloister.control.backups.owed import Left, Owed

A_PID = 2**22 + 1
LEFT = [Left(project_id="calm-forest-12345678", problem="no answer")]


class Stopping:
    """A platform that ends after a few looks; at each the api may have said something."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.told: list[int] = []
        self.says: Iterator[Owed | None] = iter(())

    def kill(self, pid: int, number: int) -> None:
        assert pid == A_PID
        self.told.append(number)

    def is_running(self, _paths: Paths) -> bool:
        for said in self.says:
            if said is not None:
                last_sending.write(self.paths.last_sending, said)
            return True
        return False


@pytest.fixture
def stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stopping:
    paths = Paths(tmp_path)
    paths.last_sending = tmp_path / "last-sending.json"
    paths.courier.mkdir()
    platform = Stopping(paths)
    monkeypatch.setattr(operator, "Paths", lambda _state_dir: paths)
    monkeypatch.setattr(operator, "supervisor_pid", lambda _paths: A_PID)
    monkeypatch.setattr(operator, "is_running", platform.is_running)
    monkeypatch.setattr(os, "kill", platform.kill)
    return platform


def test_whoever_stops_the_platform_hears_how_far_it_is_and_what_is_left(stopping: Stopping, tmp_path: Path) -> None:
    stopping.paths.store_file.touch()
    last_sending.write(stopping.paths.last_sending, Owed(total=9, sent=9, left=[], is_over=True))  # of another time
    begun, over = Owed(total=5, sent=4, left=[LEFT[0]]), Owed(total=5, sent=4, left=LEFT, is_over=True)
    stopping.says = iter([None, begun, over])
    heard: list[str] = []
    lines = operator.down(tmp_path, now=False, tell=heard.append)
    assert stopping.told == [signal.SIGTERM]
    assert heard == ["Sending what was written since the last backup: 4 of 5", operator.STOPPING]
    assert lines == last_sending.outcome(over)


@pytest.mark.parametrize(("has_store", "now"), [(False, False), (True, True)])
def test_without_a_store_or_at_once_nothing_is_told(
    stopping: Stopping, tmp_path: Path, has_store: bool, now: bool
) -> None:
    if has_store:
        stopping.paths.store_file.touch()
    stopping.says = iter([None])
    assert operator.down(tmp_path, now=now) == []
    assert stopping.told == [signal.SIGQUIT if now else signal.SIGTERM]


def test_an_api_that_says_nothing_is_no_good_news(stopping: Stopping, tmp_path: Path) -> None:
    stopping.paths.store_file.touch()
    assert operator.down(tmp_path, now=False) == [last_sending.UNKNOWN]


def test_the_command_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(_state_dir: Path, *, now: bool, tell: Callable[[str], None]) -> list[str]:
        tell("Sending")
        return [] if now else ["one", "two"]

    monkeypatch.setattr(operator, "down", stopped)
    for words, shown in ((["--state-dir", str(tmp_path)], "one\ntwo\n"), (["--now", "--state-dir", str(tmp_path)], "")):
        done = click.testing.CliRunner().invoke(down, words)
        assert (done.exit_code, done.output) == (0, shown)
