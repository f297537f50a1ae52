"""How a branch comes to be something else: restored from its own past, reset to its parent, replaced by a snapshot.

A new timeline is made while the branch goes on with the one it has; then, in one transaction, it lives on the new one. Its
id, its endpoints and their hosts stay. What it was ends, or becomes a branch of its own (`preserve_under_name`), to which
its history and its children go.

A compute that runs is suspended in order for the moment of the change and started again after it. One that sleeps is
started too, since only its server can say which roles the data holds, and put to sleep again if nobody came meanwhile.
"""

from dataclasses import replace

from cloister.base.clock import Clock
from cloister.base.database import Transaction
from cloister.base.errors import UnprocessableError
from cloister.base.ids import BranchId, new_branch_id, new_timeline_id
from cloister.control.branches import consents, protection, rules, store, timelines
from cloister.control.branches.children import Origin, ask, roles_of
from cloister.control.branches.consents import Act
from cloister.control.branches.masking import refuse_unmasked
from cloister.control.branches.model import Branch, BranchRestored, NewPassword
from cloister.control.branches.operations import BRANCH_RESOURCE, RESTORE_BRANCH, work
from cloister.control.calling import Caller
from cloister.control.computes import store as computes
from cloister.control.computes.operations import DOZE, FIRST_START, submit
from cloister.control.naming import checked_name
from cloister.control.operations.engine import Engine
from cloister.control.roles.passwords import Vault


class Successions:
    def __init__(self, engine: Engine, vault: Vault, clock: Clock) -> None:
        self._engine = engine
        self._vault = vault
        self._clock = clock

    async def submit(
        self, tx: Transaction, caller: Caller, branch: Branch, origin: Origin, preserve_under_name: str | None
    ) -> BranchRestored:
        """The caller has claimed the branch. Raises UnprocessableError, ForbiddenError, ConflictError."""
        protection.refuse_reset(branch)
        await refuse_unmasked(tx, branch, origin.branch.id)
        consent: dict[str, object] = {}
        if origin.branch.id != branch.id:
            protection.require_copying(caller, origin.branch)
            consent = await consents.use(tx, caller, origin.branch, Act.COPY, branch.id)
        if origin.snapshot_id is None:
            children = await store.children_of(tx, branch.id)
            rules.refuse_restore(branch, origin.branch.id, children, preserve_under_name)
        if branch.state != "ready":
            raise UnprocessableError(f"{branch.id} is {branch.state}", public="branch not ready yet")

        target_id = new_timeline_id()
        await timelines.add(tx, target_id, branch.project_id, branch_id=None, source_id=origin.sources[0])
        preserved = (
            None if preserve_under_name is None else await self._preserve(tx, caller, branch, preserve_under_name)
        )
        parent_id = branch.parent_id
        if origin.branch.id != branch.id:
            parent_id = origin.branch.id
        elif preserved is not None:
            parent_id = preserved.id

        passwords = await self._ask_passwords(tx, branch, origin)
        # A reader shows what its branch is: one that runs is found to show what it was, and goes.
        endpoints = [it for it in await computes.find(tx, branch.project_id, branch.id) if not it.is_reader]
        running = [endpoint.id for endpoint in endpoints if endpoint.socket_dir is not None]
        restore = await self._engine.submit(
            tx,
            machine=RESTORE_BRANCH.name,
            project_id=branch.project_id,
            branch_id=branch.id,
            resource=BRANCH_RESOURCE.format(branch.id),
            input=work(
                origin.recipe(target_id),
                old_id=branch.timeline_id,
                preserved_id=None if preserved is None else preserved.id,
                parent_id=parent_id,
                running=running,
                scrubs=passwords is not None,
            ),
        )
        operations = [restore]
        for endpoint in endpoints:
            if endpoint.is_disabled:
                continue
            operations.append(await submit(tx, self._engine, FIRST_START, endpoint, after=restore))
            if endpoint.id not in running:
                operations.append(await submit(tx, self._engine, DOZE, endpoint, after=operations[-1]))
        return BranchRestored(_to_be(branch, parent_id), preserved, passwords or [], operations, consent)

    async def _preserve(self, tx: Transaction, caller: Caller, branch: Branch, name: str) -> Branch:
        """The row that is to take over what the branch was. Until then it shows the same timeline, and is `init`."""
        preserved = Branch(
            id=new_branch_id(),
            project_id=branch.project_id,
            parent_id=branch.parent_id,
            parent_lsn=branch.parent_lsn,
            parent_timestamp=branch.parent_timestamp,
            init_source=branch.init_source,
            timeline_id=branch.timeline_id,
            name=checked_name("preserve_under_name", name),
            is_default=False,
            is_protected=False,
            state="init",
            expires_at=None,
            ttl_interval_seconds=None,
            created_at=self._clock.now(),
            updated_at=self._clock.now(),
        )
        return await store.add(tx, preserved, created_by=caller.principal.account_id)

    async def _ask_passwords(self, tx: Transaction, branch: Branch, origin: Origin) -> list[NewPassword] | None:
        """None: its roles will have what the source's have. A child of a protected branch keeps what is its own."""
        is_secret = origin.branch.is_protected or await store.has_protected_parent(tx, branch.id)
        theirs = await roles_of(tx, origin.branch.id)
        own = {role.name: role.verifier for role in await roles_of(tx, branch.id) if role.verifier is not None}
        verifiers = protection.verifiers_after_restore(own, theirs, is_source_protected=is_secret)
        if verifiers is None:
            return None
        return await ask(tx, self._vault, branch, theirs, verifiers)


def _to_be(branch: Branch, parent_id: BranchId | None) -> Branch:
    """As a client is told before it is so: Neon's command line looks at the new parent for what was preserved. Where in the
    parent's history it is to begin is known when the data is there."""
    if branch.parent_id == parent_id:
        return branch
    return replace(branch, parent_id=parent_id, parent_lsn=None, parent_timestamp=None)
