"""Operations."""

from datetime import datetime

from cloister.control.operations.model import Operation, Status
from cloister.edge.api.wire.common import CursorPage, Moment, Wire, moment

_INT32_MAX = 2**31 - 1


class OperationView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    branch_id: str | None = None
    endpoint_id: str | None = None
    action: str
    status: str
    error: str | None = None
    failures_count: int
    retry_at: Moment | None = None
    created_at: Moment
    updated_at: Moment
    total_duration_ms: int


class OperationAnswer(Wire, frozen=True, kw_only=True):
    operation: OperationView


class OperationList(Wire, frozen=True, kw_only=True):
    operations: list[OperationView]
    pagination: CursorPage | None = None


def operation(it: Operation, now: datetime) -> OperationView:
    duration = (it.finished_at or now) - it.created_at
    is_waiting = it.failures_count > 0 and it.status in (Status.SCHEDULING, Status.RUNNING)
    return OperationView(
        id=it.id,
        project_id=it.project_id,
        branch_id=it.branch_id,
        endpoint_id=it.endpoint_id,
        action=it.action,
        status=it.status.value,
        error=it.error,
        failures_count=it.failures_count,
        retry_at=moment(it.run_at) if is_waiting else None,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
        total_duration_ms=min(_INT32_MAX, max(0, int(duration.total_seconds() * 1000))),
    )


def operations(them: list[Operation], now: datetime) -> list[OperationView]:
    return [operation(it, now) for it in them]
