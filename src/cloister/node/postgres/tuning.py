"""How PostgreSQL is set up inside a compute. Pure: facts in, text out.

Two layers. What safety rests on is given on the command line, which no file in a data directory can override, neither
postgresql.auto.conf nor one that a branch inherited. (SET, ALTER ROLE and ALTER DATABASE are stronger, for parameters that
a role may set; of those below, `jit`, `local_preload_libraries`, `log_parameter_max_length_on_error` and
`password_encryption`: there is no compiler and no such library to load, the guard keeps statements out of the log, and it
refuses what is not SCRAM.) The rest, sized to the compute, is in postgresql.conf, which
lies outside the data directory, read-only inside the sandbox; `pg_settings` of the endpoint come last in it and win.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cloister.base.audit_levels import AuditLevel
from cloister.node.postgres import standby
from cloister.node.postgres.extensions import OFFERED
from cloister.node.postgres.parameters import checked

PasswordPolicy = Literal["strict", "neon"]
"""How the bits of a password are counted: docs/passwords.md."""
POLICY_DEFAULT: Final[PasswordPolicy] = "strict"

MB: Final = 1024 * 1024
GB: Final = 1024 * MB

CONFIG_DIR: Final = "/etc/postgresql"
DATA_DIR: Final = "/data"
SOCKET_DIR: Final = "/run/postgresql"
OUTBOX_DIR: Final = "/outbox"
EGRESS_DIR: Final = "/egress"

MEMORY_PER_CONNECTION: Final = 10_240_000
CONNECTIONS_MAX: Final = 4000
# Neon's table: 104 connections at 0.25 CU (1 GiB), 419 at 1 CU, never more than 4 000.
CONNECTIONS_MIN: Final = 20

CONNECTIONS_RESERVED: Final = 4
# For `cloister_admin`: idle checks, role changes and the reading of verifiers must work when clients fill the rest.

SHARED_BUFFERS_SHARE: Final = 32
# 256 MB of 8 GiB. Every buffer has a descriptor that is initialised before the server listens: at an eighth of memory that
# was 15 ms of every wake. What is not in these buffers is in the page cache, which the compute's memory limit covers too.

WAL_SENDERS: Final = 4
WORKERS_BESIDE_CONNECTIONS: Final = 32
# Postmaster, checkpointer, writers, autovacuum, I/O and parallel workers, WAL senders: about 20.


CLIENT_CHECK: Final = "1s"
# How often a statement that runs looks whether its client is still there: one poll. A cancel request that comes before the
# statement was read cancels nothing, and without looking a backend learns of it when it has something to say.


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    major: int
    memory_bytes: int
    cpu_cores: float
    volume_bytes: int
    reserve_bytes: int
    """What statements must leave free in the volume."""
    floor: standby.Floor | None = None
    """Of a standby: what it must have at least."""
    is_fed: bool = False
    """Of a standby: it is given new WAL."""
    audit_level: AuditLevel = AuditLevel.OFF

    def command_line(self) -> list[str]:
        """What must hold and depends on the compute."""
        reserve = [
            *("-c", f"guard.space_reserve={self.reserve_bytes // 1024}kB"),
            *("-c", f"guard.record={self.audit_level}"),
        ]
        return reserve if self.floor is None else [*reserve, *standby.command_line(is_fed=self.is_fed)]

    @property
    def max_connections(self) -> int:
        wanted = max(CONNECTIONS_MIN, min(self.memory_bytes // MEMORY_PER_CONNECTION, CONNECTIONS_MAX))
        return wanted if self.floor is None else max(wanted, self.floor.max_connections)

    @property
    def processes_max(self) -> int:
        return self.max_connections + WORKERS_BESIDE_CONNECTIONS


def command_line(binary: str, major: int, password_policy: PasswordPolicy) -> list[str]:
    """`postgres` with everything that must hold whatever the tenant writes."""
    fixed = {
        "config_file": f"{CONFIG_DIR}/postgresql.conf",
        "hba_file": f"{CONFIG_DIR}/pg_hba.conf",
        "ident_file": f"{CONFIG_DIR}/pg_ident.conf",
        # One door.
        "listen_addresses": "",
        "unix_socket_directories": SOCKET_DIR,
        "unix_socket_permissions": "0777",  # The directory decides who reaches it; pg_hba.conf decides who is let in.
        "external_pid_file": "",
        # No code but the engine's and the guard's at start.
        "shared_preload_libraries": "guard",
        "guard.password_policy": password_policy,
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "guard.extensions": ",".join(sorted(OFFERED)),
        # History: the guard puts every finished WAL segment into the outbox.
        "archive_mode": "on",
        "archive_library": "guard",
        "archive_command": "",
        "guard.outbox": OUTBOX_DIR,
        "jit": "off",  # It needs memory that is writable and executable, which a compute has none of.
        # Statements can hold passwords, so none is ever logged: not as text, not with an error, not with its parameters.
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_statement": "none",
        "log_min_error_statement": "panic",
        "log_min_duration_statement": "-1",
        "log_min_duration_sample": "-1",
        "log_transaction_sample_rate": "0",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        "password_encryption": "scram-sha-256",
        # What is acknowledged is on disk; after a crash one syncfs is enough.
        "fsync": "on",
        "full_page_writes": "on",
        "data_sync_retry": "off",
        "restart_after_crash": "on",
        "recovery_init_sync_method": "syncfs",
        "huge_pages": "off",
        "shared_memory_type": "mmap",
        "dynamic_shared_memory_type": "posix",
    }
    if major >= 17:
        fixed["allow_alter_system"] = "off"
    if major >= 18:
        fixed["io_method"] = "sync"  # io_uring has a history; workers cost a process each and won nothing measurable.
    words = [word for name, value in fixed.items() for word in ("-c", f"{name}={value}")]
    return [binary, "-D", DATA_DIR, *words]


def postgresql_conf(size: Size, settings: Mapping[str, str]) -> str:
    """The file for one compute. Raises UnprocessableError for a setting that is not a tenant's to choose."""
    memory = size.memory_bytes
    sized: dict[str, str] = {
        "max_connections": str(size.max_connections),
        "superuser_reserved_connections": str(CONNECTIONS_RESERVED),
        "shared_buffers": _mb(_between(16 * MB, memory // SHARED_BUFFERS_SHARE, 16 * GB)),
        "effective_cache_size": _mb(memory * 3 // 4),
        "maintenance_work_mem": _mb(_between(16 * MB, memory // 16, 2 * GB)),
        "autovacuum_max_workers": "2" if size.cpu_cores <= 2 else "3",
        "max_worker_processes": str(_between(4, int(size.cpu_cores * 2), 16)),
        "max_parallel_workers": str(_between(1, int(size.cpu_cores), 8)),
        "max_parallel_workers_per_gather": str(_between(0, int(size.cpu_cores) // 2, 4)),
        # No network, so nothing to subscribe to: without workers the launcher process is not started either.
        "max_logical_replication_workers": "0",
        "max_wal_senders": str(WAL_SENDERS),
        "max_replication_slots": str(WAL_SENDERS),
        # A pool for all serializable transactions together; when it is short they lock pages instead of rows, which is
        # correct. The default takes 1.5 MB of every idle compute.
        "max_pred_locks_per_transaction": "16",
        "wal_level": "replica",
        "wal_buffers": "1MB" if memory <= GB else "4MB",
        # A small project stays small: segments of 1 MB are reused, and few are kept.
        "min_wal_size": "8MB",
        "max_wal_size": _mb(_between(16 * MB, min(memory // 2, size.volume_bytes // 32), 4 * GB)),
        # A slot that nobody reads and a query that sorts forever must not fill the volume.
        "max_slot_wal_keep_size": _mb(max(64 * MB, size.volume_bytes // 8)),
        "temp_file_limit": _mb(max(64 * MB, size.volume_bytes // 4)),
        "client_connection_check_interval": CLIENT_CHECK,
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        "log_checkpoints": "off",
        "log_autovacuum_min_duration": "-1",
        "cluster_name": "",
        "update_process_title": "off",
        "lc_messages": "C",
    }
    if size.major >= 18:
        # Handles are allocated for every connection: the default of 64 each was half of an idle compute's memory. With
        # synchronous I/O a backend has few in flight.
        sized["io_max_concurrency"] = "8"
    sized.update(checked(settings, major=size.major, memory_bytes=memory))
    if size.floor is not None:
        sized.update(size.floor.lift(sized))
    lines = (f"{name} = '{value}'" for name, value in sized.items())
    return "\n".join(("# Written by Cloister for one run of this compute.", *lines)) + "\n"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes // MB}MB"


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
