"""Whatever the API's own description allows, asked of every route: never a failure of ours, never an undescribed answer.

Over the control plane of dictionaries; tests/journeys/test_any_request.py asks a real platform.
"""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloister.edge.api import openapi
from cloister.edge.api.endpoint import Public
from cloister.edge.api.routes import ROUTES
from cloister.trust.access.permissions import Permission
from tests.edge.api.test_routes import CASES
from tests.edge.api.world import World

SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi.document(ROUTES, "0")))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
"""What an answer is held to. Not what a made-up credential gets: these requests have a good one."""

PLACES = {case.route: case.path.partition("?")[0].split("/") for case in CASES}
"""Where something is to be found: a made-up id would always be 404."""


ANY_NUMBER = {"pg_version"}
"""Looked up among those that are offered."""


def test_every_number_of_a_body_has_a_largest() -> None:
    """Whoever computes with one (a moment from now, a port) counts on it."""
    found = [
        f"{name}.{field}"
        for name in _components_of_bodies()
        for field, described in SCHEMA.raw_schema["components"]["schemas"][name].get("properties", {}).items()
        for kind in (described, *described.get("anyOf", []))
        if kind.get("type") == "integer" and "maximum" not in kind and field not in ANY_NUMBER
    ]
    assert found == []


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_what_is_described_is_answered_as_described(case: Any) -> None:
    # Not a coroutine: Hypothesis calls it many times, each with a loop that is closed.
    wanted = case.operation.path.split("/")
    there = PLACES[case.operation.definition.raw["operationId"]]
    for name, value in zip(wanted, there, strict=True):
        if name.startswith("{"):
            case.path_parameters[name[1:-1]] = value
    try:
        answer = asyncio.run(_ask(case))
    except httpx.InvalidURL:  # longer than this client sends; the server's own limit is tested with others
        hypothesis.reject()
    assert b'"no such route"' not in answer.content
    case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)


async def _ask(case: Any) -> httpx.Response:
    asked = case.as_transport_kwargs()
    async with World().client() as client:
        return await client.request(
            asked["method"],
            asked["url"].removeprefix("/api/v2"),
            params=asked.get("params"),
            content=asked.get("data"),
            json=asked.get("json"),
        )


def test_an_answer_that_is_not_described_is_found() -> None:
    case = SCHEMA["/regions"]["GET"].Case()
    for status, body in ((500, {"request_id": "", "code": "", "message": ""}), (200, {"regions": "none"})):
        wrong = httpx.Response(status, json=body, request=httpx.Request("GET", "https://api.test/api/v2/regions"))
        wrong.elapsed = timedelta(0)
        with pytest.raises(FailureGroup):
            case.validate_response(schemathesis.Response.from_any(wrong), checks=CHECKS)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_without_a_key_there_is_no_answer(route: Any) -> None:
    path = "/".join(PLACES[route.name])
    async with World().client(None) as client:
        answer = await client.request(route.method, path, json={})
    if isinstance(route.permission, Public):
        assert answer.status_code == (400 if route.is_change else 200)  # the empty body says nothing
    else:
        assert isinstance(route.permission, Permission)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def _components_of_bodies() -> set[str]:
    """Names of all that a body may have in it."""
    components, names = SCHEMA.raw_schema["components"]["schemas"], set[str]()
    left = [
        operation["requestBody"]
        for path in SCHEMA.raw_schema["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict) and "requestBody" in operation
    ]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in names:
                names.add(name)
                left.append(components[name])
            left += part.values()
        elif isinstance(part, list):
            left += part
    return names
