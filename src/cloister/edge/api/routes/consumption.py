"""What projects and branches took over time."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from cloister.base.errors import BadRequestError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.consumption.frames import REACH, Granularity, Span, span
from cloister.control.consumption.service import Taken
from cloister.control.consumption.store import Asked
from cloister.edge.api import paths, points
from cloister.edge.api.call import Call, NoBody
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.errors import HttpError
from cloister.edge.api.wire import consumption as wire
from cloister.edge.api.wire.common import CursorPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

Ids = Annotated[list[str], msgspec.Meta(max_length=100)]
Metrics = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=32)]


class _When(msgspec.Struct, frozen=True, kw_only=True):
    from_: points.Timestamp = msgspec.field(name="from")
    to: points.Timestamp
    granularity: Granularity


class ProjectsQuery(_When, frozen=True, kw_only=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    project_ids: Ids = []
    org_id: str | None = None
    metrics: Metrics = []
    include_v1_metrics: bool = False
    """Neon's older word for the metric data_storage_bytes_hour."""


class ProjectsV2Query(_When, frozen=True, kw_only=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    project_ids: Ids = []
    org_id: str
    metrics: Metrics


class BranchesV2Query(_When, frozen=True, kw_only=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    project_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    branch_ids: Ids = []
    org_id: str
    metrics: Metrics


@endpoint("GET", "/consumption_history/projects", permission=Permission.PROJECT_READ, audit=Action.CONSUMPTION_READ)
async def get_consumption(call: Call[NoBody, ProjectsQuery]) -> wire.ConsumptionOfProjects:
    query = call.query
    metrics = _known(query.metrics, wire.METRICS)
    if query.include_v1_metrics and not metrics:
        metrics = {"data_storage_bytes_hour"}
    found = await _by_project(call, query.cursor, query.limit)
    return wire.ConsumptionOfProjects(
        projects=[wire.project(it, metrics, call.now) for it in found], pagination=_page_of_projects(found)
    )


@endpoint("GET", "/consumption_history/v2/projects", permission=Permission.PROJECT_READ, audit=Action.CONSUMPTION_READ)
async def get_consumption_v2(call: Call[NoBody, ProjectsV2Query]) -> wire.ConsumptionOfProjectsV2:
    query = call.query
    metrics = _known(query.metrics, wire.METRICS_OF_PROJECTS)
    found = await _by_project(call, query.cursor, query.limit)
    return wire.ConsumptionOfProjectsV2(
        projects=[wire.project_v2(it, metrics, call.now) for it in found], pagination=_page_of_projects(found)
    )


@endpoint("GET", "/consumption_history/v2/branches", permission=Permission.PROJECT_READ, audit=Action.CONSUMPTION_READ)
async def get_branch_consumption_v2(call: Call[NoBody, BranchesV2Query]) -> wire.ConsumptionOfBranchesV2:
    query = call.query
    metrics = _known(query.metrics, wire.METRICS_OF_BRANCHES)
    branch_ids = [paths.branch_id(it) for it in query.branch_ids] or None
    after = None if query.cursor is None else _branch_cursor(query.cursor)
    found = await call.control.consumption.by_branch(_asked(call, branch_ids), after=after, limit=query.limit)
    return wire.ConsumptionOfBranchesV2(
        branches=[wire.branch_v2(it, metrics, call.now) for it in found],
        pagination=CursorPage(cursor=f"{found[-1].project_id}:{found[-1].branch_id}") if found else None,
    )


async def _by_project(call: Call[NoBody, Any], cursor: str | None, limit: int) -> list[Taken]:
    after = None if cursor is None else paths.project_id(cursor)
    return await call.control.consumption.by_project(_asked(call), after=after, limit=limit)


def _asked(call: Call[NoBody, Any], branch_ids: Sequence[BranchId] | None = None) -> Asked:
    """Whose consumption the principal may see, of what they ask for. Others' projects are passed over, there or not."""
    query = call.query
    org_ids, granted = call.org_ids, call.project_ids
    if query.org_id is not None:
        org_ids, granted = call.within(paths.org_id(query.org_id))
    project_ids: list[ProjectId] | None = [paths.project_id(it) for it in query.project_ids] or None
    return Asked(org_ids, granted, _span(call), project_ids, branch_ids)


def _span(call: Call[NoBody, Any]) -> Span:
    query = call.query
    since, until = points.moment("from", query.from_), points.moment("to", query.to)
    found = span(query.granularity, since, until, call.now)
    if found is None:
        days = REACH[query.granularity].days
        raise HttpError(
            406, f"from and to must be a time of at most the last {days} days, for {query.granularity} consumption"
        )
    return found


def _known(asked: Sequence[str], known: frozenset[str]) -> set[str]:
    for name in asked:
        if name not in known:
            raise BadRequestError(f"metric {name!r}", public=f"invalid query: unknown metric {name}")
    return set(asked)


def _branch_cursor(text: str) -> tuple[ProjectId, BranchId]:
    project_id, _, branch_id = text.partition(":")
    return paths.project_id(project_id), paths.branch_id(branch_id)


def _page_of_projects(found: list[Taken]) -> CursorPage | None:
    return CursorPage(cursor=found[-1].project_id) if found else None
