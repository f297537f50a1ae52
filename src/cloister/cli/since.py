"""An option that says since when."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Since(click.ParamType[str]):
    """`30m`, `24h`, `7d`, or a time like 2026-01-31T12:00:00Z; becomes RFC 3339."""

    name = "AGE|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            if text[-1:] in _UNITS and text[:-1].isdigit():
                moment = datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
            else:
                moment = datetime.fromisoformat(text)
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither an age like 24h nor a time like 2026-01-31T12:00:00Z", param, ctx)
