"""The extended query protocol, from the side that asks: one statement at a time, values as text.

Writers return whole messages; readers take the body of one and raise ProtocolViolationError for what PostgreSQL would
never send.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloister.protocol.pgwire.frames import INT32, ProtocolViolationError, message

_INT16: Final = struct.Struct(">h")
_UINT16: Final = struct.Struct(">H")
_COLUMN: Final = struct.Struct(">IhIhih")
_NULL: Final = INT32.pack(-1)

PARAMETERS_MAX: Final = 65_535
# Their number has 16 bits.

SYNC: Final = message(b"S", b"")
_DESCRIBE_PORTAL: Final = message(b"D", b"P\0")
_EXECUTE_ALL: Final = message(b"E", b"\0" + INT32.pack(0))
_RESULTS_AS_TEXT: Final = _UINT16.pack(0)


@dataclass(frozen=True, slots=True)
class Column:
    """As RowDescription has it."""

    name: str
    table_oid: int
    number: int
    type_oid: int
    type_size: int
    type_modifier: int


def statement(query: str, parameters: Sequence[bytes | None]) -> bytes:
    """Parse, Bind, Describe and Execute; Sync is the caller's. Raises ValueError for a query that would end the message
    before its end, or too many parameters."""
    if "\0" in query:
        raise ValueError("a query with a NUL")
    if len(parameters) > PARAMETERS_MAX:
        raise ValueError("too many parameters")
    values = b"".join(_NULL if value is None else INT32.pack(len(value)) + value for value in parameters)
    bind = b"\0\0" + _UINT16.pack(0) + _UINT16.pack(len(parameters)) + values + _RESULTS_AS_TEXT
    return (
        message(b"P", b"\0" + query.encode() + b"\0" + _UINT16.pack(0))
        + message(b"B", bind)
        + _DESCRIBE_PORTAL
        + _EXECUTE_ALL
    )


def row_description(body: bytes) -> list[Column]:
    try:
        (count,) = _INT16.unpack_from(body)
        position = 2
        columns = []
        for _ in range(count):
            end = body.index(b"\0", position)
            name = body[position:end].decode("utf-8", "replace")
            table_oid, number, type_oid, type_size, type_modifier, _format = _COLUMN.unpack_from(body, end + 1)
            columns.append(Column(name, table_oid, number, type_oid, type_size, type_modifier))
            position = end + 1 + _COLUMN.size
    except (struct.error, ValueError):
        raise ProtocolViolationError("malformed RowDescription") from None
    if position != len(body):
        raise ProtocolViolationError("malformed RowDescription")
    return columns


def data_row(body: bytes, columns: int) -> list[bytes | None]:
    """The values, which must be as many as were announced."""
    try:
        (count,) = _INT16.unpack_from(body)
        position = 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = INT32.unpack_from(body, position)
            position += 4
            if length < 0:
                values.append(None)
                continue
            values.append(body[position : position + length])
            position += length
    except struct.error:
        raise ProtocolViolationError("malformed DataRow") from None
    if position != len(body) or count != columns:
        raise ProtocolViolationError("malformed DataRow")
    return values


def command_tag(body: bytes) -> str:
    return body.rstrip(b"\0").decode("utf-8", "replace")
