"""The verbs on backups: look, ask for one, bring something back, leave a project out. What is asked for is done by the keeper and by
operations; each verb is one transaction with its audit event."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId, TimelineId, new_branch_id
from cloister.base.tags import KEPT
from cloister.control.backups import store
from cloister.control.backups.keeper import BackupKeeper
from cloister.control.backups.model import Backups, BranchBackups, Wish
from cloister.control.backups.operations import RESTORE_PROJECT, work_for
from cloister.control.branches import consents, endings, protection
from cloister.control.branches import store as branches
from cloister.control.branches.children import Children, Origin, new_child
from cloister.control.branches.consents import Act
from cloister.control.branches.freshness import Freshness
from cloister.control.branches.model import Branch, SnapshotRestored
from cloister.control.calling import Caller
from cloister.control.claims import claim_project, hold_project
from cloister.control.computes.agent import Agent
from cloister.control.computes.model import NewEndpoint
from cloister.control.naming import checked_name
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation, Status
from cloister.control.projects.operations import PROJECT_RESOURCE
from cloister.node.commands import GetVolume
from cloister.trust.audit import Action, record

NO_STORE: Final = (
    "there is no store for backups: the operator sets one with `cloister backups store set` (docs/backups.md)"
)
NOTHING_THERE: Final = "there is no backup of this branch"


class BackupService:
    def __init__(
        self,
        database: Database,
        engine: Engine,
        children: Children,
        agent: Agent,
        keeper: BackupKeeper,
        *,
        freshness: Freshness,
        clock: Clock,
    ) -> None:
        self._database = database
        self._engine = engine
        self._children = children
        self._agent = agent
        self._keeper = keeper
        self._freshness = freshness
        self._clock = clock

    # ── looking ──

    async def find(self, project_id: ProjectId) -> Backups:
        async with self._database.reading() as tx:
            return await self._found(tx, project_id)

    async def _found(self, tx: Transaction, project_id: ProjectId) -> Backups:
        return Backups(
            has_store=self._keeper.has_store,
            store_problem=self._keeper.store_problem,
            left_out=await store.left_out(tx, project_id),
            branches=await store.of_project(tx, project_id),
        )

    # ── asking for one ──

    async def take(self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None) -> Backups:
        """Of one branch, or of all. Raises NotFoundError, PreconditionError (no store), ConflictError (left out)."""
        return await self._want(caller, project_id, branch_id, Action.BACKUP_ASK, store.want)

    async def check(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None, *, by_restoring: bool
    ) -> Backups:
        """Read some of the newest backup back, of one branch or of all; or try a restore of it. Raises as `take`."""
        want = store.want_drill if by_restoring else store.want_check
        return await self._want(caller, project_id, branch_id, Action.BACKUP_CHECK_ASK, want)

    async def _want(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId | None,
        action: Action,
        want: Callable[[Transaction, Sequence[str], datetime], Awaitable[None]],
    ) -> Backups:
        await self._require_store()
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            found = await self._found(tx, project_id)
            if found.left_out is not None:
                raise ConflictError(
                    public="this project is left out of backups: `cloister backups on` takes it in again"
                )
            wanted = _of(found.branches, branch_id)
            if action is Action.BACKUP_CHECK_ASK:
                wanted = [it for it in wanted if it.bases]
                if not wanted:
                    raise NotFoundError(public=NOTHING_THERE)
            await want(tx, [it.timeline_id for it in wanted], self._clock.now())
            event = caller.event(
                action,
                project_id=project_id,
                branch_id=branch_id or "",
                resource=wanted[0].name if branch_id is not None else "",
                details={"branches": len(wanted)},
            )
            await record(tx, event)
            found = await self._found(tx, project_id)
        self._keeper.poke()
        return found

    async def _require_store(self) -> None:
        if not await self._keeper.is_there_a_store():
            raise PreconditionError(public=NO_STORE)

    # ── bringing back ──

    async def restore(self, caller: Caller, project_id: ProjectId, wish: Wish) -> SnapshotRestored:
        """A new branch of what is in the store. Raises NotFoundError, UnprocessableError, ForbiddenError, PreconditionError.

        1. Whose backup it is, also where the branch is no more; and what of it there is for that point.
        2. It is a copy of the branch. If that is protected, or was when this was sent, it takes who may copy it; and if the
           organization demands another person's consent, that is used up.
        3. The branch, as every child is made: of a protected branch without its passwords (`Children`), and the database says so, too
           (`operation_consent`, `backup_scrubs`).
        """
        await self._require_store()
        await self._freshness.of_protected(project_id, wish.branch_id)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            source = await self._source(tx, project_id, wish.branch_id)  # 1.
            origin = await self._origin(tx, source, wish)
            protection.require_copying(caller, origin.branch)  # 2.
            branch_id = new_branch_id()
            name = branch_id if wish.name is None else checked_name("branch name", wish.name)
            consent = await consents.use(tx, caller, source, Act.COPY, branch_id)
            parent = await _parent(tx, source)  # 3.
            wanted = replace(new_child(branch_id, name, parent, wish.point, self._clock.now()), tags=source.tags & KEPT)
            child = await self._children.add(tx, caller, wanted, origin, [NewEndpoint(branch_id=branch_id)])
            details = {
                "source": source.id,
                "timeline": origin.sources[0],
                "lsn": wish.point.lsn or "",
                "at": "" if wish.point.at is None else wish.point.at.isoformat(),
                "of_protected": origin.branch.is_protected,
                "parent": parent.id,
                **consent,
            }
            event = caller.event(
                Action.BACKUP_RESTORE,
                project_id=project_id,
                branch_id=child.branch.id,
                resource=child.branch.name,
                operations=child.operations,
                details=details,
            )
            await record(tx, event)
        self._engine.kick_all(child.operations)
        return SnapshotRestored(child.branch, child.endpoints, child.passwords, child.operations, consent)

    async def _source(self, tx: Transaction, project_id: ProjectId, branch_id: BranchId | None) -> Branch:
        """Whatever became of it."""
        if branch_id is None:
            return await branches.default(tx, project_id)
        branch = await branches.load(tx, branch_id)
        if branch.project_id != project_id:
            raise NotFoundError(f"no branch {branch_id} in {project_id}", public="branch not found")
        return branch

    async def _origin(self, tx: Transaction, source: Branch, wish: Wish) -> Origin:
        """What to read from the store; of a branch that was protected when it was sent, as if it were still."""
        found = next((it for it in await store.of_project(tx, source.project_id) if it.branch_id == source.id), None)
        if found is None or not found.bases:
            raise NotFoundError(f"no base of {source.id}", public=NOTHING_THERE)
        point = wish.point
        timelines = list(dict.fromkeys(base.timeline_id for base in found.bases))
        if point.at is not None:
            timelines = [await self._timeline_at(tx, found, point.at)]
        elif point.is_head:
            timelines = timelines[:1]
        was_protected = any(base.is_protected for base in found.bases if base.timeline_id in timelines)
        return Origin(
            branch=replace(source, is_protected=source.is_protected or was_protected),
            point=point,
            sources=timelines,
            is_backup=True,
            known_lsn=found.known_lsn if point.is_head and timelines == [found.timeline_id] else None,
        )

    async def _timeline_at(self, tx: Transaction, found: BranchBackups, at: datetime) -> TimelineId:
        timeline_id = await store.timeline_at(tx, found.branch_id, at)
        moments = [base.moment for base in found.bases if base.timeline_id == timeline_id]
        if timeline_id is None or not moments or min(moments) > at:
            first = min(base.moment for base in found.bases)
            raise UnprocessableError(
                f"{found.branch_id} at {at}",
                public=f"the backups of this branch hold nothing for that moment: they begin at {first:%Y-%m-%dT%H:%M:%SZ}",
            )
        until = found.sent_until
        if timeline_id == found.timeline_id and until is not None and at > until:
            raise UnprocessableError(
                f"{found.branch_id} at {at}",
                public=f"the backups of this branch reach to {until:%Y-%m-%dT%H:%M:%SZ}",
            )
        return timeline_id

    async def restore_project(self, caller: Caller, project_id: ProjectId) -> list[Operation]:
        """All of it, where its volume is gone. Raises ConflictError while that is there.

        1. Nothing else works on the project.
        2. The volume is not there: the agent says so, and a failure to say is no answer. One that an attempt before this one made and
           did not fill is.
        3. There is something to bring back.
        """
        await self._require_store()
        try:
            await self._agent.call(GetVolume(project_id))
            is_there = True
        except NotFoundError:
            is_there = False
        async with self._database.transaction() as tx:
            await claim_project(tx, project_id)  # 1.
            if is_there and not await _was_cut_off(tx, project_id):  # 2.
                raise ConflictError(
                    public="the project's volume is there: restore a branch of it, or remove what is left of the volume first"
                )
            work = await work_for(tx, project_id)
            if all(it["known_lsn"] is None for it in work):  # 3.
                raise NotFoundError(public="there is no backup of this project")
            operation = await self._engine.submit(
                tx,
                machine=RESTORE_PROJECT.name,
                project_id=project_id,
                resource=PROJECT_RESOURCE.format(project_id),
                input={"timelines": work},
            )
            details = {"step": "begin", "branches": len(work)}
            event = caller.event(Action.BACKUP_RESTORE, project_id=project_id, operations=[operation], details=details)
            await record(tx, event)
        self._engine.kick(operation.id)
        return [operation]

    # ── leaving out ──

    async def leave_out(self, caller: Caller, project_id: ProjectId, reason: str) -> Backups:
        """Nothing more of it is sent. What is in the store stays there as long as it is locked, and can be restored."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await store.leave_out(tx, project_id, reason, caller.principal.actor)
            await record(tx, caller.event(Action.BACKUP_EXCLUDE, project_id=project_id, reason=reason))
            return await self._found(tx, project_id)

    async def take_in(self, caller: Caller, project_id: ProjectId) -> Backups:
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            if await store.take_in(tx, project_id):
                await record(tx, caller.event(Action.BACKUP_INCLUDE, project_id=project_id))
            found = await self._found(tx, project_id)
        self._keeper.poke()
        return found


def _of(found: Sequence[BranchBackups], branch_id: BranchId | None) -> list[BranchBackups]:
    """Raises NotFoundError."""
    wanted = [it for it in found if it.deleted_at is None and branch_id in (None, it.branch_id)]
    if not wanted:
        raise NotFoundError(public="branch not found")
    return wanted


async def _parent(tx: Transaction, source: Branch) -> Branch:
    """The branch itself, or the nearest above it that is there and stays."""
    if source.deleted_at is None and source.expires_at is None:
        return source
    ancestor_id = await endings.living_ancestor(tx, source.id)
    if ancestor_id is None:
        return await branches.default(tx, source.project_id)
    return await branches.load(tx, ancestor_id)


async def _was_cut_off(tx: Transaction, project_id: str) -> bool:
    last = await tx.fetch_value(
        "SELECT status FROM operation WHERE project_id = $1 AND machine = $2 ORDER BY created_at DESC LIMIT 1",
        project_id,
        RESTORE_PROJECT.name,
    )
    return last is not None and last != Status.FINISHED.value
