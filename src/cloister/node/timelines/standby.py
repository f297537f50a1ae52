"""Makes a timeline ready to be read and not written. Blocking; the caller holds its lock, and nothing runs on it."""

import contextlib

from cloister.base.errors import ConflictError
from cloister.node.postgres.standby import SIGNAL, Floor
from cloister.node.timelines import clone, control
from cloister.node.timelines.layout import Timeline


def prepare(timeline: Timeline, uid: int) -> Floor:
    """What its server must have at least. Twice is once. Raises ConflictError for a timeline that clients write to,
    PreconditionError."""
    if not timeline.frozen.exists():
        # In recovery for ever, it would be of no use to its branch any more.
        raise ConflictError(f"{timeline.directory} is not frozen")
    floor = control.of(timeline.data).floor
    floor.require_sane()
    with contextlib.suppress(FileExistsError):
        clone.write_file(timeline.data, SIGNAL, b"", uid)
    return floor
