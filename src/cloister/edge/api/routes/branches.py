"""Branches: what a project's data is, was, and is tried out on.

What a branch may be used for (a protected one, one with children, the default) is the service's business; which
permissions that takes is stated here, in each route's first lines.
"""

from typing import Annotated, Any, Literal

import msgspec

from cloister.base.errors import NotFoundError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId
from cloister.control.branches.model import (
    Branch,
    BranchChange,
    BranchCreated,
    BranchRestored,
    NewBranch,
    NewPassword,
    Restore,
)
from cloister.control.calling import Page
from cloister.control.computes.model import NewEndpoint
from cloister.control.operations.model import Operation
from cloister.edge.api import paths, points
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import branches as wire
from cloister.edge.api.wire import connections, databases, endpoints, roles
from cloister.edge.api.wire.common import NextPage
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

BRANCHES_MAX = 10_000
# Neon's limit of one page.

_COLLECTION = "/projects/{project_id}/branches"
_ONE = _COLLECTION + "/{branch_id}"


# -- looking --


class ListBranches(msgspec.Struct, frozen=True):
    """`sort_by` and `sort_order` are understood and not followed: branches come in the order of their creation."""

    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=BRANCHES_MAX)] = 1000
    cursor: str | None = None
    sort_by: Literal["name", "created_at", "updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None
    include_deleted: bool = False
    """Also those that can still be recovered, after the others."""


class CountBranches(msgspec.Struct, frozen=True):
    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None


@endpoint("GET", _COLLECTION, permission=Permission.BRANCH_READ, audit=Action.BRANCH_LIST)
async def list_branches(call: Call[NoBody, ListBranches]) -> wire.BranchList:
    found = await _found(call)
    shown = found[: call.query.limit]
    usages = await call.control.branches.usages(call.project_id)
    return wire.BranchList(
        branches=[wire.branch(it, usages.get(it.id)) for it in shown],
        annotations={},
        pagination=NextPage(
            next=shown[-1].id if len(found) > len(shown) else None, sort_by="created_at", sort_order="desc"
        ),
    )


@endpoint("GET", _COLLECTION + "/count", permission=Permission.BRANCH_READ, audit=Action.BRANCH_LIST)
async def count_branches(call: Call[NoBody, CountBranches]) -> wire.BranchCount:
    return wire.BranchCount(count=await call.control.branches.count(call.project_id, call.query.search))


@endpoint("GET", _ONE, permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET, versioned=True)
async def get_branch(call: Plain) -> Versioned[wire.BranchAnswer]:
    it = await call.control.branches.get(call.project_id, call.branch_id)
    usage = await call.control.branches.usage(call.project_id, it.id)
    return Versioned(wire.BranchAnswer(branch=wire.branch(it, usage), annotation=wire.annotation(it)), it.version)


# -- making, changing, deleting --


@endpoint(
    "POST",
    _COLLECTION,
    permission=Permission.BRANCH_CREATE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED, Permission.BRANCH_PROTECT),
    audit=Action.BRANCH_CREATE,
    status=201,
)
async def create_branch(call: Call[wire.CreateBranch, NoQuery]) -> wire.BranchCreatedAnswer:
    return await created_answer(
        call, await call.control.branches.create(call.caller, call.project_id, asked(call.body))
    )


@endpoint(
    "PATCH",
    _ONE,
    permission=Permission.BRANCH_UPDATE,
    may_need=(Permission.BRANCH_PROTECT, Permission.BRANCH_UNPROTECT),
    audit=Action.BRANCH_UPDATE,
    versioned=True,
)
async def update_branch(call: Call[wire.UpdateBranch, NoQuery]) -> Versioned[wire.BranchOperations]:
    body = call.body.branch
    expiry = None if body.expires_at is msgspec.UNSET else body.expires_at
    change = BranchChange(
        name=body.name,
        is_protected=body.protected,
        expires_at=points.optional_moment("expires_at", expiry),
        never_expires=body.expires_at is None,
    )
    it, started = await call.control.branches.update(call.caller, call.project_id, call.branch_id, change)
    return Versioned(_changed(call, (it, started)), it.version)


class DeleteBranch(msgspec.Struct, frozen=True):
    hard_delete: bool = False
    """At once and for good, instead of recoverable for seven days."""


@endpoint("DELETE", _ONE, permission=Permission.BRANCH_DELETE, audit=Action.BRANCH_DELETE, versioned=True)
async def delete_branch(call: Call[NoBody, DeleteBranch]) -> wire.BranchOperations | None:
    try:
        deleted = await call.control.branches.delete(
            call.caller, call.project_id, call.branch_id, hard=call.query.hard_delete
        )
    except NotFoundError:
        call.require_no_version()
        return None  # as at Neon: deleted twice is deleted
    return _changed(call, deleted)


@endpoint("POST", _ONE + "/recover", permission=Permission.BRANCH_DELETE, audit=Action.BRANCH_RECOVER)
async def recover_branch(call: Plain) -> wire.BranchRecovered:
    it, started = await call.control.branches.recover(call.caller, call.project_id, call.branch_id)
    found = await call.control.endpoints.find(call.project_id, it.id)
    return wire.BranchRecovered(
        branch=wire.branch(it),
        endpoints=[endpoints.endpoint(each, call.settings) for each in found],
        operations=operations(started, call.now),
    )


@endpoint("POST", _ONE + "/set_as_default", permission=Permission.BRANCH_UPDATE, audit=Action.BRANCH_SET_AS_DEFAULT)
async def set_as_default(call: Plain) -> wire.BranchOperations:
    return _changed(call, await call.control.branches.set_as_default(call.caller, call.project_id, call.branch_id))


@endpoint("POST", _ONE + "/set_as_primary", permission=Permission.BRANCH_UPDATE, audit=Action.BRANCH_SET_AS_DEFAULT)
async def set_as_primary(call: Plain) -> wire.BranchOperations:
    """What the route above was called, and some clients still call it."""
    return _changed(call, await call.control.branches.set_as_default(call.caller, call.project_id, call.branch_id))


# -- going back --


@endpoint(
    "POST",
    _ONE + "/restore",
    permission=Permission.BRANCH_RESTORE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED,),
    audit=Action.BRANCH_RESTORE,
    of_others_too=True,
)
async def restore_branch(call: Call[wire.RestoreBranch, NoQuery]) -> wire.BranchOperations:
    body = call.body
    wish = Restore(
        source_id=paths.branch_id(body.source_branch_id),
        point=points.point(body.source_lsn, body.source_timestamp, prefix="source_"),
        preserve_under_name=body.preserve_under_name or None,
    )
    return _restored(call, await call.control.branches.restore(call.caller, call.project_id, call.branch_id, wish))


@endpoint(
    "POST",
    _ONE + "/reset_to_parent",
    permission=Permission.BRANCH_RESTORE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED,),
    audit=Action.BRANCH_RESTORE,
    of_others_too=True,
)
async def reset_to_parent(call: Call[wire.ResetBranch, NoQuery]) -> wire.BranchOperations:
    """Restore to the parent's head. Undocumented at Neon, and used by its older clients."""
    it = await call.control.branches.get(call.project_id, call.branch_id)
    if it.parent_id is None:
        raise UnprocessableError(public="a root branch has no parent to be reset to")
    wish = Restore(source_id=it.parent_id, preserve_under_name=call.body.preserve_under_name or None)
    return _restored(call, await call.control.branches.restore(call.caller, call.project_id, it.id, wish))


# -- the parts --


def asked(body: wire.CreateBranch) -> NewBranch:
    """Raises UnprocessableError, BadRequestError."""
    new = body.branch or wire.NewChildBody()
    if new.archived:
        raise UnprocessableError(public="this version of Cloister does not archive branches")
    wanted = body.endpoints or []
    if len(wanted) > wire.ENDPOINTS_MAX:
        raise UnprocessableError(public=f"a branch is created with at most {wire.ENDPOINTS_MAX} endpoints")
    return NewBranch(
        name=new.name,
        parent_id=paths.branch_id(new.parent_id) if new.parent_id else None,
        point=points.point(new.parent_lsn, new.parent_timestamp, prefix="parent_"),
        init_source=new.init_source or "parent-data",
        is_protected=bool(new.protected),
        expires_at=points.optional_moment("expires_at", new.expires_at),
        endpoints=[_new_endpoint(it) for it in wanted],
    )


async def created_answer(call: Call[Any, NoQuery], created: BranchCreated) -> wire.BranchCreatedAnswer:
    passwords = _by_role(created.passwords)
    return wire.BranchCreatedAnswer(
        branch=wire.branch(created.branch),
        endpoints=[endpoints.endpoint(it, call.settings) for it in created.endpoints],
        operations=operations(created.operations, call.now),
        roles=[roles.role(it, password=passwords.get(it.name)) for it in created.roles],
        databases=[databases.database(it) for it in created.databases],
        connection_uris=await _connection_uris(call, created, passwords),
    )


async def _found(call: Call[NoBody, ListBranches]) -> list[Branch]:
    """One more than is shown, if there are more."""
    query = call.query
    wanted = query.limit + 1
    cursor = None if query.cursor is None else paths.branch_id(query.cursor)
    deleted = await call.control.branches.find_deleted(call.project_id) if query.include_deleted else []
    if query.search is not None:
        deleted = [it for it in deleted if query.search.lower() in it.name.lower() or query.search in it.id]
    ids: list[BranchId] = [it.id for it in deleted]
    if cursor in ids:
        return deleted[ids.index(cursor) + 1 :][:wanted]
    living = await call.control.branches.find(call.project_id, Page(wanted, cursor), query.search)
    return (living + deleted)[:wanted]


def _new_endpoint(it: wire.NewBranchEndpointBody) -> NewEndpoint:
    return NewEndpoint(
        branch_id=BranchId(""),  # the branch to be: it has no id yet, and the service does not look
        type=it.type,
        min_cu=it.autoscaling_limit_min_cu,
        max_cu=it.autoscaling_limit_max_cu,
        suspend_timeout_seconds=it.suspend_timeout_seconds,
        pg_settings=None if it.settings is None else it.settings.pg_settings,
    )


async def _connection_uris(
    call: Call[Any, NoQuery], created: BranchCreated, passwords: dict[str, str]
) -> list[connections.ConnectionDetails] | None:
    """As at Neon only where nobody has to choose: one role, one database, and an endpoint to connect to."""
    if len(created.roles) != 1 or len(created.databases) != 1 or not created.endpoints:
        return None
    (role,), (database,) = created.roles, created.databases
    password = passwords.get(role.name)
    stores_passwords = call.project is not None and call.project.store_passwords
    # Of a password that is not new, seeing it is a permission of its own, and recorded as such.
    if password is None and stores_passwords and call.also_permits(Permission.ROLE_REVEAL_PASSWORD):
        try:
            secret = await call.control.roles.reveal_password(
                call.caller, call.project_id, created.branch.id, role.name
            )
            password = secret.reveal()
        except (NotFoundError, PreconditionError):
            password = None  # set in SQL: the platform never saw it
    writers = [it for it in created.endpoints if it.type == "read_write"]
    target = (writers or created.endpoints)[0]
    return [connections.details(call.settings, target.id, role.name, database.name, password)]


def _changed(call: Call[object, object], changed: tuple[Branch, list[Operation]]) -> wire.BranchOperations:
    it, started = changed
    return wire.BranchOperations(branch=wire.branch(it), operations=operations(started, call.now))


def _restored(call: Call[object, object], restored: BranchRestored) -> wire.BranchOperations:
    return wire.BranchOperations(
        branch=wire.branch(restored.branch),
        operations=operations(restored.operations, call.now),
        roles=shown_once(restored.passwords),
    )


def shown_once(passwords: list[NewPassword]) -> list[roles.RoleView] | None:
    """The roles that got a new password, with it. Absent where there is none."""
    return [roles.role(it.role, password=it.password.reveal()) for it in passwords] or None


def _by_role(passwords: list[NewPassword]) -> dict[str, str]:
    return {it.role.name: it.password.reveal() for it in passwords}
