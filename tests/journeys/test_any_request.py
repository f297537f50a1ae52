"""Whatever the API's own description allows, asked of a real platform: no failure of ours, no undescribed answer.

The ids in a path are those of a project that is there; the rest is made up. A route that would take the ground away from
the others (deleting the project, revoking the key that asks) gets made-up ids.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from tests.edge.api.test_any_request import CHECKS, SCHEMA
from tests.instance import Instance, Tenant

pytestmark = [pytest.mark.root, pytest.mark.soak]

SPARED = {"delete_project": "calm-forest-00000000", "revoke_api_key": 999_999_999}


@pytest.fixture(scope="module")
def ground(shared_instance: Instance) -> Iterator[Tenant]:
    yield shared_instance.create_project("ground")
    shared_instance.hang_up()


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_what_is_described_is_answered_as_described(case: Any, instance: Instance, ground: Tenant) -> None:
    name = case.operation.definition.raw["operationId"]
    known = {
        "project_id": ground.project_id,
        "branch_id": ground.branch_id,
        "endpoint_id": ground.endpoint_id,
        "role_name": ground.role,
        "database_name": ground.database,
        "org_id": instance.api("GET", "/users/me/organizations")["organizations"][0]["id"],
    }
    for parameter in case.path_parameters:
        if name in SPARED:
            case.path_parameters[parameter] = SPARED[name]
        elif parameter in known:
            case.path_parameters[parameter] = known[parameter]
    asked = case.as_transport_kwargs()
    try:
        answer = instance.http.request(
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
