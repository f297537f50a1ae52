"""Branches in which columns hold something else than in their parent: Neon's anonymized branches.

Such a branch is rows until it is masked: nothing of its parent's data is a branch's before that, so nobody can start it, and there is
nothing that a failure could leave readable. The rules are checked here as far as they can be without the data; what is wrong with
them there is told by the operation, after which they can be changed and tried again. Once masked it stays that: its rules are
history, and it is restored from its own past only. The database holds all of it (migration 0034).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId, new_timeline_id
from cloister.control.branches import consents, protection, store
from cloister.control.branches import masking_store as maskings
from cloister.control.branches.consents import Act
from cloister.control.branches.masking_rules import checked
from cloister.control.branches.masking_store import ANONYMIZED, Masking
from cloister.control.branches.model import Branch, MaskingRule
from cloister.control.branches.operations import ANONYMIZE_BRANCH, submit_creation
from cloister.control.calling import Caller
from cloister.control.claims import claim_branch, claim_source
from cloister.control.computes import store as computes
from cloister.control.computes.model import Endpoint
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.control.roles.server import RoleState
from cloister.trust.audit import Action, record

CANNOT_RESET: Final = "cannot reset masked branch"
"""But from its own past."""


class MaskingService:
    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine

    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Masking:
        """Raises NotFoundError for a branch that is not there or is no masked one."""
        async with self._database.reading() as tx:
            return await maskings.get(tx, project_id, branch_id)

    async def change_rules(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, rules: Sequence[MaskingRule]
    ) -> Masking:
        """Raises UnprocessableError, ConflictError."""
        wanted = checked(rules)
        async with self._database.transaction() as tx:
            await claim_branch(tx, project_id, branch_id)
            masking = await maskings.get(tx, project_id, branch_id)
            _require_not_masked(masking)
            await maskings.change_rules(tx, branch_id, wanted)
            branch = await store.get(tx, project_id, branch_id)
            await record(tx, _event(Action.BRANCH_MASK, caller, branch, {"rules": len(wanted)}))
        return replace(masking, rules=wanted)

    async def start(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Masking, list[Operation]]:
        """Raises UnprocessableError, ConflictError, ForbiddenError: the parent's data is taken now."""
        async with self._database.transaction() as tx:
            await claim_branch(tx, project_id, branch_id)
            masking = await maskings.get(tx, project_id, branch_id)
            _require_not_masked(masking)
            branch = await store.get(tx, project_id, branch_id)
            source = await store.get(tx, project_id, BranchId(masking.work["source_branch_id"]))
            protection.require_copying(caller, source)
            consent = await consents.use(tx, caller, source, Act.COPY, branch_id, rules=masking.rules)
            await claim_source(tx, project_id, source.id)
            endpoints = await computes.find(tx, project_id, branch_id)
            work = await _as_it_is_now(tx, masking, source)
            operations = await begin(tx, self._engine, caller, branch, endpoints, work=work)
            details = {"rules": len(masking.rules), **consent}
            await record(tx, _event(Action.BRANCH_ANONYMIZE, caller, branch, details, operations))
            masking = await maskings.get(tx, project_id, branch_id)
        self._engine.kick_all(operations)
        return masking, operations


async def begin(
    tx: Transaction,
    engine: Engine,
    caller: Caller,
    branch: Branch,
    endpoints: Sequence[Endpoint],
    *,
    work: Mapping[str, Any] | None = None,
) -> list[Operation]:
    """To mask a branch by the rules that it has. The caller holds it and its source. `work`: where it is not what was written down when the
    branch was asked for. Raises UnprocessableError for one without a rule."""
    masking = await maskings.get(tx, branch.project_id, branch.id)
    rules, work = masking.rules, work or masking.work
    if not rules:
        raise UnprocessableError(public="a masked branch needs at least one masking rule")
    await maskings.begun(tx, branch.id, caller.principal.account_id)
    recipe = {**work["recipe"], "way_id": new_timeline_id()}
    given = {**work, "recipe": recipe, "rules": msgspec.to_builtins(rules)}
    return await submit_creation(tx, engine, ANONYMIZE_BRANCH, branch, given, endpoints=endpoints)


async def _as_it_is_now(tx: Transaction, masking: Masking, source: Branch) -> dict[str, Any]:
    """What was written down when the branch was asked for, made true again: the source may have been given other data since; and where it
    was protected since, its roles' passwords stay behind. The new ones nobody is told: whoever wants one resets it."""
    work = dict(masking.work)
    if work["recipe"]["lsn"] is None and work["recipe"]["at"] is None and not work["recipe"]["is_snapshot"]:
        work["recipe"] = {**work["recipe"], "sources": [source.timeline_id]}
    if source.is_protected and not work["scrubs"]:
        work["scrubs"] = True
        theirs = [
            RoleState(it.name, it.verifier, it.can_login, it.valid_until)
            for it in await catalog.roles_of(tx, source.id)
        ]
        verifiers = protection.verifiers_of_child(theirs, is_source_protected=True)
        assert verifiers is not None
        await catalog.forget_catalog(tx, masking.branch_id)
        await catalog.copy_databases(tx, source.id, masking.branch_id)
        for renewal in verifiers.renewed:
            await catalog.ask_for(tx, masking.branch_id, renewal.name, renewal.verifier, None)
    return work


async def refuse_unmasked(tx: Transaction, branch: Branch, source_id: BranchId) -> None:
    """For a branch that is to get the data of `source_id`. Whoever has a masked one takes it for that. Raises UnprocessableError."""
    if source_id != branch.id and await maskings.is_masked(tx, branch.id):
        raise UnprocessableError(f"{branch.id} is masked", public=CANNOT_RESET)


def _require_not_masked(masking: Masking) -> None:
    if masking.state == ANONYMIZED:
        raise ConflictError(
            f"{masking.branch_id} is masked",
            public="the branch is anonymized already; create another one for other rules",
        )


def _event(
    action: Action,
    caller: Caller,
    branch: Branch,
    details: Mapping[str, object],
    operations: Sequence[Operation] = (),
) -> Any:
    return caller.event(
        action,
        project_id=branch.project_id,
        branch_id=branch.id,
        resource=branch.name,
        operations=list(operations),
        details=details,
    )
