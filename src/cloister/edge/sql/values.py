"""Values on their way: JSON to what PostgreSQL reads as text, and PostgreSQL's text to JSON.

Ours are no types: parameters travel without one, and PostgreSQL decides. Back, what JSON can say exactly becomes JSON
(booleans, 32-bit integers, floats, json itself, arrays of such); int8 and numeric stay text, for a JavaScript number
would round them.
"""

import re
from typing import Any, Final

import msgspec

DIMENSIONS_MAX: Final = 6
# PostgreSQL's MAXDIM.

_BOOL: Final = 16
_NUMBERS: Final = frozenset({21, 23, 700, 701})
_JSON: Final = frozenset({114, 3802})

_ELEMENT_OF: Final = {
    1000: 16, 1005: 21, 1007: 23, 1016: 20, 1021: 700, 1022: 701, 1231: 1700,
    199: 114, 3807: 3802,
    1002: 18, 1003: 19, 1009: 25, 1014: 1042, 1015: 1043, 1001: 17, 1028: 26, 2951: 2950,
    1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186, 1270: 1266, 1041: 869, 651: 650,
}  # fmt: skip
# The arrays of built-in types whose delimiter is a comma. Those of a tenant's own types stay text.

_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BOUNDS: Final = re.compile(rb"(?:\[-?[0-9]+:-?[0-9]+\])+=")
_UNQUOTED: Final = re.compile(rb"[^{},\"\\]+")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


class InvalidValueError(ValueError):
    """A parameter that cannot be said to PostgreSQL."""


# -- JSON → PostgreSQL


def parameter(raw: bytes) -> bytes | None:
    """One parameter from its JSON text: null is NULL, a string is itself, an array is PostgreSQL's array, everything
    else is its own JSON text, in which no digit is lost."""
    match raw[:1]:
        case b'"':
            return _text(msgspec.json.decode(raw, type=str))
        case b"n":
            return None
        case b"[":
            return _array(msgspec.json.decode(raw, type=list[msgspec.Raw]), 1)
        case _:
            return raw.strip()


def _text(value: str) -> bytes:
    if "\0" in value:
        raise InvalidValueError('invalid byte sequence for encoding "UTF8": 0x00')
    return value.encode()


def _array(elements: list[msgspec.Raw], depth: int) -> bytes:
    if depth > DIMENSIONS_MAX:
        raise InvalidValueError(f"number of array dimensions exceeds the maximum allowed ({DIMENSIONS_MAX})")
    return b"{" + b",".join(_element(bytes(element), depth) for element in elements) + b"}"


def _element(raw: bytes, depth: int) -> bytes:
    match raw[:1]:
        case b"n":
            return b"NULL"
        case b"[":
            return _array(msgspec.json.decode(raw, type=list[msgspec.Raw]), depth + 1)
        case b'"':
            value = _text(msgspec.json.decode(raw, type=str))
        case _:
            value = raw.strip()
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


# -- PostgreSQL → JSON


def as_text(value: bytes | None) -> str | None:
    """A tenant may have chosen another encoding for its session; JSON has none but UTF-8."""
    return None if value is None else value.decode("utf-8", "replace")


def as_json(value: bytes | None, type_oid: int) -> Any:
    """For `msgspec.json.encode`."""
    if value is None:
        return None
    if type_oid == _BOOL:
        return value == b"t"
    if type_oid in _NUMBERS:
        # NaN and the infinities have no number in JSON.
        return msgspec.Raw(value) if _NUMBER.fullmatch(value) else as_text(value)
    if type_oid in _JSON:
        return _inline(value)
    if (element := _ELEMENT_OF.get(type_oid)) is not None:
        try:
            return _parse_array(value, element)
        except (IndexError, ValueError):
            return as_text(value)
    return as_text(value)


def _inline(value: bytes) -> Any:
    """As it is, in every digit, once it is known to be JSON: a compute may say anything."""
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return as_text(value)
    return msgspec.Raw(value)


def _parse_array(text: bytes, element: int) -> list[Any]:
    """PostgreSQL's array literal. Raises ValueError or IndexError for anything else."""
    bounds = _BOUNDS.match(text)
    position = bounds.end() if bounds is not None else 0
    open_lists: list[list[Any]] = []
    while True:
        match text[position : position + 1]:
            case b"{":
                if len(open_lists) == DIMENSIONS_MAX:
                    raise ValueError("too many dimensions")
                open_lists.append([])
                position += 1
                if text[position : position + 1] != b"}":
                    continue
            case b'"':
                found = _QUOTED.match(text, position)
                if found is None:
                    raise ValueError("an open quote")
                open_lists[-1].append(as_json(_ESCAPED.sub(rb"\1", found[1]), element))
                position = found.end()
            case _:
                found = _UNQUOTED.match(text, position)
                if found is None:
                    raise ValueError("no element")
                value = None if found[0].upper() == b"NULL" else found[0]
                open_lists[-1].append(as_json(value, element))
                position = found.end()
        while text[position : position + 1] == b"}":
            closed = open_lists.pop()
            position += 1
            if not open_lists:
                if position != len(text):
                    raise ValueError("something follows")
                return closed
            open_lists[-1].append(closed)
        if text[position : position + 1] != b",":
            raise ValueError("no comma")
        position += 1
