"""A cluster's files become another cluster's, by reflink: what is left out, and in which order.

What is left out is what pg_basebackup leaves out: what a start makes anew, and what belongs to the server that runs. Slots are
among it: nobody reads a child's. So is `pg_tblspc`, for there are no tablespaces. WAL is chosen apart, by `wal_of`.
"""

import contextlib
import logging
import os
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from cloister.base.durable import sync_filesystem
from cloister.base.errors import PreconditionError
from cloister.node.timelines import control, tree, wal
from cloister.node.timelines.tree import Abort, Budget

log = logging.getLogger(__name__)

WAL: Final = "pg_wal"

_EMPTIED: Final = frozenset(
    f"/{name}"
    for name in (
        *("pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"),
        *("pg_tblspc", WAL),
    )
)
_LEFT_OUT: Final = frozenset(
    f"/{name}"
    for name in (
        *("postmaster.pid", "postmaster.opts", "current_logfiles", "current_logfiles.tmp", "postgresql.auto.conf.tmp"),
        *("recovery.signal", "standby.signal", "backup_manifest", "tablespace_map", "backup_label.old"),
    )
)
BACKUP_LABEL: Final = "backup_label"
_CONTROL: Final = "/" + "/".join(control.PATH)


class Fate(Enum):
    COPIED = auto()
    EMPTIED = auto()
    """A directory of which only the name is kept."""
    LEFT_OUT = auto()


def fate(path: str, *, is_running: bool) -> Fate:
    """Of a file or directory by its path in the data directory, which begins with a slash."""
    name = path.rpartition("/")[2]
    if path in _EMPTIED:
        return Fate.EMPTIED
    if path in _LEFT_OUT or name.startswith(("pgsql_tmp", "pg_internal.init")):
        return Fate.LEFT_OUT
    # A server that was started from a backup and has not come so far yet needs the label; one that runs does not.
    if path == f"/{BACKUP_LABEL}" and is_running:
        return Fate.LEFT_OUT
    # Last of all, and not by the way.
    return Fate.LEFT_OUT if path == _CONTROL else Fate.COPIED


@dataclass(slots=True)
class Count:
    files: int = 0
    skipped: int = 0
    """Neither a file nor a directory: nothing that PostgreSQL made."""
    is_shared: bool = True
    """Everything by reference: then it is on disk as soon as the file system's log is, for the kernel writes out what it
    shares before it shares it. What had to be copied is written out as well."""


def clone_cluster(source: Path, target: Path, uid: int, abort: Abort, *, is_running: bool) -> Count:
    """Make `target`, whose directory is root's, a copy of the cluster in `source` without its WAL, on disk when this returns
    and the file system's log is. A crash leaves part of it. Raises ExhaustedError, PreconditionError for a tree that no PostgreSQL makes, ConflictError if aborted."""
    work = _Cloning(uid, Budget(abort), is_running)
    with tree.room_needed(str(target)), tree.opened(source) as from_:
        target.mkdir(mode=0o700)
        with tree.opened(target) as to:
            os.fchown(to, uid, uid)
            work.directory(from_, to, "", tree.DEPTH_MAX)
            # The control file is last: it must not know of a checkpoint whose pages were copied before it happened.
            with tree.opened(control.PATH[0], below=from_) as inner, tree.opened(control.PATH[0], below=to) as outer:
                work.file(control.PATH[1], inner, outer)
            if not work.count.is_shared:
                sync_filesystem(target)
    if work.count.skipped and not is_running:
        log.warning("%d entries of %s are neither files nor directories: left out", work.count.skipped, source)
    return work.count


def clone_at_rest(source: Path, target: Path, uid: int, abort: Abort, *, is_replayed: bool = False) -> None:
    """As `clone_cluster`, of a cluster that nobody works on, with the WAL that its start reads (`clone_wal`)."""
    clone_cluster(source, target, uid, abort, is_running=False)
    clone_wal(source, target, uid, abort, is_replayed=is_replayed)


class _Cloning:
    def __init__(self, uid: int, budget: Budget, is_running: bool) -> None:
        self.count = Count()
        self._uid = uid
        self._budget = budget
        self._is_running = is_running

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        if depth == 0:
            raise PreconditionError(
                f"{path} is too deep", public="the branch's data directory holds what is not PostgreSQL's"
            )
        with os.scandir(source) as entries:
            for entry in entries:
                self._budget.take()
                inner = f"{path}/{entry.name}"
                what = fate(inner, is_running=self._is_running)
                if what is Fate.LEFT_OUT:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(entry.name, 0o700, dir_fd=target)
                    with tree.opened(entry.name, below=target) as to:
                        os.fchown(to, self._uid, self._uid)
                        if what is Fate.COPIED:
                            self._below(entry.name, source, to, inner, depth - 1)
                elif what is Fate.COPIED and entry.is_file(follow_symlinks=False):
                    self.file(entry.name, source, target)
                else:
                    self.count.skipped += 1

    def _below(self, name: str, source: int, target: int, path: str, depth: int) -> None:
        try:
            from_ = os.open(name, tree.DIRECTORY, dir_fd=source)
        except OSError as error:
            if error.errno not in tree.GONE:
                raise
            self.count.skipped += 1
            return
        try:
            self.directory(from_, target, path, depth)
        finally:
            os.close(from_)

    def file(self, name: str, source: int, target: int) -> None:
        from_ = tree.open_regular(name, source)
        if from_ is None:
            # Removed since the directory was read, as a running server may, or swapped for what it cannot be.
            self.count.skipped += 1
            return
        try:
            self.count.is_shared &= copy(from_, name, target, self._uid, in_use=self._is_running)
        finally:
            os.close(from_)
        self.count.files += 1


def copy(source: int, name: str, target: int, uid: int, *, in_use: bool = False) -> bool:
    """The open file `source` as a new one of `uid` in the directory `target`. True if it shares the blocks."""
    to = os.open(name, tree.NEW_FILE, 0o600, dir_fd=target)
    try:
        os.fchown(to, uid, uid)
        return tree.share(source, to, in_use=in_use)
    finally:
        os.close(to)


def clone_wal(source: Path, target: Path, uid: int, abort: Abort, *, is_replayed: bool = False) -> None:
    """What the start of a cluster at rest reads of its WAL: after a clean shutdown the segment with the checkpoint, else
    everything that is no older segment kept for later use. `is_replayed`: everything in any case, for it is to go on from
    that shutdown."""
    budget = Budget(abort)
    with (
        tree.room_needed(str(target)),
        tree.opened(source) as from_,
        tree.opened(WAL, below=from_) as segments,
        tree.opened(target) as to,
        tree.opened(WAL, below=to) as copies,
    ):
        found = control.read(to)
        is_settled = found.is_clean and not is_replayed and not _exists(BACKUP_LABEL, to)
        # What is behind the checkpoint of a clean shutdown are old segments under the names of coming ones: after a load they
        # are hundreds, and each would be opened to see it.
        first = wal.segment_number(found.redo) if is_settled else 0
        last = wal.segment_number(found.checkpoint + control.CHECKPOINT_RECORD_BYTES_MAX) if is_settled else None
        with os.scandir(segments) as entries:
            for entry in entries:
                budget.take()
                parsed = wal.parse_segment_name(entry.name)
                is_read = parsed is not None and first <= parsed[1] and (last is None or parsed[1] <= last)
                if is_read or wal.HISTORY_NAME.fullmatch(entry.name):
                    clone_segment(entry.name, segments, copies, uid)


def clone_segment(name: str, source: int, target: int, uid: int) -> bool:
    """A segment, or a history file, under its name, in place of what the target may have. False if it is not there, or is
    no more or not yet what it is called: PostgreSQL keeps old segments under the names of coming ones."""
    from_ = tree.open_regular(name, source)
    if from_ is None:
        return False
    try:
        parsed = wal.parse_segment_name(name)
        if parsed is not None and not wal.begins_at(os.pread(from_, wal.PAGE_HEADER_BYTES, 0), parsed[1]):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=target)
        is_shared = copy(from_, name, target, uid)
        with tree.opened(name, tree.FILE, below=target) as copied:
            # A server that runs may have begun to use it for a later one meanwhile, which it does from the beginning.
            if parsed is not None and not wal.begins_at(os.pread(copied, wal.PAGE_HEADER_BYTES, 0), parsed[1]):
                os.unlink(name, dir_fd=target)
                return False
            if not is_shared:
                os.fsync(copied)
    finally:
        os.close(from_)
    return True


def begins_as_named(name: str, number: int, segments: int) -> bool:
    """Whether the server's directory of WAL holds this segment, and not an older one under its name."""
    file = tree.open_regular(name, segments)
    if file is None:
        return False
    try:
        return wal.begins_at(os.pread(file, wal.PAGE_HEADER_BYTES, 0), number)
    finally:
        os.close(file)


def has_segment_after(data: Path, number: int, abort: Abort) -> bool:
    """Whether the server's own directory holds WAL that begins after segment `number` begins."""
    budget = Budget(abort)
    with tree.opened(data) as directory, tree.opened(WAL, below=directory) as segments, os.scandir(segments) as entries:
        for entry in entries:
            budget.take()
            parsed = wal.parse_segment_name(entry.name)
            if parsed is not None and parsed[1] > number and begins_as_named(entry.name, parsed[1], segments):
                return True
    return False


def is_settled(data: Path) -> bool:
    """It was shut down cleanly and starts without replaying anything."""
    with tree.opened(data) as directory:
        return control.read(directory).is_clean and not _exists(BACKUP_LABEL, directory)


def is_whole(data: Path) -> bool:
    """`clone_cluster` came to its end here, which is the control file."""
    try:
        control.of(data)
    except (FileNotFoundError, PreconditionError):
        return False
    return True


def tidy_wal(data: Path, abort: Abort) -> None:
    """Of a settled cluster: remove the WAL that no start reads, old segments under the names of coming ones too. It would be
    archived once more, and it tells what was."""
    budget = Budget(abort)
    with tree.opened(data) as directory, tree.opened(WAL, below=directory) as segments:
        found = control.read(directory)
        with os.scandir(segments) as entries:
            names = []
            for entry in entries:
                budget.take()
                if wal.parse_segment_name(entry.name) is not None:
                    names.append(entry.name)
        for name in names:
            if not _is_read_by_start(name, segments, found):
                os.unlink(name, dir_fd=segments)


def _is_read_by_start(name: str, segments: int, found: control.Control) -> bool:
    parsed = wal.parse_segment_name(name)
    if parsed is None or parsed[0] != found.wal_timeline or parsed[1] < wal.segment_number(found.redo):
        return False
    return begins_as_named(name, parsed[1], segments)


def write_file(data: Path, name: str, content: bytes, uid: int) -> None:
    """A new file in a data directory."""
    with tree.opened(data) as directory, tree.opened(name, tree.NEW_FILE, below=directory) as file:
        os.fchown(file, uid, uid)
        tree.write_whole(file, content)
        os.fsync(file)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
