"""The copy of a volume that changes under it: on plain files, for it knows nothing of keys."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import InternalError
from cloister.node.volumes.copying import CHUNK_BYTES, Copy, Pace, StoppedError

AT_ONCE = Pace(None)
PAYLOAD = 4096
CHUNKS = 8
SIZE = CHUNKS * CHUNK_BYTES - 512
"""The last chunk is not whole."""


class Images:
    """An image is PAYLOAD bytes of header and then, here, the data as it is."""

    def __init__(self, directory: Path) -> None:
        self.files = {}
        for name in ("source", "target"):
            self.files[name] = os.open(directory / f"{name}.img", os.O_RDWR | os.O_CREAT)
            os.ftruncate(self.files[name], PAYLOAD + SIZE)
            self.files[f"{name} data"] = os.open(directory / f"{name}.data", os.O_RDWR | os.O_CREAT)
            os.ftruncate(self.files[f"{name} data"], SIZE)

    def write(self, data: bytes, offset: int, name: str = "source") -> None:
        os.pwrite(self.files[name], data, PAYLOAD + offset)
        os.pwrite(self.files[f"{name} data"], data, offset)

    def read(self, name: str) -> bytes:
        return os.pread(self.files[f"{name} data"], SIZE, 0)

    def copy(self) -> Copy:
        files = [self.files[name] for name in ("source data", "source", "target data", "target")]
        return Copy(*files, payload=PAYLOAD)

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    images = Images(tmp_path)
    yield images
    images.close()


@settings(max_examples=25, deadline=None)
@given(rounds=st.lists(st.lists(st.integers(0, SIZE - 4096), max_size=6), min_size=1, max_size=4), seed=st.integers())
def test_after_a_pass_without_writes_both_are_equal(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[int]], seed: int
) -> None:
    """Whatever was written between the passes, and wherever."""
    images = Images(tmp_path_factory.mktemp("images"))
    noise = random.Random(seed)
    copy = images.copy()
    for offsets in rounds:
        for offset in offsets:
            images.write(noise.randbytes(4096), offset)
        copy.follow(AT_ONCE)
    copy.verify(AT_ONCE)
    assert images.read("target") == images.read("source")
    assert copy.follow(AT_ONCE) == 0
    images.close()


def test_a_pass_writes_what_differs_and_nothing_else(images: Images) -> None:
    for chunk in range(CHUNKS - 1):
        images.write(os.urandom(4096), chunk * CHUNK_BYTES)
    copy = images.copy()
    assert copy.follow(AT_ONCE) == (CHUNKS - 1) * CHUNK_BYTES
    assert copy.follow(AT_ONCE) == 0
    images.write(b"other", 3 * CHUNK_BYTES)
    assert copy.follow(AT_ONCE) == CHUNK_BYTES


def test_a_write_during_a_pass_is_found_by_the_next(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the reader's back, and to and fro: what was written to the target is what counts."""
    images.write(b"before", 0)
    images.write(b"other", 2 * CHUNK_BYTES)
    copy = images.copy()
    read, calls = os.preadv, 0

    def sneaky(file: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            images.write(b"during", 0)
            count = read(file, buffers, offset)
            images.write(b"before", 0)
            return count
        return read(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", sneaky)
    copy.follow(AT_ONCE)
    assert images.read("target")[:6] == b"during"
    copy.follow(AT_ONCE)
    assert images.read("target") == images.read("source")


def test_a_copy_that_was_cut_off_is_read_and_not_believed(images: Images) -> None:
    for chunk in range(3):
        images.write(os.urandom(4096), chunk * CHUNK_BYTES)
    images.copy().follow(AT_ONCE)
    images.write(images.read("source")[: 2 * CHUNK_BYTES], 0, "target")
    images.write(b"torn", CHUNK_BYTES + 17, "target")
    copy = images.copy()
    assert copy.follow(AT_ONCE) <= 2 * CHUNK_BYTES  # what is torn, and what was in the target's data alone
    assert images.read("target") == images.read("source")


def test_what_is_not_in_use_stays_a_hole(images: Images) -> None:
    images.write(b"x", 5 * CHUNK_BYTES)
    copy = images.copy()
    copy.follow(AT_ONCE)
    assert copy.used_bytes == CHUNK_BYTES
    assert os.lseek(images.files["target data"], 0, os.SEEK_DATA) >= 5 * CHUNK_BYTES


def test_what_was_written_is_read_back(images: Images) -> None:
    images.write(b"x", 0)
    copy = images.copy()
    copy.follow(AT_ONCE)
    images.write(b"y", 0, "target")
    with pytest.raises(InternalError, match="not what was written"):
        copy.verify(AT_ONCE)


def test_images_of_different_sizes_are_refused(images: Images) -> None:
    os.ftruncate(images.files["target data"], SIZE - 512)
    with pytest.raises(InternalError):
        images.copy()


def test_a_stopped_copy_stops_before_the_next_chunk(images: Images) -> None:
    for chunk in range(3):
        images.write(b"x", chunk * CHUNK_BYTES)
    pace = Pace(None)
    pace.stop()
    copy = images.copy()
    with pytest.raises(StoppedError):
        copy.follow(pace)
    assert copy.passed_bytes == CHUNK_BYTES


def test_a_pace_is_kept_and_what_was_not_used_is_not_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [100.0], []
    monkeypatch.setattr("cloister.node.volumes.copying.time.monotonic", lambda: now[0])
    pace = Pace(1000)

    def wait(seconds: float) -> bool:
        waits.append(round(seconds, 6))
        now[0] += seconds
        return False

    monkeypatch.setattr(pace._stopped, "wait", wait)
    pace.spend(500)
    pace.spend(500)
    now[0] += 60
    pace.spend(250)
    assert waits == [0.5, 0.5, 0.25]
    pace.bytes_per_s = None
    pace.spend(10**9)
    assert len(waits) == 3
