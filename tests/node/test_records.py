"""Records name one process and never its successor."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from cloister.base.errors import NotFoundError
from cloister.node.records import ProcessRecord, read_record, write_record


class Example(msgspec.Struct, frozen=True):
    name: str
    process: ProcessRecord


def child(*argv: str) -> int:
    return os.posix_spawn("/bin/" + argv[0], argv, {})


def sleeper() -> int:
    """A child that lives until it is told otherwise."""
    return child("sleep", "60")


def orphan() -> int:
    """A process that is not our child: the shell prints the pid of a background process and leaves it behind."""
    shell = subprocess.run(
        ["/bin/sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True, timeout=5
    )
    return int(shell.stdout)


def is_reaped(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def until_zombie(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def test_a_child_is_reaped_and_its_signal_reported() -> None:
    pid = sleeper()
    record = ProcessRecord.of(pid)
    assert record.is_alive()
    waiting = asyncio.create_task(record.wait())
    await asyncio.sleep(0)
    assert record.signal(signal.SIGTERM)
    assert await asyncio.wait_for(waiting, 5) == -signal.SIGTERM
    assert not record.is_alive()
    assert is_reaped(pid)


async def test_an_exit_code_is_reported() -> None:
    assert await asyncio.wait_for(ProcessRecord.of(child("false")).wait(), 5) == 1


async def test_the_end_of_a_process_that_is_not_a_child_is_noticed() -> None:
    record = ProcessRecord.of(orphan())
    waiting = asyncio.create_task(record.wait())
    await asyncio.sleep(0)
    assert record.signal(signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 5) is None
    assert not record.is_alive()


async def test_a_zombie_is_not_alive_and_can_still_be_reaped() -> None:
    pid = sleeper()
    record = ProcessRecord.of(pid)
    record.signal(signal.SIGKILL)
    until_zombie(pid)
    assert not record.is_alive()
    assert await asyncio.wait_for(record.wait(), 5) == -signal.SIGKILL


async def test_a_pid_that_was_given_to_another_process_is_left_alone() -> None:
    pid = sleeper()
    successor = ProcessRecord.of(pid)
    gone = ProcessRecord(pid, successor.started - 1)
    assert not gone.is_alive()
    assert not gone.signal(signal.SIGKILL)
    assert await asyncio.wait_for(gone.wait(), 5) is None
    assert successor.is_alive()
    successor.signal(signal.SIGKILL)
    await successor.wait()


def test_a_pid_nobody_has_is_not_found() -> None:
    pid = child("true")
    os.waitpid(pid, 0)
    with pytest.raises(NotFoundError):
        ProcessRecord.of(pid)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = Example("volume", ProcessRecord.of(os.getpid()))
    write_record(tmp_path / "one.json", written)
    assert read_record(tmp_path / "one.json", Example) == written
    assert (tmp_path / "one.json").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot": "x"}', b'{"boot": 1, "data": {}}'])
def test_an_unreadable_record_reads_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "one.json").write_bytes(content)
    assert read_record(tmp_path / "one.json", Example) is None
    assert read_record(tmp_path / "two.json", Example) is None


def test_a_record_from_before_the_last_boot_reads_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_record(path, Example("volume", ProcessRecord.of(os.getpid())))
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path.write_text(path.read_text().replace(boot_id, "00000000-0000-0000-0000-000000000000"))
    assert read_record(path, Example) is None
