"""Backups in the operator's store (`docs/backups.md`). Ours: Neon keeps its own, and shows none."""

from typing import Final

from cloister.control.backups.model import Wish
from cloister.edge.api import paths, points
from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.routes.branches import shown_once
from cloister.edge.api.wire import backups as wire
from cloister.edge.api.wire import branches as branch_wire
from cloister.edge.api.wire import endpoints
from cloister.edge.api.wire import snapshots as snapshot_wire
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_BACKUPS: Final = "/cloister/projects/{project_id}/backups"


@endpoint("GET", _BACKUPS, permission=Permission.BACKUP_READ, audit=Action.BACKUP_LIST)
async def list_backups(call: Plain) -> wire.BackupsView:
    """Of every branch that has one, also of those that were deleted."""
    return wire.backups(await call.control.backups.find(call.project_id), call.now)


@endpoint("POST", _BACKUPS, permission=Permission.BACKUP_TAKE, audit=Action.BACKUP_ASK, status=202)
async def take_backup(call: Call[wire.OfBranch, NoQuery]) -> wire.BackupsView:
    """Now, beside those that are taken by themselves. It is there when a base is younger than `wanted_at`."""
    branch_id = paths.optional_branch_id(call.body.branch_id)
    return wire.backups(await call.control.backups.take(call.caller, call.project_id, branch_id), call.now)


@endpoint("POST", _BACKUPS + "/check", permission=Permission.BACKUP_TAKE, audit=Action.BACKUP_CHECK_ASK, status=202)
async def check_backups(call: Call[wire.CheckBackups, NoQuery]) -> wire.BackupsView:
    """Read some of the newest base back, and open it; or restore all of it, look at it, and throw it away."""
    branch_id = paths.optional_branch_id(call.body.branch_id)
    checked = call.control.backups.check(call.caller, call.project_id, branch_id, by_restoring=call.body.restore)
    return wire.backups(await checked, call.now)


@endpoint(
    "POST",
    _BACKUPS + "/restore",
    permission=Permission.BACKUP_RESTORE,
    may_need=(Permission.BRANCH_CREATE_FROM_PROTECTED,),
    audit=Action.BACKUP_RESTORE,
    status=201,
)
async def restore_backup(call: Call[wire.RestoreBackup, NoQuery]) -> snapshot_wire.SnapshotRestoredAnswer:
    """A branch of its own, as its source was at a moment or an LSN; with neither, as far as was sent."""
    body = call.body
    wish = Wish(
        branch_id=paths.optional_branch_id(body.branch_id),
        point=points.point(body.lsn, body.timestamp),
        name=body.name,
    )
    restored = await call.control.backups.restore(call.caller, call.project_id, wish)
    return snapshot_wire.SnapshotRestoredAnswer(
        branch=branch_wire.branch(restored.branch),
        endpoints=[endpoints.endpoint(it, call.settings) for it in restored.endpoints],
        operations=operations(restored.operations, call.now),
        roles=shown_once(restored.passwords),
    )


@endpoint(
    "POST", _BACKUPS + "/restore_project", permission=Permission.BACKUP_RESTORE, audit=Action.BACKUP_RESTORE, status=202
)
async def restore_project_from_backups(call: Plain) -> branch_wire.OperationsAnswer:
    """Every branch under its own id, in a new volume, where the volume is gone."""
    started = await call.control.backups.restore_project(call.caller, call.project_id)
    return branch_wire.OperationsAnswer(operations=operations(started, call.now))


@endpoint("POST", _BACKUPS + "/exclude", permission=Permission.BACKUP_EXCLUDE, audit=Action.BACKUP_EXCLUDE)
async def exclude_from_backups(call: Call[wire.Exclude, NoQuery]) -> wire.BackupsView:
    """Nothing more is sent. What is in the store stays there while it is locked, and can be restored."""
    found = await call.control.backups.leave_out(call.caller, call.project_id, call.body.reason)
    return wire.backups(found, call.now)


@endpoint("POST", _BACKUPS + "/include", permission=Permission.BACKUP_EXCLUDE, audit=Action.BACKUP_INCLUDE)
async def include_in_backups(call: Plain) -> wire.BackupsView:
    return wire.backups(await call.control.backups.take_in(call.caller, call.project_id), call.now)
