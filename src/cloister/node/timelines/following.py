"""What a standby follows, its server's WAL, becomes files of the standby's own. Blocking; the caller holds the standby's lock.

PostgreSQL looks into its own `pg_wal` again and again where it has no server to follow: so nothing is opened between the two, no
socket and no directory, and each sandbox reaches its own files alone. The segment that is being written is given again whenever
it has changed; its end may be half a record, which PostgreSQL takes for the end of what there is, and reads again later.

(1) What is read is the tenant's, so it is opened as such (`tree.py`), and is no more than segments of one size.
(2) It is copied, not shared: to share blocks with the segment that a server writes would slow down every commit of it.
(3) A segment is passed when the next one has begun, for then it is whole; or when it is found where only whole ones are.
(4) One that is nowhere, while there are later ones, is told: a standby that waits for it would show what was, for ever.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from cloister.base.errors import PreconditionError
from cloister.node.timelines import clone, control, tree, wal
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.tree import Abort, Budget

AT_ONCE_MAX: Final = 256
# Segments given in one pass, some 1 ms each: others want to be followed too.

SETTLED_NS: Final = 1_000_000_000
# A file that was written less than this ago may be written again within the same tick of the file system's clock.

_UNFINISHED: Final = "given"
# Not a name of PostgreSQL's.


@dataclass(frozen=True, slots=True)
class Place:
    """How far a standby was given what it follows."""

    wal_timeline: int
    number: int
    """Of the segment that it was given last, or is given next."""
    written_ns: int = 0
    """When that was last written to, as it was given."""


@dataclass(frozen=True, slots=True)
class _Into:
    """Where a standby's segments go."""

    segments: int
    uid: int
    now_ns: int


def begin(standby: Timeline, abort: Abort) -> Place:
    """The last segment that it has. Raises PreconditionError."""
    budget = Budget(abort)
    with tree.opened(standby.data) as data, tree.opened(clone.WAL, below=data) as segments:
        wal_timeline = control.read(data).wal_timeline
        numbers = []
        with os.scandir(segments) as entries:
            for entry in entries:
                budget.take()
                parsed = wal.parse_segment_name(entry.name)
                if parsed is not None and parsed[0] == wal_timeline and _begins(segments, entry.name, parsed[1]):
                    numbers.append(parsed[1])
    if not numbers:
        raise PreconditionError(f"{standby.directory} has no WAL to go on from")
    return Place(wal_timeline, max(numbers))


def feed(source: Timeline, standby: Timeline, place: Place, now_ns: int, abort: Abort) -> Place:
    """Give it what is new. Raises PreconditionError when what comes next is nowhere (4)."""
    with contextlib.ExitStack() as files:
        followed = files.enter_context(tree.opened(source.data))
        written = files.enter_context(tree.opened(clone.WAL, below=followed))
        # In the order in which a segment goes, which is in the next place before it leaves the one before.
        whole = [files.enter_context(tree.opened(directory)) for directory in (source.outbox, source.archive)]
        data = files.enter_context(tree.opened(standby.data))
        segments = files.enter_context(tree.opened(clone.WAL, below=data))
        into = _Into(segments, os.fstat(data).st_uid, now_ns)
        for _ in range(AT_ONCE_MAX):
            abort.check()
            name = wal.segment_name(place.wal_timeline, place.number)
            # Before it is read: what is read afterwards is whole, if the next one has begun by now.
            is_over = _begins(written, wal.segment_name(place.wal_timeline, place.number + 1), place.number + 1)
            written_ns = _give(written, name, place, into)
            if written_ns is None:
                is_over = any(_give(directory, name, place, into) is not None for directory in whole)
                if not is_over:
                    _require_end(source, place, abort)
                    return place
            if not is_over:
                assert written_ns is not None
                return replace(place, written_ns=written_ns)
            place = Place(place.wal_timeline, place.number + 1)
    return place


def _require_end(source: Timeline, place: Place, abort: Abort) -> None:
    if clone.has_segment_after(source.data, place.number, abort):
        raise PreconditionError(f"segment {place.number} of {source.directory} is gone before it was given on")


def _give(directory: int, name: str, place: Place, into: _Into) -> int | None:
    """The segment from there, unless it is as it was given already. When it was last written to; None if it is not there."""
    with _opened_segment(directory, name, place.number) as file:
        if file is None:
            return None
        written_ns = os.fstat(file).st_mtime_ns
        if written_ns == place.written_ns and into.now_ns - written_ns > SETTLED_NS:
            return written_ns
        content = os.pread(file, wal.SEGMENT_BYTES, 0)
    if len(content) != wal.SEGMENT_BYTES or not wal.begins_at(content, place.number):
        return None  # renamed for later use meanwhile: then it is whole, elsewhere
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_UNFINISHED, dir_fd=into.segments)
    # Not synced: a standby does not outlive a power cut, and never a replay that was begun before one.
    with tree.opened(_UNFINISHED, tree.NEW_FILE, below=into.segments) as copy:
        os.fchown(copy, into.uid, into.uid)
        tree.write_whole(copy, content)
    os.rename(_UNFINISHED, name, src_dir_fd=into.segments, dst_dir_fd=into.segments)
    return written_ns


def _begins(directory: int, name: str, number: int) -> bool:
    with _opened_segment(directory, name, number) as file:
        return file is not None


@contextlib.contextmanager
def _opened_segment(directory: int, name: str, number: int) -> Iterator[int | None]:
    """None if there is none, or it is not yet or no more what it is called."""
    file = tree.open_regular(name, directory)
    if file is None:
        yield None
        return
    try:
        yield file if wal.begins_at(os.pread(file, wal.PAGE_HEADER_BYTES, 0), number) else None
    finally:
        os.close(file)
