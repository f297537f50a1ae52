"""Users, groups, lists and errors as RFC 7643 and RFC 7644 have them."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from cloister.control.scim.model import Group, User
from cloister.edge.api.wire.common import moment
from cloister.protocol.scim.groups import SCHEMA as GROUP
from cloister.protocol.scim.users import SCHEMA as USER

MEDIA_TYPE: Final = "application/scim+json"
PREFIX: Final = "/scim/v2"

ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
LIST: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"


def user(it: User, groups: list[tuple[UUID, str]]) -> dict[str, Any]:
    kept = it.attributes
    found: dict[str, Any] = {"schemas": [USER], "id": str(it.id), "userName": kept.user_name, "active": kept.is_active}
    if kept.external_id is not None:
        found["externalId"] = kept.external_id
    if kept.display_name is not None:
        found["displayName"] = kept.display_name
    if name := {
        key: value for key, value in (("givenName", kept.given_name), ("familyName", kept.family_name)) if value
    }:
        found["name"] = name
    if kept.emails:
        found["emails"] = [
            {"value": one.value, "primary": one.is_primary} | ({"type": one.type} if one.type else {})
            for one in kept.emails
        ]
    if groups:
        found["groups"] = [
            {"value": str(group_id), "display": display, "type": "direct", "$ref": location("Groups", group_id)}
            for group_id, display in groups
        ]
    return found | {"meta": _meta("User", "Users", it)}


def group(it: Group, *, with_members: bool = True) -> dict[str, Any]:
    kept = it.attributes
    found: dict[str, Any] = {"schemas": [GROUP], "id": str(it.id), "displayName": kept.display_name}
    if kept.external_id is not None:
        found["externalId"] = kept.external_id
    if with_members:
        found["members"] = [
            {"value": str(user_id), "$ref": location("Users", user_id)} for user_id in sorted(kept.members)
        ]
    return found | {"meta": _meta("Group", "Groups", it)}


def listed(resources: list[dict[str, Any]], *, total: int, start: int) -> dict[str, Any]:
    return {
        "schemas": [LIST],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": len(resources),
        "Resources": resources,
    }


def names(text: str) -> frozenset[str]:
    """Of `attributes` or `excludedAttributes`: top-level ones, in lower case. Of a part the whole is meant, of an extension nothing."""
    found = (
        one.strip().lower().removeprefix(f"{USER.lower()}:").removeprefix(f"{GROUP.lower()}:")
        for one in text.split(",")
    )
    return frozenset(one.partition(".")[0] for one in found if one)


def trimmed(body: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """Only what was asked for (RFC 7644 §3.9); `id` and `schemas` are always there."""
    wanted, unwanted = names(query.get("attributes", "")), names(query.get("excludedAttributes", ""))
    if "Resources" in body:
        return body | {"Resources": [trimmed(one, query) for one in body["Resources"]]}
    return {
        name: value
        for name, value in body.items()
        if name in ("id", "schemas") or ((not wanted or name.lower() in wanted) and name.lower() not in unwanted)
    }


def error(status: int, detail: str, scim_type: str = "") -> dict[str, Any]:
    found = {"schemas": [ERROR], "status": str(status), "detail": detail}
    return found | ({"scimType": scim_type} if scim_type else {})


def location(kind: str, resource_id: UUID) -> str:
    return f"{PREFIX}/{kind}/{resource_id}"


def _meta(name: str, kind: str, it: User | Group) -> dict[str, str]:
    return {
        "resourceType": name,
        "created": moment(it.created_at),
        "lastModified": moment(it.changed_at),
        "location": location(kind, it.id),
    }
