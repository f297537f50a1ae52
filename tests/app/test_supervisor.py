"""The supervisor's decisions, without a platform."""

import asyncio
import errno
import re
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.app import supervisor
from cloister.app.children import Child, children
from cloister.app.operator import DOWN_TIMEOUT_S
from cloister.app.supervisor import LAST_SENDING_S, Supervisor, Watched
from cloister.base.errors import PreconditionError
from cloister.base.identities import Service
from cloister.base.settings import Settings
from cloister.cli.install import unit


class Pretending(Supervisor):
    """Whose processes are none: they end when they are told to."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(Settings(state_dir=str(state_dir)), {})
        self.told: list[tuple[str, signal.Signals]] = []
        self.started: list[str] = []

    def running(self, child: Child) -> Watched:
        watched = Watched(child)
        self._start(watched)
        return watched

    def _start(self, watched: Watched) -> None:
        def end(with_signal: signal.Signals) -> None:
            self.told.append((watched.child.name, with_signal))
            watched.process = None
            watched.ended.set()

        self.started.append(watched.child.name)
        watched.is_ready = True
        watched.process = SimpleNamespace(pid=0, end=end)  # type: ignore[assignment]

    def _write_status(self) -> None:
        pass


@pytest.fixture
def pretending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretending:
    def told(process: Any, with_signal: signal.Signals) -> None:
        process.end(with_signal)

    monkeypatch.setattr(supervisor, "_signal", told)
    monkeypatch.setattr(supervisor, "WANTED_INTERVAL_S", 0.01)
    return Pretending(tmp_path)


async def test_a_process_that_has_nothing_to_do_waits_for_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends waiting when the platform stops."""
    monkeypatch.setattr(supervisor, "WANTED_INTERVAL_S", 0.01)
    platform = Supervisor(Settings(state_dir=str(tmp_path)), {})
    child = Child("courier", Service.COURIER, needs=tmp_path / "store.json")
    waiting = asyncio.create_task(platform._is_wanted(child))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    (tmp_path / "store.json").touch()
    assert await waiting
    (tmp_path / "store.json").unlink()
    waiting = asyncio.create_task(platform._is_wanted(child))
    await asyncio.sleep(0)
    platform._stopping.set()
    assert not await waiting


def test_without_a_store_a_platform_is_ready_without_a_courier(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    assert "courier" not in [child.name for child in children(settings) if child.is_wanted]
    settings.paths.courier.mkdir()
    settings.paths.store_file.touch()
    assert "courier" in [child.name for child in children(settings) if child.is_wanted]


async def test_a_courier_whose_credentials_are_taken_away_ends_and_with_others_there_is_another(
    pretending: Pretending, tmp_path: Path
) -> None:
    """A process that is gone knows nothing."""
    file = tmp_path / "store.json"
    file.touch()
    child = Child("courier", Service.COURIER, needs=file)
    watched = Watched(child)
    keeping = asyncio.create_task(pretending._keep_running(watched))
    await asyncio.sleep(0.03)
    assert (pretending.started, pretending.told) == (["courier"], [])
    file.unlink()
    async with asyncio.timeout(5):
        while not pretending.told:  # noqa: ASYNC110 - the supervisor looks every hundredth of a second here
            await asyncio.sleep(0.01)
    assert pretending.told == [("courier", signal.SIGTERM)]
    await asyncio.sleep(0.03)
    assert (pretending.started, watched.process, watched.failures) == (["courier"], None, 0)
    file.touch()
    async with asyncio.timeout(5):
        while watched.process is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    pretending._stopping.set()
    await pretending._stop(watched)
    await keeping


async def test_a_server_that_is_out_of_memory_or_full_for_a_moment_loses_no_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves a keeper ends everything that it keeps."""
    platform = Pretending(tmp_path)
    start, errors = platform._start, [OSError(errno.EAGAIN, "no process"), OSError(errno.ENOMEM, "no memory")]

    def try_to_start(watched: Watched) -> None:
        if errors:
            raise errors.pop()
        start(watched)
        platform._stopping.set()
        watched.ended.set()

    monkeypatch.setattr(platform, "_start", try_to_start)
    monkeypatch.setattr(
        platform, "_write_status", partial(Supervisor._write_status, platform)
    )  # its directory is not there
    platform._sockets = {"postgres": [], "https": []}
    watched = Watched(Child("api", Service.API), pause_s=0.0)
    await platform._keep_running(watched)
    assert (platform.started, errors) == (["api"], [])


async def test_only_a_program_that_could_never_be_run_is_the_operators_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ran a moment ago is just being replaced by a package manager."""

    def refused(*_given: object, **_more: object) -> Any:
        raise PermissionError(errno.EACCES, "denied", "/usr/bin/python3")

    monkeypatch.setattr(supervisor, "spawn", refused)
    platform = Supervisor(Settings(state_dir=str(tmp_path)), {})
    watched = Watched(Child("api", Service.API))
    with pytest.raises(PreconditionError, match="cannot run /usr/bin/python3: make it readable"):
        platform._start(watched)
    monkeypatch.setattr(supervisor, "spawn", lambda *_given, **_more: SimpleNamespace(pid=2**22 + 1))
    platform._start(watched)
    watched.process = None  # as it is when it has ended
    monkeypatch.setattr(supervisor, "spawn", refused)
    with pytest.raises(PermissionError):
        platform._start(watched)


async def test_a_round_that_cannot_be_started_is_left_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Pretending(tmp_path)
    rounds: list[str] = []

    async def one_shot(name: str) -> None:
        rounds.append(name)
        if len(rounds) == 2:
            raise asyncio.CancelledError
        raise OSError(errno.EAGAIN, "no process")

    monkeypatch.setattr(platform, "_one_shot", one_shot)
    with pytest.raises(asyncio.CancelledError):
        await platform._again_and_again("watchman", 0.0)
    assert rounds == ["watchman", "watchman"]


async def test_where_there_is_a_store_the_api_is_told_that_the_platform_ends(pretending: Pretending) -> None:
    """And where there is none it ends as ever."""
    paths = pretending._paths
    await pretending._stop(pretending.running(Child("api", Service.API)))
    paths.courier.mkdir()
    paths.store_file.touch()
    await pretending._stop(pretending.running(Child("api", Service.API)))
    await pretending._stop(pretending.running(Child("gateway", Service.GATEWAY)))
    pretending._is_urgent = True
    await pretending._stop(pretending.running(Child("api", Service.API)))
    assert [number for _, number in pretending.told] == [
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGTERM,
        signal.SIGKILL,
    ]


def test_while_the_api_sends_the_last_all_that_it_takes_is_there(tmp_path: Path) -> None:
    """What is started before it is stopped after it."""
    names = [child.name for child in children(Settings(state_dir=str(tmp_path)))]
    assert set(names[: names.index("api")]) >= {"database", "broker", "agent", "courier"}


def test_whoever_stops_the_platform_waits_for_longer_than_all_of_it_may_take(tmp_path: Path) -> None:
    patience = {child.name: child.stop_patience_s for child in children(Settings(state_dir=str(tmp_path)))}
    systemd = re.search(r"^TimeoutStopSec=(\d+)$", unit(tmp_path, Path("/usr/bin/python3")), re.MULTILINE)
    assert systemd is not None
    assert sum(patience.values()) + LAST_SENDING_S < DOWN_TIMEOUT_S < int(systemd[1])
