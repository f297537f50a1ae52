"""What the service says of itself (RFC 7643 §5–§7): what it can, which resources there are, and which attributes of them are kept."""

from typing import Any, Final

from cloister.control.scim.model import PAGE_MAX
from cloister.edge.api.content import BODY_BYTES_MAX
from cloister.edge.api.scim.wire import PREFIX, listed
from cloister.protocol.scim.groups import SCHEMA as GROUP
from cloister.protocol.scim.users import SCHEMA as USER

_SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:Schema"
_TYPE: Final = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"

CONFIG: Final[dict[str, Any]] = {
    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
    "patch": {"supported": True},
    "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": BODY_BYTES_MAX},
    "filter": {"supported": True, "maxResults": PAGE_MAX},
    "changePassword": {"supported": False},
    "sort": {"supported": False},
    "etag": {"supported": False},
    "authenticationSchemes": [
        {
            "type": "oauthbearertoken",
            "name": "Bearer token",
            "description": "The token that `cloister people scim enable` shows, once",
            "primary": True,
        }
    ],
    "meta": {"resourceType": "ServiceProviderConfig", "location": f"{PREFIX}/ServiceProviderConfig"},
}


def _attribute(name: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    """`sub`: the attributes of a complex one. What is not said is as RFC 7643 §7 has it by default."""
    found: dict[str, Any] = {
        "name": name,
        "type": kind,
        "multiValued": more.get("many", False),
        "description": more.get("text", name),
        "required": more.get("required", False),
        "mutability": more.get("mutability", "readWrite"),
        "returned": "default",
    }
    if kind in ("string", "reference"):
        found |= {"caseExact": more.get("exact", False), "uniqueness": more.get("uniqueness", "none")}
    if "types" in more:
        found["referenceTypes"] = more["types"]
    if "sub" in more:
        found["subAttributes"] = more["sub"]
    return found


_USER_ATTRIBUTES: Final = [
    _attribute("userName", required=True, uniqueness="server", text="By which the person logs in at their issuer"),
    _attribute("displayName"),
    _attribute("name", "complex", sub=[_attribute("givenName"), _attribute("familyName")]),
    _attribute("active", "boolean", text="Whether anything of theirs opens anything in the organization"),
    _attribute(
        "emails",
        "complex",
        many=True,
        text="By these, and userName, their account here is found",
        sub=[_attribute("value"), _attribute("type"), _attribute("primary", "boolean")],
    ),
    _attribute(
        "groups",
        "complex",
        many=True,
        mutability="readOnly",
        sub=[
            _attribute("value", mutability="readOnly", exact=True),
            _attribute("$ref", "reference", mutability="readOnly", exact=True, types=["Group"]),
            _attribute("display", mutability="readOnly"),
            _attribute("type", mutability="readOnly"),
        ],
    ),
]
_GROUP_ATTRIBUTES: Final = [
    _attribute("displayName", required=True, exact=True, uniqueness="server", text="As `cloister people map` names it"),
    _attribute(
        "members",
        "complex",
        many=True,
        sub=[
            _attribute("value", mutability="immutable", exact=True),
            _attribute("$ref", "reference", mutability="immutable", exact=True, types=["User"]),
        ],
    ),
]


def _schema(schema_id: str, name: str, text: str, attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schemas": [_SCHEMA],
        "id": schema_id,
        "name": name,
        "description": text,
        "attributes": attributes,
        "meta": {"resourceType": "Schema", "location": f"{PREFIX}/Schemas/{schema_id}"},
    }


def _type(name: str, endpoint: str, schema_id: str, text: str) -> dict[str, Any]:
    return {
        "schemas": [_TYPE],
        "id": name,
        "name": name,
        "endpoint": endpoint,
        "description": text,
        "schema": schema_id,
        "schemaExtensions": [],
        "meta": {"resourceType": "ResourceType", "location": f"{PREFIX}/ResourceTypes/{name}"},
    }


SCHEMAS: Final = {
    USER: _schema(USER, "User", "Somebody of the organization", _USER_ATTRIBUTES),
    GROUP: _schema(GROUP, "Group", "Several of them", _GROUP_ATTRIBUTES),
}
TYPES: Final = {
    "User": _type("User", "/Users", USER, "Somebody of the organization"),
    "Group": _type("Group", "/Groups", GROUP, "Several of them"),
}


def all_of(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return listed(list(resources.values()), total=len(resources), start=1)
