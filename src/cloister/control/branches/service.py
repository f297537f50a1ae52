"""The verbs on branches that exist so far: looking."""

from cloister.base.database import Database, Transaction
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.branches import store
from cloister.control.branches.model import Branch
from cloister.control.calling import Page


class BranchService:
    def __init__(self, database: Database) -> None:
        self._database = database

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


async def _project_exists(tx: Transaction, project_id: ProjectId) -> None:
    if not await tx.fetch_value("SELECT true FROM project WHERE id = $1 AND deleted_at IS NULL", project_id):
        raise NotFoundError(f"no project {project_id}", public="project not found")
