"""A group's disk is slowed down by the kernel itself: real writing and reading, on a volume of the test's own."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from cloister.node.sandbox.cgroups import CGROUP_ROOT, Disk, Group, Limits, detect

pytestmark = pytest.mark.root

BYTES: Final = 24 * 1024**2
RATE: Final = 8 * 1024**2
LEAST_S: Final = BYTES / RATE / 2
# Half of what it should take at least: what is cached or allowed in advance is less than that. A slow machine only takes longer.
PATIENCE_S: Final = 120

# Moves itself, so that nothing is done outside; then writes and syncs, as PostgreSQL does, and reads what no cache has.
WORK: Final = """
import os, sys
sys.stdin.readline()
path, many = sys.argv[2], int(sys.argv[3])
if sys.argv[1] == "write":
    with open(path, "wb") as file:
        file.write(bytes(many))
        file.flush()
        os.fsync(file.fileno())
else:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 20):
            pass
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 1024**2)
    subprocess.run(["mkfs.xfs", "-q", image], check=True, timeout=PATIENCE_S)
    with ExitStack() as after:
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True, timeout=PATIENCE_S)
        after.callback(lambda: subprocess.run(["umount", mounted], check=True, timeout=PATIENCE_S))
        yield mounted


@pytest.fixture
def group(volume: Path) -> Iterator[Group]:
    instance = f"test-{uuid.uuid4().hex[:8]}"
    cgroups = detect(instance)
    if cgroups.describe() not in ("v1", "v2"):
        pytest.skip("no control groups here")
    device = os.stat(volume).st_dev
    disk = Disk(device=f"{os.major(device)}:{os.minor(device)}", bytes_per_s=RATE)
    made = cgroups.create("ep-a-b-1", Limits(memory_bytes=256 * 1024**2, cpu_cores=1, processes=10, disk=disk))
    yield made
    made.kill()
    made.remove()
    for tree in (*CGROUP_ROOT.glob(f"*/cloister-{instance}"), *CGROUP_ROOT.glob(f"cloister-{instance}")):
        tree.rmdir()


@pytest.mark.parametrize("what", ["write", "read"])
def test_a_group_reads_and_writes_no_faster_than_its_limit(volume: Path, group: Group, what: str) -> None:
    file = volume / "file"
    if what == "read":
        file.write_bytes(bytes(BYTES))
        os.sync()
    words = ["python3", "-c", WORK, what, str(file), str(BYTES)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        group.attach(process.pid)
        began = time.monotonic()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.wait(timeout=PATIENCE_S) == 0
    assert time.monotonic() - began >= LEAST_S
