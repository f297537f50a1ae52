"""Parameters of a path, and ids in a body or query: from text to the types of `base/ids.py`.

A text that Neon would not take for an id is a bad request (400). One that it would, and that is no id of ours, cannot
exist here: 404, so that a client which remembers a project of elsewhere treats it as gone.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID

from cloister.base import ids
from cloister.base.errors import BadRequestError, InvalidIdError, NotFoundError

T = TypeVar("T")

_NEON_ID: Final = re.compile(r"[a-z0-9-]{1,60}")

_FINDING_ID: Final = re.compile(r"fd-[0-9a-f]{12}")

_ITEM_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")

_KEY_ID_DIGITS_MAX: Final = 18
# What fits bigint.


def parse(parameters: dict[str, str]) -> dict[str, Any]:
    """Every parameter of a path, parsed. Raises BadRequestError or NotFoundError."""
    return {name: _PARSERS[name](text) for name, text in parameters.items()}


def branch_id(text: str) -> ids.BranchId:
    return _id("branch", ids.parse_branch_id, text)


def optional_branch_id(text: str | None) -> ids.BranchId | None:
    return None if text is None else branch_id(text)


def endpoint_id(text: str) -> ids.EndpointId:
    return _id("endpoint", ids.parse_endpoint_id, text)


def org_id(text: str) -> ids.OrgId:
    return _id("organization", ids.parse_org_id, text)


def project_id(text: str) -> ids.ProjectId:
    return _id("project", ids.parse_project_id, text)


def snapshot_id(text: str) -> ids.SnapshotId:
    return _id("snapshot", ids.parse_snapshot_id, text)


def operation_id(text: str) -> ids.OperationId:
    return _id("operation", ids.parse_operation_id, text)


def region_id(text: str) -> str:
    if not _NEON_ID.fullmatch(text):
        raise BadRequestError(f"region id {text[:80]!r}", public="invalid region id")
    return text


def role_name(text: str) -> str:
    return ids.parse_identifier("role name", text)


def database_name(text: str) -> str:
    return ids.parse_identifier("database name", text)


def _uuid(noun: str) -> Callable[[str], UUID]:
    def parse_it(text: str) -> UUID:
        if not _NEON_ID.fullmatch(text):
            raise BadRequestError(f"{noun} id {text[:80]!r}", public=f"invalid {noun} id")
        if not ids.is_uuid(text):
            raise NotFoundError(public=f"{noun} not found")
        return UUID(text)

    return parse_it


def _finding_id(text: str) -> str:
    if not _NEON_ID.fullmatch(text):
        raise BadRequestError(f"finding id {text[:80]!r}", public="invalid finding id")
    if not _FINDING_ID.fullmatch(text):
        raise NotFoundError(public="finding not found")
    return text


def _key_id(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise InvalidIdError("API key id", text)
    if len(text) > _KEY_ID_DIGITS_MAX:
        raise NotFoundError(public="API key not found")
    return int(text)


def _item_number(text: str) -> int:
    if not _ITEM_NUMBER.fullmatch(text):
        raise BadRequestError(f"item {text[:80]!r}", public="invalid item number")
    return int(text)


def _id(noun: str, parser: Callable[[str], T], text: str) -> T:
    if not _NEON_ID.fullmatch(text):
        raise BadRequestError(f"{noun} id {text[:80]!r}", public=f"invalid {noun} id")
    try:
        return parser(text)
    except InvalidIdError:
        raise NotFoundError(public=f"{noun} not found") from None


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "access_id": _uuid("access request"),
    "branch_id": branch_id,
    "consent_id": _uuid("consent"),
    "database_name": database_name,
    "endpoint_id": endpoint_id,
    "erasure_id": _uuid("erasure"),
    "item_number": _item_number,
    "jwks_id": _uuid("JWKS"),
    "finding_id": _finding_id,
    "forgetting_id": _uuid("forgetting"),
    "group_id": _uuid("group"),
    "hold_id": _uuid("hold"),
    "issuer_id": _uuid("issuer"),
    "key_id": _key_id,
    "member_id": _uuid("member"),
    "operation_id": operation_id,
    "org_id": org_id,
    "passkey_id": _uuid("passkey"),
    "permission_id": _uuid("permission"),
    "project_id": project_id,
    "recording_id": _uuid("recording"),
    "region_id": region_id,
    "request_id": _uuid("transfer request"),
    "retention_id": _uuid("retention"),
    "review_id": _uuid("access review"),
    "service_account_id": _uuid("service account"),
    "role_name": role_name,
    "rule_id": _uuid("egress rule"),
    "shift_id": _uuid("shift"),
    "snapshot_id": snapshot_id,
}

PARAMETERS: Final = frozenset(_PARSERS)
"""Names a route's path may use."""
