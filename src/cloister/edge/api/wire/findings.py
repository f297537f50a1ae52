"""Findings of the sentinel, and what is done about them. Cloister's own."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from cloister.control.incidents.model import Responded
from cloister.edge.api.wire.common import Request, Wire
from cloister.edge.api.wire.operations import OperationView, operation
from cloister.trust.sentinel.desk import Finding, Pulse


class FindingView(Wire, frozen=True, kw_only=True):
    id: str
    rule: str
    level: str
    title: str
    summary: str
    response: str
    subject: dict[str, str]
    state: str
    is_test: bool
    alarms: int
    first_seq: int
    last_seq: int
    first_at: str
    last_at: str
    raised_at: str
    """With microseconds: how late an alert is can be told."""
    changed_by: str = ""
    note: str = ""
    alerts: tuple[dict[str, Any], ...] = ()


class FindingAnswer(Wire, frozen=True, kw_only=True):
    finding: FindingView


class FindingList(Wire, frozen=True, kw_only=True):
    findings: list[FindingView]


class Move(Request, frozen=True, kw_only=True):
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Respond(Request, frozen=True, kw_only=True):
    action: Literal["end-sessions", "lock-role", "rotate-credentials", "quarantine", "freeze-project"]


class RespondedAnswer(Wire, frozen=True, kw_only=True):
    done: list[str]
    operations: list[OperationView]


class SelfTest(Wire, frozen=True, kw_only=True):
    run: str
    rules: list[str]
    """Each of which must raise a finding of this run."""


class PulseView(Wire, frozen=True, kw_only=True):
    beat_at: str | None
    events_behind: int
    alerts_waiting: int
    findings_open: int


def finding(it: Finding) -> FindingView:
    given = {name: getattr(it, name) for name in FindingView.__struct_fields__ if name not in ("alerts", "raised_at")}
    return FindingView(
        **given,
        raised_at=it.raised_at.isoformat(),
        alerts=tuple(
            {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in each.items()}
            for each in it.alerts
        ),
    )


def responded(it: Responded, now: datetime) -> RespondedAnswer:
    return RespondedAnswer(done=list(it.done), operations=[operation(each, now) for each in it.operations])


def pulse(it: Pulse) -> PulseView:
    return PulseView(
        beat_at=None if it.beat_at is None else it.beat_at.isoformat(),
        events_behind=it.behind,
        alerts_waiting=it.waiting,
        findings_open=it.open,
    )
