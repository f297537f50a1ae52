"""What looks like a data directory to everything but PostgreSQL: for tests that are instant."""

import struct
from pathlib import Path

from cloister.node.timelines import wal
from cloister.node.timelines.control import State

CHECKPOINT = 0x15_0028
# In segment 1.


def control_file(
    *,
    version: int = 1800,
    state: int = State.SHUT_DOWN,
    checkpoint: int = CHECKPOINT,
    wal_timeline: int = 1,
    max_connections: int = 100,
) -> bytes:
    head = struct.pack("=QIIi4xqQQI", 7, version, 202506291, state, 1_790_000_000, checkpoint, checkpoint, wal_timeline)
    floor = struct.pack("=5i", max_connections, 8, 10, 0, 64)
    return (head.ljust(180, b"\0") + floor).ljust(8192, b"\0")


def segment(number: int, wal_timeline: int = 1, fill: bytes = b"\0") -> bytes:
    header = struct.pack("=HHIQ", 0xD118, 2, wal_timeline, number * wal.SEGMENT_BYTES)
    return header + fill * (wal.SEGMENT_BYTES - len(header))


def make_cluster(data: Path, *, control: bytes | None = None) -> None:
    """Shut down cleanly at CHECKPOINT."""
    for name in ("global", "base/1", "base/5", "pg_wal", "pg_replslot"):
        (data / name).mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    (data / "global/pg_control").write_bytes(control_file() if control is None else control)
    (data / "base/5/16384").write_bytes(b"rows")
    first = wal.segment_number(CHECKPOINT)
    (data / "pg_wal" / wal.segment_name(1, first)).write_bytes(segment(first))
