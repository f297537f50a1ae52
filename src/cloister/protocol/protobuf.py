"""Protocol Buffers' wire format, for messages that are known as tables: bytes to dictionaries and back. Pure.

Only what a table names is read; other fields are passed over, as the format wants, so that a newer peer is understood. What is
not said is absent from the dictionary. Groups, which nobody has used for years, are refused, and so is a value whose kind on the
wire is not its field's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias


class Kind(Enum):
    WHOLE = "int64"
    FLAG = "bool"
    TEXT = "string"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Field:
    number: int
    name: str
    type: "Kind | Message" = Kind.TEXT
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    fields: tuple[Field, ...] = ()
    by_number: Mapping[int, Field] = field(init=False, repr=False, compare=False)
    by_name: Mapping[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_number", {each.number: each for each in self.fields})
        object.__setattr__(self, "by_name", {each.name: each for each in self.fields})


Said: TypeAlias = Mapping[str, Any]


class ProtobufError(ValueError):
    """The bytes are no message of that table."""


_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5

_VARINT_BYTES_MAX: Final = 10
# 64 bits, seven to a byte.
_NUMBER_MAX: Final = 2**29 - 1


def decode(message: Message, data: bytes) -> dict[str, Any]:
    """Raises ProtobufError. A field that comes twice and is no list has its last value, as the format has it."""
    said: dict[str, Any] = {}
    for number, wire, value in _pieces(data):
        known = message.by_number.get(number)
        if known is None:
            continue
        if (wire == _VARINT) != (known.type in (Kind.WHOLE, Kind.FLAG)) or wire in (_FIXED32, _FIXED64):
            raise ProtobufError(f"{known.name} is of another kind")
        read = _read(known, value)
        if known.is_list:
            said.setdefault(known.name, []).append(read)
        else:
            said[known.name] = read
    return said


def encode(message: Message, said: Said) -> bytes:
    """Fields in the table's order. None, and what is not there, is not said. Raises KeyError for what the table does not have."""
    if strange := said.keys() - message.by_name.keys():
        raise KeyError(*strange)
    written = bytearray()
    for each in message.fields:
        value = said.get(each.name)
        if value is None:
            continue
        for item in value if each.is_list else (value,):
            written += _written(each, item)
    return bytes(written)


def _pieces(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not 1 <= number <= _NUMBER_MAX:
            raise ProtobufError("a field has no number")
        match wire:
            case 0:
                value, at = _varint(data, at)
                yield number, wire, value
            case 1 | 2 | 5:
                size, at = _varint(data, at) if wire == _LENGTH else (8 if wire == _FIXED64 else 4, at)
                if size > len(data) - at:
                    raise ProtobufError("it ends too early")
                yield number, wire, data[at : at + size]
                at += size
            case _:
                raise ProtobufError(f"there is no wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(_VARINT_BYTES_MAX):
        if at + n >= len(data):
            raise ProtobufError("it ends too early")
        byte = data[at + n]
        value |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return value & (2**64 - 1), at + n + 1
    raise ProtobufError("a number is too long")


def _read(known: Field, value: int | bytes) -> Any:
    if isinstance(value, int):
        if known.type is Kind.FLAG:
            return value != 0
        return value - 2**64 if value >= 2**63 else value
    if known.type is Kind.BYTES:
        return value
    if known.type is Kind.TEXT:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ProtobufError(f"{known.name} is no text") from None
    assert isinstance(known.type, Message)
    return decode(known.type, value)


def _written(known: Field, value: Any) -> bytes:
    match known.type:
        case Kind.WHOLE | Kind.FLAG:
            return _as_varint(known.number << 3 | _VARINT) + _as_varint(int(value))
        case Kind.TEXT:
            content = str(value).encode()
        case Kind.BYTES:
            content = bytes(value)
        case Message():
            content = encode(known.type, value)
    return _as_varint(known.number << 3 | _LENGTH) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    value &= 2**64 - 1
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
