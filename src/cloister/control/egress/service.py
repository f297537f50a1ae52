"""The verbs on egress rules. Each is one transaction: row and audit event; then the relay is told at once.

A target that can be seen to be forbidden is refused here, for the sake of whoever asks; what holds is the relay's own
check, at every connection.
"""

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from cloister.base.database import Database
from cloister.base.egress import ADDRESSES_MAX, IpNetwork, Target, reason_against
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.control.egress import store
from cloister.control.egress.model import EgressRule
from cloister.control.projects.model import Project
from cloister.node.egress.outside import trusting
from cloister.trust.audit import Action, record

RULES_MAX: Final = 64
DOORS_MAX: Final = ADDRESSES_MAX
# Of one project: names, and each address of a network.

CA_BYTES_MAX: Final = 16_384
# A chain of a few certificates.


class EgressService:
    def __init__(self, database: Database, allowed: Sequence[IpNetwork], *, poke: Callable[[], None]) -> None:
        self._database = database
        self._allowed = allowed
        self._poke = poke

    async def find(self, project: Project) -> list[EgressRule]:
        async with self._database.reading() as tx:
            return await store.find(tx, project.id)

    async def allow(self, caller: Caller, project: Project, to: str, ca_pem: str | None) -> EgressRule:
        """In force in the project's computes, those that run too, a moment later. Raises BadRequestError, ConflictError,
        UnprocessableError."""
        target = Target.parse(to)
        self._refuse_forbidden(target)
        if ca_pem is not None:
            if len(ca_pem.encode()) > CA_BYTES_MAX:
                raise BadRequestError(public=f"the CA file has more than {CA_BYTES_MAX} bytes")
            trusting(ca_pem)
        async with self._database.transaction() as tx:
            await hold_project(tx, project.id)
            known = await store.find(tx, project.id)
            if len(known) >= RULES_MAX:
                raise UnprocessableError(public=f"a project has at most {RULES_MAX} egress rules")
            if sum(len(rule.target.hosts) for rule in known) + len(target.hosts) > DOORS_MAX:
                raise UnprocessableError(
                    public=f"the rules of a project lead to at most {DOORS_MAX} addresses and names"
                )
            made = await store.add(tx, project.id, target, ca_pem, created_by=caller.principal.actor)
            if made is None:
                raise ConflictError(public=f"{target} is allowed already")
            details = {"rule_id": str(made.id), "has_ca": ca_pem is not None}
            await record(
                tx,
                caller.event(
                    Action.EGRESS_ALLOW,
                    org_id=project.org_id,
                    project_id=project.id,
                    resource=str(target),
                    details=details,
                ),
            )
        self._poke()
        return made

    async def remove(self, caller: Caller, project: Project, rule_id: UUID) -> EgressRule:
        """Connections through it end a moment later. Raises NotFoundError."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project.id)
            removed = await store.remove(tx, project.id, rule_id)
            if removed is None:
                raise NotFoundError(public="egress rule not found")
            await record(
                tx,
                caller.event(
                    Action.EGRESS_REMOVE,
                    org_id=project.org_id,
                    project_id=project.id,
                    resource=str(removed.target),
                    details={"rule_id": str(removed.id)},
                ),
            )
        self._poke()
        return removed

    def _refuse_forbidden(self, target: Target) -> None:
        if isinstance(target.host, str):
            return
        for address in (target.host[0], target.host[-1]):
            if (why := reason_against(address, self._allowed)) is not None:
                raise UnprocessableError(
                    f"egress to {target}",
                    public=f"{address} is {why}: no way out leads there unless the operator allows it "
                    "(`cloister up --egress-allow NETWORK`)",
                )
