"""The server parameters that a tenant may set for an endpoint (`pg_settings`), and the values each may have.

A closed list: a parameter that is not here is refused, whatever it is. None of them reads a file, loads a library,
writes statements to a log, weakens durability of what others wrote, or lifts a limit of the sandbox. Values are parsed
here, not quoted and hoped for, because a value that PostgreSQL cannot read keeps the server from starting. For the same
reason no name of a time zone, a schema or a text search configuration is among them: ALTER ROLE … SET checks those.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import UnprocessableError

_NUMBER: Final = re.compile(r"(-?[0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})")
_TIME_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_SIZE_KB: Final = {"B": 1 / 1024, "kB": 1.0, "MB": 1024.0, "GB": 1024.0**2, "TB": 1024.0**3}

Check = Callable[[str, int], bool]
"""(value, memory of the compute in bytes) → whether it may be set."""


@dataclass(frozen=True, slots=True)
class Parameter:
    check: Check
    expects: str
    since: int = 16


def checked(settings: Mapping[str, str], *, major: int, memory_bytes: int) -> dict[str, str]:
    """The settings, every one allowed. Raises UnprocessableError, naming the first that is not."""
    accepted = {}
    for name, value in sorted(settings.items()):
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise UnprocessableError(
                f"pg_settings name {name[:80]!r}", public=f"parameter {name[:80]!r} cannot be set for an endpoint"
            )
        if major < parameter.since:
            raise UnprocessableError(public=f"parameter {name!r} does not exist in PostgreSQL {major}")
        if not parameter.check(value, memory_bytes):
            raise UnprocessableError(
                f"pg_settings {name}={value[:80]!r}", public=f"parameter {name!r} takes {parameter.expects}"
            )
        accepted[name] = value
    return accepted


def _measure(value: str, units: Mapping[str, float], default_unit: str) -> float | None:
    """The value in the unit whose factor is 1."""
    match = _NUMBER.fullmatch(value)
    if match is None or (match[2] and match[2] not in units):
        return None
    return float(match[1]) * (units[match[2] or default_unit] if units else 1.0)


def _time(default_unit: str, low_ms: float, high_ms: float, *, or_off: bool = False, since: int = 16) -> Parameter:
    def check(value: str, _memory: int) -> bool:
        measured = _measure(value, _TIME_MS, default_unit)
        return (or_off and value == "-1") or (measured is not None and low_ms <= measured <= high_ms)

    return Parameter(check, f"a time from {low_ms:g} ms to {high_ms:g} ms", since)


def _size(default_unit: str, low_kb: int, share_of_memory: float, *, since: int = 16) -> Parameter:
    """PostgreSQL counts some sizes in pages of 8 kB when no unit is given: `default_unit` is `8kB` for them."""
    units = {**_SIZE_KB, "8kB": 8.0}

    def check(value: str, memory_bytes: int) -> bool:
        measured = _measure(value, units, default_unit)
        return measured is not None and low_kb <= measured <= memory_bytes * share_of_memory / 1024

    return Parameter(check, f"a size from {low_kb} kB to {share_of_memory:.0%} of the compute's memory", since)


def _integer(low: int, high: int, *, since: int = 16) -> Parameter:
    def check(value: str, _memory: int) -> bool:
        return re.fullmatch(r"-?[0-9]{1,10}", value) is not None and low <= int(value) <= high

    return Parameter(check, f"a whole number from {low} to {high}", since)


def _real(low: float, high: float) -> Parameter:
    def check(value: str, _memory: int) -> bool:
        measured = _measure(value, {}, "")
        return measured is not None and low <= measured <= high

    return Parameter(check, f"a number from {low:g} to {high:g}")


def _one_of(*words: str) -> Parameter:
    return Parameter(lambda value, _memory: value in words, " or ".join(words))


_SWITCH: Final = _one_of("on", "off")
_DAY: Final = 86_400_000.0

PARAMETERS: Final[Mapping[str, Parameter]] = {
    # When to give up.
    "deadlock_timeout": _time("ms", 10, 60_000),
    "idle_in_transaction_session_timeout": _time("ms", 0, _DAY),
    "idle_session_timeout": _time("ms", 0, 30 * _DAY),
    "lock_timeout": _time("ms", 0, _DAY),
    "statement_timeout": _time("ms", 0, _DAY),
    "transaction_timeout": _time("ms", 0, _DAY, since=17),
    # Memory of one operation.
    "hash_mem_multiplier": _real(1, 8),
    "logical_decoding_work_mem": _size("kB", 64, 0.25),
    "maintenance_work_mem": _size("kB", 1024, 0.5),
    "temp_buffers": _size("8kB", 800, 0.25),
    "work_mem": _size("kB", 64, 0.25),
    # The planner.
    "constraint_exclusion": _one_of("on", "off", "partition"),
    "cpu_index_tuple_cost": _real(0, 1000),
    "cpu_operator_cost": _real(0, 1000),
    "cpu_tuple_cost": _real(0, 1000),
    "cursor_tuple_fraction": _real(0, 1),
    "default_statistics_target": _integer(1, 10_000),
    "effective_cache_size": _size("8kB", 1024, 4.0),
    "effective_io_concurrency": _integer(0, 1000),
    "enable_hashagg": _SWITCH,
    "enable_hashjoin": _SWITCH,
    "enable_indexonlyscan": _SWITCH,
    "enable_indexscan": _SWITCH,
    "enable_mergejoin": _SWITCH,
    "enable_nestloop": _SWITCH,
    "enable_partitionwise_aggregate": _SWITCH,
    "enable_partitionwise_join": _SWITCH,
    "enable_seqscan": _SWITCH,
    "from_collapse_limit": _integer(1, 100),
    "geqo": _SWITCH,
    "geqo_threshold": _integer(2, 100),
    "join_collapse_limit": _integer(1, 100),
    "max_parallel_maintenance_workers": _integer(0, 8),
    "max_parallel_workers_per_gather": _integer(0, 8),
    "plan_cache_mode": _one_of("auto", "force_generic_plan", "force_custom_plan"),
    "random_page_cost": _real(0, 1000),
    "seq_page_cost": _real(0, 1000),
    # Vacuum.
    "autovacuum": _SWITCH,
    "autovacuum_analyze_scale_factor": _real(0, 100),
    "autovacuum_analyze_threshold": _integer(0, 2_147_483_647),
    "autovacuum_naptime": _time("s", 1_000, 3_600_000),
    "autovacuum_vacuum_cost_delay": _time("ms", 0, 100, or_off=True),
    "autovacuum_vacuum_cost_limit": _integer(-1, 10_000),
    "autovacuum_vacuum_insert_scale_factor": _real(0, 100),
    "autovacuum_vacuum_insert_threshold": _integer(-1, 2_147_483_647),
    "autovacuum_vacuum_scale_factor": _real(0, 100),
    "autovacuum_vacuum_threshold": _integer(0, 2_147_483_647),
    "autovacuum_work_mem": _size("kB", 1024, 0.25),
    "vacuum_cost_delay": _time("ms", 0, 100),
    "vacuum_cost_limit": _integer(1, 10_000),
    # What sessions start with.
    "bytea_output": _one_of("hex", "escape"),
    "client_min_messages": _one_of("debug1", "log", "notice", "warning", "error"),
    "datestyle": _one_of("iso, mdy", "iso, dmy", "iso, ymd"),
    "default_transaction_deferrable": _SWITCH,
    "default_transaction_isolation": _one_of("read committed", "repeatable read", "serializable"),
    "default_transaction_read_only": _SWITCH,
    "extra_float_digits": _integer(-15, 3),
    "intervalstyle": _one_of("postgres", "postgres_verbose", "sql_standard", "iso_8601"),
    "row_security": _SWITCH,
    "synchronous_commit": _one_of("on", "local", "off"),
    "xmlbinary": _one_of("base64", "hex"),
    # Locks and statistics.
    "compute_query_id": _one_of("auto", "on", "off"),
    "max_locks_per_transaction": _integer(10, 1024),
    "track_activity_query_size": _integer(100, 16_384),
    "track_functions": _one_of("none", "pl", "all"),
    "track_io_timing": _SWITCH,
}
