"""How much of what a project's clients do is recorded, beside that they came and went."""

from enum import StrEnum
from typing import Final


class AuditLevel(StrEnum):
    OFF = "off"
    """Connections only."""
    BASE = "base"
    """Statements that change what there is and who may do what (DDL, roles, grants, settings), and whatever failed or has
    no known end."""
    EXTENDED = "extended"
    """And those that change rows, COPY both ways, and function calls."""
    FULL = "full"
    """And everything else: every read."""

    def is_lower_than(self, other: "AuditLevel") -> bool:
        return _ORDER.index(self) < _ORDER.index(other)


_ORDER: Final = tuple(AuditLevel)
