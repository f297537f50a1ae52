"""What an endpoint is, and the compute that serves it while it is awake."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cloister.base import versions
from cloister.base.ids import BranchId, EndpointId, ProjectId

READ_WRITE: Final = "read_write"
READ_ONLY: Final = "read_only"
TYPES: Final = frozenset({READ_WRITE, READ_ONLY})


class State(StrEnum):
    """Neon's `current_state`."""

    INIT = "init"
    """Never started; its project or branch is being made."""
    ACTIVE = "active"
    IDLE = "idle"
    """Suspended: no process, and if nothing else of the project runs, the volume is closed."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: EndpointId
    project_id: ProjectId
    branch_id: BranchId
    type: str
    """`read_write` or `read_only`"""
    min_cu: float
    max_cu: float
    suspend_timeout_seconds: int
    """0: the platform's default; -1: never."""
    pg_settings: dict[str, str]
    is_disabled: bool
    desired: State
    state: State
    generation: int
    socket_dir: str | None
    is_clean: bool
    """The catalog copy in pg_role is what pg_authid held when it was stopped. False while it runs and after a crash."""
    started_at: datetime | None
    last_active_at: datetime | None
    suspended_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def is_reader(self) -> bool:
        """Its compute is a standby's (`branches/standbys.py`): this row never has a socket, is always clean, never `init`."""
        return self.type == READ_ONLY

    @property
    def is_awake(self) -> bool:
        return self.state is State.ACTIVE if self.is_reader else self.socket_dir is not None

    @property
    def version(self) -> str:
        """The same while its compute wakes and sleeps."""
        return versions.version(
            "endpoint",
            self.id,
            self.branch_id,
            self.min_cu,
            self.max_cu,
            self.suspend_timeout_seconds,
            self.pg_settings,
            self.is_disabled,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    branch_id: BranchId
    type: str = "read_write"
    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    pg_settings: dict[str, str] | None = None
    is_disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChange:
    """A PATCH: None leaves a field as it is."""

    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    pg_settings: dict[str, str] | None = None
    is_disabled: bool | None = None
