"""Where everything of a timeline is in the volume of its project.

    MOUNT/timelines/ID/data/        the cluster; the project's uid
    MOUNT/timelines/ID/outbox/      bound into the compute, whose server puts finished WAL here; the project's uid
    MOUNT/timelines/ID/archive/     WAL out of the tenant's reach; root
    MOUNT/timelines/ID/snapshots/   places to recover from; root
    MOUNT/unfinished/ID/            one that is being made
    MOUNT/owed/ID                   what the first snapshot of one is to be made of, until it is there; root. All in one place, so
                                    that whoever opens the volume, on the way of a wake, need not look at every timeline
    MOUNT/trash/                    one that is being removed

A timeline is there as a whole or not at all: it is made aside, written to disk, and then renamed. To delete one is to
rename it away; what removes the files afterwards may be interrupted as often as it likes. Names are ids of ours, never
a tenant's.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory, sync_filesystem
from cloister.base.errors import NotFoundError
from cloister.base.ids import TimelineId, parse_timeline_id
from cloister.node.commands import Recovered
from cloister.node.timelines import tree

_TIMELINES: Final = "timelines"
_UNFINISHED: Final = "unfinished"
_OWED: Final = "owed"
_TRASH: Final = "trash"


@dataclass(frozen=True, slots=True)
class Timeline:
    """The places of one timeline, there or not, finished or not."""

    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def outbox(self) -> Path:
        return self.directory / "outbox"

    @property
    def archive(self) -> Path:
        return self.directory / "archive"

    @property
    def snapshots(self) -> Path:
        return self.directory / "snapshots"

    @property
    def origin(self) -> Path:
        """What was told to whoever had it made."""
        return self.directory / "origin.json"

    @property
    def frozen(self) -> Path:
        """There if nobody ever writes to it, so it has no history: a snapshot, or what standbys are started on."""
        return self.directory / "frozen"

    @property
    def recovery_log(self) -> Path:
        return self.directory / "recovery.log"

    @property
    def exists(self) -> bool:
        return self.directory.is_dir()


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one volume, by where it is mounted."""

    mountpoint: Path

    def timeline(self, timeline_id: TimelineId) -> Timeline:
        return Timeline(self.mountpoint / _TIMELINES / timeline_id)

    def existing(self, timeline_id: TimelineId) -> Timeline:
        """Raises NotFoundError."""
        timeline = self.timeline(timeline_id)
        if not timeline.exists:
            raise NotFoundError(f"no timeline {timeline_id}", public="the branch has no data")
        return timeline

    def origin_of(self, timeline_id: TimelineId) -> Recovered | None:
        """What was told to whoever had it made; None if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode(self.timeline(timeline_id).origin.read_bytes(), type=Recovered)
        return None

    def owing(self) -> list[TimelineId]:
        """The timelines whose first snapshot is not there yet."""
        return [parse_timeline_id(each.name) for each in _entries(self.mountpoint / _OWED)]

    def owed(self, timeline: Timeline) -> Path:
        """What its first snapshot is to be made of, while it is not there yet: see `history.Owed`."""
        return self.mountpoint / _OWED / timeline.directory.name

    def begin(self, timeline_id: TimelineId, uid: int) -> Timeline:
        """The empty places of a new one. What an earlier attempt left is thrown away."""
        self.abandon(timeline_id)
        timeline = self.unfinished(timeline_id)
        timeline.directory.mkdir(mode=0o700, parents=True)
        for directory in (timeline.archive, timeline.snapshots, timeline.outbox):
            directory.mkdir(mode=0o700)
        os.chown(timeline.outbox, uid, uid)
        return timeline

    def unfinished(self, timeline_id: TimelineId) -> Timeline:
        return Timeline(self.mountpoint / _UNFINISHED / timeline_id)

    def finish(self, timeline_id: TimelineId, *, is_on_disk: bool) -> None:
        """What was begun is there from now on, and on disk. Where everything in it was shared or synced already, the order
        of the file system's log is enough, and nobody else's writes are waited for."""
        timeline = self.timeline(timeline_id)
        timeline.directory.parent.mkdir(mode=0o700, exist_ok=True)
        unfinished = self.unfinished(timeline_id)
        if not is_on_disk:
            sync_filesystem(unfinished.directory)
        unfinished.directory.rename(timeline.directory)
        sync_directory(timeline.directory.parent)

    def abandon(self, timeline_id: TimelineId) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.throw_away(self.unfinished(timeline_id).directory)

    def throw_away(self, directory: Path) -> None:
        """Out of sight, at once and for good; `empty_trash` gives the room back. Raises FileNotFoundError."""
        self.trash.mkdir(mode=0o700, exist_ok=True)
        directory.rename(self.trash / secrets.token_hex(8))
        sync_directory(directory.parent)

    def sweep(self) -> None:
        """When nothing is being made: what a crash left half-made goes the way of what was deleted."""
        for directory in _entries(self.mountpoint / _UNFINISHED):
            self.throw_away(directory)

    @property
    def trash(self) -> Path:
        return self.mountpoint / _TRASH

    @property
    def has_trash(self) -> bool:
        return any(_entries(self.trash))

    def empty_trash(self, abort: tree.Abort) -> None:
        for directory in _entries(self.trash):
            tree.remove(directory, abort)


def _entries(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from directory.iterdir()
