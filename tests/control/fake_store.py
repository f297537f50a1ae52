"""A store for backups in memory, as the fake node reads and writes it: what was sent survives what becomes of the node."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cloister.base.errors import (
    CloisterError,
    ConflictError,
    ExhaustedError,
    NotFoundError,
    PreconditionError,
    UnprocessableError,
)
from cloister.node.commands import (
    AnyBackupCommand,
    Backed,
    BackUpPlatform,
    BackUpTimeline,
    Drilled,
    DrillRestore,
    GetStore,
    PlatformBacked,
    ReadBack,
    ReadBackPlatform,
    Recovered,
    RestoreTimeline,
    Seen,
    SendWal,
    SentWal,
    StoreState,
)

if TYPE_CHECKING:
    from tests.control.fake_node import Catalog, FakeNode, Write

DAY_S = 86_400.0


@dataclass
class SentBase:
    stop_lsn: int
    writes: "list[Write]"
    catalog: "Catalog"


@dataclass
class FakeStore:
    has_lock: bool = True
    taken: str = ""
    bases: dict[str, list[SentBase]] = field(default_factory=dict)
    wal: "dict[str, list[Write]]" = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    dumps: list[float] = field(default_factory=list)
    """Of the control database, when."""
    damaged: list[str] = field(default_factory=list)
    unrestorable: list[str] = field(default_factory=list)
    """What amcheck finds in what comes of it."""
    room: int = 2**40
    """Of volumes, for drills."""
    broken: set[str] = field(default_factory=set)
    """Timelines of which WAL is missing, until there is a new base."""
    behind: dict[str, int] = field(default_factory=dict)
    """How many more calls it takes."""
    hides_after: int | None = None
    """It does not show WAL beyond this."""
    failing: dict[str, CloisterError] = field(default_factory=dict)
    """By timeline, whatever is asked about it."""


def answer(node: "FakeNode", command: AnyBackupCommand) -> Any:
    """What the agent does with it."""
    match command:
        case GetStore():
            return _get_store(node)
        case BackUpTimeline():
            return _back_up(node, command)
        case BackUpPlatform():
            return _back_up_platform(node, command)
        case SendWal():
            return _send_wal(node, command)
        case RestoreTimeline():
            return _restore(node, command)
        case ReadBack():
            return _read_back(node, command)
        case ReadBackPlatform():
            return _read_back_platform(node, command)
        case DrillRestore():
            return _drill(node, command)


def _stored(node: "FakeNode", timeline_id: str) -> FakeStore:
    if node.store is None:
        raise PreconditionError(public="there is no store for backups")
    if (error := node.store.failing.get(timeline_id)) is not None:
        raise error
    return node.store


def _get_store(node: "FakeNode") -> StoreState:
    store = _stored(node, "")
    return StoreState(
        name="backups", place="s3.example:443", has_versions=True, has_lock=store.has_lock, taken=store.taken
    )


def _back_up(node: "FakeNode", command: BackUpTimeline) -> Backed:
    store = _stored(node, command.timeline_id)
    timeline = node.there(command.project_id, command.timeline_id)
    if (command.project_id, "backup") not in node.keys.purposes:
        raise NotFoundError("no backup key")
    stop = node.last_lsn
    if node.runs(command.timeline_id):
        if not timeline.snapshots and command.timeline_id in node.without_history:
            raise PreconditionError(public="it has no history")
        stop = max([timeline.began_lsn, *timeline.snapshots])
    writes = [write for write in timeline.writes if write.lsn <= stop]
    node.calls.append("BackUpTimeline")
    store.bases.setdefault(command.timeline_id, []).append(SentBase(stop, writes, timeline.catalog))
    store.broken.discard(command.timeline_id)
    now = node.now().timestamp()
    return Backed(
        base=f"{stop:016X}",
        start_lsn=f"0/{stop:X}",
        stop_lsn=f"0/{stop:X}",
        moment=now,
        chunks=10,
        new_chunks=3,
        bytes=1000,
        new_bytes=300,
        locked_until=now + (command.retain_days + 7) * DAY_S,
    )


def _back_up_platform(node: "FakeNode", command: BackUpPlatform) -> PlatformBacked:
    store = _stored(node, "platform")
    node.calls.append("BackUpPlatform")
    now = node.now().timestamp()
    store.dumps.append(now)
    return PlatformBacked(
        name=f"{int(now):016X}",
        moment=now,
        chunks=10,
        new_chunks=3,
        bytes=1000,
        new_bytes=300,
        locked_until=now + (command.retain_days + 7) * DAY_S,
    )


def _send_wal(node: "FakeNode", command: SendWal) -> SentWal:
    store = _stored(node, command.timeline_id)
    timeline = node.there(command.project_id, command.timeline_id)
    node.calls.append("SendWal")
    store.wal[command.timeline_id] = list(timeline.writes)
    store.ends[command.timeline_id] = node.last_lsn
    left = store.behind.get(command.timeline_id, 0)
    store.behind[command.timeline_id] = left - 1
    return SentWal(
        end_lsn=f"0/{node.last_lsn:X}",
        moment=node.now().timestamp(),
        segments=1,
        bytes=100,
        is_broken=command.timeline_id in store.broken or not store.bases.get(command.timeline_id),
        is_behind=left > 0,
    )


def _restore(node: "FakeNode", command: RestoreTimeline) -> Recovered:
    store = _stored(node, command.source_id)
    if command.project_id not in node.keys.enabled:
        raise NotFoundError("no key")
    image = node.images[command.project_id]
    if command.timeline_id in image.timelines:
        return Recovered(lsn=f"0/{node.last_lsn:X}")
    bases = store.bases.get(command.source_id, [])
    if not bases:
        raise PreconditionError(public="the store has nothing of it")
    end = min(store.ends.get(command.source_id, 0), store.hides_after or 2**63)
    if command.known_lsn is not None and end < int(command.known_lsn.rpartition("/")[2], 16):
        raise UnprocessableError(public="the store shows less than was put there")
    writes = [
        write
        for write in store.wal.get(command.source_id, bases[-1].writes)
        if write.lsn <= max(end, bases[-1].stop_lsn)
    ]
    if command.lsn is not None:
        writes = [write for write in writes if write.lsn <= int(command.lsn.rpartition("/")[2], 16)]
    if command.at is not None:
        writes = [write for write in writes if write.at <= command.at]
    if image.uid != command.uid:
        raise ConflictError("not this project's uid")
    node.calls.append("RestoreTimeline")
    catalog = writes[-1].catalog if writes else bases[-1].catalog
    node.put(command.project_id, command.timeline_id, catalog, writes, is_frozen=False)
    return Recovered(lsn=f"0/{node.last_lsn:X}", at=writes[-1].at if writes else None)


def _read_back(node: "FakeNode", command: ReadBack) -> Seen:
    store = _stored(node, command.timeline_id)
    if not (bases := store.bases.get(command.timeline_id)):
        raise NotFoundError("no base")
    node.calls.append("ReadBack")
    return Seen(base=f"{bases[-1].stop_lsn:016X}", chunks=command.sample, bytes=10, damaged=list(store.damaged))


def _read_back_platform(node: "FakeNode", command: ReadBackPlatform) -> Seen:
    store = _stored(node, "platform")
    if (error := store.failing.get("platform's reading")) is not None:
        raise error
    node.calls.append("ReadBackPlatform")
    return Seen(base=command.name, chunks=command.sample, bytes=10, damaged=list(store.damaged))


def _drill(node: "FakeNode", command: DrillRestore) -> Drilled:
    store = _stored(node, command.timeline_id)
    end = min(store.ends.get(command.timeline_id, 0), store.hides_after or 2**63)
    if command.known_lsn is not None and end < int(command.known_lsn.rpartition("/")[2], 16):
        raise UnprocessableError(public="the store shows less than was put there")
    if command.bytes > store.room:
        raise ExhaustedError(public="no room")
    node.calls.append("DrillRestore")
    return Drilled(lsn=f"0/{end:X}", databases=4, relations=600, damaged=list(store.unrestorable))
