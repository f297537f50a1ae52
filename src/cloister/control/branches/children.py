"""How a request for a new branch becomes rows and operations: of a branch, or of a snapshot.

All of it is in the caller's transaction, and the caller holds the project. When that is committed the branch has its name,
its endpoint its host, and its roles may log in, unless nobody can know them yet: the login then waits for the compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cloister.base.clock import Clock
from cloister.base.database import Transaction
from cloister.base.errors import ConflictError, UnprocessableError
from cloister.base.ids import BranchId, TimelineId, new_timeline_id
from cloister.control.branches import masking_store as maskings
from cloister.control.branches import protection, store, timelines
from cloister.control.branches.making import Recipe
from cloister.control.branches.masking import begin
from cloister.control.branches.model import PARENT_DATA, SCHEMA_ONLY, Branch, NewMasking, NewPassword, Point
from cloister.control.branches.operations import CREATE_BRANCH, submit_creation, work
from cloister.control.branches.protection import Verifiers
from cloister.control.branches.rules import BRANCHES_MAX, checked_point
from cloister.control.calling import Caller
from cloister.control.computes import store as computes
from cloister.control.computes.model import READ_ONLY, Endpoint, NewEndpoint
from cloister.control.computes.service import check_endpoint, check_readers, check_type, new_endpoint
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.control.roles.model import Role
from cloister.control.roles.passwords import Vault
from cloister.control.roles.server import RoleState


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a timeline is to be made of."""

    branch: Branch
    """Whose data it is or was."""
    point: Point
    sources: list[TimelineId]
    snapshot_id: str | None = None
    is_backup: bool = False
    """To be read from the store, up to `known_lsn` at least."""
    known_lsn: str | None = None

    def recipe(self, target_id: TimelineId, *, is_frozen: bool = False) -> Recipe:
        return Recipe(
            source_branch_id=self.branch.id,
            sources=[str(source) for source in self.sources],
            target_id=target_id,
            lsn=self.point.lsn,
            at=None if self.point.at is None else self.point.at.isoformat(),
            is_snapshot=self.snapshot_id is not None,
            is_backup=self.is_backup,
            known_lsn=self.known_lsn,
            is_frozen=is_frozen,
        )


async def origin_of(tx: Transaction, branch: Branch, point: Point, now: datetime) -> Origin:
    """A branch's head, or what it was at a point. Raises BadRequestError, UnprocessableError."""
    if point.is_head:
        return Origin(branch=branch, point=point, sources=[branch.timeline_id])
    window = await timelines.window_of(tx, branch.id, branch.project_id, now)
    point = checked_point(point, window)
    if point.lsn is not None:
        sources = await timelines.to_search(tx, branch.id)
        if not sources:
            raise UnprocessableError(f"{branch.id} has no data yet", public="branch not ready yet")
        return Origin(branch=branch, point=point, sources=sources)
    assert point.at is not None
    timeline_id = await timelines.at(tx, branch.id, point.at)
    if timeline_id is None:
        raise UnprocessableError(f"{branch.id} had no timeline at {point.at}", public="the branch did not exist then")
    return Origin(branch=branch, point=point, sources=[timeline_id])


@dataclass(frozen=True, slots=True)
class Child:
    branch: Branch
    endpoints: list[Endpoint]
    roles: list[Role]
    passwords: list[NewPassword]
    operations: list[Operation]


class Children:
    def __init__(self, engine: Engine, vault: Vault, clock: Clock) -> None:
        self._engine = engine
        self._vault = vault
        self._clock = clock

    async def add(
        self,
        tx: Transaction,
        caller: Caller,
        wanted: Branch,
        origin: Origin,
        endpoints: Sequence[NewEndpoint],
        *,
        replaces_id: BranchId | None = None,
        masking: NewMasking | None = None,
    ) -> Child:
        """`wanted` with the timeline that is to be made, now or (`masking`) when it is started. Raises ConflictError, UnprocessableError, BadRequestError."""
        if await store.count(tx, wanted.project_id, None) >= BRANCHES_MAX:
            raise UnprocessableError(
                f"{BRANCHES_MAX} branches", public=f"a project has at most {BRANCHES_MAX} branches"
            )
        branch = await store.add(tx, wanted, created_by=caller.principal.account_id, replaces_id=replaces_id)
        await timelines.add(tx, branch.timeline_id, branch.project_id, branch_id=branch.id, source_id=origin.sources[0])
        theirs = await roles_of(tx, origin.branch.id)
        recipe = origin.recipe(branch.timeline_id)
        if branch.init_source == SCHEMA_ONLY:
            recipe = replace(recipe, way_id=new_timeline_id())
        verifiers = protection.verifiers_of_child(theirs, is_source_protected=origin.branch.is_protected)
        passwords: list[NewPassword] = []
        if verifiers is not None:
            passwords = await ask(tx, self._vault, branch, theirs, verifiers)
            await catalog.copy_databases(tx, origin.branch.id, branch.id)
        elif recipe.is_catalog_known:
            await catalog.copy_catalog(tx, origin.branch.id, branch.id, self._vault)
        made = [await self._add_endpoint(tx, branch, new) for new in _checked_endpoints(endpoints)]
        given = work(recipe, scrubs=verifiers is not None)
        operations: list[Operation] = []
        if masking is None:
            operations = await submit_creation(tx, self._engine, CREATE_BRANCH, branch, given, endpoints=made)
        else:
            await maskings.add(tx, branch.id, masking.rules, given)
            if masking.starts:
                operations = await begin(tx, self._engine, caller, branch, made)
        roles = await catalog.roles_of(tx, branch.id)
        return Child(branch, made, roles, passwords, operations)

    async def _add_endpoint(self, tx: Transaction, branch: Branch, new: NewEndpoint) -> Endpoint:
        defaults = await computes.defaults_of(tx, branch.project_id)
        endpoint = new_endpoint(branch.project_id, branch.id, new, defaults, self._clock.now(), is_first=True)
        check_endpoint(endpoint, await computes.pg_version_of(tx, branch.project_id))
        return await computes.add(tx, endpoint)


async def roles_of(tx: Transaction, branch_id: BranchId) -> list[RoleState]:
    """As the copy of the catalog says, what is asked for included."""
    return [
        RoleState(role.name, role.verifier, role.can_login, role.valid_until)
        for role in await catalog.roles_of(tx, branch_id)
    ]


async def ask(
    tx: Transaction, vault: Vault, branch: Branch, theirs: Sequence[RoleState], verifiers: Verifiers
) -> list[NewPassword]:
    """Write down which verifiers the roles of a branch are to have once its secrets are scrubbed."""
    stores = await catalog.stores_passwords(tx, branch.project_id)
    for role in theirs:
        if role.name in verifiers.kept:
            await catalog.ask_for(tx, branch.id, role.name, verifiers.kept[role.name], None)
    for renewal in verifiers.renewed:
        sealed = vault.seal(branch.id, renewal.name, renewal.password) if stores else None
        await catalog.ask_for(tx, branch.id, renewal.name, renewal.verifier, sealed)
    return [
        NewPassword(await catalog.get_role(tx, branch.id, renewal.name), renewal.password)
        for renewal in verifiers.renewed
    ]


def new_root(branch_id: BranchId, name: str, source: Branch, now: datetime) -> Branch:
    """The row of a branch that takes another one's schema and nothing else: it has no parent."""
    child = new_child(branch_id, name, source, Point(), now)
    return replace(child, parent_id=None, parent_timestamp=None, init_source=SCHEMA_ONLY)


def new_child(branch_id: BranchId, name: str, parent: Branch, point: Point, now: datetime) -> Branch:
    """A row in the making."""
    return Branch(
        id=branch_id,
        project_id=parent.project_id,
        parent_id=parent.id,
        parent_lsn=point.lsn,
        parent_timestamp=point.at or (None if point.lsn else now),
        init_source=PARENT_DATA,
        timeline_id=new_timeline_id(),
        name=name,
        is_default=False,
        is_protected=False,
        state="init",
        expires_at=None,
        ttl_interval_seconds=None,
        created_at=now,
        updated_at=now,
    )


def _checked_endpoints(endpoints: Sequence[NewEndpoint]) -> Sequence[NewEndpoint]:
    for endpoint in endpoints:
        check_type(endpoint.type)
    readers = sum(endpoint.type == READ_ONLY for endpoint in endpoints)
    check_readers(readers)
    if len(endpoints) - readers > 1:
        raise ConflictError("two writers", public="a branch has at most one read-write endpoint")
    return endpoints
