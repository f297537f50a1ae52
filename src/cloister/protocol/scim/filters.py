"""Filters (RFC 7644 §3.4.2.2), as far as identity providers send them: `attribute eq "value"`, and several of those with `and`.

A filter becomes attributes and values, and never words of a query: what is looked up is fixed, and a value only ever compared.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from cloister.protocol.scim.documents import INVALID_FILTER, ScimError

FILTER_CHARS_MAX: Final = 1024
TERMS_MAX: Final = 4

_TERM: Final = re.compile(r'([A-Za-z][A-Za-z0-9:._$-]*) +([A-Za-z]{2}) +("(?:[^"\\\x00-\x1f]|\\.)*")')
_AND: Final = re.compile(r" +[Aa][Nn][Dd] +")


def read_filter(text: str, known: Mapping[str, str], schema: str) -> dict[str, str]:
    """Attribute, as `known` calls it → the value that it must have. `known`: names in lower case. Raises ScimError."""
    if len(text) > FILTER_CHARS_MAX:
        raise ScimError(INVALID_FILTER, f"a filter has at most {FILTER_CHARS_MAX} characters")
    found: dict[str, str] = {}
    position = 0
    text = text.strip(" ")
    while True:
        term = _TERM.match(text, position)
        if term is None:
            raise ScimError(INVALID_FILTER, 'a filter here is attribute eq "value", or several of them with and')
        name, operator, literal = term.groups()
        attribute = known.get(name.lower().removeprefix(f"{schema.lower()}:"))
        if attribute is None or operator.lower() != "eq":
            raise ScimError(INVALID_FILTER, f"filters here are eq of {', '.join(sorted(set(known.values())))}")
        value = _value(literal)
        if found.setdefault(attribute, value) != value or len(found) > TERMS_MAX:
            raise ScimError(INVALID_FILTER, f"{attribute} cannot have two values")
        position = term.end()
        if position == len(text):
            return found
        joined = _AND.match(text, position)
        if joined is None:
            raise ScimError(INVALID_FILTER, "after a value a filter ends, or goes on with and")
        position = joined.end()


def _value(literal: str) -> str:
    """A JSON string. Raises ScimError."""
    try:
        value = json.loads(literal)
        value.encode()
    except ValueError:
        raise ScimError(INVALID_FILTER, "a value in a filter is a JSON string") from None
    assert isinstance(value, str)
    if "\0" in value:
        raise ScimError(INVALID_FILTER, "U+0000 is not allowed in text")
    return value
