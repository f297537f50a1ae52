"""What was written durably is on the disk: the content before the file has its name, the name before the call returns."""

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloister.base import durable


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernel is asked for, in order, with what there is at that moment."""
    asked = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        asked.append(f"fsync {path}" + (f": {path.read_text()}" if path.is_file() else ""))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        asked.append(f"rename {source} {target} {source.stat().st_mode & 0o777:o}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return asked


def broken(_descriptor: int) -> None:
    raise OSError(errno.EIO, "the disk")


def test_content_is_on_disk_before_it_has_its_name_and_the_name_when_the_call_returns(
    tmp_path: Path, asked: list[str]
) -> None:
    path = tmp_path / "seals.json"
    path.write_text("yesterday")
    durable.write_durably(path, b"today", mode=0o600)
    assert asked == [
        f"fsync {tmp_path}/.seals.json.new: today",
        f"rename {tmp_path}/.seals.json.new {path} 600",
        f"fsync {tmp_path}",
    ]
    assert path.read_text() == "today"


def test_what_does_not_reach_the_disk_takes_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "seals.json"
    path.write_text("yesterday")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk"):
        durable.write_durably(path, b"today")
    assert path.read_text() == "yesterday"


def test_a_directory_is_on_disk_or_it_is_an_error(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.sync_directory(tmp_path)
    assert asked == [f"fsync {tmp_path}"]
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk"):
        durable.sync_directory(tmp_path)


def test_a_file_system_is_on_disk_or_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def syncfs(descriptor: int) -> int:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        ctypes.set_errno(errno.EIO)
        return -(len(synced) - 1)

    monkeypatch.setattr(durable, "_LIBC", SimpleNamespace(syncfs=syncfs))
    durable.sync_filesystem(tmp_path)
    assert synced == [tmp_path]
    with pytest.raises(OSError) as failed:
        durable.sync_filesystem(tmp_path)
    assert failed.value.errno == errno.EIO
