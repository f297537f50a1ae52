"""What projects and branches took, by time frame. Whose it is to know was decided before."""

from dataclasses import dataclass, replace
from datetime import datetime

from cloister.base.database import Database, Transaction
from cloister.base.ids import BranchId, ProjectId
from cloister.control.consumption import store
from cloister.control.consumption.accounting import Amounts
from cloister.control.consumption.frames import ending
from cloister.control.consumption.store import Asked


@dataclass(frozen=True, slots=True)
class Frame:
    begin: datetime
    end: datetime
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Taken:
    """By a project, or (then it is named) by one of its branches. Oldest first."""

    project_id: ProjectId
    frames: tuple[Frame, ...]
    branch_id: BranchId | None = None


class ConsumptionService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_project(self, asked: Asked, *, after: ProjectId | None, limit: int) -> list[Taken]:
        async with self._database.reading() as tx:
            found = await store.projects(tx, asked, after, limit)
            frames = await _frames(tx, replace(asked, project_ids=found), by_branch=False)
        return [Taken(it, frames.get((it, BranchId("")), ())) for it in found]

    async def by_branch(self, asked: Asked, *, after: tuple[ProjectId, BranchId] | None, limit: int) -> list[Taken]:
        async with self._database.reading() as tx:
            found = await store.branches(tx, asked, after, limit)
            of = replace(asked, branch_ids=[branch_id for _, branch_id in found])
            frames = await _frames(tx, of, by_branch=True)
        return [Taken(it[0], frames.get(it, ()), it[1]) for it in found]


async def _frames(
    tx: Transaction, asked: Asked, *, by_branch: bool
) -> dict[tuple[ProjectId, BranchId], tuple[Frame, ...]]:
    frames: dict[tuple[ProjectId, BranchId], tuple[Frame, ...]] = {}
    for project_id, branch_id, begin, amounts in await store.amounts(tx, asked, by_branch=by_branch):
        frame = Frame(begin, ending(asked.span.granularity, begin), amounts)
        frames[project_id, branch_id] = (*frames.get((project_id, branch_id), ()), frame)
    return frames
