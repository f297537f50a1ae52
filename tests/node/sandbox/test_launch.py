"""What is left when a launch is broken off, at each place where it can be."""

import asyncio
import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from cloister.base.errors import NotFoundError, PreconditionError
from cloister.node.records import ProcessRecord, read_record
from cloister.node.sandbox import bwrap, cores, rootfs
from cloister.node.sandbox import launch as launch_module
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import NO_GROUP, Group
from cloister.node.sandbox.launch import Launch, Launched, ended, exit_code, launch, program_of

UID = 1_999_000_000


def test_an_exit_code_is_read_as_a_shell_tells_it(tmp_path: Path) -> None:
    status = tmp_path / "status"
    assert exit_code(status) is None
    for written, code in ((0, 0), (1, 1), (130, -2), (137, -9)):
        status.write_text(f'{{ "child-pid": 5, "pid-namespace": 1 }}\n{{ "exit-code": {written} }}\n')
        assert exit_code(status) == code
    status.write_text('{ "child-pid": 5 }\n{ "exit-co')
    assert exit_code(status) is None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with one program in it that goes on until it is ended."""
    target = tmp_path_factory.mktemp("engine") / "root"
    files = {Path("/usr/bin/sleep").resolve(): "/bin/sleep", Path("/usr/bin/false").resolve(): "/bin/false"}
    rootfs.build(target, rootfs.Contents(files=files, texts={"/etc/passwd": ""}, directories=("/data",)))
    return target


@dataclass
class RecordingGroup:
    fails: bool = False
    attached: list[int] = field(default_factory=list)

    def attach(self, pid: int) -> None:
        self.attached.append(pid)
        if self.fails:
            raise OSError("no such group")

    def set_cpu(self, cores: float) -> None: ...
    def kill(self) -> None: ...
    def remove(self) -> None: ...


@pytest.fixture
def null() -> Iterator[int]:
    with open("/dev/null", "wb") as file:
        yield file.fileno()


def a_launch(root: Path, tmp_path: Path, null: int, program: list[str], group: Group = NO_GROUP) -> Launch:
    data = tmp_path / "data"
    data.mkdir()
    return Launch(
        sandbox=Sandbox(root=root, uid=UID, writable={"/data": data}),
        program=program,
        status_path=tmp_path / "status",
        log_fd=null,
        group=group,
        processes_max=10,
    )


@pytest.mark.root
async def test_a_program_is_in_its_group_before_it_starts_and_its_end_is_known(
    root: Path, tmp_path: Path, null: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And kept apart from its neighbours' cores: what makes the sandbox is, so all that it starts."""
    kept: list[int] = []
    monkeypatch.setattr(cores, "keep_apart", kept.append)
    group = RecordingGroup()
    spawned: list[ProcessRecord] = []
    what = a_launch(root, tmp_path, null, ["/bin/false"], group)
    launched = await launch(what, spawned.append)
    assert spawned == [launched.monitor]
    assert kept == [launched.monitor.pid]
    assert group.attached == [launched.program.pid]
    assert await ended(launched, what.status_path) == 1


@pytest.mark.root
async def test_a_launch_that_cannot_be_written_down_leaves_no_process(root: Path, tmp_path: Path, null: int) -> None:
    spawned: list[ProcessRecord] = []

    def on_spawn(monitor: ProcessRecord) -> None:
        spawned.append(monitor)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await launch(a_launch(root, tmp_path, null, ["/bin/sleep", "60"]), on_spawn)
    assert not spawned[0].is_alive()


@pytest.mark.root
async def test_a_launch_that_cannot_be_limited_leaves_no_process(root: Path, tmp_path: Path, null: int) -> None:
    group = RecordingGroup(fails=True)
    with pytest.raises(OSError, match="no such group"):
        await launch(a_launch(root, tmp_path, null, ["/bin/sleep", "60"], group), lambda _monitor: None)
    with contextlib.suppress(NotFoundError):
        async with asyncio.timeout(5):
            await ProcessRecord.of(group.attached[0]).wait()
    assert not any_process_of(UID)


@pytest.mark.root
def test_a_starter_that_dies_before_it_told_the_options_starts_nothing(root: Path, tmp_path: Path) -> None:
    """Its end of the pipe closes, bubblewrap reads no options, and in an empty sandbox there is no program."""
    sandbox = Sandbox(root=root, uid=UID, writable={})
    read, write = os.pipe()
    os.close(write)
    done = subprocess.run(
        ["bwrap", "--args", str(read), "--", *bwrap.command(sandbox, ["/bin/sleep", "60"])],
        pass_fds=[read],
        capture_output=True,
        check=False,
        timeout=10,
    )
    os.close(read)
    assert done.returncode != 0
    assert not any_process_of(UID)


_DIES_AFTER_THE_OPTIONS = """
import asyncio, os, signal, sys
from pathlib import Path
from cloister.node.records import write_record
from cloister.node.sandbox import launch
from cloister.node.sandbox.bwrap import Sandbox
from cloister.node.sandbox.cgroups import NO_GROUP

root, place, uid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
launch._read_to_end = lambda _descriptor: os.kill(os.getpid(), signal.SIGKILL)
what = launch.Launch(
    sandbox=Sandbox(root=root, uid=uid, writable={"/data": place / "data"}),
    program=["/bin/sleep", "60"],
    status_path=place / "status",
    log_fd=os.open(os.devnull, os.O_WRONLY),
    group=NO_GROUP,
    processes_max=10,
)
asyncio.run(launch.launch(what, lambda monitor: write_record(place / "monitor", monitor)))
"""


@pytest.mark.root
async def test_a_starter_that_dies_after_it_told_the_options_leaves_a_program_that_is_found(
    root: Path, tmp_path: Path
) -> None:
    """And none that waits for bubblewrap for ever, of which nobody knows."""
    (tmp_path / "data").mkdir()
    words = [sys.executable, "-c", _DIES_AFTER_THE_OPTIONS, str(root), str(tmp_path), str(UID)]
    starter = await asyncio.create_subprocess_exec(*words)
    assert await starter.wait() == -signal.SIGKILL
    monitor = read_record(tmp_path / "monitor", ProcessRecord)
    assert monitor is not None
    async with asyncio.timeout(5):
        while (program := program_of(monitor, tmp_path / "status")) is None:
            assert monitor.is_alive()
            await asyncio.sleep(0.001)
    program.signal(signal.SIGKILL)
    assert await ended(Launched(monitor, program), tmp_path / "status") == -9


@pytest.mark.root
async def test_what_a_killed_bubblewrap_made_and_did_not_tell_of_is_ended(
    root: Path, tmp_path: Path, null: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold the lock for ever, and no compute were started on that timeline again."""
    spawned: list[ProcessRecord] = []
    keep_open = launch_module._kept_open

    def full(write: io.FileIO) -> io.FileIO:
        """So bubblewrap is held up where it tells."""
        with open(
            os.open(f"/proc/self/fd/{write.fileno()}", os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0
        ) as filling:
            while filling.write(b" " * 4096) is not None:
                pass
        return keep_open(write)

    async def kill_it(_descriptor: int) -> bytes:
        while not launch_module._children(spawned[0].pid):  # noqa: ASYNC110 - a child has no event
            await asyncio.sleep(0)
        spawned[0].signal(signal.SIGKILL)
        await spawned[0].wait()
        return b""

    monkeypatch.setattr(launch_module, "_kept_open", full)
    monkeypatch.setattr(launch_module, "_read_to_end", kill_it)
    with (tmp_path / "lock").open("wb") as lock, (tmp_path / "lock").open("rb") as other:
        fcntl.flock(lock, fcntl.LOCK_EX)
        what = replace(a_launch(root, tmp_path, null, ["/bin/sleep", "60"]), lock_fd=lock.fileno())
        with pytest.raises(PreconditionError):
            await launch(what, spawned.append)
        lock.close()
        async with asyncio.timeout(5):
            while not _is_free(other):  # noqa: ASYNC110 - a lock has no event
                await asyncio.sleep(0.001)


def _is_free(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.mark.root
async def test_a_sandbox_that_cannot_be_built_is_an_early_end_not_a_program_outside(tmp_path: Path, null: int) -> None:
    what = a_launch(tmp_path / "nowhere", tmp_path, null, ["/bin/sleep", "60"])
    with contextlib.suppress(PreconditionError):  # Whether it has ended when we look, or a moment later, is chance.
        assert await ended(await launch(what, lambda _monitor: None), what.status_path) == 1
    assert not any_process_of(UID)


@pytest.mark.root
async def test_a_successor_finds_the_program_of_a_launch_it_did_not_see(root: Path, tmp_path: Path, null: int) -> None:
    what = a_launch(root, tmp_path, null, ["/bin/sleep", "60"])
    launched = await launch(what, lambda _monitor: None)
    async with asyncio.timeout(5):
        while not what.status_path.read_bytes():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.001)
    assert program_of(launched.monitor, what.status_path) == launched.program
    os.kill(launched.program.pid, 9)
    assert await ended(launched, what.status_path) == -9
    assert program_of(launched.monitor, what.status_path) is None


def any_process_of(uid: int) -> bool:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == uid:
                return True
        except FileNotFoundError:
            continue
    return False
