"""Branches."""

from cloister.control.branches.model import Branch
from cloister.edge.api.wire.common import CREATION_SOURCE, Moment, NextPage, Wire, moment


class BranchView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    parent_id: str | None = None
    name: str
    current_state: str
    pending_state: str | None = None
    state_changed_at: Moment
    creation_source: str
    primary: bool
    default: bool
    protected: bool
    cpu_used_sec: int
    compute_time_seconds: int
    active_time_seconds: int
    written_data_bytes: int
    data_transfer_bytes: int
    created_at: Moment
    updated_at: Moment


class AnnotationObject(Wire, frozen=True, kw_only=True):
    type: str
    id: str


class Annotation(Wire, frozen=True, kw_only=True):
    """Notes that Neon keeps beside a branch. Cloister keeps none."""

    object: AnnotationObject
    value: dict[str, str]


class BranchAnswer(Wire, frozen=True, kw_only=True):
    branch: BranchView
    annotation: Annotation


class BranchList(Wire, frozen=True, kw_only=True):
    branches: list[BranchView]
    annotations: dict[str, Annotation]
    pagination: NextPage


class BranchCount(Wire, frozen=True, kw_only=True):
    count: int


def branch(it: Branch) -> BranchView:
    return BranchView(
        id=it.id,
        project_id=it.project_id,
        parent_id=it.parent_id,
        name=it.name,
        current_state=it.state,
        pending_state="ready" if it.state == "init" else None,
        state_changed_at=moment(it.updated_at),
        creation_source=CREATION_SOURCE,
        primary=it.is_default,
        default=it.is_default,
        protected=it.is_protected,
        cpu_used_sec=0,
        compute_time_seconds=0,
        active_time_seconds=0,
        written_data_bytes=0,
        data_transfer_bytes=0,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
    )


def annotation(it: Branch) -> Annotation:
    return Annotation(object=AnnotationObject(type="console/branch", id=it.id), value={})
