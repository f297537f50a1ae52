"""Events of the audit log as tests look at them: a dictionary, with what is personal in it; and what the sentinel finds in them."""

from collections.abc import Iterable
from typing import Any

from cloister.trust.audit.events import Event, parse
from cloister.trust.sentinel.detector import Detector
from cloister.trust.sentinel.rules import shipped


def fields_of(row: Any) -> dict[str, Any]:
    """Of a row with `body` and `personal`; empty ones are left out."""
    event = parse(row["body"], row["personal"])
    return {name: value for name in event.__struct_fields__ if (value := getattr(event, name)) not in ("", {})}


def raised(events: Iterable[Event]) -> set[str]:
    """Findings by their rules, as they are shipped: an event that lacks what a rule asks for raises none."""
    detector = Detector(shipped())
    return {alarm.rule for seq, event in enumerate(events, 1) for alarm in detector.feed(seq, event)}
