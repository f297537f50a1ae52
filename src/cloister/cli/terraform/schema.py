"""What a kind of thing has, as Terraform is told: attributes, their types, who sets them, and what a change of one takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from cloister.cli.config.nouns import Form


class Type(Enum):
    TEXT = "string"
    NUMBER = "number"
    FLAG = "bool"
    SET = "set of strings"
    TABLE = "map of strings"

    @property
    def said(self) -> bytes:
        return json.dumps(_SAID.get(self, self.value)).encode()


_SAID: Final[Mapping[Type, Any]] = {Type.SET: ["set", "string"], Type.TABLE: ["map", "string"]}


class Use(Enum):
    NEEDED = "required"
    FREE = "optional"
    """Not set is nothing."""
    KEPT = "optional, computed"
    """Not set is whatever the platform has."""
    TOLD = "computed"
    """Never set."""


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str
    type: Type = Type.TEXT
    use: Use = Use.NEEDED
    text: str = ""
    form: Form | None = None
    """What it may be, and the one way in which to compare it."""
    replaces: bool = False
    """Another value is another thing."""
    is_sensitive: bool = False
    follows: str = ""
    """Another attribute; when that one changes, so does this."""

    @property
    def may_be_set(self) -> bool:
        return self.use is not Use.TOLD

    @property
    def is_computed(self) -> bool:
        return self.use in (Use.KEPT, Use.TOLD)

    def message(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type.said,
            "description": self.text,
            "required": self.use is Use.NEEDED,
            "optional": self.use in (Use.FREE, Use.KEPT),
            "computed": self.is_computed,
            "sensitive": self.is_sensitive,
        }


@dataclass(frozen=True, slots=True)
class Schema:
    text: str
    attributes: tuple[Attribute, ...]

    @property
    def types(self) -> dict[str, Type]:
        return {each.name: each.type for each in self.attributes}

    def message(self) -> dict[str, Any]:
        attributes = [each.message() for each in self.attributes]
        return {"version": 0, "block": {"attributes": attributes, "description": self.text}}
