"""What may be asked of a branch. Pure; the words are Neon's where they are known. Protection is `protection.py`."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.control.branches.model import SCHEMA_ONLY, Branch, Point, Window
from cloister.control.branches.protection import refuse_expiry

BRANCHES_MAX: Final = 5000
# Neon's limit per project. A branch costs a row and some megabytes of the project's own volume.

RECOVERABLE_FOR: Final = timedelta(days=7)
EXPIRY_MAX: Final = timedelta(days=30)
# Neon's both.

CLOCKS_DIFFER: Final = timedelta(seconds=5)
# A client that asks for "now" by its own clock is not told that this is the future.

_LSN: Final = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")

DEFAULT_EXPIRE_CODE: Final = "DEFAULT_BRANCH_EXPIRATION_NOT_ALLOWED"


def refuse_delete(branch: Branch, children: Sequence[str]) -> None:
    """Raises UnprocessableError."""
    if branch.is_default:
        raise UnprocessableError(f"{branch.id} is the default", public="cannot delete default branch")
    if branch.parent_id is None and branch.init_source != SCHEMA_ONLY:  # those can be made again at any time
        raise UnprocessableError(f"{branch.id} is a root", public="cannot delete root branch")
    if children:
        raise UnprocessableError(
            f"{branch.id} has children", public=f"cannot delete branch that has children ({', '.join(children[:5])})"
        )


def refuse_restore(branch: Branch, source_id: str, children: Sequence[str], preserve_under_name: str | None) -> None:
    """Raises UnprocessableError."""
    if preserve_under_name is not None:
        return
    if source_id == branch.id:
        raise UnprocessableError(
            f"{branch.id} from itself",
            public="preserve_under_name is required to restore a branch to its own history",
        )
    if children:
        raise UnprocessableError(
            f"{branch.id} has children",
            public=f"preserve_under_name is required: the branch has children ({', '.join(children[:5])})",
        )


def checked_expiry(
    expires_at: datetime, now: datetime, *, is_default: bool, is_protected: bool, children: Sequence[str] = ()
) -> int:
    """The time to live in seconds. Raises BadRequestError, UnprocessableError."""
    refuse_expiry(is_protected=is_protected)
    if is_default:
        error = BadRequestError(public="Default branch cannot have an expiration date")
        error.code = DEFAULT_EXPIRE_CODE
        raise error
    if children:
        raise UnprocessableError("has children", public="a branch that has children cannot have an expiration date")
    if expires_at.tzinfo is None or not now < expires_at <= now + EXPIRY_MAX:
        raise BadRequestError(
            f"expires_at {expires_at}",
            public=f"expires_at must lie in the future, at most {EXPIRY_MAX.days} days from now",
        )
    return max(1, round((expires_at - now).total_seconds()))


def checked_point(point: Point, window: Window | None) -> Point:
    """`window` None: of a timeline whose own history is not looked at. Raises BadRequestError (it is none),
    UnprocessableError (it lies outside, with the window in the message). Whether an LSN lies in it only the agent knows."""
    if point.lsn is not None and point.at is not None:
        raise BadRequestError("lsn and timestamp", public="a point is an LSN or a timestamp, not both")
    if point.lsn is not None:
        if not _LSN.fullmatch(point.lsn):
            raise BadRequestError(f"lsn {point.lsn[:40]!r}", public="an LSN looks like 0/15E9A30")
        return Point(lsn=point.lsn.upper())
    if point.at is None or window is None:
        return point
    if point.at.tzinfo is None:
        raise BadRequestError("naive time", public="a timestamp must have a time zone")
    if not window.since <= point.at <= window.until + CLOCKS_DIFFER:
        raise UnprocessableError(
            f"{point.at} outside {window}",
            public=f"the timestamp must lie between {_text(window.since)} and {_text(window.until)}: "
            "that is how far back the branch's history goes",
        )
    return Point(at=min(point.at, window.until))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
