"""An agent's backups with a bucket in memory, on a directory in place of a volume, and clusters that only look like some.

scene = Scene(tmp_path)
timeline_id = scene.timeline()
await scene.back_up(timeline_id)
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloister.base.ids import ProjectId, TimelineId, new_project_id, new_timeline_id
from cloister.base.settings import Paths
from cloister.node.backups.keeper import Backups, Node, Outside
from cloister.node.backups.objects import Courier
from cloister.node.commands import (
    Backed,
    BackUpTimeline,
    Drilled,
    DrillRestore,
    ReadBack,
    Recovered,
    RestoreTimeline,
    Seen,
    SendWal,
    SentWal,
)
from cloister.node.runs import Ran
from cloister.node.timelines import wal
from cloister.node.timelines.checking import Answer
from cloister.node.timelines.history import History
from cloister.node.timelines.keeper import Hold
from cloister.node.timelines.layout import Layout, Timeline
from cloister.node.timelines.making import Assembled, Making
from cloister.node.timelines.recovery import Target
from cloister.node.timelines.tree import Abort
from cloister.node.timelines.work import Locks
from tests.node.backups.bucket import BackupKeys, Bucket
from tests.node.timelines.clusters import CHECKPOINT, control_file, make_cluster, segment

UID = 1_900_000_123
DAYS = 30
FIRST = wal.segment_number(CHECKPOINT)
DAY_S = 24 * 3600


class Replays:
    """Promotes what it is given, where the WAL ends, without reading it."""

    def __init__(self) -> None:
        self.replayed: list[tuple[Target, Assembled]] = []
        self.laid: list[dict[str, bytes]] = []
        """What each found."""
        self.refusal: Exception | None = None
        self.answers = {1: Answer(90, []), 16384: Answer(12, [])}
        """Of those who look through what was replayed."""

    async def look_through(self, _engine: Any, timeline: Timeline, _uid: int) -> dict[int, Answer]:
        assert not (timeline.data / "recovery.signal").exists() or self.replayed
        return self.answers

    async def replay(
        self, _engine: Any, timeline: Timeline, _uid: int, target: Target, assembled: Assembled
    ) -> tuple[Ran, bool]:
        self.replayed.append((target, assembled))
        self.laid.append(files(timeline.data))
        if self.refusal is not None:
            raise self.refusal
        assert (timeline.data / "recovery.signal").exists()
        (timeline.data / "pg_wal" / "00000002.history").write_text(f"1\t{wal.format_lsn(CHECKPOINT)}\tno reason\n")
        (timeline.data / "global/pg_control").write_bytes(control_file(wal_timeline=2))
        return Ran(0, ""), False


class At:
    """A clock that is moved."""

    def __init__(self) -> None:
        self.at = 1_790_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)


class Engines:
    def get(self, major: int) -> int:
        return major


class Dumping:
    """Of a control database that is some files."""

    def __init__(self, tmp_path: Path) -> None:
        self.paths = Paths(tmp_path / "state")
        self.paths.state_dir.mkdir(exist_ok=True)
        self.directory = tmp_path / "dump"
        self.files = {"toc.dat": b"contents", "3001.dat": b"rows of the log\n" * 200_000, "3002.dat": b"other rows"}
        self.refusal: Exception | None = None

    async def dump(self) -> Path:
        if self.refusal is not None:
            raise self.refusal
        self.directory.mkdir()
        for name, content in self.files.items():
            (self.directory / name).write_bytes(content)
        return self.directory

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def held_beside(self) -> dict[str, bytes]:
        return {"control.key": b"k" * 32}


class Scene:
    def __init__(self, tmp_path: Path) -> None:
        self.project_id: ProjectId = new_project_id()
        self.bucket, self.keys, self.replays = Bucket(), BackupKeys(), Replays()
        self.volume = tmp_path / "volume"
        self.volume.mkdir(parents=True)
        self.directory = tmp_path / "backups"
        self.directory.mkdir(mode=0o700)
        self.volumes: dict[ProjectId, Path] = {}
        """Of other projects."""
        self.running: set[str] = set()
        self.locks = Locks()
        self.clock = At()
        self.dumping = Dumping(tmp_path)
        self.backups = self.new_backups()

    def new_backups(self, hold: Hold | None = None, *, through: Courier | None = None) -> Backups:
        """An agent that was started anew; `through` a courier that is none of memory."""
        engines: Any = Engines()
        replays: Any = self.replays
        dumping: Any = self.dumping
        node = Node(engines, replays, hold or self.hold, self.locks.of, self.running.__contains__, dumping)
        return Backups(node, Outside(through or self.bucket, self.keys), self.directory, clock=self.clock)

    @contextlib.asynccontextmanager
    async def hold(self, project_id: ProjectId, *, lingers: bool = False) -> AsyncIterator[Path]:
        yield self.volumes.get(project_id, self.volume)

    @property
    def layout(self) -> Layout:
        return Layout(self.volume)

    def data(self, timeline_id: TimelineId) -> Path:
        return self.layout.existing(timeline_id).data

    def history(self, timeline_id: TimelineId) -> History:
        return History(self.layout, self.layout.existing(timeline_id))

    def timeline(self) -> TimelineId:
        """At rest, with its first snapshot, which is of its head."""
        timeline_id = new_timeline_id()
        self.making().fresh(timeline_id, make_cluster)
        return timeline_id

    def making(self) -> Making:
        return Making(self.layout, UID, self.clock.at, Abort())

    def archive(self, timeline_id: TimelineId, *numbers: int) -> None:
        """These were finished."""
        outbox = self.layout.existing(timeline_id).outbox
        for number in numbers:
            (outbox / wal.segment_name(1, number)).write_bytes(segment(number, fill=bytes([number % 251 + 1])))
        self.making().collect(timeline_id, None)

    def write(self, timeline_id: TimelineId, number: int, content: bytes = b"rows") -> None:
        """Its server writes this segment, so far."""
        path = self.data(timeline_id) / "pg_wal" / wal.segment_name(1, number)
        path.write_bytes((segment(number)[:24] + content).ljust(wal.SEGMENT_BYTES, b"\0"))

    async def back_up(self, timeline_id: TimelineId, *, days: int = DAYS) -> Backed:
        backed: Backed = await self.backups.answer(
            BackUpTimeline(project_id=self.project_id, timeline_id=timeline_id, pg_version=18, retain_days=days)
        )
        return backed

    async def send_wal(self, timeline_id: TimelineId) -> SentWal:
        sent: SentWal = await self.backups.answer(
            SendWal(project_id=self.project_id, timeline_id=timeline_id, retain_days=DAYS)
        )
        return sent

    async def read_back(self, timeline_id: TimelineId, sample: int = 1000) -> Seen:
        seen: Seen = await self.backups.answer(
            ReadBack(project_id=self.project_id, timeline_id=timeline_id, sample=sample)
        )
        return seen

    async def drill(self, timeline_id: TimelineId, **more: Any) -> Drilled:
        given = {"known_lsn": None, "bytes": 1000} | more
        found: Drilled = await self.backups.answer(
            DrillRestore(project_id=self.project_id, timeline_id=timeline_id, uid=UID, pg_version=18, **given)
        )
        return found

    async def restore(self, source_id: TimelineId, **point: Any) -> TimelineId:
        timeline_id = point.pop("timeline_id", None) or new_timeline_id()
        recovered: Recovered = await self.backups.answer(
            RestoreTimeline(
                project_id=point.pop("project_id", self.project_id),
                source_id=source_id,
                timeline_id=timeline_id,
                uid=UID,
                pg_version=18,
                **point,
            )
        )
        assert recovered == self.layout.origin_of(timeline_id)
        return timeline_id


def files(data: Path) -> dict[str, bytes]:
    """All that is in a directory, by its path there; directories end with a slash."""
    return {
        f"{path.relative_to(data)}/" if path.is_dir() else str(path.relative_to(data)): b""
        if path.is_dir()
        else path.read_bytes()
        for path in data.rglob("*")
    }


def owners(data: Path) -> set[int]:
    return {os.lstat(path).st_uid for path in data.rglob("*")}
