"""The verbs on databases. Each is one transaction: the row that shows it, the operation that does it, the audit event."""

from typing import Final

from cloister.base.database import Database
from cloister.base.errors import ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.calling import Caller
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.control.roles import operations, store
from cloister.control.roles.changes import Change
from cloister.control.roles.model import DatabaseInfo
from cloister.control.roles.names import new_database_name
from cloister.trust.audit import Action

DATABASES_MAX: Final = 500
# Neon's limit per branch.


class DatabaseService:
    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[DatabaseInfo]:
        async with self._database.reading() as tx:
            await store.branch_exists(tx, project_id, branch_id)
            return await store.databases_of(tx, branch_id)

    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseInfo:
        async with self._database.reading() as tx:
            await store.branch_exists(tx, project_id, branch_id)
            return await store.get_database(tx, branch_id, name)

    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, owner_name: str
    ) -> tuple[DatabaseInfo, list[Operation]]:
        name = new_database_name(name)
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            if not await store.has_role(tx, branch_id, owner_name):
                raise NotFoundError(f"no role {owner_name!r}", public="owner role not found")
            if await store.has_database(tx, branch_id, name):
                raise ConflictError(f"database {name!r} exists", public="database already exists")
            if len(await store.databases_of(tx, branch_id)) >= DATABASES_MAX:
                raise UnprocessableError(f"{branch_id} is full", public="too many databases on this branch")
            database = await store.add_database(tx, branch_id, name, owner_name)
            operation = await change.submit(
                tx, self._engine, operations.CREATE_DATABASE, Action.DATABASE_CREATE, owner_name=owner_name
            )
        self._engine.kick(operation.id)
        return database, [operation]

    async def update(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        name: str,
        *,
        new_name: str | None,
        owner_name: str | None,
    ) -> tuple[DatabaseInfo, list[Operation]]:
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            await store.hold_database(tx, branch_id, name)
            old = await store.get_database(tx, branch_id, name)
            caller.require_version(old.version)
            new_name = new_database_name(new_name) if new_name is not None else name
            owner_name = owner_name if owner_name is not None else old.owner_name
            if (new_name, owner_name) == (old.name, old.owner_name):
                return old, []
            if not await store.has_role(tx, branch_id, owner_name):
                raise NotFoundError(f"no role {owner_name!r}", public="owner role not found")
            if new_name != name and await store.has_database(tx, branch_id, new_name):
                raise ConflictError(f"database {new_name!r} exists", public="database already exists")
            database = await store.change_database(tx, branch_id, name, new_name=new_name, owner_name=owner_name)
            operation = await change.submit(
                tx,
                self._engine,
                operations.CHANGE_DATABASE,
                Action.DATABASE_UPDATE,
                new_name=new_name,
                owner_name=owner_name,
                old_owner_name=old.owner_name,
            )
        self._engine.kick(operation.id)
        return database, [operation]

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[DatabaseInfo, list[Operation]]:
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            await store.hold_database(tx, branch_id, name)
            database = await store.get_database(tx, branch_id, name)
            caller.require_version(database.version)
            operation = await change.submit(tx, self._engine, operations.DROP_DATABASE, Action.DATABASE_DELETE)
        self._engine.kick(operation.id)
        return database, [operation]
