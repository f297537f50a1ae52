"""`sharing`: how long a reader and a writer of a table wait, at worst, while a branch takes its blocks.

Nobody reads or writes a file while its blocks are being shared, and that is work for each extent of it. The table is 256 MB on an
XFS, written at random between branches until nearly every page lies in a place of its own; then it is shared in turns as a
whole, the baseline, and as a branch of a running server does it.
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.branch import bare_xfs
from benchmarks.measure import Result, stopwatch
from cloister.node.reflink import reflink, reflink_in_use
from cloister.node.timelines import tree

TABLE_BYTES: Final = 256 * 1024**2
PAGE_BYTES: Final = 8192
GENERATIONS: Final = 8
PAGES_A_GENERATION: Final = 8000
PAUSE_S: Final = 0.001

Share = Callable[[int, int], bool]


def run(n: int = 10) -> Result:
    result = Result("sharing")
    ways: dict[str, Share] = {"whole": reflink, "in pieces": reflink_in_use}
    worst: dict[tuple[str, str], list[float]] = {(way, who): [] for way in ways for who in ("read", "write")}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    with bare_xfs(2) as directory:
        table = directory / "table"
        with table.open("wb") as file:
            for _ in range(TABLE_BYTES // 2**20):
                file.write(os.urandom(2**20))
        for number in range(GENERATIONS + n):
            for way, share in ways.items():
                _grow_older(table)
                if number < GENERATIONS:
                    _share(table, reflink, [])
                    continue
                with _waiting(table, worst[way, "read"], worst[way, "write"]):
                    _share(table, share, taken[way])
    for way in ways:
        result.add(f"256 MB, {way}", taken[way])
    for who in ("read", "write"):
        theirs = result.add(f"worst {who} meanwhile, whole", worst["whole", who])
        ours = result.add(f"worst {who} meanwhile, in pieces", worst["in pieces", who])
        result.ratio(f"worst {who}: in pieces ÷ whole", ours, theirs)
    return result


def _grow_older(table: Path) -> None:
    with tree.opened(table, os.O_RDWR) as file:
        for _ in range(PAGES_A_GENERATION):
            os.pwrite(file, os.urandom(16) * (PAGE_BYTES // 16), _somewhere())
        os.fsync(file)


def _share(table: Path, share: Share, into: list[float]) -> None:
    branch = table.with_name("branch")
    branch.unlink(missing_ok=True)
    with tree.opened(table, tree.FILE) as source, tree.opened(branch, tree.NEW_FILE) as target, stopwatch(into):
        share(source, target)


@contextlib.contextmanager
def _waiting(table: Path, reads: list[float], writes: list[float]) -> Iterator[None]:
    """The longest that one of each took, in milliseconds."""
    stop = threading.Event()

    def work(into: list[float], act: Callable[[int], object]) -> None:
        longest = 0.0
        with tree.opened(table, os.O_RDWR) as file:
            while not stop.wait(PAUSE_S):
                began = time.perf_counter()
                act(file)
                longest = max(longest, (time.perf_counter() - began) * 1e3)
        into.append(longest)

    threads = [
        threading.Thread(target=work, args=(reads, lambda file: os.pread(file, PAGE_BYTES, _somewhere()))),
        threading.Thread(target=work, args=(writes, lambda file: os.pwrite(file, bytes(PAGE_BYTES), _somewhere()))),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _somewhere() -> int:
    return random.randrange(TABLE_BYTES // PAGE_BYTES) * PAGE_BYTES
