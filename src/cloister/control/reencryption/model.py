"""What is known of the re-encryption of a project's data."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cloister.base.ids import ProjectId

BYTES_PER_S_DEFAULT: Final = 50_000_000
# A quarter of what a core copies: noticed by nobody, and 4 TB a day.

BYTES_PER_S_MAX: Final = 1_000_000_000_000


class State(StrEnum):
    COPYING = "copying"
    """Until the copy takes the volume's place; `ready_at` is when it could."""
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    DONE = "done"


UNDER_WAY: Final = frozenset({State.COPYING, State.PAUSED, State.CANCELLING})


@dataclass(frozen=True, slots=True)
class Wish:
    bytes_per_s: int | None = BYTES_PER_S_DEFAULT
    """None: as fast as it goes."""
    is_urgent: bool = False
    """Do not wait until the project sleeps: pause its computes as soon as the copy is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reencryption:
    project_id: ProjectId
    material: int
    """The volume key that it gets, and below the one it has until then."""
    old_material: int
    state: State = State.COPYING
    wish: Wish
    asked_by: str
    begun_at: datetime
    ready_at: datetime | None = None
    finished_at: datetime | None = None
    passed_bytes: int = 0
    used_bytes: int = 0
    paused_s: float | None = None
    """For how long, in the end, nobody could use the project."""
    problem: str = ""
    """Why it does not get on. It is tried again."""
