"""One event: who did what to which thing, when, from where, and how it ended.

Values come partly from strangers (application names, role names, addresses). They are encoded as JSON with every
control character escaped, so one event is one line and cannot forge another; long values are cut.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

VALUE_CHARS_MAX: Final = 512
# A role or database name has at most 63 bytes; beyond this a value is an attempt to fill the log.


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
    """The canonical text of an event: JSON, ASCII only, keys in the order of `Event`, empty fields left out."""
    fields = {name: _cut(value) for name in event.__struct_fields__ if (value := getattr(event, name)) not in ("", {})}
    fields.setdefault("at", timestamp(datetime.now(UTC)))
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        # jsonb cannot hold U+0000, and a lone surrogate is not text.
        text = value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "…"
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cut(inner) for inner in value[:64]]
    return value
