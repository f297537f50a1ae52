"""Events of the audit log as tests look at them: a dictionary, with what is personal in it."""

from typing import Any

from cloister.trust.audit.events import parse


def fields_of(row: Any) -> dict[str, Any]:
    """Of a row with `body` and `personal`; empty ones are left out."""
    event = parse(row["body"], row["personal"])
    return {name: value for name in event.__struct_fields__ if (value := getattr(event, name)) not in ("", {})}
