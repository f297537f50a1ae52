"""Schemas of databases, as SQL or as their tables, and how two of them differ."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from cloister.control.branches import tables
from cloister.edge.api.wire.common import Wire


class ReferencedTable(Wire, frozen=True, kw_only=True):
    schema: str
    table: str
    columns: Sequence[str]


class Constraint(Wire, frozen=True, kw_only=True):
    type: Literal["primary_key", "unique", "foreign_key"]
    columns: Sequence[str]
    name: str
    referenced_table: ReferencedTable | None = None
    """Of a foreign key; its columns are in the order of `columns`."""


class Column(Wire, frozen=True, kw_only=True):
    name: str
    type: str
    nullable: bool
    generated: bool


class Table(Wire, frozen=True, kw_only=True):
    schema: str
    name: str
    columns: Sequence[Column]
    constraints: Sequence[Constraint]


class Tables(Wire, frozen=True, kw_only=True):
    tables: Sequence[Table]


class SchemaAnswer(Wire, frozen=True, kw_only=True):
    """One of the two, as it was asked for."""

    sql: str | None = None
    json: Tables | None = None


class SchemaDifference(Wire, frozen=True, kw_only=True):
    diff: str
    """Unified; empty if they are the same."""


def tables_answer(found: Iterable[tables.Table]) -> Tables:
    return Tables(tables=[msgspec.convert(it, Table, from_attributes=True) for it in found])
