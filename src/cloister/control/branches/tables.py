"""The tables of a schema, as a tenant's server tells them: a JSON object a line, which is held to its shape.

A line that has another shape was not said by the query (`node/postgres/telling.py`) of an honest server, so all of it is refused. The names
are the tenant's, and any text.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from cloister.base.errors import UnprocessableError

_Names: TypeAlias = Annotated[Sequence[str], msgspec.Meta(min_length=1)]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    type: str
    """As PostgreSQL formats it, with the schema where it is not of pg_catalog: `numeric(10,2)`, `public.mood`."""
    nullable: bool
    generated: bool


class Referenced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    table: str
    columns: _Names


class Constraint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["primary_key", "unique", "foreign_key"]
    columns: _Names
    name: str
    referenced_table: Referenced | None


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    name: str
    columns: Sequence[Column]
    constraints: Sequence[Constraint]


_LINES: Final = msgspec.json.Decoder(Table)


def parse_tables(text: str) -> list[Table]:
    """Raises UnprocessableError."""
    try:
        return _LINES.decode_lines(text)
    except msgspec.DecodeError as error:
        raise UnprocessableError(
            f"tables of another shape: {error}", public="the schema cannot be read: the server gave no list of tables"
        ) from error
