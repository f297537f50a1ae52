"""Our answers against Neon's own description of its API, where that is at hand.

It ships in the npm package `@neondatabase/api-client` and is not ours to carry along:

    npm install --prefix /tmp/neon @neondatabase/api-client
    NEON_OPENAPI=/tmp/neon/node_modules/@neondatabase/api-client/public-v2-for-users.gen.yaml \
        pytest tests/edge/api/test_neon_contract.py
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.edge.api.test_routes import BY_NAME, CASES, Case
from tests.edge.api.world import PASSWORD, World

DESCRIPTION = os.environ.get("NEON_OPENAPI", "")
pytestmark = pytest.mark.skipif(not DESCRIPTION, reason="NEON_OPENAPI names no file")

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@cache
def description() -> Any:
    return yaml.load(Path(DESCRIPTION).read_text(), Loader=yaml.CSafeLoader)


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


def described(case: Case) -> Any:
    """The answer's schema; None for what is only ours, or undocumented."""
    route = BY_NAME[case.route]
    operation = description()["paths"].get(route.path, {}).get(route.method.lower())
    if operation is None:
        return None
    answer = resolved({str(status): it for status, it in operation["responses"].items()}[str(case.status)])
    return answer["content"]["application/json"]["schema"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.route)
async def test_an_answer_is_what_neon_describes(case: Case) -> None:
    if case.status >= 400 or (schema := described(case)) is None:
        pytest.skip("not Neon's")
    world = World()
    world.roles.stored_password = PASSWORD
    async with world.client() as client:
        answer = await client.request(BY_NAME[case.route].method, case.path, json=case.body)
    assert answer.status_code == case.status
    assert list(faults(answer.json(), schema)) == []


def test_every_undocumented_route_of_ours_is_known() -> None:
    paths = description()["paths"]
    ours = {name for name, route in BY_NAME.items() if route.method.lower() not in paths.get(route.path, {})}
    assert {name for name in ours if not BY_NAME[name].path.startswith("/cloister/")} == {
        "set_as_primary",
        "reset_to_parent",
    }


def test_an_answer_that_is_not_what_neon_describes_is_found() -> None:
    schema = description()["components"]["schemas"]["Branch"]
    assert ".name is missing" in set(faults({"id": "br-calm-forest-aaaaaaaa", "default": "yes"}, schema))
    assert ".default: 'yes' is no boolean" in set(faults({"default": "yes"}, schema))
