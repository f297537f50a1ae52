"""What an argument of a function may be. A kind reads what was given, and says what it wants where that is something else."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol

ARRAY_MEMBERS_MAX: Final = 100
# A choice that somebody writes by hand. They stand in the expression, which each row evaluates.

RATIO_MIN: Final = 0.01
# Less than a hundredth hides nothing.

_DAYS_MAX: Final = 36_525
# A hundred years: more moves a date of today out of what calendars are made for.

_DAYS: Final = {
    "second": 1 / 86_400,
    "minute": 1 / 1_440,
    "hour": 1 / 24,
    "day": 1.0,
    "week": 7.0,
    "month": 30.0,
    "year": 365.25,
}
"""As PostgreSQL multiplies intervals: a month is thirty days."""

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PART: Final = re.compile(r"([0-9]{1,5}) +(second|minute|hour|day|week|month|year)s?")
_PARTS: Final = re.compile(rf"{_PART.pattern}(?: +{_PART.pattern}){{0,6}}")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Given:
    """An argument as it stands in a rule."""

    kind: str
    """column, text, number, word (TRUE, FALSE or NULL), or array"""
    text: str = ""
    members: tuple["Given", ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """An array's, all of one type; None is NULL."""

    type: str
    values: tuple[str | None, ...]


Argument = int | float | str | date | Members


class Kind(Protocol):
    @property
    def wanted(self) -> str:
        """What stands here, as a noun."""

    @property
    def type(self) -> str:
        """As a signature names it."""

    def read(self, given: Given) -> Argument | None:
        """None: this is something else."""


@dataclass(frozen=True, slots=True)
class Column:
    type: str = "column"
    wanted: str = "the rule's own column"

    def read(self, given: Given) -> Argument | None:
        return given.text if given.kind == "column" else None


@dataclass(frozen=True, slots=True)
class Whole:
    least: int
    most: int
    type: str = "integer"

    @property
    def wanted(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, given: Given) -> Argument | None:
        if given.kind != "number" or _WHOLE.fullmatch(given.text) is None:
            return None
        return value if self.least <= (value := int(given.text)) <= self.most else None


@dataclass(frozen=True, slots=True)
class Ratio:
    type: str = "number"
    wanted: str = f"a number from {RATIO_MIN} to 1"

    def read(self, given: Given) -> Argument | None:
        if given.kind != "number":
            return None
        return value if RATIO_MIN <= (value := float(given.text)) <= 1 else None


@dataclass(frozen=True, slots=True)
class Text:
    most: int
    type: str = "text"

    @property
    def wanted(self) -> str:
        return f"a 'quoted text' of at most {self.most} characters"

    def read(self, given: Given) -> Argument | None:
        return given.text if given.kind == "text" and len(given.text) <= self.most else None


@dataclass(frozen=True, slots=True)
class Date:
    type: str = "date"
    wanted: str = "a date, as 'YYYY-MM-DD'"

    def read(self, given: Given) -> Argument | None:
        if given.kind != "text" or _DATE.fullmatch(given.text) is None:
            return None
        try:
            return date.fromisoformat(given.text)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Interval:
    """Kept as it is written: words and digits, which every `IntervalStyle` reads alike."""

    type: str = "interval"
    wanted: str = "an interval such as '2 days' or '1 year 6 months', of a second to a hundred years"

    def read(self, given: Given) -> Argument | None:
        if given.kind != "text" or _PARTS.fullmatch(given.text) is None:
            return None
        parts = {unit: int(count) for count, unit in _PART.findall(given.text)}
        days = sum(count * _DAYS[unit] for unit, count in parts.items())
        # PostgreSQL refuses a unit that comes twice.
        is_once = len(parts) == len(_PART.findall(given.text))
        return given.text if is_once and 0 < days <= _DAYS_MAX else None


@dataclass(frozen=True, slots=True)
class Array:
    type: str = "array"
    wanted: str = f"ARRAY[…] of 1 to {ARRAY_MEMBERS_MAX} texts, or numbers, or TRUE and FALSE; some may be NULL"

    def read(self, given: Given) -> Argument | None:
        if given.kind != "array" or not 1 <= len(given.members) <= ARRAY_MEMBERS_MAX:
            return None
        null = Given("word", "NULL")
        values = tuple(None if each == null else each.text for each in given.members)
        some = [each for each in given.members if each != null]
        match list({each.kind for each in some}):
            case ["text"]:
                return Members("text", values)
            case ["word"]:
                return Members("bool", values)
            case ["number"]:
                is_whole = all(Whole(-(2**63), 2**63 - 1).read(each) is not None for each in some)
                return Members("int8" if is_whole else "numeric", values)
            case _:
                return None
