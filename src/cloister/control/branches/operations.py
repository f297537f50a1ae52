"""The machines of branches: create, restore, delete, purge; and of snapshots, which are timelines of their own.

Each makes a new timeline or gives one up; what a branch *is* changes in one transaction (`timelines.succeed`). So there is
no moment at which a crash could leave a branch between two states, and whoever wakes it finds either the one or the other.

Resources: an operation holds its own branch (`branch:…`). That the branch whose data it takes stays as it is meanwhile is
seen to by `claims.py`, from the operation's input: many children of one parent are made at the same time.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

import msgspec

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, TimelineId
from cloister.control.branches import endings, snapshot_store, store, timelines
from cloister.control.branches import masking_store as maskings
from cloister.control.branches.making import BranchesWorld, Made, Recipe, make, make_masked, make_schema
from cloister.control.branches.model import Branch
from cloister.control.computes import store as computes
from cloister.control.computes.model import Endpoint, State
from cloister.control.computes.operations import FIRST_START, START, submit
from cloister.control.computes.runner import Cause
from cloister.control.operations.engine import Engine
from cloister.control.operations.machine import Apply, Done, Fail, Go, Machine, Outcome, Step, Wait
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.node.commands import DeleteTimeline, MaskRule, ScrubTimeline

BRANCH_RESOURCE: Final = "branch:{}"
TIMELINE_RESOURCE: Final = "timeline:{}"

DEADLINE: Final = timedelta(hours=1)
# Recovery to a point replays up to a window of WAL. What does not come to an end in this time is taken back.
GIVE_UP_DEADLINE: Final = timedelta(days=1)
# Deleting is tried for long before a person is asked: a volume may be unavailable for a while.

SCRUB_TIMEOUT_S: Final = 300.0
# One single-user run per database; a child of a busy parent recovers to the end of its copy first.
DELETE_TIMEOUT_S: Final = 120.0

_NOT_YET_S: Final = 0.05
# A project's first start takes a tenth of a second.

_ACTOR: Final = "platform:operations"


def work(recipe: Recipe, **more: Any) -> dict[str, Any]:
    """An operation's input. `source_branch_id` is where `claims.py` looks."""
    return {"recipe": asdict(recipe), "source_branch_id": recipe.source_branch_id, **more}


# ── create ──


async def make_child(operation: Operation, world: BranchesWorld) -> Outcome:
    """Waits while the parent itself is being made: a client may create a project and branch it at once."""
    branch_id, recipe, is_masked = _branch(operation), Recipe.of(operation), _is_masked(operation)
    async with world.database.reading() as tx:
        if await timelines.state_of(tx, recipe.target_id) == "ready":
            return Go()
        is_still = recipe.is_snapshot or recipe.is_backup
        hindrance = None if is_still else await _hindrance(tx, recipe.source_branch_id)
    if hindrance is not None:
        return hindrance
    if recipe.way_id is None:
        made = await make(world, operation.project_id, recipe)
    elif is_masked:
        rules = msgspec.convert(operation.input["rules"], list[MaskRule])
        made = await make_masked(world, operation, recipe, rules)
    else:
        made = await make_schema(world, operation, recipe, keeps_passwords=not operation.input["scrubs"])
    if recipe.way_id is not None:
        await _delete(world, operation, recipe.way_id)

    async def apply(tx: Transaction) -> None:
        if is_masked:
            await maskings.done(tx, branch_id)
        await timelines.is_made(tx, recipe.target_id)
        if is_masked or recipe.way_id is None:
            await store.left_parent(tx, branch_id, made.recovered.lsn, made.at)
        await _note_catalog(tx, recipe, made)
        if recipe.is_catalog_known and not operation.input["scrubs"]:
            await catalog.copy_catalog(tx, BranchId(recipe.source_branch_id), branch_id, world.vault)
            if made.catalog is not None:
                await catalog.keep_catalog(tx, branch_id, made.catalog.roles, made.catalog.databases)
        if not operation.input["scrubs"]:
            await store.is_ready(tx, branch_id)

    return Go(apply=apply) if operation.input["scrubs"] else Done(apply=apply)


async def unmake_child(operation: Operation, world: BranchesWorld) -> Apply:
    branch_id, recipe = _branch(operation), Recipe.of(operation)
    target_id = recipe.target_id
    if recipe.way_id is not None:
        await _delete(world, operation, recipe.way_id)
    await _delete(world, operation, target_id)

    async def apply(tx: Transaction) -> None:
        await timelines.is_deleted(tx, target_id)
        await endings.purged(tx, branch_id)

    return apply


async def scrub_child(operation: Operation, world: BranchesWorld) -> Outcome:
    """Before anybody can connect: the endpoint's first start comes after this operation."""
    branch_id = _branch(operation)
    if _is_masked(operation) or Recipe.of(operation).way_id is None:  # With the schema alone no verifier came along.
        await _scrub(world, operation)

    async def apply(tx: Transaction) -> None:
        await store.is_ready(tx, branch_id)

    return Go(apply=apply)


async def unmake_masked(operation: Operation, world: BranchesWorld) -> Apply:
    """The branch stays, without data, and with what was wrong: its rules can be changed and tried again."""
    branch_id, recipe = _branch(operation), Recipe.of(operation)
    for timeline_id in (recipe.way_id, recipe.target_id):
        if timeline_id is not None:
            await _delete(world, operation, timeline_id)

    async def apply(tx: Transaction) -> None:
        await maskings.failed(tx, branch_id, operation.error or "")

    return apply


def _is_masked(operation: Operation) -> bool:
    return "rules" in operation.input


async def _hindrance(tx: Transaction, parent_id: str) -> Outcome | None:
    """Why the parent's data is not yet what its clients will see: its first start gives the template's role and database
    their names."""
    # Asked first: who is made between two questions is made by the second, and not somebody who never was.
    is_being_made = await store.is_being_made(tx, BranchId(parent_id))
    parent = await store.load(tx, parent_id)
    if parent.deleted_at is not None:
        return Fail(NotFoundError(f"{parent_id} is gone", public="branch not found"))
    if parent.state != "init" and not await computes.is_from_template(tx, parent.id):
        return None
    if is_being_made:
        return Wait(_NOT_YET_S, "the parent is being made")
    return Fail(UnprocessableError(f"{parent_id} was never made", public="branch not ready yet"))


# ── restore ──


async def make_successor(operation: Operation, world: BranchesWorld) -> Outcome:
    recipe = Recipe.of(operation)
    async with world.database.reading() as tx:
        if await timelines.state_of(tx, recipe.target_id) == "ready":
            return Go()
    made = await make(world, operation.project_id, recipe)

    async def apply(tx: Transaction) -> None:
        await timelines.is_made(tx, recipe.target_id)
        await _note_catalog(tx, recipe, made)

    facts = {"lsn": made.recovered.lsn, "at": None if made.at is None else made.at.isoformat()}
    return Go(facts, apply)


async def unmake_successor(operation: Operation, world: BranchesWorld) -> Apply:
    """The branch is what it was; a compute that was stopped for this is owed a start."""
    branch_id, given = _branch(operation), operation.input
    target_id = Recipe.of(operation).target_id
    async with world.database.reading() as tx:
        # It cannot be: `succeed` is the last step, and its commit ends the operation. What this would destroy is worth a look.
        assert (await store.load(tx, branch_id)).timeline_id != target_id, "a successor that has succeeded"
    await _delete(world, operation, target_id)

    async def apply(tx: Transaction) -> None:
        await timelines.is_deleted(tx, target_id)
        await catalog.forget_asked(tx, branch_id)
        if given["preserved_id"] is not None:
            await store.forget(tx, given["preserved_id"])
        for endpoint_id in given["running"]:
            await computes.want(tx, endpoint_id, State.ACTIVE)

    return apply


async def scrub_successor(operation: Operation, world: BranchesWorld) -> Outcome:
    if operation.input["scrubs"]:
        await _scrub(world, operation)
    return Go()


async def succeed(operation: Operation, world: BranchesWorld) -> Outcome:
    """Its computes are suspended in order, and in one transaction it is something else. One that was started in between is
    seen there, and all of this is done again."""
    branch_id, given, recipe = _branch(operation), operation.input, Recipe.of(operation)
    async with world.database.reading() as tx:
        if (await store.load(tx, branch_id)).timeline_id == recipe.target_id:
            return Go()
        endpoint_ids = await store.endpoints_of(tx, branch_id)
    for endpoint_id in endpoint_ids:
        await world.suspender.at_once(endpoint_id, Cause(_ACTOR, "restored", operation_id=operation.id))

    async def apply(tx: Transaction) -> None:
        heir_id = given["preserved_id"]
        await timelines.succeed(tx, branch_id, TimelineId(given["old_id"]), TimelineId(recipe.target_id), heir_id)
        if heir_id is not None:
            await catalog.copy_catalog(tx, branch_id, BranchId(heir_id), world.vault)
            await catalog.forget_asked(tx, BranchId(heir_id))
            await store.is_ready(tx, BranchId(heir_id))
        if given["scrubs"]:
            await catalog.only_asked(tx, branch_id)
        elif recipe.is_catalog_known and recipe.source_branch_id != branch_id:
            await catalog.copy_catalog(tx, BranchId(recipe.source_branch_id), branch_id, world.vault)
        elif not recipe.is_catalog_known:
            await catalog.forget_catalog(tx, branch_id)
        await store.restored(tx, branch_id, given["parent_id"], operation.facts["lsn"], operation.facts["at"])
        await computes.begin_anew(tx, branch_id)

    return Go(apply=apply)


# ── delete, purge ──


async def put_to_sleep(operation: Operation, world: BranchesWorld) -> Outcome:
    """The rows are marked already: nobody wakes it. In order, for it may be recovered."""
    async with world.database.reading() as tx:
        endpoint_ids = await store.endpoints_of(tx, _branch(operation))
    for endpoint_id in endpoint_ids:
        await world.suspender.at_once(endpoint_id, Cause(_ACTOR, "branch deleted", operation_id=operation.id))
        world.gateways.invalidate(endpoint_id=endpoint_id)
    return Go()


async def halt(operation: Operation, world: BranchesWorld) -> Outcome:
    async with world.database.reading() as tx:
        endpoint_ids = await store.endpoints_of(tx, _branch(operation))
    for endpoint_id in endpoint_ids:
        await world.runner.halt(endpoint_id, Cause(_ACTOR, "branch deleted", operation_id=operation.id))
        world.gateways.invalidate(endpoint_id=endpoint_id)
    return Go()


async def delete_all(operation: Operation, world: BranchesWorld) -> Outcome:
    branch_id = _branch(operation)
    async with world.database.reading() as tx:
        timeline_ids = await timelines.of_branch(tx, branch_id)
    for timeline_id in timeline_ids:
        await _delete(world, operation, timeline_id)

    async def apply(tx: Transaction) -> None:
        await timelines.is_deleted(tx, *timeline_ids)
        await endings.purged(tx, branch_id)

    return Go(apply=apply)


# ── snapshots ──


async def freeze(operation: Operation, world: BranchesWorld) -> Outcome:
    recipe = Recipe.of(operation)
    async with world.database.reading() as tx:
        if await timelines.state_of(tx, recipe.target_id) == "ready":
            return Go()
        hindrance = await _hindrance(tx, recipe.source_branch_id)
    if hindrance is not None:
        return hindrance
    made = await make(world, operation.project_id, recipe)

    async def apply(tx: Transaction) -> None:
        await timelines.is_made(tx, recipe.target_id)
        await snapshot_store.taken(tx, operation.input["snapshot_id"], made.recovered.lsn)

    return Go(apply=apply)


async def unfreeze(operation: Operation, world: BranchesWorld) -> Apply:
    target_id = Recipe.of(operation).target_id
    await _delete(world, operation, target_id)

    async def apply(tx: Transaction) -> None:
        await timelines.is_deleted(tx, target_id)
        await snapshot_store.delete(tx, operation.input["snapshot_id"])

    return apply


async def delete_one(operation: Operation, world: BranchesWorld) -> Outcome:
    timeline_id = operation.input["timeline_id"]
    await _delete(world, operation, timeline_id)

    async def apply(tx: Transaction) -> None:
        await timelines.is_deleted(tx, timeline_id)

    return Go(apply=apply)


# ── finalize ──


async def take_place(operation: Operation, world: BranchesWorld) -> Outcome:
    """The branch gets the other's name, endpoints and rank, and the other keeps its data under another name. Both are at
    rest meanwhile."""
    branch_id, given = _branch(operation), operation.input
    async with world.database.reading() as tx:
        if await store.replaced_by(tx, branch_id) is None:
            return Go()
        endpoint_ids = await store.endpoints_of(tx, branch_id) + await store.endpoints_of(tx, given["replaced_id"])
    for endpoint_id in endpoint_ids:
        await world.suspender.at_once(endpoint_id, Cause(_ACTOR, "restore finalized", operation_id=operation.id))

    async def apply(tx: Transaction) -> None:
        await store.take_place(
            tx, BranchId(branch_id), BranchId(given["replaced_id"]), name=given["name"], old_name=given["old_name"]
        )

    return Go(apply=apply)


def _branch(operation: Operation) -> BranchId:
    assert operation.branch_id is not None
    return BranchId(operation.branch_id)


async def _note_catalog(tx: Transaction, recipe: Recipe, made: Made) -> None:
    """What the source's server said while it was copied is younger than the rows; unless these changed since, for to mask a copy may
    take an hour. What was true before that would bring back the password that a role had, and be believed while the source sleeps."""
    if made.catalog is None:
        return
    source_id = BranchId(recipe.source_branch_id)
    if await catalog.as_it_stands(tx, source_id, holds=True) == made.known:
        await catalog.keep_catalog(tx, source_id, made.catalog.roles, made.catalog.databases)


async def _scrub(world: BranchesWorld, operation: Operation) -> None:
    async with world.database.reading() as tx:
        place = await timelines.place_of(tx, operation.project_id)
    await world.agent.call(
        ScrubTimeline(
            project_id=operation.project_id,
            timeline_id=Recipe.of(operation).target_id,
            pg_version=place.pg_version,
            uid=place.uid,
        ),
        timeout_s=SCRUB_TIMEOUT_S,
    )


async def _delete(world: BranchesWorld, operation: Operation, timeline_id: str) -> None:
    await world.agent.call(
        DeleteTimeline(project_id=operation.project_id, timeline_id=timeline_id), timeout_s=DELETE_TIMEOUT_S
    )


async def submit_creation(
    tx: Transaction,
    engine: Engine,
    machine: Machine[BranchesWorld],
    branch: Branch,
    given: dict[str, Any],
    *,
    endpoints: Sequence[Endpoint],
) -> list[Operation]:
    """The operation that gives a branch its first data, and the first starts of its endpoints, which come after it."""
    creation = await engine.submit(
        tx,
        machine=machine.name,
        project_id=branch.project_id,
        branch_id=branch.id,
        resource=BRANCH_RESOURCE.format(branch.id),
        input=given,
    )
    starts = [
        await submit(tx, engine, START if endpoint.is_reader else FIRST_START, endpoint, after=creation)
        for endpoint in endpoints
        if not endpoint.is_disabled and (endpoint.is_reader or endpoint.state is State.INIT)
    ]
    return [creation, *starts]


CREATE_BRANCH: Final[Machine[BranchesWorld]] = Machine(
    "create_branch", "create_branch", DEADLINE, (Step("make", make_child, unmake_child), Step("scrub", scrub_child))
)
ANONYMIZE_BRANCH: Final[Machine[BranchesWorld]] = Machine(
    "anonymize_branch",
    "create_branch",
    DEADLINE,
    (Step("make", make_child, unmake_masked), Step("scrub", scrub_child)),
)
RESTORE_BRANCH: Final[Machine[BranchesWorld]] = Machine(
    "restore_branch",
    "create_timeline",
    DEADLINE,
    (
        Step("make", make_successor, unmake_successor),
        Step("scrub", scrub_successor),
        Step("succeed", succeed),
    ),
)
DELETE_BRANCH: Final[Machine[BranchesWorld]] = Machine(
    "delete_branch", "delete_timeline", GIVE_UP_DEADLINE, (Step("put_to_sleep", put_to_sleep),), has_rollback=False
)
PURGE_BRANCH: Final[Machine[BranchesWorld]] = Machine(
    "purge_branch",
    "delete_timeline",
    GIVE_UP_DEADLINE,
    (Step("halt", halt), Step("delete", delete_all)),
    has_rollback=False,
)
TAKE_SNAPSHOT: Final[Machine[BranchesWorld]] = Machine(
    "take_snapshot", "create_timeline", DEADLINE, (Step("freeze", freeze, unfreeze),)
)
DELETE_TIMELINE: Final[Machine[BranchesWorld]] = Machine(
    "delete_timeline", "delete_timeline", GIVE_UP_DEADLINE, (Step("delete", delete_one),), has_rollback=False
)
FINALIZE_RESTORE: Final[Machine[BranchesWorld]] = Machine(
    "finalize_restore", "apply_config", DEADLINE, (Step("take_place", take_place),), has_rollback=False
)

MACHINES: Final = (
    CREATE_BRANCH,
    ANONYMIZE_BRANCH,
    RESTORE_BRANCH,
    DELETE_BRANCH,
    PURGE_BRANCH,
    TAKE_SNAPSHOT,
    DELETE_TIMELINE,
    FINALIZE_RESTORE,
)
