"""The verbs on branches. Each is one transaction: rows, operations, audit event. Restoring is in `successions.py`."""

from collections.abc import Mapping
from dataclasses import replace

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId, new_branch_id
from cloister.control.branches import consents, endings, protection, rules, store, timelines
from cloister.control.branches.children import Child, Children, new_child, new_root, origin_of
from cloister.control.branches.consents import Act
from cloister.control.branches.freshness import Freshness
from cloister.control.branches.making import BranchesWorld
from cloister.control.branches.masking_rules import checked
from cloister.control.branches.model import (
    SCHEMA_ONLY,
    Branch,
    BranchChange,
    BranchCreated,
    BranchRestored,
    NewBranch,
    NewMasking,
    Restore,
    Usage,
    Window,
)
from cloister.control.branches.operations import BRANCH_RESOURCE, DELETE_BRANCH, PURGE_BRANCH
from cloister.control.branches.successions import Successions
from cloister.control.calling import Caller, Page
from cloister.control.claims import claim_branch, claim_source, hold_project
from cloister.control.computes.gateways import Gateways
from cloister.control.naming import checked_name
from cloister.control.operations.engine import Engine
from cloister.control.operations.machine import Machine
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.trust.audit import Action, Event, record

PLATFORM = "platform:api"
"""Who deletes a branch that expired, and purges one that nobody recovered."""


class BranchService:
    def __init__(
        self,
        database: Database,
        engine: Engine,
        children: Children,
        successions: Successions,
        *,
        freshness: Freshness,
        gateways: Gateways,
        clock: Clock,
    ) -> None:
        self._database = database
        self._engine = engine
        self._children = children
        self._successions = successions
        self._freshness = freshness
        self._gateways = gateways
        self._clock = clock

    # ── looking ──

    async def find(self, project_id: ProjectId, page: Page, search: str | None) -> list[Branch]:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await store.find(tx, project_id, page, search)

    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Branch:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await store.get(tx, project_id, branch_id)

    async def default(self, project_id: ProjectId) -> Branch:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await store.default(tx, project_id)

    async def count(self, project_id: ProjectId, search: str | None) -> int:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await store.count(tx, project_id, search)

    async def usage(self, project_id: ProjectId, branch_id: BranchId) -> Usage:
        async with self._database.reading() as tx:
            branch = await store.get(tx, project_id, branch_id, and_deleted=True)
            return (await timelines.usages_of(tx, project_id))[branch.id]

    async def usages(self, project_id: ProjectId) -> dict[BranchId, Usage]:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await timelines.usages_of(tx, project_id)

    async def window(self, project_id: ProjectId, branch_id: BranchId) -> Window:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            branch = await store.get(tx, project_id, branch_id)
            return await timelines.window_of(tx, branch.id, project_id, self._clock.now())

    async def find_deleted(self, project_id: ProjectId) -> list[Branch]:
        async with self._database.reading() as tx:
            await _project_exists(tx, project_id)
            return await endings.deleted_of(tx, project_id, self._clock.now() - rules.RECOVERABLE_FOR)

    # ── create ──

    async def create(self, caller: Caller, project_id: ProjectId, new: NewBranch) -> BranchCreated:
        """Answers at once. A client that connects meanwhile is held."""
        if new.masking is not None:
            _check_masking(new, new.masking)
        branch_id = new_branch_id()
        name = branch_id if new.name is None else checked_name("branch name", new.name)
        await self._freshness.of_protected(project_id, new.parent_id)
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            parent = await self._parent(tx, project_id, new.parent_id)
            await claim_source(tx, project_id, parent.id)
            now = self._clock.now()
            origin = await origin_of(tx, parent, new.point, now)
            if new.init_source == SCHEMA_ONLY:
                wanted = new_root(branch_id, name, parent, now)
            else:
                wanted = replace(new_child(branch_id, name, parent, new.point, now), parent_lsn=origin.point.lsn)
            wanted = self._wanted(caller, new, parent, wanted)
            consent = await _consent(tx, caller, new, parent, branch_id)
            child = await self._children.add(tx, caller, wanted, origin, new.endpoints, masking=new.masking)
            details = _origin_details(new, parent) | consent
            await record(tx, event(Action.BRANCH_CREATE, caller, child.branch, child.operations, details))
            created = await self._created(tx, child, parent)
        self._engine.kick_all(created.operations)
        return created

    async def _parent(self, tx: Transaction, project_id: ProjectId, parent_id: BranchId | None) -> Branch:
        if parent_id is None:
            return await store.default(tx, project_id)
        return await store.get(tx, project_id, parent_id)

    def _wanted(self, caller: Caller, new: NewBranch, parent: Branch, wanted: Branch) -> Branch:
        protection.require_copying(caller, parent)
        if parent.expires_at is not None and wanted.parent_id is not None:
            raise UnprocessableError(
                f"{parent.id} expires", public="a branch that has an expiration date cannot have children"
            )
        if new.is_protected:
            protection.require_protection_change(caller, wanted, True)
        if new.expires_at is None:
            return replace(wanted, is_protected=new.is_protected)
        ttl = rules.checked_expiry(new.expires_at, wanted.created_at, is_default=False, is_protected=new.is_protected)
        return replace(wanted, expires_at=new.expires_at, ttl_interval_seconds=ttl)

    @staticmethod
    async def _created(tx: Transaction, child: Child, parent: Branch) -> BranchCreated:
        """Of a branch at a point nobody knows the catalog yet: the answer shows its parent's."""
        databases = await catalog.databases_of(tx, child.branch.id) or await catalog.databases_of(tx, parent.id)
        return BranchCreated(
            branch=child.branch,
            endpoints=child.endpoints,
            roles=child.roles or await catalog.roles_of(tx, parent.id),
            databases=databases,
            passwords=child.passwords,
            operations=child.operations,
        )

    # ── change ──

    async def update(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, change: BranchChange
    ) -> tuple[Branch, list[Operation]]:
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await store.hold(tx, branch_id)
            old = await store.get(tx, project_id, branch_id)
            caller.require_version(old.version)
            protection.require_protection_change(caller, old, change.is_protected)
            wanted = await self._changed(tx, old, change)
            if wanted.name != old.name:
                await store.require_free_name(tx, project_id, wanted.name)
            if old.is_protected and not wanted.is_protected:
                consent = await consents.use(tx, caller, old, Act.UNPROTECT, old.id)
                await protection.unprotect(tx, caller, old, consent)
            branch = await store.change(tx, wanted)
            events = []
            if wanted.is_protected and not old.is_protected:
                events.append(event(Action.BRANCH_PROTECT, caller, branch))
            if differences := _differences(old, branch):
                events.append(event(Action.BRANCH_UPDATE, caller, branch, details=differences))
            if events:
                await record(tx, *events)
        self._gateways.invalidate(project_id=project_id)  # an allowlist may be for protected branches only
        return branch, []

    async def _changed(self, tx: Transaction, old: Branch, change: BranchChange) -> Branch:
        if change.never_expires and change.expires_at is not None:
            raise BadRequestError("both", public="expires_at is a time or null")
        wanted = replace(
            old,
            name=old.name if change.name is None else checked_name("branch name", change.name),
            is_protected=old.is_protected if change.is_protected is None else change.is_protected,
        )
        if change.never_expires:
            wanted = replace(wanted, expires_at=None, ttl_interval_seconds=None)
        if change.expires_at is not None:
            ttl = rules.checked_expiry(
                change.expires_at,
                self._clock.now(),
                is_default=old.is_default,
                is_protected=wanted.is_protected,
                children=await store.children_of(tx, old.id),
            )
            return replace(wanted, expires_at=change.expires_at, ttl_interval_seconds=ttl)
        if wanted.expires_at is not None:
            protection.refuse_expiry(is_protected=wanted.is_protected)
        return wanted

    async def set_as_default(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]:
        async with self._database.transaction() as tx:
            await claim_branch(tx, project_id, branch_id)
            branch = await store.get(tx, project_id, branch_id)
            if branch.expires_at is not None:
                error = BadRequestError(public="Default branch cannot have an expiration date")
                error.code = rules.DEFAULT_EXPIRE_CODE
                raise error
            branch = await store.set_default(tx, project_id, branch_id)
            await record(tx, event(Action.BRANCH_SET_AS_DEFAULT, caller, branch))
        return branch, []

    # ── delete, recover ──

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, hard: bool = False
    ) -> tuple[Branch, list[Operation]]:
        async with self._database.transaction() as tx:
            branch, operation = await self._delete(tx, project_id, branch_id, hard=hard, caller=caller)
            assert branch.deleted_at is not None
            age_s = int((branch.deleted_at - branch.created_at).total_seconds())
            details = {"is_final": hard, "age_s": age_s}
            await record(tx, event(Action.BRANCH_DELETE, caller, branch, [operation], details))
        self._gateways.invalidate(project_id=project_id)
        self._engine.kick_all([operation])
        return branch, [operation]

    async def expire(self, branch: Branch) -> None:
        """Delete one whose time is over, as its owner asked for; unless they have been given another answer since it was found."""
        async with self._database.transaction() as tx:
            await claim_branch(tx, branch.project_id, branch.id)
            branch = await store.get(tx, branch.project_id, branch.id)
            if branch.expires_at is None or branch.expires_at > self._clock.now():
                return
            branch, operation = await self._delete(tx, branch.project_id, branch.id, hard=False)
            await record(tx, _own_event(Action.BRANCH_DELETE, branch, operation, "expired"))
        self._gateways.invalidate(project_id=branch.project_id)
        self._engine.kick_all([operation])

    async def purge(self, branch: Branch) -> None:
        """Give up the data of one that nobody can recover any more."""
        async with self._database.transaction() as tx:
            await claim_branch(tx, branch.project_id, branch.id)
            branch = await store.get(tx, branch.project_id, branch.id, and_deleted=True)
            if branch.deleted_at is None or branch.deleted_at > self._clock.now() - rules.RECOVERABLE_FOR:
                return  # recovered while we waited for it
            operation = await self._submit(tx, PURGE_BRANCH, branch)
            await record(tx, _own_event(Action.BRANCH_PURGE, branch, operation, "deleted long enough ago"))
        self._engine.kick_all([operation])

    async def _delete(
        self, tx: Transaction, project_id: ProjectId, branch_id: BranchId, *, hard: bool, caller: Caller | None = None
    ) -> tuple[Branch, Operation]:
        await claim_branch(tx, project_id, branch_id)
        await store.hold(tx, branch_id)
        branch = await store.get(tx, project_id, branch_id, and_deleted=hard)
        if caller is not None:
            caller.require_version(branch.version)
        protection.refuse_delete(branch)
        rules.refuse_delete(branch, await store.children_of(tx, branch_id))
        if branch.deleted_at is None:
            branch = await endings.delete(tx, branch_id)
        return branch, await self._submit(tx, PURGE_BRANCH if hard else DELETE_BRANCH, branch)

    async def recover(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]:
        async with self._database.transaction() as tx:
            await claim_branch(tx, project_id, branch_id)
            branch = await store.get(tx, project_id, branch_id, and_deleted=True)
            if branch.deleted_at is None:
                raise ConflictError(f"{branch_id} is there", public="branch is not deleted")
            if branch.deleted_at <= self._clock.now() - rules.RECOVERABLE_FOR:
                raise NotFoundError(f"{branch_id} is past recovery", public="branch not found")
            await store.require_free_name(tx, project_id, branch.name)
            parent_id = branch.parent_id
            if parent_id is not None:
                parent_id = await endings.living_ancestor(tx, branch_id) or (await store.default(tx, project_id)).id
            branch = await endings.recover(tx, branch, parent_id)
            await record(tx, event(Action.BRANCH_RECOVER, caller, branch))
        self._gateways.invalidate(project_id=project_id)
        return branch, []

    # ── restore ──

    async def restore(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, wish: Restore
    ) -> BranchRestored:
        await self._freshness.of_protected(project_id, wish.source_id)
        async with self._database.transaction() as tx:
            await claim_branch(tx, project_id, branch_id)
            if wish.source_id != branch_id:
                await claim_source(tx, project_id, wish.source_id)
            branch = await store.get(tx, project_id, branch_id)
            protection.refuse_reset(branch)  # before anything is said about points in its history
            source = await store.get(tx, project_id, wish.source_id)
            origin = await origin_of(tx, source, wish.point, self._clock.now())
            restored = await self._successions.submit(tx, caller, branch, origin, wish.preserve_under_name)
            details = {
                "source": source.id,
                "lsn": origin.point.lsn or "",
                "at": "" if origin.point.at is None else origin.point.at.isoformat(),
                "preserved_as": "" if restored.preserved is None else restored.preserved.id,
                **restored.consent,
            }
            await record(tx, event(Action.BRANCH_RESTORE, caller, restored.branch, restored.operations, details))
        self._engine.kick_all(restored.operations)
        return restored

    async def _submit(self, tx: Transaction, machine: Machine[BranchesWorld], branch: Branch) -> Operation:
        return await self._engine.submit(
            tx,
            machine=machine.name,
            project_id=branch.project_id,
            branch_id=branch.id,
            resource=BRANCH_RESOURCE.format(branch.id),
            input={},
        )


def event(
    action: Action,
    caller: Caller,
    branch: Branch,
    operations: list[Operation] | None = None,
    details: Mapping[str, object] | None = None,
) -> Event:
    return caller.event(
        action,
        project_id=branch.project_id,
        branch_id=branch.id,
        resource=branch.name,
        operations=operations or (),
        details=details,
    )


def _own_event(action: Action, branch: Branch, operation: Operation, reason: str) -> Event:
    return Event(
        action=action,
        actor=PLATFORM,
        project_id=branch.project_id,
        branch_id=branch.id,
        operation_id=operation.id,
        resource=branch.name,
        reason=reason,
    )


async def _consent(
    tx: Transaction, caller: Caller, new: NewBranch, parent: Branch, branch_id: BranchId
) -> dict[str, object]:
    if not new.takes_data:
        return {}
    rules = () if new.masking is None else new.masking.rules
    return await consents.use(tx, caller, parent, Act.COPY, branch_id, rules=rules)


def _origin_details(new: NewBranch, parent: Branch) -> dict[str, object]:
    return {
        "parent": parent.id,
        "init_source": new.init_source,
        "lsn": new.point.lsn or "",
        "at": "" if new.point.at is None else new.point.at.isoformat(),
        "is_protected": new.is_protected,
        "of_protected": parent.is_protected,
        **({} if new.masking is None else {"rules": len(new.masking.rules)}),
        "expires_at": "" if new.expires_at is None else new.expires_at.isoformat(),
    }


def _check_masking(new: NewBranch, masking: NewMasking) -> None:
    """Raises UnprocessableError."""
    if new.init_source == SCHEMA_ONLY:
        raise UnprocessableError(public="a schema-only branch has no rows to anonymize")
    checked(masking.rules)


def _differences(old: Branch, new: Branch) -> dict[str, object]:
    return {
        name: str(getattr(new, name)) for name in ("name", "expires_at") if getattr(new, name) != getattr(old, name)
    }


async def _project_exists(tx: Transaction, project_id: ProjectId) -> None:
    if not await tx.fetch_value("SELECT true FROM project WHERE id = $1 AND deleted_at IS NULL", project_id):
        raise NotFoundError(f"no project {project_id}", public="project not found")
