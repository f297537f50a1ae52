"""Our own OpenAPI document, made from the route table: what is served is what is described."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cloister.base import versions
from cloister.edge.api.acts import ACTS
from cloister.edge.api.call import NoBody
from cloister.edge.api.endpoint import Public, Route
from cloister.edge.api.errors import GeneralError, PasskeyDemand

_REFERENCE: Final = "#/components/schemas/{name}"

_PARAMETER_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "access_id": {"type": "string", "format": "uuid"},
    "branch_id": {"type": "string", "pattern": "^br-[a-z0-9-]{1,57}$"},
    "consent_id": {"type": "string", "format": "uuid"},
    "database_name": {"type": "string", "minLength": 1, "maxLength": 63},
    "endpoint_id": {"type": "string", "pattern": "^ep-[a-z0-9-]{1,57}$"},
    "erasure_id": {"type": "string", "format": "uuid"},
    "jwks_id": {"type": "string", "format": "uuid"},
    "forgetting_id": {"type": "string", "format": "uuid"},
    "group_id": {"type": "string", "format": "uuid"},
    "hold_id": {"type": "string", "format": "uuid"},
    "issuer_id": {"type": "string", "format": "uuid"},
    "finding_id": {"type": "string", "pattern": "^fd-[0-9a-f]{12}$"},
    "key_id": {"type": "integer", "format": "int64"},
    "member_id": {"type": "string", "format": "uuid"},
    "operation_id": {"type": "string", "format": "uuid"},
    "org_id": {"type": "string", "pattern": "^org-[a-z0-9-]{1,56}$"},
    "passkey_id": {"type": "string", "format": "uuid"},
    "permission_id": {"type": "string", "format": "uuid"},
    "rule_id": {"type": "string", "format": "uuid"},
    "project_id": {"type": "string", "pattern": "^[a-z0-9-]{1,60}$"},
    "recording_id": {"type": "string", "format": "uuid"},
    "region_id": {"type": "string", "pattern": "^[a-z0-9-]{1,60}$"},
    "request_id": {"type": "string", "format": "uuid"},
    "role_name": {"type": "string", "minLength": 1, "maxLength": 63},
    "item_number": {"type": "integer", "minimum": 1},
    "retention_id": {"type": "string", "format": "uuid"},
    "review_id": {"type": "string", "format": "uuid"},
    "service_account_id": {"type": "string", "format": "uuid"},
    "shift_id": {"type": "string", "format": "uuid"},
    "snapshot_id": {"type": "string", "pattern": "^snap-[a-z0-9-]{1,55}$"},
}

_IF_MATCH: Final = {
    "name": versions.HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": f"the version that is meant, as {versions.ANSWER} gave it: 412 if it is another by now",
}
_ETAG: Final = {versions.ANSWER: {"description": "its version", "schema": {"type": "string"}}}


def document(routes: Sequence[Route], version: str) -> bytes:
    """OpenAPI 3.1 as JSON."""
    types = [route.answer for route in routes] + [route.body for route in routes if route.body is not NoBody]
    types += [route.query for route in routes] + [GeneralError, PasskeyDemand]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    for route in routes:
        components.pop(route.query.__name__, None)  # its fields stand with the parameters
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Cloister",
                "version": version,
                "description": "Neon's API v2, as far as it is served, and Cloister's own under /cloister.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/api/v2"}],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(route: Route, schemas: dict[type, dict[str, Any]], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(components[route.query.__name__])],
        "responses": {
            str(route.status): {
                "description": "done",
                "content": {"application/json": {"schema": schemas[route.answer]}},
            },
            "default": {
                "description": "refused or failed",
                "content": {"application/json": {"schema": schemas[GeneralError]}},
            },
        },
    }
    if route.versioned:
        operation["parameters"].append(_IF_MATCH)
        if route.method != "DELETE":
            operation["responses"][str(route.status)]["headers"] = _ETAG
    if route.status == 204:
        operation["responses"]["204"] = {"description": "done"}
    elif route.answer_is_optional:
        operation["responses"]["204"] = {"description": "was not there"}
    if route.body is not NoBody:
        operation["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(route.body)),
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    if isinstance(route.permission, Public):
        operation["security"] = []
        operation["x-cloister-public"] = route.permission.why
    else:
        operation["x-cloister-permission"] = route.permission.value
        if route.may_need:
            operation["x-cloister-may-need"] = [permission.value for permission in route.may_need]
    if (act := ACTS.get(route.name)) is not None:
        operation["responses"]["428"] = {
            "description": "takes a passkey: sign, and repeat the request",
            "content": {"application/json": {"schema": schemas[PasskeyDemand]}},
        }
        operation["x-cloister-passkey"] = {"act": act.what, "depends_on_body": act.when is not None}
    if route.audit is not None:
        operation["x-cloister-audit"] = route.audit.value
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETER_SCHEMAS[name]}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _query_parameters(struct: dict[str, Any]) -> list[dict[str, Any]]:
    required = struct.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in struct["properties"].items()
    ]
