"""What a branch is: a data directory in its project's volume."""

from dataclasses import dataclass
from datetime import datetime

from cloister.base.ids import BranchId, ProjectId


@dataclass(frozen=True, slots=True)
class Branch:
    id: BranchId
    project_id: ProjectId
    parent_id: BranchId | None
    name: str
    is_default: bool
    is_protected: bool
    state: str
    """`init`, `ready`, `archived`"""
    created_at: datetime
    updated_at: datetime
