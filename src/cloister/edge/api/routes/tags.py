"""What people say of a project or a branch in a word. Projects and branches show their tags themselves."""

from cloister.base.ids import BranchId
from cloister.edge.api.call import Call, NoQuery
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import tags as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action


@endpoint(
    "PATCH",
    "/cloister/projects/{project_id}/tags",
    permission=Permission.TAG_SET,
    may_need=(Permission.TAG_LIFT,),
    audit=Action.TAG_SET,
)
async def change_project_tags(call: Call[wire.ChangeTags, NoQuery]) -> wire.TagsAnswer:
    return await _changed(call, None)


@endpoint(
    "PATCH",
    "/cloister/projects/{project_id}/branches/{branch_id}/tags",
    permission=Permission.TAG_SET,
    may_need=(Permission.TAG_LIFT,),
    audit=Action.TAG_SET,
)
async def change_branch_tags(call: Call[wire.ChangeTags, NoQuery]) -> wire.TagsAnswer:
    return await _changed(call, call.branch_id)


async def _changed(call: Call[wire.ChangeTags, NoQuery], branch_id: BranchId | None) -> wire.TagsAnswer:
    body = call.body
    tags = await call.control.tags.change(
        call.caller, call.project_id, branch_id, add=body.add, remove=body.remove, reason=body.reason or ""
    )
    return wire.TagsAnswer(tags=sorted(tags))
