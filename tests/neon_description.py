"""Neon's own description of its API, and whether something is what it says.

Clients are generated from it, some in languages that decode into exactly these types: Go takes no number that does not fit
`int32`, and no time but RFC 3339's.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.npm import NEON_OPENAPI

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.]\d+)?(Z|[+-]\d\d:\d\d)")
_BITS = {"int32": 31, "int64": 63}


@cache
def description() -> Any:
    return yaml.load(NEON_OPENAPI.read_text(), Loader=yaml.CSafeLoader)


def resolved(schema: Any) -> Any:
    while "$ref" in schema:
        found = description()
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def faults(value: Any, schema: Any, where: str = "") -> Iterator[str]:
    """Where the value is not what the schema says; fields that the schema does not know are allowed."""
    schema = resolved(schema)
    for part in schema.get("allOf", []):
        yield from faults(value, part, where)
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{where}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    form = schema.get("format")
    if form == "date-time" and not _RFC_3339.fullmatch(value):
        yield f"{where}: {value!r} is no {form}"
    if form in _BITS and not -(2 ** _BITS[form]) <= value < 2 ** _BITS[form]:
        yield f"{where}: {value!r} does not fit {form}"
    if kind == "array":
        for number, item in enumerate(value):
            yield from faults(item, schema["items"], f"{where}[{number}]")
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield f"{where}.{name} is missing"
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from faults(value[name], inner, f"{where}.{name}")


def noun(name: str) -> Any:
    """The schema of a noun: `Branch`."""
    return description()["components"]["schemas"][name]
