"""Branches: looking at them. Making them is in `later.py`."""

from typing import Annotated, Literal

import msgspec

from cloister.control.calling import Page
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoBody, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import branches as wire
from cloister.edge.api.wire.common import NextPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

BRANCHES_MAX = 10_000
# Neon's limit of one page. More are counted as this many.


class ListBranches(msgspec.Struct, frozen=True):
    """`sort_by` and `sort_order` are understood and not followed: branches come in the order of their creation."""

    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=BRANCHES_MAX)] = 1000
    cursor: str | None = None
    sort_by: Literal["name", "created_at", "updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None


class CountBranches(msgspec.Struct, frozen=True):
    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None


@endpoint("GET", "/projects/{project_id}/branches", permission=Permission.BRANCH_READ, audit=Action.BRANCH_LIST)
async def list_branches(call: Call[NoBody, ListBranches]) -> wire.BranchList:
    query = call.query
    cursor = None if query.cursor is None else paths.branch_id(query.cursor)
    found = await call.control.branches.find(call.project_id, Page(query.limit + 1, cursor), query.search)
    shown = found[: query.limit]
    return wire.BranchList(
        branches=[wire.branch(it) for it in shown],
        annotations={},
        pagination=NextPage(
            next=shown[-1].id if len(found) > len(shown) else None, sort_by="created_at", sort_order="desc"
        ),
    )


@endpoint("GET", "/projects/{project_id}/branches/count", permission=Permission.BRANCH_READ, audit=Action.BRANCH_LIST)
async def count_branches(call: Call[NoBody, CountBranches]) -> wire.BranchCount:
    found = await call.control.branches.find(call.project_id, Page(BRANCHES_MAX), call.query.search)
    return wire.BranchCount(count=len(found))


@endpoint(
    "GET", "/projects/{project_id}/branches/{branch_id}", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET
)
async def get_branch(call: Plain) -> wire.BranchAnswer:
    it = await call.control.branches.get(call.project_id, call.branch_id)
    return wire.BranchAnswer(branch=wire.branch(it), annotation=wire.annotation(it))
