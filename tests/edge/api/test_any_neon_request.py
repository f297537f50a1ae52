"""Whatever Neon's own description allows, asked of every operation that it has, of those too that are not served here.

Never a failure of ours, and never an answer that Neon's description does not have; what is not served is 404 (405 where
another method is, 415 for a body that is no JSON), with Neon's body for errors. Over the control plane of dictionaries.
"""

import asyncio
import re
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from cloister.edge.api.routes import ROUTES
from tests.edge.api.test_any_request import CHECKS
from tests.edge.api.world import BRANCH, ENDPOINT, GRANT, OPERATION, ORG, PROJECT, SNAPSHOT, World
from tests.neon_description import description

pytestmark = pytest.mark.soak

SCHEMA = schemathesis.openapi.from_dict(description())
THERE = {
    "project_id": PROJECT,
    "branch_id": BRANCH,
    "endpoint_id": ENDPOINT,
    "snapshot_id": SNAPSHOT,
    "operation_id": OPERATION,
    "org_id": ORG,
    "source_org_id": ORG,
    "permission_id": str(GRANT),
    "role_name": "neondb_owner",
    "database_name": "neondb",
}
"""Where something is to be found: a made-up id would always be 404."""

NEONS_OWN_404 = {
    "/projects/{project_id}/branches/{branch_id}/storage",
    "/projects/{project_id}/branches/{branch_id}/ai_gateway",
}
"""Their 404 says in a field which of Neon's plans they are missing from. Ours is that of every other path."""

SERVED = {(route.method, re.sub("{.*?}", "{}", route.path)) for route in ROUTES}


def is_served(case: Any) -> bool:
    return (case.method.upper(), re.sub("{.*?}", "{}", case.operation.path)) in SERVED


async def ask(case: Any) -> httpx.Response:
    asked = case.as_transport_kwargs()
    async with World().client() as client:
        return await client.request(
            asked["method"],
            re.sub("^.*?/api/v2", "", asked["url"]),
            params=asked.get("params"),
            content=asked.get("data"),
            json=asked.get("json"),
        )


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_what_neon_describes_is_answered_as_neon_describes(case: Any) -> None:
    case.path_parameters.update({name: THERE[name] for name in case.path_parameters if name in THERE})
    try:
        answer = asyncio.run(ask(case))
    except httpx.InvalidURL:  # longer than this client sends
        hypothesis.reject()
    if is_served(case):
        assert b'"no such route"' not in answer.content
    else:
        assert answer.status_code in {404, 405, 415}
        assert set(answer.json()) == {"request_id", "code", "message"}
    checks = [not_a_server_error] if case.operation.path in NEONS_OWN_404 else CHECKS
    case.validate_response(schemathesis.Response.from_any(answer), checks=checks)


def test_most_of_it_is_served() -> None:
    """Or the test above would hold of an empty table."""
    asked = [it.ok() for it in SCHEMA.get_all_operations() if isinstance(it, Ok)]
    assert len(asked) > 150
    assert sum((it.method.upper(), re.sub("{.*?}", "{}", it.path)) in SERVED for it in asked) > 75
