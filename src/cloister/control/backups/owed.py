"""How far a planned stop is with what no backup has yet, for whoever stops the platform (`app/last_sending.py`)."""

from typing import Final

import msgspec

LEFT_MAX: Final = 50
# Are named. Of more than that, nobody reads the list.

PROBLEM_CHARS_MAX: Final = 300
# Of what a store said.


class Left(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    project_id: str
    problem: str = ""
    """Empty: it is not its turn yet, or it is under way."""


class Owed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    total: int
    """Branches of which something is not in the store, or may not be."""
    sent: int
    left: list[Left]
    """Of those that are not sent, LEFT_MAX."""
    is_over: bool = False
    """Nothing more is tried."""
