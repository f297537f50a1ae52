"""What a recovery is told, and what it tells: a single-user run of `postgres` on data that was put together for it.

The command line is a compute's, so nothing in the data directory can override what safety rests on; then come the settings of
this run. There is nothing to restore from but what lies in `pg_wal` already, so `restore_command` always fails; PostgreSQL
insists on one. Pure: the run itself is in `node/runs.py`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloister.base.errors import BadRequestError
from cloister.node.postgres.engines import Engine
from cloister.node.timelines.wal import format_lsn, parse_lsn

MEMORY_BYTES: Final = 512 * 1024**2
CPU_CORES: Final = 1.0
PATIENCE_S: Final = 1800.0
# Replay of 1 GB of WAL takes some 20 s here. Snapshots keep it far below this; a tenant's WAL must not run for ever.

MOMENT_MAX: Final = 2**33
# The year 2242: what comes later is a mistake, and dates end in 9999.

_TARGET_NOT_REACHED: Final = "recovery ended before configured recovery target was reached"
_LAST_COMMIT: Final = re.compile(
    r"last completed transaction was at log time (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?)\+00"
)
_HISTORY_LINE: Final = re.compile(r"(\d+)\t([0-9A-F]+/[0-9A-F]+)\t.*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to stop; neither is the end of the WAL that is there."""

    lsn: int | None = None
    at: float | None = None

    @property
    def is_end(self) -> bool:
        return self.lsn is None and self.at is None


END: Final = Target()


def target_of(lsn: str | None, at: float | None) -> Target:
    """As a command says it. Raises BadRequestError."""
    if (lsn is None) == (at is None):
        raise BadRequestError("a recovery goes to an LSN or to a moment")
    if at is not None and not 0 <= at < MOMENT_MAX:
        raise BadRequestError(f"{at} is no moment")
    return Target(lsn=None if lsn is None else parse_lsn(lsn), at=at)


def settings(target: Target) -> dict[str, str]:
    chosen = {
        "restore_command": "exit 1",
        "recovery_target_timeline": "current",
        "recovery_target_action": "promote",
        "hot_standby": "off",
        "recovery_prefetch": "off",
        "shared_buffers": "64MB",
        # The whole file system is written out before the result counts; until then nobody minds.
        "fsync": "off",
    }
    if target.lsn is not None:
        # Before the first record that begins there or later: all that ended before.
        chosen |= {"recovery_target_lsn": format_lsn(target.lsn), "recovery_target_inclusive": "off"}
    elif target.at is not None:
        # PostgreSQL compares with the moment in each commit record, to the microsecond.
        chosen |= {"recovery_target_time": timestamp(target.at), "recovery_target_inclusive": "on"}
    return chosen


def single_user(engine: Engine, database: str, more: dict[str, str]) -> list[str]:
    """`postgres --single` on DATA_DIR with nothing loaded, nothing archived, and UTC for everything that it prints."""
    binary, *words = engine.command_line()
    settings = {
        "shared_preload_libraries": "",
        # A segment that was used before keeps what was in it behind what is written to it now. Where WAL is given up for what it
        # tells, the next one has to be new.
        "wal_recycle": "off",
        "archive_mode": "off",
        "archive_library": "",
        "archive_command": "",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "primary_conninfo": "",
        "search_path": "pg_catalog",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        # For the server's log, LOG stands above ERROR: with `log`, a statement that failed would not be told.
        "log_min_messages": "error",
        "log_line_prefix": "%m ",
        **more,
    }
    return [
        binary,
        "--single",
        *words,
        *(word for item in settings.items() for word in ("-c", "=".join(item))),
        "--",
        database,
    ]


def timestamp(at: float) -> str:
    """For PostgreSQL, with microseconds: a float of this century has no more."""
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="microseconds")


def has_missed_target(output: str) -> bool:
    return _TARGET_NOT_REACHED in output


def last_commit(output: str) -> float | None:
    """The moment of the last commit (or abort) that was replayed, where there was any."""
    found = _LAST_COMMIT.findall(output)
    return datetime.fromisoformat(f"{found[-1]}+00:00").timestamp() if found else None


def left_at(history: str) -> int | None:
    """Where the last WAL timeline left the one before, from its history file."""
    lines = [match for line in history.splitlines() if (match := _HISTORY_LINE.fullmatch(line))]
    return parse_lsn(lines[-1][2]) if lines else None
