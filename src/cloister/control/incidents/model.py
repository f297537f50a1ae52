"""What can be done about a finding, and what was."""

from dataclasses import dataclass
from enum import StrEnum

from cloister.control.operations.model import Operation


class Response(StrEnum):
    END_SESSIONS = "end-sessions"
    LOCK_ROLE = "lock-role"
    ROTATE_CREDENTIALS = "rotate-credentials"
    QUARANTINE = "quarantine"
    FREEZE_PROJECT = "freeze-project"


@dataclass(frozen=True, slots=True)
class Responded:
    done: tuple[str, ...]
    """Sentences for a person."""
    operations: tuple[Operation, ...] = ()
