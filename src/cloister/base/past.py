"""A point in a branch's past, as a client names it when it connects, and the name of a branch as it was there. Pure.

`neon_lsn:0/15E9A30` and `neon_timestamp:2026-03-01T10:00:00Z` in a client's `options` become `lsn:…` and `timestamp:…`; with a
host's first label before it, `br-calm-forest-ab12cd34@lsn:0/15E9A30`, that is what the gateways and the control plane call
such a place among themselves. No label and no id has an `@`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloister.base.errors import BadRequestError

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
# Far from what a datetime can hold: whoever calculates with it does not fall over the edge.

_SEPARATOR: Final = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One of the two."""

    lsn: str | None = None
    """As PostgreSQL writes it: upper case, without leading zeros."""
    at: datetime | None = None
    """In UTC."""

    def __str__(self) -> str:
        """One text for every spelling."""
        if self.at is not None:
            return "timestamp:" + self.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return f"lsn:{self.lsn}"


def parse(text: str) -> Past:
    """Raises BadRequestError."""
    kind, _, value = text.partition(":")
    if kind.lower() == "lsn" and (match := _LSN.fullmatch(value)):
        return Past(lsn=f"{int(match[1], 16):X}/{int(match[2], 16):X}")
    if kind.lower() == "timestamp" and _RFC_3339.fullmatch(value):
        try:
            at = datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            at = _LATEST  # a 31st of February
        if _EARLIEST <= at < _LATEST:
            return Past(at=at)
    form = "an LSN looks like 0/15E9A30" if kind.lower() == "lsn" else "a timestamp looks like 2026-03-01T10:00:00Z"
    raise BadRequestError(f"point {text[:80]!r}", public=f"invalid point in the past: {form}")


def joined(name: str, past: Past) -> str:
    return f"{name}{_SEPARATOR}{past}"


def split(place: str) -> tuple[str, Past | None]:
    """The name, and the point if it has one. Raises BadRequestError."""
    name, separator, point = place.partition(_SEPARATOR)
    return name, parse(point) if separator else None
