"""The verbs on named snapshots: a moment of a branch, kept as a frozen timeline of its own until it is deleted or expires.

Its branch may be reset, restored or deleted; the snapshot stays. Restoring one makes a branch of it, or gives a branch its
data (`successions.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, BusyError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId, SnapshotId, new_branch_id, new_snapshot_id, new_timeline_id
from cloister.base.tags import KEPT
from cloister.control.branches import consents, endings, protection, schedules, snapshot_store, store, timelines
from cloister.control.branches.children import Child, Children, Origin, new_child, origin_of
from cloister.control.branches.consents import Act
from cloister.control.branches.freshness import Freshness
from cloister.control.branches.masking import refuse_unmasked
from cloister.control.branches.model import (
    HEAD,
    Branch,
    Point,
    ScheduleItem,
    Snapshot,
    SnapshotChange,
    SnapshotRestored,
)
from cloister.control.branches.operations import (
    BRANCH_RESOURCE,
    DELETE_TIMELINE,
    FINALIZE_RESTORE,
    TAKE_SNAPSHOT,
    TIMELINE_RESOURCE,
    work,
)
from cloister.control.branches.successions import Successions
from cloister.control.calling import Caller
from cloister.control.claims import claim_branch, claim_source, hold_project
from cloister.control.computes import store as computes
from cloister.control.computes.model import NewEndpoint
from cloister.control.naming import NAME_BYTES_MAX, checked_name
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.trust.audit import Action, Event, record

PLATFORM = "platform:api"


class SnapshotService:
    def __init__(
        self,
        database: Database,
        engine: Engine,
        children: Children,
        successions: Successions,
        *,
        freshness: Freshness,
        clock: Clock,
    ) -> None:
        self._database = database
        self._engine = engine
        self._children = children
        self._successions = successions
        self._freshness = freshness
        self._clock = clock

    async def find(self, project_id: ProjectId) -> list[Snapshot]:
        async with self._database.reading() as tx:
            return await snapshot_store.find(tx, project_id)

    async def create(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        name: str | None,
        point: Point,
        expires_at: datetime | None,
    ) -> tuple[Snapshot, list[Operation]]:
        if expires_at is not None:
            self._check_expiry(expires_at)
        async with self._database.transaction() as tx:
            await claim_source(tx, project_id, branch_id)
            branch = await store.get(tx, project_id, branch_id)
            snapshot, operation = await self._submit(
                tx, branch, name, point, expires_at, is_manual=True, created_by=caller.principal.account_id
            )
            await record(tx, _event(Action.SNAPSHOT_CREATE, caller, snapshot, operation))
        self._engine.kick(operation.id)
        return snapshot, [operation]

    async def take_scheduled(self, project_id: ProjectId, branch_id: BranchId, item: ScheduleItem) -> None:
        """What a schedule is due for."""
        now = self._clock.now()
        keep = item.retention_seconds
        async with self._database.transaction() as tx:
            await claim_source(tx, project_id, branch_id)
            branch = await store.get(tx, project_id, branch_id)
            expires_at = None if keep is None else now + timedelta(seconds=keep)
            snapshot, operation = await self._submit(
                tx, branch, None, HEAD, expires_at, is_manual=False, created_by=None
            )
            await record(tx, _own_event(Action.SNAPSHOT_CREATE, snapshot, operation, item.frequency))
        self._engine.kick(operation.id)

    async def update(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId, change: SnapshotChange
    ) -> Snapshot:
        if change.expires_at is not None:
            self._check_expiry(change.expires_at)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            old = await snapshot_store.get(tx, project_id, snapshot_id)
            expires_at = None if change.never_expires else change.expires_at or old.expires_at
            name = old.name if change.name is None else checked_name("snapshot name", change.name)
            snapshot = await snapshot_store.change(tx, replace(old, name=name, expires_at=expires_at))
            await record(tx, _event(Action.SNAPSHOT_UPDATE, caller, snapshot, None))
        return snapshot

    async def delete(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId
    ) -> tuple[Snapshot, list[Operation]]:
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            snapshot = await snapshot_store.get(tx, project_id, snapshot_id)
            operation = await self._delete(tx, snapshot)
            await record(tx, _event(Action.SNAPSHOT_DELETE, caller, snapshot, operation))
        self._engine.kick(operation.id)
        return snapshot, [operation]

    async def expire(self, snapshot: Snapshot) -> None:
        """Unless its owner has kept it for longer, or deleted it, since it was found."""
        async with self._database.transaction() as tx:
            await hold_project(tx, snapshot.project_id)
            snapshot = await snapshot_store.get(tx, snapshot.project_id, snapshot.id)
            if snapshot.expires_at is None or snapshot.expires_at > self._clock.now():
                return
            operation = await self._delete(tx, snapshot)
            await record(tx, _own_event(Action.SNAPSHOT_DELETE, snapshot, operation, "expired"))
        self._engine.kick(operation.id)

    async def restore(
        self,
        caller: Caller,
        project_id: ProjectId,
        snapshot_id: SnapshotId,
        *,
        name: str | None,
        target_id: BranchId | None,
        is_final: bool,
    ) -> SnapshotRestored:
        async with self._database.reading() as tx:
            source_id = (await snapshot_store.get(tx, project_id, snapshot_id)).branch_id
        await self._freshness.of_protected(project_id, source_id)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            snapshot = await snapshot_store.get(tx, project_id, snapshot_id)
            if snapshot.lsn is None:
                raise UnprocessableError(f"{snapshot_id} is being taken", public="snapshot not ready yet")
            branch = await store.load(tx, snapshot.branch_id)
            origin = Origin(branch=branch, point=HEAD, sources=[snapshot.timeline_id], snapshot_id=snapshot.id)
            if is_final and target_id is not None:
                restored = await self._over(tx, caller, origin, snapshot, target_id)
            else:
                restored = await self._beside(tx, caller, origin, snapshot, target_id=target_id, name=name)
            details = {
                "target": target_id or "",
                "is_final": is_final,
                "branch": restored.branch.id,
                **restored.consent,
            }
            await record(tx, _event(Action.SNAPSHOT_RESTORE, caller, snapshot, restored.operations[0], details))
        self._engine.kick_all(restored.operations)
        return restored

    async def _over(
        self, tx: Transaction, caller: Caller, origin: Origin, snapshot: Snapshot, target_id: BranchId
    ) -> SnapshotRestored:
        """What the target was stays as a branch, with its children."""
        await claim_branch(tx, snapshot.project_id, target_id)
        target = await store.get(tx, snapshot.project_id, target_id)
        done = await self._successions.submit(tx, caller, target, origin, self._old_name(target))
        endpoints = await computes.find(tx, snapshot.project_id, target_id)
        return SnapshotRestored(done.branch, endpoints, done.passwords, done.operations, done.consent)

    async def _beside(
        self,
        tx: Transaction,
        caller: Caller,
        origin: Origin,
        snapshot: Snapshot,
        *,
        target_id: BranchId | None,
        name: str | None,
    ) -> SnapshotRestored:
        """A branch of its own, with an endpoint to look at it; under the snapshot's branch, or its nearest ancestor."""
        protection.require_copying(caller, origin.branch)
        if target_id is not None:
            protection.refuse_reset(await store.get(tx, snapshot.project_id, target_id))
        parent = origin.branch
        if parent.deleted_at is not None or parent.expires_at is not None:
            ancestor_id = await endings.living_ancestor(tx, parent.id)
            parent = (
                await store.default(tx, parent.project_id) if ancestor_id is None else await store.load(tx, ancestor_id)
            )
        branch_id = new_branch_id()
        name = branch_id if name is None else checked_name("branch name", name)
        point = Point(at=snapshot.taken_at)
        wanted = replace(new_child(branch_id, name, parent, point, self._clock.now()), tags=snapshot.tags & KEPT)
        consent = await consents.use(tx, caller, origin.branch, Act.COPY, branch_id)
        child: Child = await self._children.add(
            tx, caller, wanted, origin, [NewEndpoint(branch_id=branch_id)], replaces_id=target_id
        )
        return SnapshotRestored(child.branch, child.endpoints, child.passwords, child.operations, consent)

    async def finalize(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> tuple[Branch, list[Operation]]:
        """`name` is what the replaced branch is called from now on."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            branch = await store.get(tx, project_id, branch_id)
            replaced_id = await store.replaced_by(tx, branch_id)
            if replaced_id is None:
                raise UnprocessableError(f"{branch_id} replaces nothing", public="nothing to finalize on this branch")
            await claim_branch(tx, project_id, branch_id, replaced_id)
            replaced = await store.get(tx, project_id, replaced_id)
            protection.refuse_reset(replaced)
            await refuse_unmasked(tx, replaced, branch_id)
            if branch.state != "ready":
                raise UnprocessableError(f"{branch_id} is {branch.state}", public="branch not ready yet")
            old_name = self._old_name(replaced) if name is None else checked_name("name", name)
            await store.require_free_name(tx, project_id, old_name)
            operation = await self._engine.submit(
                tx,
                machine=FINALIZE_RESTORE.name,
                project_id=project_id,
                branch_id=branch_id,
                resource=BRANCH_RESOURCE.format(branch_id),
                input={
                    "source_branch_id": replaced_id,
                    "replaced_id": replaced_id,
                    "name": replaced.name,
                    "old_name": old_name,
                },
            )
            await record(
                tx,
                caller.event(
                    Action.BRANCH_FINALIZE,
                    project_id=project_id,
                    branch_id=branch_id,
                    resource=branch.name,
                    operations=[operation],
                    details={"replaced": replaced_id, "old_name": old_name},
                ),
            )
        self._engine.kick(operation.id)
        return branch, [operation]

    async def schedule(self, project_id: ProjectId, branch_id: BranchId) -> list[ScheduleItem]:
        async with self._database.reading() as tx:
            branch = await store.get(tx, project_id, branch_id)
            return await snapshot_store.schedule_of(tx, branch.id)

    async def set_schedule(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, items: list[ScheduleItem]
    ) -> list[ScheduleItem]:
        items = schedules.checked(items)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await store.hold(tx, branch_id)
            branch = await store.get(tx, project_id, branch_id)
            caller.require_version(schedules.version_of(branch_id, await snapshot_store.schedule_of(tx, branch_id)))
            await snapshot_store.set_schedule(tx, branch_id, items, self._clock.now())
            await record(
                tx,
                caller.event(
                    Action.SNAPSHOT_SCHEDULE,
                    project_id=project_id,
                    branch_id=branch_id,
                    resource=branch.name,
                    details={"items": len(items), "frequencies": ", ".join(item.frequency for item in items)},
                ),
            )
        return items

    async def _submit(
        self,
        tx: Transaction,
        branch: Branch,
        name: str | None,
        point: Point,
        expires_at: datetime | None,
        *,
        is_manual: bool,
        created_by: UUID | None,
    ) -> tuple[Snapshot, Operation]:
        now = self._clock.now()
        origin = await origin_of(tx, branch, point, now)
        snapshot_id, timeline_id = new_snapshot_id(), new_timeline_id()
        await timelines.add(tx, timeline_id, branch.project_id, branch_id=None, source_id=origin.sources[0])
        snapshot = await snapshot_store.add(
            tx,
            Snapshot(
                id=snapshot_id,
                project_id=branch.project_id,
                branch_id=branch.id,
                timeline_id=timeline_id,
                name=snapshot_id if name is None else checked_name("snapshot name", name),
                is_manual=is_manual,
                lsn=None,
                taken_at=origin.point.at or now,
                expires_at=expires_at,
                created_at=now,
                updated_at=now,
            ),
            created_by=created_by,
        )
        operation = await self._engine.submit(
            tx,
            machine=TAKE_SNAPSHOT.name,
            project_id=branch.project_id,
            branch_id=branch.id,
            resource=TIMELINE_RESOURCE.format(timeline_id),
            input=work(origin.recipe(timeline_id, is_frozen=True), snapshot_id=snapshot_id),
        )
        return snapshot, operation

    async def _delete(self, tx: Transaction, snapshot: Snapshot) -> Operation:
        if await snapshot_store.is_in_use(tx, snapshot):
            raise BusyError(f"{snapshot.id} is in use")
        await snapshot_store.delete(tx, snapshot.id)
        return await self._engine.submit(
            tx,
            machine=DELETE_TIMELINE.name,
            project_id=snapshot.project_id,
            branch_id=snapshot.branch_id,
            resource=TIMELINE_RESOURCE.format(snapshot.timeline_id),
            input={"timeline_id": snapshot.timeline_id},
        )

    def _check_expiry(self, expires_at: datetime) -> None:
        if expires_at.tzinfo is None or expires_at <= self._clock.now():
            raise BadRequestError(f"expires_at {expires_at}", public="expires_at must lie in the future")

    def _old_name(self, branch: Branch) -> str:
        """Neon's, for what a branch was before it was replaced."""
        tail = f"_old_{int(self._clock.now().timestamp())}"
        return branch.name.encode()[: NAME_BYTES_MAX - len(tail)].decode(errors="ignore") + tail


def _event(
    action: Action,
    caller: Caller,
    snapshot: Snapshot,
    operation: Operation | None,
    details: Mapping[str, object] | None = None,
) -> Event:
    return caller.event(
        action,
        project_id=snapshot.project_id,
        branch_id=snapshot.branch_id,
        resource=snapshot.name,
        operations=[] if operation is None else [operation],
        details={"snapshot": snapshot.id, **(details or {})},
    )


def _own_event(action: Action, snapshot: Snapshot, operation: Operation, reason: str) -> Event:
    return Event(
        action=action,
        actor=PLATFORM,
        project_id=snapshot.project_id,
        branch_id=snapshot.branch_id,
        operation_id=operation.id,
        resource=snapshot.name,
        reason=reason,
        details={"snapshot": snapshot.id},
    )
