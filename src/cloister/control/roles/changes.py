"""One change of one role or database: how it takes hold of its branch, becomes an operation, and is recorded."""

from dataclasses import dataclass
from typing import Any

from cloister.base.database import Transaction
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.control.calling import Caller
from cloister.control.claims import claim_endpoint, hold_project
from cloister.control.operations.engine import Engine
from cloister.control.operations.machine import Machine
from cloister.control.operations.model import Operation
from cloister.control.roles import store
from cloister.control.roles.operations import RolesWorld
from cloister.trust.audit import Action, record


@dataclass(frozen=True, slots=True)
class Change:
    caller: Caller
    project_id: ProjectId
    branch_id: BranchId
    endpoint_id: EndpointId
    """Whose compute makes the change."""
    name: str
    """Of the role or the database."""

    @classmethod
    async def begin(
        cls, tx: Transaction, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> "Change":
        """Raises NotFoundError, UnprocessableError (nothing can write there), BusyError."""
        await hold_project(tx, project_id)
        endpoint_id = await store.writer_of(tx, project_id, branch_id)
        await claim_endpoint(tx, project_id, endpoint_id, beside_a_start=True)
        return cls(caller, project_id, branch_id, endpoint_id, name)

    async def submit(
        self, tx: Transaction, engine: Engine, machine: Machine[RolesWorld], action: Action, **more: Any
    ) -> Operation:
        """The operation and its audit event; the last statements of the verb's transaction."""
        operation = await engine.submit(
            tx,
            machine=machine.name,
            project_id=self.project_id,
            branch_id=self.branch_id,
            endpoint_id=self.endpoint_id,
            resource=f"endpoint:{self.endpoint_id}",
            input={"name": self.name, **more},
        )
        await record(
            tx,
            self.caller.event(
                action,
                project_id=self.project_id,
                branch_id=self.branch_id,
                endpoint_id=self.endpoint_id,
                resource=self.name,
                operations=[operation],
                details=more,
            ),
        )
        return operation
