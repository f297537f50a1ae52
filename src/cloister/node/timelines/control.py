"""What a cluster says of itself: the beginning of `global/pg_control`, the same in all versions that are offered.

The file is the tenant's: it is read as a struct of numbers, and what it says is believed only about the tenant's own data.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from cloister.base.errors import PreconditionError
from cloister.node.postgres.standby import Floor
from cloister.node.timelines import tree

PATH: Final = ("global", "pg_control")

_FILE_BYTES: Final = 8192
_VERSIONS: Final = frozenset((1300, 1800))
# PG_CONTROL_VERSION of 13 to 17, and of 18.
_HEAD: Final = struct.Struct("=QIIi4xqQQI")
# ControlFileData: system, version, catalog version, state, time, checkpoint; then of its CheckPoint: redo, WAL timeline.
_FLOOR: Final = struct.Struct("=5i")
_FLOOR_AT: Final = 180
# Behind the CheckPoint, the places of recovery and wal_level: five settings of the server, in the order of `Floor`.

CHECKPOINT_RECORD_BYTES_MAX: Final = 1024
# Some 120 bytes, and a page's header where it goes over the end of one.


class State(IntEnum):
    """PostgreSQL's DBState."""

    STARTUP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True)
class Control:
    state: State
    checkpoint: int
    """Where the last checkpoint's record begins: after a clean shutdown, everything that counts lies before it."""
    redo: int
    wal_timeline: int
    written_at: int
    """Seconds since 1970, rounded down."""
    floor: Floor
    """Not looked at: whoever goes by it calls `require_sane`."""

    @property
    def is_clean(self) -> bool:
        return self.state is State.SHUT_DOWN


def read(data: int) -> Control:
    """Of the data directory that `data` is open on. Raises PreconditionError."""
    with tree.opened(PATH[0], below=data) as directory:
        content = tree.read_small(PATH[1], directory, _FILE_BYTES)
    if content is None:
        raise PreconditionError("no pg_control", public="the branch's data is damaged")
    return parse(content)


def of(data: Path) -> Control:
    """Raises PreconditionError."""
    with tree.opened(data) as directory:
        return read(directory)


def parse(content: bytes) -> Control:
    """Raises PreconditionError."""
    if len(content) == _FILE_BYTES:
        _, version, _, state, written_at, checkpoint, redo, wal_timeline = _HEAD.unpack_from(content)
        if version in _VERSIONS and state in State.__members__.values() and redo <= checkpoint and wal_timeline > 0:
            floor = Floor(*_FLOOR.unpack_from(content, _FLOOR_AT))
            return Control(State(state), checkpoint, redo, wal_timeline, written_at, floor)
    raise PreconditionError("pg_control cannot be read", public="the branch's data is damaged")
