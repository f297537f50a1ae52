"""Requests for access: their states, and what may follow what. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from cloister.base.errors import BadRequestError, ConflictError
from cloister.base.ids import BranchId, OrgId, ProjectId

ROLE_PREFIX: Final = "cloister_access_"
# The guard keeps names that begin with cloister_ from every tenant, so nobody can have made such a role before us.

ANSWER_WITHIN: Final = timedelta(hours=1)
# A request that nobody has answered by then is about a situation that has passed.
DURATION_MIN: Final = timedelta(minutes=1)
DURATION_MAX: Final = timedelta(hours=8)
# A working day. Who needs longer asks again, and somebody looks again.
REASON_CHARS_MAX: Final = 400
OPEN_REQUESTS_MAX: Final = 20
# Of one person in one project: pending and active.
APPROVALS: Final = 1
APPROVALS_BREAK_GLASS: Final = 2
SHIFT_MAX: Final = timedelta(days=31)


def is_access_role(name: str) -> bool:
    return name.startswith(ROLE_PREFIX)


class State(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    DENIED = "denied"
    EXPIRED = "expired"
    """Nobody answered in time."""
    REVOKED = "revoked"
    """Ended early by somebody else."""
    ENDED = "ended"
    """Its time was over, or whose it was gave it back."""


class Step(StrEnum):
    ACTIVATE = "activate"
    DENY = "deny"
    EXPIRE = "expire"
    REVOKE = "revoke"
    END = "end"


MACHINE: Final[Mapping[tuple[State, Step], State]] = MappingProxyType({
    (State.PENDING, Step.ACTIVATE): State.ACTIVE,
    (State.PENDING, Step.DENY): State.DENIED,
    (State.PENDING, Step.EXPIRE): State.EXPIRED,
    (State.PENDING, Step.REVOKE): State.REVOKED,
    (State.PENDING, Step.END): State.ENDED,
    (State.ACTIVE, Step.REVOKE): State.REVOKED,
    (State.ACTIVE, Step.END): State.ENDED,
})  # fmt: skip
"""What is not here is refused: what is over stays over, and nothing is extended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    branch_id: BranchId | None
    """None: the default branch."""
    reason: str
    duration: timedelta
    may_write: bool
    is_break_glass: bool

    def check(self) -> None:
        """Raises BadRequestError."""
        if not self.reason.strip() or len(self.reason) > REASON_CHARS_MAX or not self.reason.isprintable():
            raise BadRequestError(public=f"a reason of 1 to {REASON_CHARS_MAX} printable characters is needed")
        if not DURATION_MIN <= self.duration <= DURATION_MAX:
            raise BadRequestError(public="access is for 1 minute to 8 hours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    id: UUID
    org_id: OrgId
    project_id: ProjectId
    branch_id: BranchId
    account_id: UUID
    email: str
    reason: str
    duration: timedelta
    may_write: bool
    is_break_glass: bool
    state: State
    requested_at: datetime
    answer_by: datetime
    ends_at: datetime | None
    closed_at: datetime | None
    role: str
    approved_by: tuple[str, ...]
    """Their addresses."""

    @property
    def approvals_needed(self) -> int:
        return APPROVALS_BREAK_GLASS if self.is_break_glass else APPROVALS

    def after(self, step: Step) -> State:
        """Raises ConflictError for what the table does not have."""
        if (state := MACHINE.get((self.state, step))) is None:
            raise ConflictError(f"{self.id}: {step} of {self.state}", public=f"the request is {self.state} already")
        return state

    def is_open_to_log_in(self, now: datetime) -> bool:
        return self.state is State.ACTIVE and self.ends_at is not None and now < self.ends_at


def overdue(request: Request, now: datetime) -> Step | None:
    """What time itself does to a request."""
    if request.state is State.PENDING and now >= request.answer_by:
        return Step.EXPIRE
    if request.state is State.ACTIVE and request.ends_at is not None and now >= request.ends_at:
        return Step.END
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    id: UUID
    org_id: OrgId
    account_id: UUID
    email: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    id: UUID
    request_id: UUID
    project_id: ProjectId
    account_id: UUID
    email: str
    address: str
    database: str
    application: str
    began_at: datetime
    ended_at: datetime | None
    reason: str
    chunks: int
    statements: int
    head: bytes
    wrapped_key: bytes | None
    seal: int | None = None
    """Of the key broker, that the wrapped key has; None: from before there were any."""
    erased_at: datetime | None = None
    """Since then it has no key, and nobody reads it."""

    @property
    def extent(self) -> dict[str, object]:
        """What the audit log is told when it ends: from then on, nothing can be changed or cut off unnoticed."""
        return {"chunks": self.chunks, "statements": self.statements, "head": self.head.hex()}
