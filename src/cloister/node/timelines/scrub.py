"""What is said to a cluster at rest to take the secrets out of it, in single-user mode: one statement a line. Pure.

Taking a value away is not enough. The old row stays in the table's file until a vacuum, and whoever has REPLICATION can read
files; so the tables are written anew. The WAL of it stays in its segment; so the log goes on in another one, and the
older ones are removed (`clone.tidy_wal`). Of a clone's history nothing stays either.

In single-user mode no trigger on an event fires and no setting of a role or database applies.
"""

import re
from typing import Final

from cloister.base.errors import InternalError

DATABASE: Final = "template1"
DATABASES_MAX: Final = 1000
# One run for each that has user mappings: a tenth of a second.

_NAME: Final = re.compile(r'database_name = "([0-9a-f]{2,126})"')

# Table, change, condition. To take out more, add a line.
_SHARED: Final = (
    ("pg_authid", "rolpassword = NULL", "rolpassword IS NOT NULL"),
    ("pg_subscription", "subconninfo = '', subenabled = false", "subconninfo <> ''"),
)
_PER_DATABASE: Final = (("pg_user_mapping", "umoptions = NULL", "umoptions IS NOT NULL"),)

_END: Final = ("CHECKPOINT", "SELECT pg_catalog.pg_switch_wal()")


def statements_for_all() -> bytes:
    """For DATABASE: what all databases share, and the names of the others."""
    # Nothing in this sentence comes from anywhere but this file.
    names = (
        "SELECT pg_catalog.encode(pg_catalog.convert_to(datname::text, 'UTF8'), 'hex') AS database_name "  # noqa: S608
        f"FROM pg_catalog.pg_database WHERE datconnlimit <> -2 AND datname <> '{DATABASE}' LIMIT {DATABASES_MAX + 1}"
    )
    return _lines(*_changes(_SHARED), *_changes(_PER_DATABASE), names, *_END)


def statements_for_each() -> bytes:
    return _lines(*_changes(_PER_DATABASE), *_END)


def databases(output: str) -> list[str]:
    """The names, from what the statements for all printed: in hexadecimal, so that no name can look like something else."""
    names = [bytes.fromhex(found).decode(errors="surrogateescape") for found in _NAME.findall(output)]
    if len(names) > DATABASES_MAX:
        raise InternalError(f"more than {DATABASES_MAX} databases")
    return names


def has_failed(code: int, output: str) -> bool:
    """A single-user session goes on after an error, and ends well."""
    return code != 0 or any(level in output for level in ("ERROR:", "FATAL:", "PANIC:"))


def _changes(tables: tuple[tuple[str, str, str], ...]) -> list[str]:
    return [
        statement
        for table, change, condition in tables
        for statement in (
            f"UPDATE pg_catalog.{table} SET {change} WHERE {condition}",  # noqa: S608
            f"VACUUM FULL pg_catalog.{table}",
        )
    ]


def _lines(*statements: str) -> bytes:
    return "".join(f"{statement};\n" for statement in statements).encode()
