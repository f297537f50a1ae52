"""A restore that nobody asked for, to see that one can be: all of a timeline comes out of the store, is recovered and looked at, and is thrown
away.

It takes room in the project's volume, of which the tenant's own server must not run out, and on the host's disk. Where that is
not there, there is no drill.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cloister.base.errors import ExhaustedError
from cloister.base.ids import new_timeline_id
from cloister.node.commands import Drilled, DrillRestore, RestoreTimeline
from cloister.node.space import FREE_TO_CREATE_BYTES, HostSpace
from cloister.node.timelines.checking import Answer

SPARE_BYTES: Final = 1024**3
# Left in the volume meanwhile, and as much as a fourth of what comes: it is the tenant's, who may write faster than the drill takes.

DAMAGED_MAX: Final = 100
# One is enough to be told.


def require_room(mountpoint: Path, host: Path, needed: int) -> None:
    """Raises ExhaustedError."""
    needed += needed // 4
    if HostSpace(mountpoint).free_bytes() < needed + SPARE_BYTES:
        raise ExhaustedError(public="the project's volume has no room to try a restore in")
    if HostSpace(host).free_bytes() < needed + FREE_TO_CREATE_BYTES:
        raise ExhaustedError(public="the server's disk has no room to try a restore on")


def restoration(command: DrillRestore) -> RestoreTimeline:
    """Into a timeline of a new name, which never is one."""
    return RestoreTimeline(
        project_id=command.project_id,
        source_id=command.timeline_id,
        timeline_id=new_timeline_id(),
        uid=command.uid,
        pg_version=command.pg_version,
        known_lsn=command.known_lsn,
    )


def drilled(lsn: str, answers: Mapping[int, Answer]) -> Drilled:
    damaged = [
        f"database {database}, relation {relation}: {state}"
        for database, answer in answers.items()
        for relation, state in answer.damaged
    ]
    relations = sum(answer.relations for answer in answers.values())
    return Drilled(lsn=lsn, databases=len(answers), relations=relations, damaged=damaged[:DAMAGED_MAX])
