"""What the agent remembers of what it put into the store, so as not to put it again, in two files a project, root's alone.

    PROJECT.chunks    which chunks are there, and until when they are locked
    PROJECT.sent      of each timeline, its base and how far its WAL goes

Losing them costs sending again. They say of which store they speak; of another one, nothing is known. Blocking.
"""

import contextlib
import threading
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import write_durably
from cloister.base.ids import ProjectId, TimelineId

CHUNKS_MAX: Final = 1_000_000
# A terabyte; 40 MB in the file, and four times that in memory while a base is taken. Of more, some are sent again.

_HOUR_S: Final = 3600


class Chunks:
    """Of one project, while a base of it is taken or read back, one at a time. May be asked from a thread."""

    def __init__(self, path: Path, store: str, until: dict[bytes, int]) -> None:
        self._path = path
        self._store = store
        self._writing = threading.Lock()
        self._until = until
        """Id → hours since 1970, until which it is locked at least."""

    def until(self, chunk_id: str) -> float:
        """Until when it is locked in the store; 0 for one that is not known to be there."""
        return self._until.get(bytes.fromhex(chunk_id), 0) * _HOUR_S

    def add(self, chunk_id: str, until: float) -> None:
        if len(self._until) < CHUNKS_MAX:
            self._until[bytes.fromhex(chunk_id)] = int(until) // _HOUR_S

    def forget(self, chunk_id: str) -> None:
        self._until.pop(bytes.fromhex(chunk_id), None)

    def save(self, keep: float) -> None:
        """Those that are locked until `keep` or later: others would be sent again in any case."""
        with self._writing:
            known = self._until.copy()  # in one step: others are added meanwhile
            kept = {chunk_id: until for chunk_id, until in known.items() if until * _HOUR_S >= keep}
            write_durably(self._path, msgspec.msgpack.encode((self._store, kept)), mode=0o600)


class Sent(msgspec.Struct, kw_only=True):
    """Of one timeline. Segments `since` to before `next` are in the store without a gap, in whole."""

    wal_timeline: int
    since: int
    next: int
    base: str | None = None
    """The newest in the store."""
    joins: int = 0
    """The first segment that follows it."""
    length: int = 0
    """Of the beginning of segment `next` that is in the store as well."""
    digest: str = ""
    """Of that."""

    def skip(self) -> None:
        """What is missing is before the base: go on from there."""
        self.since = self.next = self.joins
        self.length, self.digest = 0, ""

    @property
    def is_broken(self) -> bool:
        return self.base is None or self.joins < self.since


class _SentOfProject(msgspec.Struct):
    store: str
    timelines: dict[str, Sent]


class Memory:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writing = threading.Lock()

    def chunks(self, project_id: str, store: str) -> Chunks:
        path = self._directory / f"{project_id}.chunks"
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            of, until = msgspec.msgpack.decode(path.read_bytes(), type=tuple[str, dict[bytes, int]])
            if of == store:
                return Chunks(path, store, until)
        return Chunks(path, store, {})

    def forget_chunks(self, project_id: str, store: str, damaged: list[str]) -> None:
        """They are sent again."""
        chunks = self.chunks(project_id, store)
        for chunk_id in damaged:
            chunks.forget(chunk_id)
        chunks.save(0)

    def sent(self, project_id: ProjectId, timeline_id: TimelineId, store: str) -> Sent | None:
        return self._sent(project_id, store).timelines.get(timeline_id)

    def remember(self, project_id: ProjectId, timeline_id: TimelineId, store: str, sent: Sent | None) -> None:
        """None: nothing any more."""
        with self._writing:
            known = self._sent(project_id, store)
            if sent is None:
                known.timelines.pop(timeline_id, None)
            else:
                known.timelines[timeline_id] = sent
            write_durably(self._directory / f"{project_id}.sent", msgspec.json.encode(known), mode=0o600)

    def forget(self, project_id: ProjectId) -> None:
        for ending in ("chunks", "sent"):
            (self._directory / f"{project_id}.{ending}").unlink(missing_ok=True)

    def _sent(self, project_id: ProjectId, store: str) -> _SentOfProject:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            known = msgspec.json.decode((self._directory / f"{project_id}.sent").read_bytes(), type=_SentOfProject)
            if known.store == store:
                return known
        return _SentOfProject(store, {})
