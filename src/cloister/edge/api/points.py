"""Places and moments in a request: from text to what the control plane understands.

Timestamps are RFC 3339 with an offset, LSNs in PostgreSQL's notation. The types below refuse most of what is neither while
a request is decoded; what only looks right (a 31st of February, the last second of the year 9999 east of Greenwich) is a
bad request here, so that nothing behind this door meets a moment it cannot calculate with.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from cloister.base.errors import BadRequestError
from cloister.control.branches.model import HEAD, Point

_RFC_3339: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)

Timestamp: TypeAlias = Annotated[
    str, msgspec.Meta(max_length=40, pattern=_RFC_3339, extra_json_schema={"format": "date-time"})
]

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")

Lsn: TypeAlias = Annotated[str, msgspec.Meta(max_length=17, pattern=f"^{_LSN.pattern}$")]
"""`0/15E9A30`: two halves of a position in the WAL, in hexadecimal."""

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
# Far beyond every history, and far enough from what a datetime can hold that a week more or less is one too.


def moment(what: str, text: str) -> datetime:
    """In UTC. Raises BadRequestError."""
    try:
        value = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequestError(f"{what} {text[:40]!r}", public=f"invalid {what}: not a timestamp") from None
    if not _EARLIEST <= value < _LATEST:
        raise BadRequestError(f"{what} {text[:40]!r}", public=f"invalid {what}: out of range")
    return value


def optional_moment(what: str, text: str | None) -> datetime | None:
    return None if text is None else moment(what, text)


def lsn(what: str, text: str) -> str:
    """As PostgreSQL writes it: upper case, without leading zeros. Raises BadRequestError."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise BadRequestError(f"{what} {text[:40]!r}", public=f"invalid {what}")
    return f"{int(match[1], 16):X}/{int(match[2], 16):X}"


def point(lsn_text: str | None, timestamp: str | None, *, prefix: str = "") -> Point:
    """The place that two fields of a request name; neither is the head. `prefix` is that of the fields, for the message."""
    if lsn_text is not None and timestamp is not None:
        raise BadRequestError(public=f"{prefix}lsn and {prefix}timestamp cannot be specified at the same time")
    if lsn_text is not None:
        return Point(lsn=lsn(f"{prefix}lsn", lsn_text))
    if timestamp is not None:
        return Point(at=moment(f"{prefix}timestamp", timestamp))
    return HEAD
