"""What a command prints: aligned tables for people, the API's own objects for programs.

Names come from tenants. On a terminal every control character, and every character that reorders text, is shown as an
escape: a role's name must not be able to move the cursor or retitle the window.
"""

import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from cloister.cli.api import Json

COLUMN_CHARS_MIN: Final = 8
# A column cut shorter than this says nothing any more.
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title and where its value stands (`a.b` reaches into objects)."""

    title: str
    path: str
    as_text: Callable[[Any], str] | None = None
    may_cut: bool = False
    """Names may be cut to fit the terminal; ids, which one copies, may not."""

    def text(self, thing: Json) -> str:
        value: Any = thing
        for step in self.path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is None or value == "":
            return "-"
        return printable(self.as_text(value) if self.as_text else _plain(value))


def show_list(rows: Sequence[Json], columns: Sequence[Column], *, output: str, empty: str) -> None:
    """Print a list. `empty` is what a person reads instead of a table without rows."""
    if output == "json":
        show_json(list(rows))
    elif rows:
        cells = [[column.text(row) for column in columns] for row in rows]
        for line in table([column.title for column in columns], cells, [c.may_cut for c in columns], terminal_width()):
            click.echo(line)
    else:
        click.echo(empty, err=True)


def show_one(thing: Json, columns: Sequence[Column], *, output: str) -> None:
    """Print one object, a line per column."""
    if output == "json":
        show_json(thing)
        return
    width = max(len(column.title) for column in columns)
    for column in columns:
        click.echo(f"{column.title.ljust(width)}{_GAP}{column.text(thing)}")


def show_json(value: Any) -> None:
    # ASCII only: what a tenant put into a name stays an escape in a terminal, and any JSON reader gives it back.
    click.echo(json.dumps(value, indent=2))


def note(text: str) -> None:
    """A remark for the person, beside the output."""
    for line in text.split("\n"):
        click.echo(printable(line), err=True)


def terminal_width() -> int | None:
    """Columns of the terminal; None where output goes to a file or a pipe and nothing needs to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], may_cut: Sequence[bool], width: int | None
) -> list[str]:
    """The lines of a table, at most `width` wide if cutting the columns that may be cut can achieve it."""
    widths = [max(columns(text) for text in column) for column in zip(titles, *rows, strict=True)]
    if width is not None:
        while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
            widest = max((w, i) for i, w in enumerate(widths) if may_cut[i]) if any(may_cut) else (0, 0)
            if widest[0] <= COLUMN_CHARS_MIN:
                break
            widths[widest[1]] -= 1
    return [
        _GAP.join(_fit(text, room) for text, room in zip(row, widths, strict=True)).rstrip() for row in (titles, *rows)
    ]


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(text: str, room: int) -> str:
    if columns(text) > room:
        kept = ""
        for character in text:
            if columns(kept) + _columns(character) > room - 1:
                break
            kept += character
        text = f"{kept}…"
    return text + " " * (room - columns(text))


def printable(text: str) -> str:
    """The text with everything a terminal would act on, or that hides, as an escape."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
        else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _plain(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(_plain(item) for item in value) or "-"
        case dict():
            return json.dumps(value)
        case _:
            return str(value)


def _moment(value: Any) -> datetime | None:
    """A time of the API, in UTC where it names no zone; None: it is none."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def ago(value: Any, now: datetime | None = None) -> str:
    """A time of the API as a person says it: `just now`, `5 min ago`, `3 h ago`, `2 days ago`, then the date."""
    if (moment := _moment(value)) is None:
        return str(value)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < -60:
        return moment.astimezone().strftime("%Y-%m-%d %H:%M")
    for limit_s, unit_s, unit in ((60, 0, ""), (3600, 60, "min"), (48 * 3600, 3600, "h"), (30 * 86400, 86400, "days")):
        if seconds < limit_s:
            return f"{int(seconds // unit_s)} {unit} ago" if unit_s else "just now"
    return moment.astimezone().strftime("%Y-%m-%d")


def ahead(value: Any, now: datetime | None = None) -> str:
    """A time to come as a person says it: `in 5 min`, `in 3 h`, `in 2 days`; `now` where it has come."""
    if (moment := _moment(value)) is None:
        return str(value)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    if seconds <= 0:
        return "now"
    for limit_s, unit_s, unit in ((3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit_s:
            return f"in {max(1, round(seconds / unit_s))} {unit}"
    return f"in {round(seconds / 86400)} days"


def size(value: Any) -> str:
    """Bytes as a person says them."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(value: Any) -> str:
    """Seconds as a person says them: the largest unit that fits without a rest."""
    amount = int(value)
    for unit_s, unit in ((7 * 86400, "weeks"), (86400, "days"), (3600, "h"), (60, "min")):
        if amount >= 2 * unit_s and amount % unit_s == 0:
            return f"{amount // unit_s} {unit}"
    return f"{amount} s"


def seconds(value: Any) -> str:
    """`suspend_timeout_seconds` in words."""
    match value:
        case 0:
            return "default"
        case -1:
            return "never"
        case _:
            return f"{value} s"
