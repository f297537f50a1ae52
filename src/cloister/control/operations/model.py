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
    deadline_at: datetime
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    lease: int = 0
    wakes: int = 0
    input: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
