"""A compute that only reads: PostgreSQL as a hot standby that follows no server. Pure.

Read-only is not a setting here, which a client could take back, but what a server in recovery is: it writes no WAL, so it
changes no table, sequence, role or database, whoever asks. What would end the recovery is for superusers, and no client is one.
"""

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from cloister.base.errors import PreconditionError

SIGNAL: Final = "standby.signal"
# While this file is in the data directory, a start goes into recovery and stays there.

_LIMITS: Final = MappingProxyType({
    "max_connections": 4000,
    "max_worker_processes": 64,
    "max_wal_senders": 64,
    "max_prepared_transactions": 4000,
    "max_locks_per_transaction": 1024,
})  # fmt: skip
# No compute of ours had more; memory is taken for each.

_UNSET: Final = MappingProxyType({"max_prepared_transactions": "0", "max_locks_per_transaction": "64"})
# PostgreSQL's defaults, where a compute's configuration says nothing.


@dataclass(frozen=True, slots=True)
class Floor:
    """What the server that wrote the data was sized for. PostgreSQL does not start a standby that has less."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int

    def require_sane(self) -> None:
        """The numbers are from a file of the tenant's. Raises PreconditionError."""
        for name, limit in _LIMITS.items():
            if not 0 <= getattr(self, name) <= limit:
                raise PreconditionError(
                    f"pg_control says {name} = {getattr(self, name)}", public="the branch's data is damaged"
                )

    def lift(self, settings: dict[str, str]) -> dict[str, str]:
        """The settings that must be raised, of those that a compute would have by itself."""
        lifted = {}
        for each in fields(self):
            needed = getattr(self, each.name)
            if needed > int(settings.get(each.name, _UNSET.get(each.name, "0"))):
                lifted[each.name] = str(needed)
        return lifted


FED_INTERVAL_MS: Final = 100
# How often a standby looks for new WAL in its own directory, where somebody puts it.
UNFED_INTERVAL_MS: Final = 3_600_000


def command_line(*, is_fed: bool) -> list[str]:
    """Beside a compute's own. The data may bring a postgresql.auto.conf along: nothing in it may name a server to follow, a
    program to run, or a place to stop at."""
    fixed = {
        "hot_standby": "on",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "restore_command": "",
        "archive_cleanup_command": "",
        "recovery_end_command": "",
        "recovery_min_apply_delay": "0",
        "recovery_target": "",
        "recovery_target_lsn": "",
        "recovery_target_name": "",
        "recovery_target_time": "",
        "recovery_target_xid": "",
        "recovery_target_timeline": "current",
        "wal_retrieve_retry_interval": f"{FED_INTERVAL_MS if is_fed else UNFED_INTERVAL_MS}ms",
    }
    return [word for name, value in fixed.items() for word in ("-c", f"{name}={value}")]
