"""Our requests and answers against Neon's own description of its API, which ships in `@neondatabase/api-client`.

Every route that Neon describes: what a client may ask is understood or stands in a list of what is not, and what it is
answered is what it expects. And our own description holds every route.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cloister.edge.api import openapi
from cloister.edge.api.call import NoBody
from cloister.edge.api.endpoint import Route
from cloister.edge.api.routes import ROUTES
from tests.edge.api.test_routes import BY_NAME, CASES, Case
from tests.edge.api.world import PASSWORD, World
from tests.neon_description import description, faults, noun, resolved

ONLY_OURS = {"set_as_primary", "reset_to_parent"}
"""What older clients call and Neon does not describe, beside what is below /cloister/."""

ONLY_IN_THE_SDK = {"list_project_members", "set_project_member_role", "remove_project_member_role"}
"""What `@neon/sdk` has and the description, which is older, does not yet."""

IGNORED_FIELDS = {
    ".branch_create.endpoints[].provisioner": "there is one",
    ".branch_create.endpoints[].settings.pgbouncer_settings": "not offered",
    ".branch_create.endpoints[].settings.preload_libraries": "what a server preloads is the platform's",
    ".endpoint.branch_id": "an endpoint stays with its branch",
    ".endpoint.name": "an endpoint is called by its id",
    ".endpoint.passwordless_access": "nobody gets in without a password",
    ".endpoint.pooler_enabled": "a matter of the host's name, in Neon's own words",
    ".endpoint.pooler_mode": "the same",
    ".endpoint.provisioner": "there is one",
    ".endpoint.region_id": "an endpoint is where its project is",
    ".endpoint.settings.pgbouncer_settings": "not offered",
    ".endpoint.settings.preload_libraries": "what a server preloads is the platform's",
    ".endpoints[].provisioner": "there is one",
    ".endpoints[].settings.pgbouncer_settings": "not offered",
    ".endpoints[].settings.preload_libraries": "what a server preloads is the platform's",
    ".project.branch.annotations": "Neon keeps notes for its integrations",
    ".project.default_endpoint_settings.pgbouncer_settings": "not offered",
    ".project.provisioner": "there is one",
    ".project.settings.audit_log_level": "the audit log is always complete",
    ".project.settings.hipaa": "a matter of contracts",
    ".project.settings.maintenance_window": "the operator's",
    ".project.settings.preload_libraries": "what a server preloads is the platform's",
}
"""What Neon takes in a body and Cloister passes over, with all that is inside, and why."""

IGNORED_PARAMETERS = {
    "list_projects": {"timeout"},
    "list_shared_projects": {"timeout"},
    "list_members": {"cursor", "limit", "sort_by", "sort_order"},
    "list_regions": {"org_id"},
    "list_functions": {"cursor", "limit"},
}
"""What Neon takes in a query and Cloister passes over: pages of lists that fit one, and a time limit of its own."""

ASKED_BY_NEWER_CLIENTS = {
    "create_snapshot": {"slug"},
    "update_snapshot": {".snapshot.expires_at"},
}
"""What `@neon/sdk` sends and the description, which is older, does not have yet."""


ONLY_OUR_FIELDS = {
    "create_anonymized_branch": {".branch_create.annotation_value"},
    "create_api_key": {".allowed_ips", ".expires_at"},
    "create_org_api_key": {".allowed_ips", ".expires_at"},
    "add_jwks": {".jwt_issuer"},
    "create_project": {".project.settings.require_channel_binding"},
    "grant_permission": {".role"},
    "update_project": {".project.settings.require_channel_binding"},
}
"""What our own clients may add to Neon's requests."""

ONLY_OUR_PARAMETERS = {"delete_project": {"hard_delete"}}
"""And to their queries."""

THEIR_PATHS = {"/organizations/{org_id}/projects/transfer": "/organizations/{source_org_id}/projects/transfer"}
"""Where Neon calls a parameter otherwise."""


def described(route: Route) -> Any:
    """Neon's operation; None for what is only ours."""
    item = description()["paths"].get(THEIR_PATHS.get(route.path, route.path), {})
    operation = item.get(route.method.lower())
    return operation and {**operation, "parameters": item.get("parameters", []) + operation.get("parameters", [])}


DESCRIBED = [route for route in ROUTES if described(route) is not None]


def answers(case: Case) -> Any:
    """The schema of a case's answer."""
    operation = described(BY_NAME[case.route])
    answer = resolved({str(status): it for status, it in operation["responses"].items()}[str(case.status)])
    return answer["content"]["application/json"]["schema"]


def fields_of(schema: Any, where: str = "") -> Iterator[str]:
    """Every field that Neon's schema names, as `.project.settings.quota`."""
    schema = resolved(schema)
    for part in schema.get("allOf", []):
        yield from fields_of(part, where)
    if schema.get("type") == "array":
        yield from fields_of(schema["items"], where + "[]")
    for name, inner in schema.get("properties", {}).items():
        yield f"{where}.{name}"
        yield from fields_of(inner, f"{where}.{name}")


def fields_read(route: Route) -> set[str]:
    """Every field that our decoder reads."""
    if route.body is NoBody:
        return set()
    (schema,), components = msgspec.json.schema_components([route.body], ref_template="{name}")

    def walk(schema: Any, where: str) -> Iterator[str]:
        for part in schema.get("anyOf", []):
            yield from walk(part, where)
        if "$ref" in schema:
            yield from walk(components[schema["$ref"]], where)
        if "items" in schema:
            yield from walk(schema["items"], where + "[]")
        for name, inner in schema.get("properties", {}).items():
            yield f"{where}.{name}"
            yield from walk(inner, f"{where}.{name}")

    return set(walk(schema, ""))


def body_of(operation: Any) -> Any:
    return operation["requestBody"]["content"]["application/json"]["schema"] if "requestBody" in operation else {}


@pytest.mark.parametrize(
    "case", [case for case in CASES if BY_NAME[case.route] in DESCRIBED], ids=lambda case: case.route
)
async def test_an_answer_is_what_neon_describes(case: Case) -> None:
    world = World()
    world.roles.stored_password = PASSWORD
    async with world.client() as client:
        answer = await client.request(BY_NAME[case.route].method, case.path, json=case.body)
    assert answer.status_code == case.status
    if case.status == 204:
        assert answer.content == b""
        return
    assert list(faults(answer.json(), answers(case))) == []


@pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: route.name)
def test_what_neons_clients_send_is_read(route: Route) -> None:
    operation = described(route)
    newer = ASKED_BY_NEWER_CLIENTS.get(route.name, set())
    theirs, ours = set(fields_of(body_of(operation))), fields_read(route)
    passed_over = {
        field for field in theirs - ours if not any(f"{field}.".startswith(f"{it}.") for it in IGNORED_FIELDS)
    }
    assert passed_over == set()
    assert ours - theirs <= newer | ONLY_OUR_FIELDS.get(route.name, set())
    parameters = {each["name"] for each in map(resolved, operation["parameters"]) if each["in"] == "query"}
    read = {each.encode_name for each in msgspec.structs.fields(route.query)}
    assert parameters - read == IGNORED_PARAMETERS.get(route.name, set())
    assert read - parameters <= newer | ONLY_OUR_PARAMETERS.get(route.name, set())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.body and BY_NAME[case.route] in DESCRIBED], ids=lambda case: case.route
)
def test_what_the_tests_send_is_what_neon_describes(case: Case) -> None:
    assert list(faults(case.body, body_of(described(BY_NAME[case.route])))) == []


@pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: route.name)
def test_a_status_is_one_that_neon_describes(route: Route) -> None:
    statuses = {str(status) for status in described(route)["responses"]}
    assert str(route.status) in statuses
    assert "204" in statuses or not route.answer_is_optional


def test_every_undocumented_route_of_ours_is_known() -> None:
    undescribed = {route.name for route in ROUTES if route not in DESCRIBED and not route.path.startswith("/cloister/")}
    assert undescribed == ONLY_OURS | ONLY_IN_THE_SDK


def test_our_own_description_holds_every_route() -> None:
    paths = json.loads(openapi.document(ROUTES, "0"))["paths"]
    assert {(method.upper(), path) for path, item in paths.items() for method in item} == {
        (route.method, route.path) for route in ROUTES
    }


def test_an_answer_that_is_not_what_neon_describes_is_found() -> None:
    schema = noun("Branch")
    assert ".name is missing" in set(faults({"id": "br-calm-forest-aaaaaaaa", "default": "yes"}, schema))
    assert ".default: 'yes' is no boolean" in set(faults({"default": "yes"}, schema))
    assert ".created_at: '2026-03-04 05:06' is no date-time" in set(faults({"created_at": "2026-03-04 05:06"}, schema))
    assert ".failures_count: 4294967296 does not fit int32" in set(faults({"failures_count": 2**32}, noun("Operation")))


def test_a_field_that_is_not_read_is_found() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"properties": {"b": {}}}}}}
    assert set(fields_of(schema)) == {".a", ".a[].b"}
