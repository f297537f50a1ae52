"""The operations of a PATCH (RFC 7644 §3.5.2), and the paths in them: `active`, `name.givenName`, `emails[type eq "work"].value`."""

import re
from dataclasses import dataclass
from typing import Any, Final

from cloister.protocol.scim.documents import INVALID_PATH, INVALID_SYNTAX, NO_TARGET, TOO_MANY, ScimError
from cloister.protocol.scim.filters import FILTER_CHARS_MAX, read_filter

OPERATIONS_MAX: Final = 100
# A change of everything that is kept of a user has ten; of a group's members one holds as many as fit a request.

PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"

_PATH: Final = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9_$-]*)(?:\[(?P<filter>[^\[\]]*)\])?(?:\.(?P<sub>[A-Za-z][A-Za-z0-9_$-]*))?"
)
_EXTENSION: Final = re.compile(r"urn:[A-Za-z0-9:._-]{1,200}")


@dataclass(frozen=True, slots=True)
class Path:
    name: str
    """In lower case, like `sub`. Of an attribute of an extension: empty."""
    where: tuple[str, str] | None = None
    """Of its values, those of which this attribute has this value."""
    sub: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    op: str
    """`add`, `replace` or `remove`."""
    path: Path | None
    value: Any


def read_operations(document: dict[str, Any], schema: str) -> list[Operation]:
    """Raises ScimError."""
    schemas = document.get("schemas")
    if not isinstance(schemas, list) or PATCH not in schemas:
        raise ScimError(INVALID_SYNTAX, f"a PATCH says schemas: [{PATCH}]")
    found = document.get("operations")
    if not isinstance(found, list) or not found:
        raise ScimError(INVALID_SYNTAX, "a PATCH has Operations")
    if len(found) > OPERATIONS_MAX:
        raise ScimError(TOO_MANY, f"a PATCH has at most {OPERATIONS_MAX} operations")
    return [_operation(it, schema) for it in found]


def read_path(text: object, schema: str) -> Path:
    """Raises ScimError."""
    if not isinstance(text, str) or not 1 <= len(text) <= FILTER_CHARS_MAX:
        raise ScimError(INVALID_PATH, "a path is a text")
    if text.lower().startswith("urn:"):
        if not text.lower().startswith(f"{schema.lower()}:"):
            if _EXTENSION.fullmatch(text) is None:
                raise ScimError(INVALID_PATH, "this is no path")
            return Path("")
        text = text[len(schema) + 1 :]
    match = _PATH.fullmatch(text)
    if match is None:
        raise ScimError(INVALID_PATH, 'a path is attribute, attribute.sub or attribute[sub eq "value"].sub')
    sub = match["sub"]
    return Path(
        match["name"].lower(),
        None if match["filter"] is None else _where(match["filter"]),
        None if sub is None else sub.lower(),
    )


def _where(text: str) -> tuple[str, str]:
    names = {name: name for name in ("value", "type", "display")}
    if text.replace(" ", "").lower() in ("primaryeqtrue", 'primaryeq"true"'):
        return "primary", "true"
    found = read_filter(text, names, "")
    if len(found) != 1:
        raise ScimError(INVALID_PATH, "a path selects by one attribute")
    (pair,) = found.items()
    return pair


def _operation(it: object, schema: str) -> Operation:
    if not isinstance(it, dict):
        raise ScimError(INVALID_SYNTAX, "an operation is an object")
    op = it.get("op")
    if not isinstance(op, str) or op.lower() not in ("add", "replace", "remove"):
        raise ScimError(INVALID_SYNTAX, "op is add, replace or remove")
    path = None if it.get("path") in (None, "") else read_path(it["path"], schema)
    value = it.get("value")
    if path is None and op.lower() == "remove":
        raise ScimError(NO_TARGET, "remove needs a path")
    if path is None and not isinstance(value, dict):
        raise ScimError(INVALID_SYNTAX, "without a path, value is an object")
    if op.lower() != "remove" and "value" not in it:
        raise ScimError(INVALID_SYNTAX, f"{op.lower()} needs a value")
    return Operation(op.lower(), path, value)
