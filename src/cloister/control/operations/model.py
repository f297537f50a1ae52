"""What an operation is: a durable piece of work, taken step by step, that Neon's API shows to clients."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cloister.base.ids import OperationId


class Status(StrEnum):
    SCHEDULING = "scheduling"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    """Undone: the world is as it was before."""
    ERROR = "error"
    """Past its deadline or not undoable: a person must look."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """Never begun: the operation it was to follow did not finish."""

    @property
    def has_ended(self) -> bool:
        return self not in (Status.SCHEDULING, Status.RUNNING, Status.CANCELLING)


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of `operation`. `input` was fixed at creation; `facts` is what the steps learned. Neither holds secrets."""

    id: OperationId
    project_id: str
    branch_id: str | None
    endpoint_id: str | None
    action: str
    machine: str
    status: Status
    step: str
    is_undoing: bool
    failures_count: int
    run_at: datetime
    """When it may run (again); the year 9999 while it waits for the one before it."""
    deadline_at: datetime
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    """What went wrong last, in words for the client."""
    resource: str = ""
    """What it works on, alone: `project:…`, `endpoint:…`."""
    after_id: OperationId | None = None
    lease: int = 0
    wakes: int = 0
    input: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
