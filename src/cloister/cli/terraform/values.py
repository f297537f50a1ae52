"""Values as Terraform writes them: MessagePack, with an extension for what is not known yet. An object is a dictionary of all its
attributes, null where one is not set.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloister.cli.terraform.schema import Type


class _Unknown:
    """It will be known after the apply."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()

_UNKNOWN_CODES: Final = (0, 12)
# Nothing is known of it; or something that we have no use for (a refinement).


class ValueFormError(ValueError):
    """It is no value of that type."""


def decode(value: Mapping[str, bytes] | None, types: Mapping[str, Type]) -> dict[str, Any] | None:
    """None: there is no object. What the types do not name is left out, and what the value does not is null. Raises
    ValueFormError."""
    try:
        match value:
            case {"json": said}:
                found = json.loads(said)
            case {"msgpack": said}:
                found = msgspec.msgpack.decode(said, ext_hook=_ext)
            case _:
                return None
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ValueFormError("neither MessagePack nor JSON") from error
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueFormError("not an object")
    return {name: _read(each, found.get(name)) for name, each in types.items()}


def encode(value: Mapping[str, Any] | None) -> dict[str, bytes]:
    return {"msgpack": msgspec.msgpack.encode(None if value is None else _written(dict(value)))}


def known(value: Any) -> bool:
    """Through and through."""
    match value:
        case dict():
            return all(map(known, value.values()))
        case list():
            return all(map(known, value))
        case _:
            return value is not UNKNOWN


def _ext(code: int, _data: memoryview) -> Any:
    if code not in _UNKNOWN_CODES:
        raise ValueFormError("an extension that is not known here")
    return UNKNOWN


def _read(kind: Type, value: Any) -> Any:
    if value is None or value is UNKNOWN:
        return value
    match kind:
        case Type.TEXT if isinstance(value, str):
            return value
        case Type.FLAG if isinstance(value, bool):
            return value
        case Type.NUMBER if isinstance(value, int | float | str) and not isinstance(value, bool):
            return _number(value)
        case Type.SET if isinstance(value, list):
            return [_read(Type.TEXT, each) for each in value]
        case Type.TABLE if isinstance(value, dict):
            return {_read(Type.TEXT, key): _read(Type.TEXT, each) for key, each in value.items()}
        case _:
            raise ValueFormError(f"{kind.value} was expected")


def _number(value: float | str) -> int | float:
    """Whole where it is. What takes more than 64 bits comes as text."""
    try:
        number = float(value)
        if isinstance(value, str) and "." not in value and "e" not in value.lower():
            return int(value)
    except (ValueError, OverflowError):
        raise ValueFormError("a number was expected") from None
    if not math.isfinite(number):
        raise ValueFormError("a number was expected")
    if isinstance(value, int):
        return value
    return int(number) if number.is_integer() else number


def _written(value: Any) -> Any:
    match value:
        case dict():
            return {key: _written(each) for key, each in value.items()}
        case list():
            return [_written(each) for each in value]
        case _:
            return msgspec.msgpack.Ext(0, b"\0") if value is UNKNOWN else value
