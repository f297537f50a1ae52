"""Findings of the sentinel, and what is done about them. Cloister's own."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from cloister.control.incidents.model import Responded
from cloister.edge.api.wire.common import Request, Wire
from cloister.edge.api.wire.operations import OperationView, operation
from cloister.trust.sentinel.clocks import CLOCKS, Measured, Times
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
    assignee: str = ""
    acknowledged_at: str | None = None
    resolved_at: str | None = None
    due_at: str | None = None
    """When the clock that runs ends: until somebody acknowledges it, then until it is resolved."""
    alerts: tuple[dict[str, Any], ...] = ()
    notes: tuple[dict[str, Any], ...] = ()


class FindingAnswer(Wire, frozen=True, kw_only=True):
    finding: FindingView


class FindingList(Wire, frozen=True, kw_only=True):
    findings: list[FindingView]


class Move(Request, frozen=True, kw_only=True):
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Note(Request, frozen=True, kw_only=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Assign(Request, frozen=True, kw_only=True):
    email: Annotated[str, msgspec.Meta(max_length=254)]
    """An operator's; empty: nobody works on it."""


class TimesView(Wire, frozen=True, kw_only=True):
    count: int
    p50_s: float | None
    p95_s: float | None


class MeasuredView(Wire, frozen=True, kw_only=True):
    level: str
    raised: int
    detect: TimesView
    acknowledge: TimesView
    acknowledge_within_s: float
    resolve: TimesView
    resolve_within_s: float
    unresolved: int
    overdue: int


class MetricsAnswer(Wire, frozen=True, kw_only=True):
    days: int
    levels: list[MeasuredView]


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
    return FindingView(**{name: _plain(getattr(it, name)) for name in FindingView.__struct_fields__})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return tuple({name: _plain(each) for name, each in entry.items()} for entry in value)
    return value


def metrics(days: int, found: list[Measured]) -> MetricsAnswer:
    return MetricsAnswer(days=days, levels=[_measured(it) for it in found])


def _measured(it: Measured) -> MeasuredView:
    clock = CLOCKS[it.level]
    return MeasuredView(
        level=it.level,
        raised=it.raised,
        detect=_times(it.detect),
        acknowledge=_times(it.acknowledge),
        acknowledge_within_s=clock.acknowledge.total_seconds(),
        resolve=_times(it.resolve),
        resolve_within_s=clock.resolve.total_seconds(),
        unresolved=it.unresolved,
        overdue=it.overdue,
    )


def _times(it: Times) -> TimesView:
    return TimesView(count=it.count, p50_s=it.p50_s, p95_s=it.p95_s)


def responded(it: Responded, now: datetime) -> RespondedAnswer:
    return RespondedAnswer(done=list(it.done), operations=[operation(each, now) for each in it.operations])


def pulse(it: Pulse) -> PulseView:
    return PulseView(
        beat_at=None if it.beat_at is None else it.beat_at.isoformat(),
        events_behind=it.behind,
        alerts_waiting=it.waiting,
        findings_open=it.open,
    )
