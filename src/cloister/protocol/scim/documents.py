"""A JSON object as SCIM means it: names of attributes are the same in every case (RFC 7643 §2.1).

So they are made lower here, once, and so is a name that is said with its schema (RFC 7644 §3.10) made the short one. An object that
says one attribute twice, in whatever spelling, is refused: two readers could take two different values of it.
"""

import json
from typing import Any, Final

INVALID_FILTER: Final = "invalidFilter"
INVALID_PATH: Final = "invalidPath"
INVALID_SYNTAX: Final = "invalidSyntax"
INVALID_VALUE: Final = "invalidValue"
MUTABILITY: Final = "mutability"
NO_TARGET: Final = "noTarget"
TOO_MANY: Final = "tooMany"
UNIQUENESS: Final = "uniqueness"
"""RFC 7644 §3.12, table 9."""

DEPTH_MAX: Final = 8
# A user with an extension has four.

TEXT_CHARS_MAX: Final = 256
# Of one value. An e-mail address has at most 254.

_CORE: Final = tuple(f"urn:ietf:params:scim:schemas:core:2.0:{kind}:" for kind in ("user", "group"))


class ScimError(Exception):
    """What was sent is not SCIM, or not what there is here. The text is for whoever sent it."""

    def __init__(self, scim_type: str, text: str) -> None:
        super().__init__(text)
        self.scim_type = scim_type


def read_document(raw: bytes) -> dict[str, Any]:
    """Raises ScimError."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
    except ScimError:
        raise
    except RecursionError:
        raise ScimError(INVALID_SYNTAX, "nested too deeply") from None
    except ValueError:
        raise ScimError(INVALID_SYNTAX, "the body is not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise ScimError(INVALID_SYNTAX, "the body is not an object")
    _look(found, DEPTH_MAX)
    return found


def text_of(value: object, name: str) -> str:
    """A value that is a short printable text. Raises ScimError."""
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_CHARS_MAX or not value.isprintable():
        raise ScimError(INVALID_VALUE, f"{name} is a text of 1 to {TEXT_CHARS_MAX} printable characters")
    return value


def optional_text_of(value: object, name: str) -> str | None:
    """As `text_of`; null and the empty text are no value (RFC 7643 §2.5)."""
    return None if value is None or value == "" else text_of(value, name)


def truth_of(value: object, name: str) -> bool:
    """Entra ID sends "True" and "False" as texts."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ScimError(INVALID_VALUE, f"{name} is true or false")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        # Of letters that are not ASCII no attribute has any, and "K" (U+212A) made lower would be a "k".
        key = name.lower() if name.isascii() else name
        for schema in _CORE:
            key = key.removeprefix(schema)
        if key in found:
            raise ScimError(INVALID_SYNTAX, f"the attribute {name[:60]!r} is there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ScimError(INVALID_SYNTAX, f"{name} is not JSON")


def _look(value: object, depth: int) -> None:
    if depth == 0:
        raise ScimError(INVALID_SYNTAX, "nested too deeply")
    if isinstance(value, dict):
        for inner in value.values():
            _look(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _look(inner, depth - 1)
