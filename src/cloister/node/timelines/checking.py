"""What is said to a cluster, in single-user mode, to hear whether it is whole: amcheck over every table and B-tree index. Pure.

The cluster is a copy, and is thrown away afterwards: its databases have other names by then. Nothing of a tenant's is executed, though a
superuser speaks: tables are read block by block, and of indexes the order of their entries is seen, which the operator classes know that no tenant can make.
Whether an index has an entry for each row is not asked, for that would evaluate the tenant's expressions. What an extension of theirs was called is in
nobody's way: ours has a schema with a name that nobody can have known.

What is told of damage is numbers and SQLSTATEs: in amcheck's words are the tenant's names.
"""

# ruff: noqa: S608 - what is put together here are literals of this file, and hexadecimal

import re
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import InternalError
from cloister.node.timelines import scrub

DAMAGED_MAX: Final = 100
# Of a database. With one there is enough to be told, and each takes a line.

_LOOKED_AT: Final = re.compile(r'\blooked_at = "(\d{1,10})"')
_DAMAGED: Final = re.compile(r'\bdamaged = "(\d{1,10}) ([0-9A-Z]{5})"')


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one database."""

    relations: int
    damaged: list[tuple[int, str]]
    """Oid and SQLSTATE."""


def before(token: str) -> bytes:
    """For scrub.DATABASE: the others get names of ours, and are told (`scrub.named`)."""
    return scrub.lines(*scrub.names_put_aside(token), scrub.names_told())


def questions(token: str) -> bytes:
    """For each database. `token` is hexadecimal, and made now."""
    schema = f"cloister_{token}"
    return scrub.lines(
        f"CREATE SCHEMA {schema}",
        "DROP EXTENSION IF EXISTS amcheck CASCADE",
        f"CREATE EXTENSION amcheck SCHEMA {schema}",
        f"CREATE TABLE {schema}.damaged (relation pg_catalog.oid, state pg_catalog.text)",
        _looked_at(schema),
        f"SELECT pg_catalog.count(*) AS looked_at FROM ({_RELATIONS}) r WHERE r.relnamespace <> '{schema}'::regnamespace",
        "SELECT relation::pg_catalog.text || ' ' || state AS damaged "
        f"FROM {schema}.damaged ORDER BY relation LIMIT {DAMAGED_MAX}",
    )


def answer(output: str) -> Answer:
    """Raises InternalError where it does not say how many it looked at."""
    if (looked_at := _LOOKED_AT.search(output)) is None:
        raise InternalError(f"amcheck said nothing: {output[-2000:]}")
    return Answer(int(looked_at[1]), [(int(oid), state) for oid, state in _DAMAGED.findall(output)])


_RELATIONS: Final = (
    "SELECT c.oid, c.relnamespace, a.amname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam "
    "LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE c.relpersistence <> 't' AND ("
    "(a.amname = 'heap' AND c.relkind IN ('r', 'm', 't')) "
    "OR (a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready))"
)


def _looked_at(schema: str) -> str:
    """What makes amcheck itself fail, as a block whose checksum is wrong, is damage as well."""
    return (
        f"DO $do$ DECLARE it record; BEGIN FOR it IN {_RELATIONS} LOOP BEGIN "
        f"IF it.amname = 'btree' THEN PERFORM {schema}.bt_index_check(it.oid); "
        f"ELSIF EXISTS (SELECT FROM {schema}.verify_heapam(it.oid, on_error_stop => true)) THEN "
        f"INSERT INTO {schema}.damaged VALUES (it.oid, 'XX001'); END IF; "
        f"EXCEPTION WHEN OTHERS THEN INSERT INTO {schema}.damaged VALUES (it.oid, SQLSTATE); END; END LOOP; END $do$"
    )
