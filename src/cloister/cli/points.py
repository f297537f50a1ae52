"""Points in a branch's history on the command line: `main@2026-03-04T05:06:07Z`, `^self@0/15E9A30`, `^parent`.

As in the Neon CLI. A branch may have an @ in its name: only what follows the last one, and looks like a point, is one.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from cloister.cli.api import Json
from cloister.cli.failure import CommandError

_LSN: Final = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.]\d+)?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,6}) ?(s|m|min|h|d|w)", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Place:
    """A branch, and a point in its history; neither `lsn` nor `at` is its head."""

    branch: str
    """Id, name, `^self` or `^parent`."""
    lsn: str | None = None
    at: str | None = None
    """RFC 3339, in UTC."""

    def fields(self, prefix: str) -> Json:
        """The API's fields for the point."""
        return {
            **({f"{prefix}lsn": self.lsn} if self.lsn else {}),
            **({f"{prefix}timestamp": self.at} if self.at else {}),
        }

    def words(self) -> str:
        if self.lsn:
            return f"at {self.lsn}"
        return f"at {self.at}" if self.at else "as it is now"


def parse_place(text: str) -> Place:
    """`BRANCH` or `BRANCH@POINT`."""
    branch, at, point = text.rpartition("@")
    if at and branch and (place := _with_point(branch, point)) is not None:
        return place
    if at and point[:1].isdigit():
        raise CommandError(
            f"{point!r} is neither a timestamp like 2026-03-04T05:06:07Z nor an LSN like 0/15E9A30, "
            "and a branch's name does not end in such a thing"
        )
    return Place(text)


def parse_parent(text: str) -> Place:
    """What `branches create --parent` takes: a branch, a point of the default branch, or a branch at a point."""
    return _with_point("", text) or parse_place(text)


def _with_point(branch: str, point: str) -> Place | None:
    if _LSN.fullmatch(point):
        return Place(branch, lsn=point)
    if _TIMESTAMP.fullmatch(point):
        return Place(branch, at=_utc(point))
    return None


def _utc(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)  # without an offset: this machine's time
    except (ValueError, OverflowError):
        raise CommandError(f"{text!r} is not a moment that exists") from None
    return moment.isoformat().replace("+00:00", "Z")


def _seconds(text: str) -> int | None:
    match = _DURATION.fullmatch(text)
    return None if match is None else int(timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds())


class Duration(click.ParamType[int]):
    """`36h`, `14d`, `8w`: in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if (seconds := _seconds(str(value))) is None:
            self.fail(f"{value!r} is not a time like 36h, 14d or 8w", param, ctx)
        return seconds


class Moment(click.ParamType[str]):
    """A moment to come: a timestamp, or how long from now (`12h`, `7d`). As the API takes it, in whole seconds."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if (seconds := _seconds(text)) is not None:
            moment = datetime.now(UTC) + timedelta(seconds=seconds)
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        if not _TIMESTAMP.fullmatch(text):
            self.fail(
                f"{text!r} is neither a timestamp like 2026-03-04T05:06:07Z nor a time from now like 7d", param, ctx
            )
        return _utc(text)


class PointInTime(click.ParamType[Place]):
    """A timestamp or an LSN, as a place in a branch that is named elsewhere."""

    name = "POINT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        if isinstance(value, Place):
            return value
        place = _with_point("", str(value))
        if place is None:
            self.fail(
                f"{value!r} is neither a timestamp like 2026-03-04T05:06:07Z nor an LSN like 0/15E9A30", param, ctx
            )
        return place
