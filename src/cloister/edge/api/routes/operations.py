"""Operations: the work that changes have started."""

from typing import Annotated

import msgspec

from cloister.control.calling import Page
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoBody, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import operations as wire
from cloister.edge.api.wire.common import CursorPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action


class ListOperations(msgspec.Struct, frozen=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


@endpoint("GET", "/projects/{project_id}/operations", permission=Permission.OPERATION_READ, audit=Action.OPERATION_LIST)
async def list_operations(call: Call[NoBody, ListOperations]) -> wire.OperationList:
    cursor = None if call.query.cursor is None else paths.operation_id(call.query.cursor)
    found = await call.control.operations.find(call.project_id, Page(call.query.limit, cursor))
    return wire.OperationList(
        operations=wire.operations(found, call.now),
        pagination=CursorPage(cursor=found[-1].id) if found else None,
    )


@endpoint(
    "GET",
    "/projects/{project_id}/operations/{operation_id}",
    permission=Permission.OPERATION_READ,
    audit=Action.OPERATION_GET,
)
async def get_operation(call: Plain) -> wire.OperationAnswer:
    it = await call.control.operations.get(call.project_id, call.operation_id)
    return wire.OperationAnswer(operation=wire.operation(it, call.now))
