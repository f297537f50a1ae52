"""The verbs on roles. Each is one transaction: the row that shows it, the operation that does it, the audit event.

The passwords of roles that the API makes are made here: the clear text goes into the answer, the verifier into the row,
and, only where the project stores passwords, sealed text beside it.
"""

from typing import Final

from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId
from cloister.base.secret import Secret, new_password
from cloister.control.calling import Caller
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.control.roles import operations, store
from cloister.control.roles.changes import Change
from cloister.control.roles.model import Role, RoleChanged
from cloister.control.roles.names import new_role_name
from cloister.control.roles.passwords import Vault, new_verifier
from cloister.trust.audit import Action, record

ROLES_MAX: Final = 500
# Neon's limit per branch, for roles made through the API.


class RoleService:
    def __init__(self, database: Database, engine: Engine, vault: Vault) -> None:
        self._database = database
        self._engine = engine
        self._vault = vault

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Role]:
        async with self._database.reading() as tx:
            await store.branch_exists(tx, project_id, branch_id)
            return await store.roles_of(tx, branch_id)

    async def find_all(self, project_id: ProjectId) -> list[Role]:
        async with self._database.reading() as tx:
            return await store.roles_of_project(tx, project_id)

    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role:
        async with self._database.reading() as tx:
            await store.branch_exists(tx, project_id, branch_id)
            return await store.get_role(tx, branch_id, name)

    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, *, can_login: bool
    ) -> RoleChanged:
        name = new_role_name(name)
        password = new_password()
        # A role that cannot log in gets a verifier too, of a password nobody is told: it marks the role as ours.
        verifier = new_verifier(password)
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            if await store.has_role(tx, branch_id, name):
                raise ConflictError(f"role {name!r} exists in {branch_id}", public="role already exists")
            if len(await store.roles_of(tx, branch_id)) >= ROLES_MAX:
                raise UnprocessableError(f"{branch_id} has {ROLES_MAX} roles", public="too many roles on this branch")
            sealed = await self._sealed(tx, change, password) if can_login else None
            role = await store.add_role(
                tx, branch_id, name, pending_verifier=verifier, can_login=can_login, sealed=sealed
            )
            operation = await change.submit(
                tx, self._engine, operations.CREATE_ROLE, Action.ROLE_CREATE, can_login=can_login
            )
        self._engine.kick(operation.id)
        return RoleChanged(role, password if can_login else None, [operation])

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[Role, list[Operation]]:
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            await store.hold_role(tx, branch_id, name)
            role = await store.get_role(tx, branch_id, name)
            caller.require_version(role.version)
            if any(database.owner_name == name for database in await store.databases_of(tx, branch_id)):
                raise UnprocessableError(
                    f"{name!r} owns a database of {branch_id}",
                    public="role owns a database: delete or reassign the database first",
                )
            operation = await change.submit(tx, self._engine, operations.DROP_ROLE, Action.ROLE_DELETE)
        self._engine.kick(operation.id)
        return role, [operation]

    async def reset_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> RoleChanged:
        """The old password is good until the operation has finished; if that fails, it stays good."""
        password = new_password()
        verifier = new_verifier(password)
        async with self._database.transaction() as tx:
            change = await Change.begin(tx, caller, project_id, branch_id, name)
            sealed = await self._sealed(tx, change, password)
            role = await store.ask_verifier(tx, branch_id, name, verifier, sealed)
            operation = await change.submit(tx, self._engine, operations.SET_PASSWORD, Action.ROLE_RESET_PASSWORD)
        self._engine.kick(operation.id)
        return RoleChanged(role, password, [operation])

    async def reveal_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> Secret[str]:
        """Raises PreconditionError where there is nothing to reveal. The event is committed before the password is
        given away."""
        async with self._database.transaction() as tx:
            await store.branch_exists(tx, project_id, branch_id)
            await store.get_role(tx, branch_id, name)
            if not await store.stores_passwords(tx, project_id):
                raise PreconditionError(f"{project_id} stores none", public="Storing passwords is disabled")
            sealed = await store.sealed_password(tx, branch_id, name)
            if sealed is None:
                raise PreconditionError(f"none of {name!r}", public="The password of this role is not stored: reset it")
            password = self._vault.open(branch_id, name, sealed)
            await record(
                tx,
                caller.event(Action.ROLE_REVEAL_PASSWORD, project_id=project_id, branch_id=branch_id, resource=name),
            )
        return password

    async def _sealed(self, tx: Transaction, change: Change, password: Secret[str]) -> bytes | None:
        if await store.stores_passwords(tx, change.project_id):
            return self._vault.seal(change.branch_id, change.name, password)
        return None
