"""Snapshots: named moments that are kept, by hand or by schedule, and branches made of them again."""

import contextlib
from typing import Annotated

import msgspec

from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId
from cloister.control.branches import schedules
from cloister.control.branches.model import SnapshotChange
from cloister.edge.api import paths, points
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.routes.branches import shown_once
from cloister.edge.api.wire import branches as branch_wire
from cloister.edge.api.wire import endpoints
from cloister.edge.api.wire import snapshots as wire
from cloister.edge.api.wire.common import Name256
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_COLLECTION = "/projects/{project_id}/snapshots"
_ONE = _COLLECTION + "/{snapshot_id}"
_BRANCH = "/projects/{project_id}/branches/{branch_id}"
_SCHEDULE = _BRANCH + "/backup_schedule"


@endpoint("GET", _COLLECTION, permission=Permission.SNAPSHOT_READ, audit=Action.SNAPSHOT_LIST)
async def list_snapshots(call: Plain) -> wire.SnapshotList:
    found = await call.control.snapshots.find(call.project_id)
    return wire.SnapshotList(snapshots=[wire.snapshot(it) for it in found])


class NewSnapshot(msgspec.Struct, frozen=True):
    """Neon takes these in the query. Its `slug` is understood and not kept."""

    name: Name256 | None = None
    lsn: points.Lsn | None = None
    timestamp: points.Timestamp | None = None
    expires_at: points.Timestamp | None = None
    slug: Annotated[str, msgspec.Meta(max_length=256)] | None = None


@endpoint("POST", _BRANCH + "/snapshot", permission=Permission.SNAPSHOT_MANAGE, audit=Action.SNAPSHOT_CREATE)
async def create_snapshot(call: Call[NoBody, NewSnapshot]) -> wire.SnapshotOperations:
    query = call.query
    it, started = await call.control.snapshots.create(
        call.caller,
        call.project_id,
        call.branch_id,
        name=query.name,
        point=points.point(query.lsn, query.timestamp),
        expires_at=points.optional_moment("expires_at", query.expires_at),
    )
    return wire.SnapshotOperations(snapshot=wire.snapshot(it), operations=operations(started, call.now))


@endpoint("PATCH", _ONE, permission=Permission.SNAPSHOT_MANAGE, audit=Action.SNAPSHOT_UPDATE)
async def update_snapshot(call: Call[wire.UpdateSnapshot, NoQuery]) -> wire.SnapshotAnswer:
    body = call.body.snapshot
    expiry = None if body.expires_at is msgspec.UNSET else body.expires_at
    change = SnapshotChange(
        name=body.name,
        expires_at=points.optional_moment("expires_at", expiry),
        never_expires=body.expires_at is None,
    )
    it = await call.control.snapshots.update(call.caller, call.project_id, call.snapshot_id, change)
    return wire.SnapshotAnswer(snapshot=wire.snapshot(it))


@endpoint("DELETE", _ONE, permission=Permission.SNAPSHOT_MANAGE, audit=Action.SNAPSHOT_DELETE, status=202)
async def delete_snapshot(call: Plain) -> branch_wire.OperationsAnswer:
    _, started = await call.control.snapshots.delete(call.caller, call.project_id, call.snapshot_id)
    return branch_wire.OperationsAnswer(operations=operations(started, call.now))


class RestoreQuery(msgspec.Struct, frozen=True):
    name: Name256 | None = None
    """Where older clients say what belongs into the body."""


@endpoint(
    "POST",
    _ONE + "/restore",
    permission=Permission.BRANCH_CREATE,
    may_need=(Permission.BRANCH_RESTORE, Permission.BRANCH_CREATE_FROM_PROTECTED),
    audit=Action.SNAPSHOT_RESTORE,
    of_others_too=True,
)
async def restore_snapshot(call: Call[wire.RestoreSnapshot, RestoreQuery]) -> wire.SnapshotRestoredAnswer:
    body = call.body
    if body.finalize_restore:  # it replaces a branch, which is more than making one
        call.caller.require(Permission.BRANCH_RESTORE)
    restored = await call.control.snapshots.restore(
        call.caller,
        call.project_id,
        call.snapshot_id,
        name=body.name or call.query.name,
        target_id=await _target_id(call),
        is_final=body.finalize_restore,
    )
    return wire.SnapshotRestoredAnswer(
        branch=branch_wire.branch(restored.branch),
        endpoints=[endpoints.endpoint(it, call.settings) for it in restored.endpoints],
        operations=operations(restored.operations, call.now),
        roles=shown_once(restored.passwords),
    )


async def _target_id(call: Call[wire.RestoreSnapshot, RestoreQuery]) -> BranchId | None:
    """The branch to be replaced, now or later: the one that is named, or as at Neon the one that the snapshot was taken of,
    if it is still there. A protected one is never meant by silence, only refused when it is to be replaced now."""
    body = call.body
    if body.target_branch_id:
        return paths.branch_id(body.target_branch_id)
    for snapshot in await call.control.snapshots.find(call.project_id):
        if snapshot.id == call.snapshot_id:
            with contextlib.suppress(NotFoundError):
                source = await call.control.branches.get(call.project_id, snapshot.branch_id)
                return None if source.is_protected and not body.finalize_restore else source.id
    return None


@endpoint(
    "POST",
    _BRANCH + "/finalize_restore",
    permission=Permission.BRANCH_RESTORE,
    audit=Action.BRANCH_FINALIZE,
    of_others_too=True,
)
async def finalize_restore(call: Call[wire.FinalizeRestore, NoQuery]) -> branch_wire.OperationsAnswer:
    _, started = await call.control.snapshots.finalize(
        call.caller, call.project_id, call.branch_id, name=call.body.name
    )
    return branch_wire.OperationsAnswer(operations=operations(started, call.now))


@endpoint(
    "GET",
    _SCHEDULE,
    permission=Permission.SNAPSHOT_READ,
    audit=Action.SNAPSHOT_SCHEDULE_GET,
    versioned=True,
)
async def get_backup_schedule(call: Plain) -> Versioned[wire.Schedule]:
    items = await call.control.snapshots.schedule(call.project_id, call.branch_id)
    return Versioned(
        wire.Schedule(schedule=[wire.schedule_item(it) for it in items]), schedules.version_of(call.branch_id, items)
    )


@endpoint("PUT", _SCHEDULE, permission=Permission.SNAPSHOT_MANAGE, audit=Action.SNAPSHOT_SCHEDULE, versioned=True)
async def set_backup_schedule(call: Call[wire.Schedule, NoQuery]) -> Versioned[wire.Empty]:
    items = [wire.asked_item(it) for it in call.body.schedule]
    now = await call.control.snapshots.set_schedule(call.caller, call.project_id, call.branch_id, items)
    return Versioned(wire.Empty(), schedules.version_of(call.branch_id, now))
