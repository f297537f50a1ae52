"""Places to recover from: clones of a timeline's data, in a directory of root's, each with a few facts about it.

One is taken of a timeline at rest, or made of a finished copy of a running one. `moment` is taken when everything in the
snapshot had been committed, so nothing later than it is in there. Which one serves for a point, and which ones
nobody needs any more, is decided below without touching a file.
"""

import contextlib
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory
from cloister.node.timelines import tree

log = logging.getLogger(__name__)

FACTS: Final = "snapshot.json"
DATA: Final = "data"

AT_REST: Final = ".at-rest"
COPY: Final = ".copy"
# One that is being made; a copy of a running server takes two commands, and a stop may come between them.


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshot.json`: what a recovery, or a backup, must know."""

    start_lsn: int
    """The first WAL that a recovery from here needs."""
    stop_lsn: int
    """Where it is consistent, so the first place that it can be recovered to."""
    wal_timeline: int
    moment: float
    is_clean: bool
    """Taken at rest: the timeline went on where it stopped, and not in the segment after that."""

    @property
    def name(self) -> str:
        return f"{self.stop_lsn:016X}"


class Snapshots:
    """Of one timeline. Blocking; one caller at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[Snapshot]:
        """In order. One whose facts cannot be read does not exist."""
        found = []
        for path in self._directory.iterdir():
            if path.name not in (AT_REST, COPY):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
                    found.append(msgspec.json.decode((path / FACTS).read_bytes(), type=Snapshot))
        return sorted(found, key=lambda snapshot: snapshot.stop_lsn)

    def data(self, snapshot: Snapshot) -> Path:
        return self._directory / snapshot.name / DATA

    def begin(self, kind: str, abort: tree.Abort) -> Path:
        """Where the next one's data goes, which is not there yet. What an earlier attempt left is removed."""
        self.abandon(kind, abort)
        unfinished = self._directory / kind
        unfinished.mkdir(mode=0o700)
        return unfinished / DATA

    def unfinished(self, kind: str) -> Path:
        return self._directory / kind / DATA

    @property
    def has_copy(self) -> bool:
        """Of a running server, which is not finished."""
        return (self._directory / COPY).exists()

    def abandon(self, kind: str, abort: tree.Abort) -> None:
        tree.remove(self._directory / kind, abort)

    def finish(self, kind: str, snapshot: Snapshot, abort: tree.Abort) -> None:
        """What was begun is a snapshot from now on; it is on disk when the file system's log is. One of the same place is
        enough."""
        unfinished, target = self._directory / kind, self._directory / snapshot.name
        if target.exists():
            self.abandon(kind, abort)
            return
        tree.write_new(unfinished / FACTS, msgspec.json.encode(snapshot))
        unfinished.rename(target)

    def give_up(self, snapshots: Sequence[Snapshot], trash: Path) -> None:
        """Out of sight; whoever empties the trash removes the files."""
        for snapshot in snapshots:
            trash.mkdir(mode=0o700, exist_ok=True)
            (self._directory / snapshot.name).rename(trash / secrets.token_hex(8))
        if snapshots:
            sync_directory(self._directory)


def nearest(snapshots: Sequence[Snapshot], *, lsn: int | None, at: float | None) -> Snapshot | None:
    """The last one that lies before the point; None if there is none."""
    before = [
        snapshot
        for snapshot in snapshots
        if (lsn is None or snapshot.stop_lsn <= lsn) and (at is None or snapshot.moment <= at)
    ]
    return max(before, key=lambda snapshot: snapshot.stop_lsn, default=None)


def superfluous(snapshots: Sequence[Snapshot], keep_since: float) -> list[Snapshot]:
    """Those that no recovery to `keep_since` or later starts from: all before the last one that is old enough."""
    start = nearest(snapshots, lsn=None, at=keep_since)
    return [] if start is None else [snapshot for snapshot in snapshots if snapshot.stop_lsn < start.stop_lsn]
