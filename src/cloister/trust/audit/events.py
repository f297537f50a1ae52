"""One event: who did what to which thing, when, from where, and how it ended.

Values come partly from strangers (application names, role names, addresses). They are encoded as JSON in printable
ASCII, so one event is one line, cannot forge another and cannot steer a terminal; long values are cut.
docs/audit-log-format.md describes the result for those who read the log without us.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

VALUE_CHARS_MAX: Final = 512
# A role or database name has at most 63 bytes; beyond this a value is an attempt to fill the log.

ITEMS_MAX: Final = 64
# No event of ours has more than a dozen details.

CUT: Final = "…"
# Ends every value that was cut.


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event before it is appended. `actor` is `user:<uuid>`, `key:<id>`, `role:<name>`, or `platform:<process>`."""

    action: str
    actor: str
    at: str = ""
    """RFC 3339 UTC with microseconds; filled in at recording where empty."""
    outcome: str = "ok"
    """`ok`, `denied`, `failed`."""
    org_id: str = ""
    project_id: str = ""
    branch_id: str = ""
    endpoint_id: str = ""
    operation_id: str = ""
    resource: str = ""
    """What it was done to, where that is none of the ids: a role's name, a key's version."""
    address: str = ""
    request_id: str = ""
    reason: str = ""
    details: dict[str, Any] = {}
    """Flat; never a secret."""


def body(event: Event) -> str:
    """The canonical text of an event: JSON, printable ASCII, keys in the order of `Event`, empty fields left out.

    What is hashed and kept is this text, so it need not be reproducible, only readable.
    """
    if not event.at:
        event = msgspec.structs.replace(event, at=timestamp(datetime.now(UTC)))
    fields = {name: _tame(value) for name in event.__struct_fields__ if (value := getattr(event, name)) not in ("", {})}
    # JSON escapes what is below U+0020 and, with ensure_ascii, what is above U+007E, except for DEL itself.
    return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("\x7f", "\\u007f")


def parse(text: str) -> Event:
    """The event in `text`, which may be older or newer than this code: unknown keys are passed over.

    A body that is no event of ours (somebody with a right to append called the database directly) comes back as an
    event that says so: one strange line must not hide the others.
    """
    try:
        return msgspec.json.decode(text, type=Event)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return Event(action="unreadable", actor="", outcome="failed", details={"body": _tame(text)})


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, always 27 characters: such texts sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _tame(value: Any) -> Any:
    """`value` within the limits, and such that the database's jsonb can hold it."""
    if isinstance(value, str):
        # Cut before the rest is looked at: a value of a megabyte must cost nothing. jsonb cannot hold U+0000, and a lone
        # surrogate is not text.
        text = value[: VALUE_CHARS_MAX + 1].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + CUT
    if isinstance(value, dict):
        return {_tame(str(key)): _tame(inner) for key, inner in list(value.items())[:ITEMS_MAX]}
    if isinstance(value, list):
        return [_tame(inner) for inner in value[:ITEMS_MAX]]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
