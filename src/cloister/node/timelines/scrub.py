"""What is said to a cluster at rest to take the secrets out of it, in single-user mode: one statement a line. Pure.

Taking a value away is not enough. The old row stays in the table's file until a vacuum, and whoever has REPLICATION can read
files; so the tables are written anew. The WAL of it stays in its segment; so the log goes on in another one, and the
older ones are removed (`clone.tidy_wal`). Of a clone's history nothing stays either.

In single-user mode no trigger on an event fires and no setting of a role or database applies. It takes the name of a database as
a word of the command, and a tenant's name is never one: while they are scrubbed, databases have names of ours, and their own ones
lie beside them in the catalog as labels. So an attempt that is cut short loses none, and the next one goes on.
"""

import re
from typing import Final

from cloister.base.errors import InternalError

DATABASE: Final = "template1"
DATABASES_MAX: Final = 1000
# One run for each that has user mappings: a tenth of a second.

_OID: Final = re.compile(r'\bdatabase_oid = "(\d{1,10})"')
_NAMED: Final = re.compile(r'\bnamed = "(\d{1,10})_((?:[0-9a-f]{2})+)"')

_PROVIDER: Final = "cloister-scrub"
# Nobody can make a label of a provider that is not loaded, but in this mode.
_IS_LABELLED: Final = (
    "EXISTS (SELECT FROM pg_catalog.pg_shseclabel l WHERE l.objoid = d.oid "
    f"AND l.classoid = 1262 AND l.provider = '{_PROVIDER}')"
)

# Table, change, condition. To take out more, add a line.
_SHARED: Final = (
    ("pg_authid", "rolpassword = NULL", "rolpassword IS NOT NULL"),
    ("pg_subscription", "subconninfo = '', subenabled = false", "subconninfo <> ''"),
)
_PER_DATABASE: Final = (("pg_user_mapping", "umoptions = NULL", "umoptions IS NOT NULL"),)

END: Final = ("CHECKPOINT", "SELECT pg_catalog.pg_switch_wal()")


def name_of(token: str, oid: int) -> str:
    """A database, while it is scrubbed. `token` is nothing that a tenant could have thought of."""
    return f"cloister_{token}_{oid}"


def statements_for_all(token: str) -> bytes:
    """For DATABASE: what all databases share, and names for the others."""
    told = f"SELECT oid AS database_oid FROM pg_catalog.pg_database d WHERE {_IS_LABELLED} LIMIT {DATABASES_MAX + 1}"  # noqa: S608
    return lines(*_changes(_SHARED), *_changes(_PER_DATABASE), *names_put_aside(token), told, *END)


def names_put_aside(token: str) -> tuple[str, ...]:
    """For DATABASE: the others get names of ours. Nothing in these sentences comes from anywhere but this file, and `token` is
    hexadecimal. Twice is once."""
    kept = (
        "INSERT INTO pg_catalog.pg_shseclabel (objoid, classoid, provider, label) SELECT d.oid, 1262, "  # noqa: S608
        f"'{_PROVIDER}', pg_catalog.encode(pg_catalog.convert_to(d.datname::text, 'UTF8'), 'hex') "
        f"FROM pg_catalog.pg_database d WHERE d.datconnlimit <> -2 AND d.datname <> '{DATABASE}' AND NOT {_IS_LABELLED}"
    )
    renamed = f"UPDATE pg_catalog.pg_database d SET datname = '{name_of(token, 0)[:-1]}' || d.oid WHERE {_IS_LABELLED}"  # noqa: S608
    return kept, renamed


def names_told() -> str:
    """For DATABASE, while names are put aside: which one had which, for `named`."""
    return (
        "SELECT l.objoid::text || '_' || l.label AS named FROM pg_catalog.pg_shseclabel l "  # noqa: S608
        f"WHERE l.classoid = 1262 AND l.provider = '{_PROVIDER}' LIMIT {DATABASES_MAX + 1}"
    )


def names_given_back() -> tuple[str, ...]:
    given_back = (
        "UPDATE pg_catalog.pg_database d SET datname = pg_catalog.convert_from(pg_catalog.decode(l.label, 'hex'), 'UTF8') "  # noqa: S608
        f"FROM pg_catalog.pg_shseclabel l WHERE l.objoid = d.oid AND l.classoid = 1262 AND l.provider = '{_PROVIDER}'"
    )
    return given_back, f"DELETE FROM pg_catalog.pg_shseclabel WHERE classoid = 1262 AND provider = '{_PROVIDER}'"  # noqa: S608


def statements_for_each() -> bytes:
    return lines(*_changes(_PER_DATABASE), *END)


def statements_at_the_end() -> bytes:
    """For DATABASE: the others get their names back."""
    return lines(*names_given_back(), *END)


def databases(output: str) -> list[int]:
    """Their oids, from what the statements for all printed."""
    oids = [int(found) for found in _OID.findall(output)]
    if len(oids) > DATABASES_MAX:
        raise InternalError(f"more than {DATABASES_MAX} databases")
    return oids


def named(output: str) -> dict[str, int]:
    """Databases by the names that they had, from what `names_told` printed."""
    found = {bytes.fromhex(name).decode(): int(oid) for oid, name in _NAMED.findall(output)}
    if len(found) > DATABASES_MAX:
        raise InternalError(f"more than {DATABASES_MAX} databases")
    return found


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


def lines(*statements: str) -> bytes:
    return "".join(f"{statement};\n" for statement in statements).encode()
