"""What was taken over time, in Neon's two shapes.

Neon bills by these; Cloister measures some of them. What it does not measure is not in the second shape, which can leave
things out; the first must name four, all of which are measured.
"""

import calendar
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from cloister.control.consumption.accounting import Amounts
from cloister.control.consumption.frames import beginning, ending
from cloister.control.consumption.service import Frame, Taken
from cloister.edge.api.wire.accounts import PLAN
from cloister.edge.api.wire.common import CursorPage, Moment, Wire, moment


class Timeframe(Wire, frozen=True, kw_only=True):
    timeframe_start: Moment
    timeframe_end: Moment
    active_time_seconds: int
    compute_time_seconds: int
    written_data_bytes: int
    synthetic_storage_size_bytes: int
    data_storage_bytes_hour: int | None = None
    logical_size_bytes: int | None = None
    logical_size_bytes_hour: int | None = None


class Period(Wire, frozen=True, kw_only=True):
    period_id: str
    period_plan: str
    period_start: Moment
    period_end: Moment | None = None
    consumption: list[Timeframe]


class ProjectConsumption(Wire, frozen=True, kw_only=True):
    project_id: str
    periods: list[Period]


class ConsumptionOfProjects(Wire, frozen=True, kw_only=True):
    projects: list[ProjectConsumption]
    pagination: CursorPage | None = None


class MetricValue(Wire, frozen=True, kw_only=True):
    metric_name: str
    value: int


class TimeframeV2(Wire, frozen=True, kw_only=True):
    timeframe_start: Moment
    timeframe_end: Moment
    metrics: list[MetricValue]


class PeriodV2(Wire, frozen=True, kw_only=True):
    period_id: str
    period_plan: str
    period_start: Moment
    period_end: Moment | None = None
    consumption: list[TimeframeV2]


class ProjectConsumptionV2(Wire, frozen=True, kw_only=True):
    project_id: str
    periods: list[PeriodV2]


class ConsumptionOfProjectsV2(Wire, frozen=True, kw_only=True):
    projects: list[ProjectConsumptionV2]
    pagination: CursorPage | None = None


class BranchConsumptionV2(Wire, frozen=True, kw_only=True):
    project_id: str
    branch_id: str
    periods: list[PeriodV2]


class ConsumptionOfBranchesV2(Wire, frozen=True, kw_only=True):
    branches: list[BranchConsumptionV2]
    pagination: CursorPage | None = None


_HOUR_S: Final = 3600

_OPTIONAL: Final[dict[str, Callable[[Amounts], float]]] = {
    "data_storage_bytes_hour": lambda it: (it.logical_byte_s + it.history_byte_s) / _HOUR_S,
    "logical_size_bytes": lambda it: _average(it.logical_byte_s, it),
    "logical_size_bytes_hour": lambda it: it.logical_byte_s / _HOUR_S,
}
ALWAYS: Final = (
    "active_time_seconds",
    "compute_time_seconds",
    "written_data_bytes",
    "synthetic_storage_size_bytes",
)
METRICS: Final = frozenset({*ALWAYS, *_OPTIONAL})

_MEASURED: Final[dict[str, Callable[[Amounts, float], float]]] = {
    "compute_unit_seconds": lambda it, _: it.cu_s,
    "root_branch_bytes_month": lambda it, month_s: it.root_byte_s / month_s,
    "child_branch_bytes_month": lambda it, month_s: it.child_byte_s / month_s,
    "instant_restore_bytes_month": lambda it, month_s: it.history_byte_s / month_s,
}
"""A branch that holds a byte for a calendar month comes to one byte-month."""
_NOT_MEASURED: Final = frozenset({"public_network_transfer_bytes", "private_network_transfer_bytes"})
_OF_PROJECTS_ALONE: Final = frozenset({"extra_branches_month", "snapshot_storage_bytes_month"})
"""Nor are these measured: there is no plan that a branch could be beyond of, and snapshots share their bytes."""
METRICS_OF_BRANCHES: Final = frozenset({*_MEASURED, *_NOT_MEASURED})
METRICS_OF_PROJECTS: Final = METRICS_OF_BRANCHES | _OF_PROJECTS_ALONE


def project(it: Taken, metrics: Collection[str], now: datetime) -> ProjectConsumption:
    return ProjectConsumption(
        project_id=it.project_id,
        periods=[
            Period(
                period_id=_period_id(it, month),
                period_plan=PLAN,
                period_start=moment(month),
                period_end=_past(month, now),
                consumption=[_timeframe(frame, metrics) for frame in frames],
            )
            for month, frames in _by_month(it.frames)
        ],
    )


def project_v2(it: Taken, metrics: Collection[str], now: datetime) -> ProjectConsumptionV2:
    return ProjectConsumptionV2(project_id=it.project_id, periods=_periods_v2(it, metrics, now))


def branch_v2(it: Taken, metrics: Collection[str], now: datetime) -> BranchConsumptionV2:
    assert it.branch_id is not None
    return BranchConsumptionV2(project_id=it.project_id, branch_id=it.branch_id, periods=_periods_v2(it, metrics, now))


def _periods_v2(it: Taken, metrics: Collection[str], now: datetime) -> list[PeriodV2]:
    return [
        PeriodV2(
            period_id=_period_id(it, month),
            period_plan=PLAN,
            period_start=moment(month),
            period_end=_past(month, now),
            consumption=[_timeframe_v2(frame, metrics) for frame in frames],
        )
        for month, frames in _by_month(it.frames)
    ]


def _timeframe(it: Frame, metrics: Collection[str]) -> Timeframe:
    amounts = it.amounts
    return Timeframe(
        timeframe_start=moment(it.begin),
        timeframe_end=moment(it.end),
        active_time_seconds=round(amounts.active_s),
        compute_time_seconds=round(amounts.cu_s),
        written_data_bytes=round(amounts.written_bytes),
        synthetic_storage_size_bytes=round(_average(amounts.logical_byte_s + amounts.history_byte_s, amounts)),
        **{name: round(of(amounts)) for name, of in _OPTIONAL.items() if name in metrics},
    )


def _timeframe_v2(it: Frame, metrics: Collection[str]) -> TimeframeV2:
    days = calendar.monthrange(it.begin.year, it.begin.month)[1]
    return TimeframeV2(
        timeframe_start=moment(it.begin),
        timeframe_end=moment(it.end),
        metrics=[
            MetricValue(metric_name=name, value=round(of(it.amounts, days * 24 * _HOUR_S)))
            for name, of in _MEASURED.items()
            if name in metrics
        ],
    )


def _average(byte_s: float, amounts: Amounts) -> float:
    """Over the time in which it was known what was held."""
    return byte_s / amounts.seen_s if amounts.seen_s else 0.0


def _by_month(frames: Iterable[Frame]) -> list[tuple[datetime, list[Frame]]]:
    months: dict[datetime, list[Frame]] = {}
    for frame in frames:
        months.setdefault(beginning("monthly", frame.begin), []).append(frame)
    return list(months.items())


def _past(month: datetime, now: datetime) -> Moment | None:
    end = ending("monthly", month)
    return moment(end) if end <= now else None


def _period_id(it: Taken, month: datetime) -> str:
    """The same whenever it is asked for."""
    return str(uuid5(NAMESPACE_URL, f"cloister:{it.project_id}:{it.branch_id or ''}:{month:%Y-%m}"))
