"""How a timeline is made of another one: the single place that does, for branches, restores and snapshots.

Four ways, by where the source is:

1. Nobody works on it: its files are cloned. Nothing is woken.
2. A compute works on it: PostgreSQL's own procedure for a base backup. Our session holds the server in backup mode while
   the agent copies the files, and what the server says at the end goes with them. All of it is one attempt: a server that
   ends in the middle leaves nothing, and the next attempt finds it at rest.
3. It is wanted as it was at a point: the agent recovers it from its history. Whether somebody works on it is all the same.
4. It is wanted from the store (`control/backups`): the agent brings it back from there, whatever became of the source.

Where only the schema is wanted, the agent makes it anew from such a copy, which is deleted then: no file of the source becomes
the target's. Where columns are to hold something else, it masks a clone of such a copy.

Which of the first two it is may change under our hands; then the agent refuses, and the attempt is made again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakValueDictionary

from cloister.base.database import Database
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError, UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.branches import store, timelines
from cloister.control.computes.agent import Agent
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.runner import CatalogCopy, Runner
from cloister.control.computes.sessions import Running, Sessions
from cloister.control.computes.suspend import Suspender
from cloister.control.operations.model import Operation
from cloister.control.roles import store as roles
from cloister.control.roles.passwords import Vault
from cloister.node.commands import (
    CloneTimeline,
    CopySchema,
    CopyTimeline,
    FinishCopy,
    MaskRule,
    MaskTimeline,
    Recovered,
    RecoverTimeline,
    RestoreTimeline,
)

COPY_TIMEOUT_S: Final = 120.0
# Cloning a thousand files takes 30 ms; on a disk that others keep busy, seconds. A volume may have to be opened first.

RECOVERY_TIMEOUT_S: Final = 1800.0
# A window full of WAL between two snapshots: minutes of replay at worst. The agent has a limit of its own.

RESTORE_TIMEOUT_S: Final = 3300.0
# Fetching, at what the store and its line give, and the same replay. What takes longer is `DEADLINE`'s to end.

SCHEMA_TIMEOUT_S: Final = 1200.0
# A dump and a restore for each database. The agent's own limit is below.

MASK_TIMEOUT_S: Final = 3300.0
# Every table with a rule is written twice. The agent's own limit is below.

COPIES_AT_ONCE_MAX: Final = 2
# While one waits for its checkpoint, another copies.

LABEL: Final = "cloister"
# What the server writes into backup_label: nobody's name.


class Turns:
    """How many copies of one compute are made at a time. Each has a session there, of the few that are reserved for us, and
    its checkpoint is waited for by the next one anyway."""

    def __init__(self) -> None:
        self._slots: WeakValueDictionary[EndpointId, asyncio.Semaphore] = WeakValueDictionary()
        self._histories: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, endpoint_id: EndpointId) -> AsyncIterator[None]:
        slots = self._slots.get(endpoint_id)
        if slots is None:
            slots = self._slots[endpoint_id] = asyncio.Semaphore(COPIES_AT_ONCE_MAX)
        async with slots:
            yield

    @contextlib.asynccontextmanager
    async def of_history(self, timeline_id: str) -> AsyncIterator[None]:
        """One copy at a time into a timeline's own history, which has one place for it: another's files under this one's label
        would be a place to recover from that never was."""
        lock = self._histories.get(timeline_id)
        if lock is None:
            lock = self._histories[timeline_id] = asyncio.Lock()
        async with lock:
            yield


@dataclass(frozen=True, slots=True)
class BranchesWorld:
    """All that the machines of branches may touch."""

    database: Database
    agent: Agent
    runner: Runner
    suspender: Suspender
    sessions: Sessions
    gateways: Gateways
    vault: Vault
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make of what. Fixed in the operation's input."""

    source_branch_id: str
    """Whose data it is. Not deleted or restored while the operation is under way."""
    sources: list[str]
    """The timelines to try, in order: more than one where an LSN is asked for, which any of a branch's timelines may hold."""
    target_id: str
    lsn: str | None = None
    at: str | None = None
    """ISO 8601."""
    is_snapshot: bool = False
    """The source is frozen: nobody ever works on it."""
    is_backup: bool = False
    """It is not the volume's history that is read, but the store's. Of the head that is as far as was sent,"""
    known_lsn: str | None = None
    """which is at least to here."""
    is_frozen: bool = False
    """The target will be."""
    is_followed: bool = False
    """And goes on with what is written to the source."""
    way_id: str | None = None
    """Not all that the source holds is wanted: by way of a timeline of this id, which is deleted again."""

    @classmethod
    def of(cls, operation: Operation) -> "Recipe":
        return cls(**operation.input["recipe"])

    @property
    def is_head(self) -> bool:
        return self.lsn is None and self.at is None

    @property
    def is_catalog_known(self) -> bool:
        """The target will hold the roles and databases that its source has now."""
        return self.is_head and not self.is_snapshot and not self.is_backup


@dataclass(frozen=True, slots=True)
class Made:
    recovered: Recovered
    catalog: CatalogCopy | None
    """What a running source's server said while it was copied."""
    known: bytes = b""
    """What our rows held before it was asked (`roles/store.as_it_stands`)."""

    @property
    def at(self) -> datetime | None:
        return None if self.recovered.at is None else datetime.fromtimestamp(self.recovered.at, UTC)


async def make(world: BranchesWorld, project_id: str, recipe: Recipe) -> Made:
    """Twice is once. Raises PreconditionError (a point outside the history), UnavailableError (try again)."""
    async with world.database.reading() as tx:
        place = await timelines.place_of(tx, project_id)
        is_still = recipe.is_snapshot or recipe.is_backup
        writer = None if is_still else await store.writer_at_work(tx, recipe.source_branch_id)
    common: dict[str, Any] = {
        "project_id": place.project_id,
        "target_id": recipe.target_id,
        "uid": place.uid,
    }
    if recipe.is_backup:
        return Made(await restore(world.agent, recipe, place), None)
    if not recipe.is_head:
        return Made(await recover(world.agent, recipe, place), None)
    if writer is not None:
        return await _copy(world, recipe, writer, common)
    try:
        recovered = await world.agent.call(
            CloneTimeline(
                source_id=recipe.sources[0], is_frozen=recipe.is_frozen, is_followed=recipe.is_followed, **common
            ),
            timeout_s=COPY_TIMEOUT_S,
        )
    except ConflictError as error:
        raise UnavailableError(f"{recipe.source_branch_id} was woken meanwhile: {error}") from error
    return Made(recovered, None)


async def make_schema(world: BranchesWorld, operation: Operation, recipe: Recipe, *, keeps_passwords: bool) -> Made:
    """The schema alone, in a fresh cluster. Twice is once. Raises UnprocessableError for one that cannot be made anew, and what
    `make` does."""
    made, common = await _make_way(world, operation, recipe)
    await world.agent.call(CopySchema(keeps_passwords=keeps_passwords, **common), timeout_s=SCHEMA_TIMEOUT_S)
    return made


async def make_masked(world: BranchesWorld, operation: Operation, recipe: Recipe, rules: list[MaskRule]) -> Made:
    """With columns that hold something else: nothing of the parent's is the branch's before that. Twice is once. Raises
    UnprocessableError for a rule that does not fit, and what `make` does."""
    made, common = await _make_way(world, operation, recipe)
    await world.agent.call(MaskTimeline(rules=rules, **common), timeout_s=MASK_TIMEOUT_S)
    return made


async def _make_way(world: BranchesWorld, operation: Operation, recipe: Recipe) -> tuple[Made, dict[str, Any]]:
    """The copy that nobody can start, of which the target is made; and what every command says that makes one of the other."""
    assert recipe.way_id is not None
    made = await make(world, operation.project_id, replace(recipe, target_id=recipe.way_id, is_frozen=True))
    async with world.database.reading() as tx:
        place = await timelines.place_of(tx, operation.project_id)
    return made, {
        "project_id": place.project_id,
        "source_id": recipe.way_id,
        "target_id": recipe.target_id,
        "pg_version": place.pg_version,
        "uid": place.uid,
    }


async def hold_and_copy(
    world: BranchesWorld, running: Running, *, project_id: str, source_id: str, uid: int
) -> Recovered:
    """A running timeline into its own history."""
    recipe = Recipe(source_branch_id="", sources=[source_id], target_id="")
    common: dict[str, Any] = {"project_id": project_id, "target_id": None, "uid": uid}
    async with world.turns.of_history(source_id):
        return (await _copy(world, recipe, running, common)).recovered


async def _copy(world: BranchesWorld, recipe: Recipe, running: Running, common: dict[str, Any]) -> Made:
    with world.runner.wanting(running.endpoint_id):
        async with world.turns.of(running.endpoint_id), world.sessions.fresh(running) as server:
            async with world.database.reading() as tx:
                known = await roles.as_it_stands(tx, recipe.source_branch_id)
            await server.begin_backup(LABEL)
            copy = CopyTimeline(source_id=recipe.sources[0], **common)
            copying = asyncio.create_task(world.agent.call(copy, timeout_s=COPY_TIMEOUT_S))
            try:
                catalog = CatalogCopy(await server.roles(), await server.databases())
                await copying
            finally:
                copying.cancel()
                await asyncio.gather(copying, return_exceptions=True)
            end = await server.end_backup()
        finish = FinishCopy(
            source_id=recipe.sources[0], label=end.label, stop_lsn=end.lsn, is_frozen=recipe.is_frozen, **common
        )
        try:
            return Made(await world.agent.call(finish, timeout_s=COPY_TIMEOUT_S), catalog, known)
        except NotFoundError as error:
            # The agent was started anew in between, and has swept what it found half-made.
            raise UnavailableError(f"the copy of {recipe.sources[0]} is gone: {error}") from error


async def recover(agent: Agent, recipe: Recipe, place: timelines.Place) -> Recovered:
    """What the source was at a point. Twice is once. Raises PreconditionError (outside the history), UnavailableError."""

    async def ask(source_id: str) -> Recovered:
        command = RecoverTimeline(
            source_id=source_id, target_id=recipe.target_id, is_frozen=recipe.is_frozen, **_point(recipe, place)
        )
        try:
            return await agent.call(command, timeout_s=RECOVERY_TIMEOUT_S)
        except ConflictError as error:
            raise UnavailableError(f"the history of {source_id} is in use: {error}") from error

    return await _first_that_has_it(recipe, ask, "the point is outside the branch's history")


async def restore(agent: Agent, recipe: Recipe, place: timelines.Place) -> Recovered:
    """What the source was, from the store. Twice is once. Raises PreconditionError (the store has nothing for that point),
    UnprocessableError (what it gives is not what was put there), UnavailableError."""

    async def ask(source_id: str) -> Recovered:
        command = RestoreTimeline(
            source_id=source_id, timeline_id=recipe.target_id, known_lsn=recipe.known_lsn, **_point(recipe, place)
        )
        return await agent.call(command, timeout_s=RESTORE_TIMEOUT_S)

    return await _first_that_has_it(recipe, ask, "there is no backup of this branch")


def _point(recipe: Recipe, place: timelines.Place) -> dict[str, Any]:
    """What both commands say that make a timeline of what another one was."""
    return {
        "project_id": place.project_id,
        "pg_version": place.pg_version,
        "uid": place.uid,
        "lsn": recipe.lsn,
        "at": None if recipe.at is None else datetime.fromisoformat(recipe.at).timestamp(),
    }


async def _first_that_has_it(recipe: Recipe, ask: Callable[[str], Awaitable[Recovered]], nothing: str) -> Recovered:
    """Of the recipe's sources, in order. Raises what was wrong with the first; `nothing` is said where there are none."""
    first: PreconditionError | None = None
    for source_id in recipe.sources:
        try:
            return await ask(source_id)
        except PreconditionError as error:
            first = first or error
    raise first or NotFoundError(f"{recipe.target_id}: no source", public=nothing)
