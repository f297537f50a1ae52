"""A group: its name and who is in it; and what a PUT or a PATCH makes of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from cloister.protocol.scim.documents import (
    INVALID_VALUE,
    MUTABILITY,
    TOO_MANY,
    ScimError,
    optional_text_of,
    text_of,
)
from cloister.protocol.scim.paths import Operation, Path

SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
MEMBERS_MAX: Final = 10_000
# As many as an organization may have users.

_READ_ONLY: Final = frozenset({"id", "meta", "schemas"})
_UUID_CHARS: Final = 36


@dataclass(frozen=True, slots=True)
class GroupAttributes:
    display_name: str
    external_id: str | None = None
    members: frozenset[UUID] = frozenset()

    @classmethod
    def read(cls, document: dict[str, Any]) -> "GroupAttributes":
        """A POST's or a PUT's. Raises ScimError."""
        if "displayname" not in document:
            raise ScimError(INVALID_VALUE, "displayName is required")
        return _all(cls(text_of(document["displayname"], "displayName")), document, adds=False)

    def patched(self, operations: Iterable[Operation]) -> "GroupAttributes":
        """Raises ScimError, and then nothing of it is to be done."""
        it = self
        for operation in operations:
            if operation.op == "remove":
                assert operation.path is not None
                it = _removed(it, operation.path, operation.value)
            elif operation.path is None:
                it = _all(it, operation.value, adds=operation.op == "add")
            else:
                it = _set(it, operation.path, operation.value, adds=operation.op == "add")
        return it


def _all(it: GroupAttributes, document: dict[str, Any], *, adds: bool) -> GroupAttributes:
    for name, value in document.items():
        if name not in _READ_ONLY:
            it = _set(it, Path(name), value, adds=adds)
    return it


def _set(it: GroupAttributes, path: Path, value: Any, *, adds: bool) -> GroupAttributes:
    if path.name in _READ_ONLY:
        raise ScimError(MUTABILITY, f"{path.name} is not to be changed")
    if path.name not in ("displayname", "externalid", "members"):
        return it
    if path.sub is not None or path.where is not None:
        raise ScimError(INVALID_VALUE, f"{path.name} is given as a whole")
    if path.name == "displayname":
        return replace(it, display_name=text_of(value, "displayName"))
    if path.name == "externalid":
        return replace(it, external_id=optional_text_of(value, "externalId"))
    members = _members(value)
    made = it.members | members if adds else members
    if len(made) > MEMBERS_MAX:
        raise ScimError(TOO_MANY, f"a group has at most {MEMBERS_MAX} members")
    return replace(it, members=made)


def _removed(it: GroupAttributes, path: Path, value: Any) -> GroupAttributes:
    if path.name != "members":
        if path.name == "externalid":
            return replace(it, external_id=None)
        if path.name in ("displayname", *_READ_ONLY):
            raise ScimError(MUTABILITY, f"{path.name} cannot be removed")
        return it
    if path.where is not None:
        name, text = path.where
        if name != "value" or path.sub is not None:
            raise ScimError(INVALID_VALUE, "members are removed by their value")
        return replace(it, members=it.members - {_member(text)})
    return replace(it, members=frozenset() if value is None else it.members - _members(value))


def _members(value: Any) -> frozenset[UUID]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        value = [value]
    if len(value) > MEMBERS_MAX:
        raise ScimError(TOO_MANY, f"a group has at most {MEMBERS_MAX} members")
    return frozenset(_member(one.get("value") if isinstance(one, dict) else one) for one in value)


def _member(text: object) -> UUID:
    if not isinstance(text, str) or len(text) != _UUID_CHARS:
        raise ScimError(INVALID_VALUE, "a member's value is a user's id here")
    try:
        return UUID(text)
    except ValueError:
        raise ScimError(INVALID_VALUE, "a member's value is a user's id here") from None
