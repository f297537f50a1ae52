"""Results and errors as the driver reads them.

A result is written row by row as it arrives, so that a long one never keeps the event loop; it is sent when the whole of
it is known to be good.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from cloister.edge.gateway.errors import RefusedError
from cloister.edge.sql.limits import ANSWER_BYTES_MAX
from cloister.edge.sql.values import as_json, as_text
from cloister.protocol.pgwire.backend import error_fields
from cloister.protocol.pgwire.extended import Column

_encode: Final = msgspec.json.Encoder().encode


class AnswerTooLargeError(Exception):
    """Beyond ANSWER_BYTES_MAX."""

    def __init__(self) -> None:
        super().__init__(f"response is too large (max is {ANSWER_BYTES_MAX} bytes)")


class Room:
    """How much one answer may still say. `grow` is told what it takes, and may refuse."""

    def __init__(self, grow: Callable[[int], None]) -> None:
        self._grow = grow
        self._left = ANSWER_BYTES_MAX

    def take(self, size: int) -> None:
        """Raises AnswerTooLargeError, or what `grow` raises."""
        self._left -= size
        if self._left < 0:
            raise AnswerTooLargeError
        self._grow(size)


class ResultWriter:
    """The JSON of one statement's result."""

    def __init__(self, room: Room, *, as_array: bool, is_raw: bool) -> None:
        self._room = room
        self._as_array = as_array
        self._is_raw = is_raw
        self._columns: list[Column] = []
        self._rows: list[bytes] = []
        self._tag = ""

    @property
    def columns(self) -> int:
        return len(self._columns)

    def describe(self, columns: list[Column]) -> None:
        self._columns = columns
        self._room.take(sum(160 + len(column.name) for column in columns))  # about what they take in JSON

    def row(self, values: list[bytes | None]) -> None:
        said: list[Any]
        if self._is_raw:
            said = [as_text(value) for value in values]
        else:
            said = [as_json(value, column.type_oid) for value, column in zip(values, self._columns, strict=True)]
        if self._as_array:
            text = _encode(said)
        else:
            text = _encode({column.name: value for column, value in zip(self._columns, said, strict=True)})
        self._room.take(len(text) + 1)
        self._rows.append(text)

    def complete(self, tag: str) -> None:
        self._tag = tag
        self._room.take(128)

    def finish(self) -> bytes:
        words = self._tag.split(" ")
        count = words[2:3] if words[0] == "INSERT" else words[1:2]
        head = {
            "command": words[0],
            "rowCount": int(count[0]) if count and count[0].isascii() and count[0].isdigit() else None,
            "rowAsArray": self._as_array,
            "fields": [
                {
                    "name": column.name,
                    "dataTypeID": column.type_oid,
                    "tableID": column.table_oid,
                    "columnID": column.number,
                    "dataTypeSize": column.type_size,
                    "dataTypeModifier": column.type_modifier,
                    "format": "text",
                }
                for column in self._columns
            ],
        }
        return _encode(head)[:-1] + b',"rows":[' + b",".join(self._rows) + b"]}"


class ErrorBody(msgspec.Struct):
    """PostgreSQL's fields by the names that node-postgres gave them."""

    message: str
    code: str | None = None
    detail: str | None = None
    hint: str | None = None
    position: str | None = None
    internalPosition: str | None = None  # noqa: N815 - their names
    internalQuery: str | None = None  # noqa: N815
    severity: str | None = None
    where: str | None = None
    table: str | None = None
    column: str | None = None
    schema: str | None = None
    dataType: str | None = None  # noqa: N815
    constraint: str | None = None
    file: str | None = None
    line: str | None = None
    routine: str | None = None


_FIELDS: Final = {
    "M": "message", "C": "code", "D": "detail", "H": "hint", "P": "position", "p": "internalPosition",
    "q": "internalQuery", "V": "severity", "W": "where", "t": "table", "c": "column", "s": "schema", "d": "dataType",
    "n": "constraint", "F": "file", "L": "line", "R": "routine",
}  # fmt: skip


def postgres_error(body: bytes) -> bytes:
    """From the body of an ErrorResponse."""
    fields = {_FIELDS[code]: text for code, text in error_fields(body).items() if code in _FIELDS}
    return _encode(ErrorBody(**{"message": "error", **fields}))


def refusal(error: RefusedError) -> bytes:
    return _encode(ErrorBody(error.public, error.sqlstate, severity="FATAL"))


def complaint(text: str) -> bytes:
    return _encode(ErrorBody(text))
