"""Whatever the API's own description allows, asked of a real platform: no failure of ours, no undescribed answer.

The ids in a path are those of a project that is there, or look like some; the rest is made up. A route that would take the ground away from
the others (deleting the project, revoking the key that asks) gets made-up ids.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from tests.edge.api.test_any_request import CHECKS, PLACES, SCHEMA
from tests.instance import Instance

pytestmark = [pytest.mark.root, pytest.mark.soak]

SPARED = {"delete_project": "calm-forest-00000000", "revoke_api_key": 999_999_999}


@pytest.fixture(scope="module")
def ground(shared_instance: Instance) -> Iterator[dict[str, str]]:
    """The parameters of paths that lead to something."""
    tenant = shared_instance.create_project("ground")
    yield {
        "project_id": tenant.project_id,
        "branch_id": tenant.branch_id,
        "endpoint_id": tenant.endpoint_id,
        "role_name": tenant.role,
        "database_name": tenant.database,
        "org_id": shared_instance.api("GET", "/users/me/organizations")["organizations"][0]["id"],
    }
    shared_instance.hang_up()


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_what_is_described_is_answered_as_described(case: Any, instance: Instance, ground: dict[str, str]) -> None:
    name = case.operation.definition.raw["operationId"]
    for place, formed in zip(case.operation.path.split("/"), PLACES[name], strict=True):
        if place.startswith("{"):
            parameter = place[1:-1]
            case.path_parameters[parameter] = SPARED.get(name, ground.get(parameter, formed))
    asked = case.as_transport_kwargs()
    try:
        answer = instance.request(
            asked["method"],
            asked["url"].removeprefix("/api/v2"),
            params=asked.get("params"),
            content=asked.get("data"),
            json=asked.get("json"),
        )
    except httpx.InvalidURL:  # longer than this client sends
        hypothesis.reject()
    assert b'"no such route"' not in answer.content
    case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)
